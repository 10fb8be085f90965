"""The store: one writer that commits in groups, readers that see snapshots, and nothing lost once it was said."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.store.database import open_sqlite, refuse_network_file_system
from broker.store.store import Store
from broker.store.tables import audit, settings
from broker.store.writer import MAX_GROUP, Transaction
from protocols.clock import ManualClock, SystemClock
from protocols.errors import Conflict, InvalidSettings, StorageFull, StorageUnavailable, Unavailable

PATIENCE_S = 30.0

Work = Callable[[Transaction], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warren.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with opened(path) as store:
        yield store


@contextmanager
def opened(path: Path, clock: SystemClock | ManualClock | None = None) -> Iterator[Store]:
    store = Store(path, clock or SystemClock())
    store.start()
    try:
        yield store
    finally:
        store.stop()


def put(key: str, value: object = None) -> Work:
    """Return work that adds a row, which must be new."""

    def work(transaction: Transaction) -> str:
        transaction.connection.execute(settings.insert().values(key=key, value=value, updated_at=transaction.now))
        return key

    return work


def breaking(key: str) -> Work:
    """Return work that adds a row and then fails."""

    def work(transaction: Transaction) -> None:
        put(key)(transaction)
        raise ValueError(key)

    return work


def keys(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(settings.c.key).order_by(settings.c.key)).scalars())


def stored(store: Store) -> list[str]:
    return store.read(keys).result(PATIENCE_S)


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Keep the writer busy, so that what is submitted meanwhile waits together."""
    entered, release = threading.Event(), threading.Event()

    def work(transaction: Transaction) -> None:
        entered.set()
        assert release.wait(PATIENCE_S)

    holding = store.writer.write(work)
    assert entered.wait(PATIENCE_S)
    try:
        yield
    finally:
        release.set()
        holding.result(PATIENCE_S)


def together(store: Store, works: Sequence[Work]) -> list[Future[Any]]:
    """Submit works so that they form one group; returns when all are done."""
    with held(store):
        futures = [store.writer.write(work) for work in works]
    for future in futures:
        future.exception(PATIENCE_S)
    return futures


def test_what_waits_together_shares_one_transaction_and_one_now(store: Store) -> None:
    seen: list[Transaction] = []
    together(store, [seen.append] * 50)
    assert len(seen) == 50
    assert len({id(transaction) for transaction in seen}) == 1


def test_a_group_has_an_upper_bound(store: Store) -> None:
    seen: list[Transaction] = []
    together(store, [seen.append] * (2 * MAX_GROUP + 10))
    sizes = [seen.count(transaction) for transaction in dict.fromkeys(seen)]
    assert sizes == [MAX_GROUP, MAX_GROUP, 10]


def test_a_group_is_durable_by_one_sync(path: Path) -> None:
    """So the work gets cheaper the more of it there is: the write-ahead log shows a single commit."""
    with opened(path) as store:
        together(store, [put(f"key {number:03}") for number in range(100)])
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            assert connection.execute("SELECT count(*) FROM settings").fetchone() == (100,)
        connection.close()
        commits = commits_in(path.with_name("warren.db-wal"))
        together(store, [put(f"more {number:03}") for number in range(100)])
        assert commits_in(path.with_name("warren.db-wal")) - commits <= 2


def commits_in(wal: Path) -> int:
    """Return how many frames of a write-ahead log end a transaction (sqlite.org/fileformat2.html, 4.1)."""
    log = wal.read_bytes()
    page = int.from_bytes(log[8:12])
    frames = range(32, len(log) - 24 - page + 1, 24 + page)
    return sum(int.from_bytes(log[at + 4 : at + 8]) != 0 and log[at + 8 : at + 16] == log[16:24] for at in frames)


def test_a_failing_piece_does_not_hurt_its_neighbours(store: Store) -> None:
    before, broken, between, refused, after = together(store, [put("a"), breaking("b"), put("c"), put("a"), put("d")])
    assert [before.result(), between.result(), after.result()] == ["a", "c", "d"]
    with pytest.raises(ValueError, match="b"):
        broken.result()
    with pytest.raises(Conflict):
        refused.result()
    assert stored(store) == ["a", "c", "d"]


def test_a_failing_piece_leaves_nothing_half_done(store: Store) -> None:
    (alone,) = together(store, [breaking("alone")])
    assert isinstance(alone.exception(), ValueError)
    assert stored(store) == []


def test_work_that_ran_twice_for_a_failing_neighbour_has_one_effect(store: Store) -> None:
    runs: list[str] = []

    def counting(transaction: Transaction) -> None:
        runs.append("run")
        put("once")(transaction)
        transaction.after_commit(lambda: runs.append("committed"))

    together(store, [counting, breaking("b")])
    assert runs == ["run", "run", "committed"]
    assert stored(store) == ["once"]


@pytest.mark.parametrize("failing", [None, 7])
def test_the_order_of_submission_is_kept(store: Store, failing: int | None) -> None:
    def note(number: int) -> Work:
        def work(transaction: Transaction) -> None:
            transaction.connection.execute(
                audit.insert().values(at=transaction.now, actor="test", action="note", object=str(number), data={})
            )
            if number == failing:
                raise ValueError(number)

        return work

    together(store, [note(number) for number in range(600)])
    noted = store.read(lambda connection: list(connection.execute(sa.select(audit.c.object).order_by(audit.c.id))))
    expected = [str(number) for number in range(600) if number != failing]
    assert [row.object for row in noted.result(PATIENCE_S)] == expected


class Doubling:
    """A batch handler that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, transaction: Transaction, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        return [2 * item for item in items]


def test_equal_handlers_that_follow_each_other_are_called_once(store: Store) -> None:
    doubling, other = Doubling(), Doubling()
    with held(store):
        futures = [store.writer.gather(doubling, number) for number in range(30)]
        futures.append(store.writer.gather(other, 100))
        futures += [store.writer.gather(doubling, number) for number in range(30, 50)]
    results = [future.result(PATIENCE_S) for future in futures]
    assert doubling.batches == [list(range(30)), list(range(30, 50))]
    assert other.batches == [[100]]
    assert results == [2 * number for number in [*range(30), 100, *range(30, 50)]]


def test_a_handler_that_forgets_a_result_commits_nothing(store: Store) -> None:
    def forgetful(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        put(items[0])(transaction)
        return []

    with pytest.raises(ValueError, match="zip"):
        store.writer.gather(forgetful, "a").result(PATIENCE_S)
    assert stored(store) == []


def test_before_commit_hooks_run_once_in_every_transaction_and_inside_it(store: Store) -> None:
    told: list[list[dict[str, Any]]] = []

    def hook(transaction: Transaction) -> None:
        told.append(list(transaction.events))
        for event in transaction.events:
            put(f"hook {event['key']}")(transaction)

    def announce(key: str) -> Work:
        return lambda transaction: transaction.events.append({"key": key})

    store.writer.before_commit(hook)
    together(store, [announce("a"), announce("b")])
    store.writer.write(announce("c")).result(PATIENCE_S)
    assert told == [[], [{"key": "a"}, {"key": "b"}], [{"key": "c"}]]
    assert stored(store) == ["hook a", "hook b", "hook c"]


def test_a_before_commit_hook_that_fails_undoes_the_work(store: Store) -> None:
    def hook(transaction: Transaction) -> None:
        raise ValueError("hook")

    store.writer.before_commit(hook)
    with pytest.raises(ValueError, match="hook"):
        store.writer.write(put("a")).result(PATIENCE_S)
    assert stored(store) == []


def test_after_commit_callbacks_find_the_work_durable(store: Store, path: Path) -> None:
    found: list[Any] = []

    def look() -> None:
        connection = sqlite3.connect(path)
        found.extend(connection.execute("SELECT key FROM settings").fetchall())
        connection.close()

    def work(transaction: Transaction) -> None:
        put("a")(transaction)
        transaction.after_commit(look)
        assert found == []

    store.writer.write(work).result(PATIENCE_S)
    assert found == [("a",)]


def test_after_commit_callbacks_of_undone_work_are_never_called(store: Store) -> None:
    called: list[str] = []

    def work(transaction: Transaction) -> None:
        transaction.after_commit(lambda: called.append("undone"))
        raise ValueError("undone")

    together(store, [work, lambda transaction: transaction.after_commit(lambda: called.append("done"))])
    assert called == ["done"]


def test_an_after_commit_callback_that_fails_harms_nobody(store: Store) -> None:
    called: list[str] = []

    def fail() -> None:
        raise ValueError("callback")

    def work(transaction: Transaction) -> None:
        transaction.after_commit(fail)
        transaction.after_commit(lambda: called.append("next"))
        put("a")(transaction)

    store.writer.write(work).result(PATIENCE_S)
    assert called == ["next"]
    assert store.writer.write(put("b")).result(PATIENCE_S) == "b"


async def test_a_coroutine_that_stops_waiting_changes_nothing(store: Store) -> None:
    """Neither for the work that it submitted, nor for its neighbours, nor for the writer."""
    with held(store):
        waiting = asyncio.ensure_future(asyncio.wrap_future(store.writer.write(put("a"))))
        neighbour = store.writer.write(put("b"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # The loop passes a cancellation on in its next round.
        await asyncio.sleep(0)
    assert neighbour.result(PATIENCE_S) == "b"
    assert store.writer.write(put("c")).result(PATIENCE_S) == "c"
    assert stored(store) == ["a", "b", "c"]


def test_stop_finishes_what_was_submitted(path: Path) -> None:
    with opened(path) as store:
        futures = [store.writer.write(put(f"{number:04}")) for number in range(1000)]
    assert [future.result(0) for future in futures] == [f"{number:04}" for number in range(1000)]
    with opened(path) as store:
        assert len(stored(store)) == 1000


def test_what_is_submitted_after_the_stop_is_refused(path: Path) -> None:
    with opened(path) as store:
        pass
    with pytest.raises(Unavailable, match="stopping"):
        store.writer.write(put("late")).result(0)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can, so that a race is seldom missed."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_submit_during_the_stop_get_an_answer(path: Path) -> None:
    """Each piece of work is either durable or refused, and none is forgotten."""
    futures: list[Future[Any]] = []
    begun = threading.Barrier(5)

    def submit(name: int) -> None:
        begun.wait(PATIENCE_S)
        for number in range(100_000):
            futures.append(future := writer.write(put(f"{name} {number}")))
            if number % 10 == 0 and future.exception(PATIENCE_S) is not None:
                return

    with opened(path) as store:
        writer = store.writer
        threads = [threading.Thread(target=submit, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(PATIENCE_S)
        futures.append(store.writer.write(put("first")))
        futures[-1].result(PATIENCE_S)
    for thread in threads:
        thread.join(PATIENCE_S)
    errors = [future.exception(1) for future in futures]
    assert all(error is None or isinstance(error, Unavailable) for error in errors)
    done = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
    with opened(path) as store:
        assert stored(store) == sorted(done)


def test_a_reader_sees_one_snapshot(store: Store) -> None:
    store.writer.write(put("a")).result(PATIENCE_S)
    looked, changed = threading.Event(), threading.Event()

    def query(connection: Connection) -> tuple[list[str], list[str]]:
        before = keys(connection)
        looked.set()
        assert changed.wait(PATIENCE_S)
        return before, keys(connection)

    reading = store.read(query)
    assert looked.wait(PATIENCE_S)
    store.writer.write(put("b")).result(PATIENCE_S)
    changed.set()
    assert reading.result(PATIENCE_S) == (["a"], ["a"])
    assert stored(store) == ["a", "b"]


def test_readers_work_while_the_writer_is_busy(store: Store) -> None:
    store.writer.write(put("a")).result(PATIENCE_S)
    with held(store):
        assert stored(store) == ["a"]


def test_a_query_that_fails_says_so_in_our_terms(store: Store) -> None:
    with pytest.raises(StorageUnavailable, match="nonsense"):
        store.read(lambda connection: connection.exec_driver_sql("SELECT nonsense")).result(PATIENCE_S)


@pytest.mark.parametrize("write", [True, False])
def test_the_pragmas_are_in_force(path: Path, write: bool) -> None:
    open_sqlite(path, write=True).dispose()
    engine = open_sqlite(path, write=write)
    with engine.begin() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    full = 2
    assert values == {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1}


def test_a_writing_transaction_takes_the_lock_at_its_begin(path: Path) -> None:
    """So a read that leads to a write is never refused half-way."""
    engine = open_sqlite(path, write=True)
    with engine.begin():
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
    engine.dispose()


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local ext4 rw 0 0
//server/share /mnt/a\\040share cifs rw 0 0
host: /mnt/ssh fuse.sshfs rw 0 0
tmpfs /homely tmpfs rw 0 0
"""


@pytest.mark.parametrize("folder", ["/home", "/home/user/warren", "/mnt/a share", "/mnt/ssh/x"])
def test_a_network_file_system_is_refused(tmp_path: Path, folder: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    with pytest.raises(InvalidSettings, match="network file system"):
        refuse_network_file_system(Path(folder), mounts)


@pytest.mark.parametrize("folder", ["/", "/var/lib/warren", "/home/local/warren", "/homely", "/mnt/a"])
def test_a_local_file_system_is_accepted(tmp_path: Path, folder: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    refuse_network_file_system(Path(folder), mounts)


def test_a_lock_that_another_process_holds_is_waited_for_and_then_reported(path: Path) -> None:
    clock = ManualClock()
    with opened(path, clock) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            store.writer.write(put("a")).result(PATIENCE_S)
        clock.advance(3.0)
        assert store.writer.failing_for() == 3.0
        other.execute("ROLLBACK")
        other.close()
        assert store.writer.write(put("a")).result(PATIENCE_S) == "a"
        assert store.writer.failing_for() == 0.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "warren-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk")
def test_a_full_disk_is_reported_loses_nothing_and_is_recovered_from(small_disk: Path) -> None:
    clock = ManualClock()
    filler = small_disk / "filler"
    with opened(small_disk / "warren.db", clock) as store:
        done = [store.writer.write(put("before")).result(PATIENCE_S)]
        fill(filler)
        clock.advance(1.0)
        failures = []
        for number in range(40):
            (future,) = together(store, [put(f"full {number:02}", "x" * 4096)])
            if (error := future.exception()) is None:
                done.append(future.result())
            else:
                failures.append(error)
        assert failures
        assert {type(error) for error in failures} == {StorageFull}
        assert stored(store) == sorted(done)
        clock.advance(2.0)
        store.writer.write(lambda transaction: None).result(PATIENCE_S)
        assert store.writer.failing_for() == 2.0, "a transaction that writes nothing proves nothing"
        filler.unlink()
        done.append(store.writer.write(put("after", "x" * 4096)).result(PATIENCE_S))
        assert store.writer.failing_for() == 0.0
        assert stored(store) == sorted(done)
    with opened(small_disk / "warren.db") as store:
        assert stored(store) == sorted(done)


def fill(filler: Path) -> None:
    """Take what room the file system of `filler` has."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


LOAD = """
import itertools, sys, threading
from pathlib import Path
from broker.store.store import Store
from broker.store.tables import audit, settings
from protocols.clock import SystemClock

store = Store(Path(sys.argv[1]), SystemClock())
store.start()
numbers = itertools.count()

def work(number):
    def run(transaction):
        now = transaction.now
        transaction.connection.execute(settings.insert().values(key=str(number), value="x" * 500, updated_at=now))
        transaction.connection.execute(
            audit.insert().values(at=now, actor="test", action="note", object=str(number), data={})
        )
        return number
    return run

def load():
    while True:
        number = store.writer.write(work(next(numbers))).result()
        sys.stdout.write(f"{number}\\n")

for _ in range(8):
    threading.Thread(target=load).start()
"""


def test_what_was_said_to_be_durable_survives_a_kill_in_mid_load(path: Path) -> None:
    """And nothing is there by half: each piece of work writes into two tables."""
    for least in (1, 100, 400):
        said = said_by_killed_process(path, least)
        with opened(path) as store:
            there = set(stored(store))
            noted = store.read(lambda connection: set(connection.execute(sa.select(audit.c.object)).scalars()))
            assert said <= there
            assert noted.result(PATIENCE_S) == there
            integrity = store.read(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar())
            assert integrity.result(PATIENCE_S) == "ok"
        path.unlink()


def said_by_killed_process(path: Path, least: int) -> set[str]:
    """Return what a writing process said was durable, killed after it had said `least` things."""
    process = subprocess.Popen([sys.executable, "-u", "-c", LOAD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    lines = []
    for line in process.stdout:
        assert time.monotonic() < deadline
        lines.append(line)
        if len(lines) == least:
            process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert len(lines) >= least
    return {line.strip() for line in lines if line.endswith("\n")}
