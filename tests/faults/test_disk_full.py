"""Disk full: clear errors, nothing half-done, nothing lost, and all goes on when there is room again."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.disk import SmallDisk
from tests.support.processes import FAST, Worker, wait_until

FAST_ANSWER_S = 8.0
_names = itertools.count()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", 24) as mounted:
        yield mounted


@pytest.fixture
def full_store(disk: SmallDisk, tmp_path: Path) -> Iterator[Cluster]:
    """A control plane whose data directory is on the small disk."""
    with Cluster(tmp_path, FAST) as started:
        started.broker.data_dir = disk.path / "data"
        started.broker.environment["WARREN_DATA_DIR"] = str(disk.path / "data")
        started.broker.start()
        yield started


def test_a_full_disk_under_the_store(full_store: Cluster, disk: SmallDisk, recovered: Callable[[float], None]) -> None:
    """Submissions fail fast and whole, /healthz lives, outcomes wait, and with room again everything ends."""
    cluster = full_store
    worker = cluster.worker("worker")
    worker.start()
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"store{next(_names)}", 10, seconds=0.3))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] > 0)
    said = len(worker.output)
    disk.fill()
    refused: list[str] = []
    wait_until("a submission is refused", lambda: _is_refused(cluster, refused))
    wait_until("sessions are closed", lambda: _is_refused(cluster, refused) and "no session" in _since(worker, said))
    assert cluster.api.healthy()
    assert cluster.broker.alive
    disk.free()
    began = time.monotonic()
    wait_until("a submission is taken", lambda: not _is_refused(cluster, refused))
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    recovered(time.monotonic() - began)
    assert worker.alive
    assert not {row.title for row in cluster.ledger.rows()}.intersection(refused), "a refused task is there"
    rows = cluster.ledger.rows(ids)
    assert {row.tries for row in rows} == {0}
    assert {cluster.effects.count(row.title) for row in rows if row.delivery == "at_most_once"} == {1}
    cluster.ledger.check(cluster.effects)


def _is_refused(cluster: Cluster, refused: list[str]) -> bool:
    """Submit a task; note it if it is refused, which has to be quick and clear."""
    key = f"probe{next(_names)}"
    began = time.monotonic()
    answer = cluster.api.request("POST", "/tasks", cluster.effect(key, description="x" * 9000))
    assert time.monotonic() - began < FAST_ANSWER_S
    if answer.is_success:
        return False
    assert answer.status_code in {503, 507}, answer.text
    assert answer.json()["error"]["code"].startswith("storage_")
    refused.append(key)
    return True


def _since(worker: Worker, said: int) -> str:
    """Return what a worker has printed beyond its first `said` characters."""
    return worker.output[said:]


def test_a_full_disk_under_the_spool(cluster: Cluster, disk: SmallDisk) -> None:
    """A worker whose spool cannot be written keeps its outcomes in memory through a break, and lives."""
    worker = cluster.worker(f"spooler{next(_names)}")
    worker.state_dir = disk.path / "state"
    worker.environment["WARREN_WORKER_STATE_DIR"] = str(worker.state_dir)
    worker.start()
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"spool{next(_names)}", 2, seconds=1.0))
    wait_until("all run", lambda: all(cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)))
    disk.fill()
    cluster.broker.kill()
    wait_until("the worker says so", lambda: worker.output.count("kept in memory only") >= len(ids))
    assert worker.alive
    assert not worker.spooled
    cluster.broker.start()
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    assert worker.alive
    assert {cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)} == {1}
    disk.free()
    more = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"spool{next(_names)}", 2))
    cluster.ledger.wait_for(more, TaskState.SUCCEEDED)
    cluster.ledger.check(cluster.effects)
    worker.stop()
