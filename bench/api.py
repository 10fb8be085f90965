"""The HTTP interface of one control plane on SQLite: requests per second, CPU per request, latency, by number of tasks.

    sh ./dev bench api [TASKS ...]       (default: 1000 100000 1000000)

So many tasks wait, and as many are dead and have a dead letter each. The first figures are of eight connections from
this program, which shares the machine with the control plane; the last ones of a single connection. No worker. The
peers, in the same run, are the least that a durable HTTP submission can be: the same form through FastAPI without any
database, and with one SQLite commit for each.
"""

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import psutil

CONNECTIONS = 8
SECONDS = 4.0
BULK = 100
REPOSITORY = Path(__file__).parent.parent
QUEUES = 20
ACTIONS = 10
LANE = "q.t.default.python"
_DEAD = "SELECT id, action, lane, cause, error_code, finished_at FROM tasks WHERE state = 'dead' ORDER BY id"
FORM = {"action": "noop", "input": {"path": "/srv/a.png", "width": 640}, "delay_s": 86_400}
YEAR_MS = 366 * 86_400_000
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request."""

    name: str
    method: str
    path: Callable[[], str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it."""

    per_second: float
    cpu_ms: float
    p50_ms: float
    p95_ms: float
    alone_p50_ms: float
    """Without other connections."""
    alone_p95_ms: float
    rss_mb: float


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", type=int, default=[1_000, 100_000, 1_000_000])
    sizes = parser.parse_args().tasks
    print(f"{CONNECTIONS} connections, {SECONDS:.0f} s each, {len(os.sched_getaffinity(0))} cores for everything\n")
    print(
        "| tasks | request | per second | CPU of the server, ms | p50, ms | p95, ms | alone: p50 | p95 | memory, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with _peer() as (url, pid):
        floor = _measure(url, pid, "", Load("peer: no database", "POST", lambda: "/bare", _json(FORM)))
        _print("-", "peer: FastAPI, no database", floor)
        commit = _measure(url, pid, "", Load("peer: one commit", "POST", lambda: "/commit", _json(FORM)))
        _print("-", "peer: FastAPI, one commit each", commit)
    submits = [_at(size) for size in sizes]
    for size, submit in zip(sizes, submits, strict=True):
        print(
            f"\nsubmit at {size:,}: {submit.per_second / commit.per_second:.2f} of the rate of one commit each, "
            f"{submit.cpu_ms / commit.cpu_ms:.2f} of its CPU, {submit.cpu_ms / floor.cpu_ms:.2f} of the bare one's"
        )


def _at(size: int) -> Figures:
    """Print the figures at this many tasks and return those of single submission."""
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        directory = Path(folder)
        with _control_plane(directory) as (url, _, key):
            _post(url + "/api/v1/tasks", key, FORM)
        now = _fill(directory / "warren.db", size)
        with _control_plane(directory) as (url, pid, key):
            found = {}
            for load in _loads(size, now):
                found[load.name] = _measure(url, pid, key, load)
                _print(f"{size:,}", load.name, found[load.name])
    return found["submit"]


def _loads(size: int, now: int) -> list[Load]:
    numbers = itertools.count()
    lately = quote(datetime.fromtimestamp(now / 1000 - size / 2, UTC).isoformat())

    def get() -> str:
        return f"/api/v1/tasks/{_id('task', _created(next(numbers) * 7919 % (2 * size), size, now))}"

    def at(path: str) -> Callable[[], str]:
        return lambda: f"/api/v1{path}"

    middle = _id("task", _created(size, size, now))
    looks = {
        "tasks, newest 50": "/tasks",
        "tasks, dead": "/tasks?state=dead",
        "tasks, action and priority": "/tasks?action=noop&priority=high",
        "tasks, dead of a rare action": "/tasks?state=dead&action=action_7",
        "tasks, waiting in a queue, lately": f"/tasks?state=scheduled&lane={LANE}&created_after={lately}",
        "tasks, page in the middle by cursor": f"/tasks?cursor={middle}",
        "tasks, statistics": "/tasks/stats",
        "queues": "/queues",
        "dead letters, newest 50": "/dead-letter",
        "dead letters, cause and rare action": "/dead-letter?cause=manual&action=action_7",
        "dead letters, error, queue, lately": f"/dead-letter?error_code=timeout&lane={LANE}&dead_after={lately}",
        "dead letters, statistics": "/dead-letter/stats",
        "metrics": "/metrics",
        "analytics, overview": "/analytics/overview",
        "analytics, timeline of 30 days": "/analytics/tasks/timeline?days=30",
    }
    return [
        Load("task", "GET", get),
        *(Load(name, "GET", at(path)) for name, path in looks.items()),
        Load("submit", "POST", at("/tasks"), _json(FORM)),
        Load(f"submit, bulk of {BULK}", "POST", at("/tasks/bulk"), _json({"tasks": [FORM] * BULK})),
    ]


def _measure(url: str, pid: int, key: str, load: Load) -> Figures:
    process = psutil.Process(pid)
    asyncio.run(_run(url, key, load, SECONDS / 4, CONNECTIONS))
    alone = asyncio.run(_run(url, key, load, SECONDS / 2, 1))
    before = sum(process.cpu_times()[:2])
    took = asyncio.run(_run(url, key, load, SECONDS, CONNECTIONS))
    spent = sum(process.cpu_times()[:2]) - before
    return Figures(
        per_second=len(took) / SECONDS,
        cpu_ms=spent / len(took) * 1000,
        p50_ms=statistics.median(took) * 1000,
        p95_ms=_p95(took) * 1000,
        alone_p50_ms=statistics.median(alone) * 1000,
        alone_p95_ms=_p95(alone) * 1000,
        rss_mb=process.memory_info().rss / 1e6,
    )


def _p95(took: list[float]) -> float:
    return statistics.quantiles(took, n=20)[18] if len(took) > 1 else took[0]


async def _run(url: str, key: str, load: Load, seconds: float, connections: int) -> list[float]:
    until = time.monotonic() + seconds
    found = await asyncio.gather(*(_connection(url, key, load, until) for _ in range(connections)))
    return [one for many in found for one in many]


async def _connection(url: str, key: str, load: Load, until: float) -> list[float]:
    """Send one request after the other over one connection; return the seconds that each took."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    took: list[float] = []
    while (began := time.monotonic()) < until or not took:
        head = f"{load.method} {load.path()} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        if load.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(load.body)}\r\n"
        writer.write(head.encode() + b"\r\n" + load.body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if answer[9:12] not in (b"200", b"201"):
            raise SystemExit(f"{load.name}: {answer[:200]!r}")
        length = next(
            int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        took.append(time.monotonic() - began)
    writer.close()
    return took


def _created(number: int, size: int, now: int) -> int:
    """Return when the task with this number was created, of twice `size`: one each half a second until now."""
    return now - (2 * size - number) * 500


def _id(prefix: str, milliseconds: int) -> str:
    """Return the id of what was made then; nothing else was in that millisecond."""
    return f"{prefix}_{milliseconds << 80:032x}"


def _fill(database: Path, size: int) -> int:
    """Make `size` tasks that wait, and as many dead ones with their letters; return the last one's time."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA cache_size = -1000000")
    (task,) = _rows(connection, "SELECT * FROM tasks")
    now = task["created_at"]
    for table in ("tasks", "events"):
        connection.execute(f"DELETE FROM {table}")
    rows = (_task(task, number, _created(number, size, now), now) for number in range(2 * size))
    _insert(connection, "tasks", rows)
    _insert(connection, "dead_letters", (_letter(row) for row in _rows(connection, _DEAD)))
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return int(now)


def _task(template: Row, number: int, created: int, now: int) -> Row:
    """Return a task, every second one dead, half of them in one queue with one action; a tenth waits for later."""
    kind = number // 2
    dead = {
        "state": "dead",
        "started_at": created + 100,
        "finished_at": created + 400,
        "error_code": ("exception", "timeout", "exit_status")[kind % 3],
        "cause": ("max_attempts", "manual")[kind // 20 % 2],
    }
    return {
        **template,
        "id": _id("task", created),
        "action": "noop" if kind % 2 else f"action_{kind // 2 % ACTIONS}",
        "lane": LANE if kind % 2 else f"q.t.pool-{kind // 2 % QUEUES}.python",
        "priority": kind // 8 % 4,
        "created_at": created,
        "due_at": now + YEAR_MS if kind % 10 == 0 else created,
        **(dead if number % 2 else {}),
    }


def _letter(task: Row) -> Row:
    copied = ("action", "lane", "cause", "error_code")
    more = {"id": _id("dead", task["finished_at"]), "task_id": task["id"], "dead_at": task["finished_at"]}
    return {**{name: task[name] for name in copied}, **more, "attempts": 1, "tries": 1}


def _rows(connection: sqlite3.Connection, query: str) -> Iterator[Row]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)


def _insert(connection: sqlite3.Connection, table: str, rows: Iterator[Row]) -> None:
    first = next(rows)
    marks = ", ".join(f":{name}" for name in first)
    statement = f"INSERT INTO {table} ({', '.join(first)}) VALUES ({marks})"
    connection.executemany(statement, itertools.chain([first], rows))


@contextmanager
def _control_plane(folder: Path) -> Iterator[tuple[str, int, str]]:
    environment = {"WARREN_DATA_DIR": str(folder), "WARREN_PORT": "0", "WARREN_LOG_LEVEL": "warning"}
    url_file = folder / "url"
    url_file.unlink(missing_ok=True)
    with _process([sys.executable, "-m", "broker"], environment) as process:
        while not url_file.exists() or not url_file.read_text().strip():
            _check_alive(process)
        yield url_file.read_text().strip(), process.pid, (folder / "admin.key").read_text().strip()


@contextmanager
def _peer() -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        socket_port = 18_000 + os.getpid() % 10_000
        command = [sys.executable, "-m", "uvicorn", "bench._api_peer:create", "--factory", "--port", str(socket_port)]
        with _process([*command, "--log-level", "warning", "--no-access-log"], {"PEER_DATABASE": f"{folder}/db"}) as it:
            url = f"http://127.0.0.1:{socket_port}"
            while not _answers(url):
                _check_alive(it)
            yield url, it.pid


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _check_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} has ended with status {process.returncode}")
    time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        _open(Request(f"{url}/openapi.json"))
    except OSError:
        return False
    return True


def _post(url: str, key: str, body: object) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    _open(Request(url, data=_json(body), headers=headers))


def _open(request: Request) -> None:
    with build_opener(ProxyHandler({})).open(request, timeout=10):
        pass


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _print(tasks: str, name: str, found: Figures) -> None:
    together = f"{found.per_second:,.0f} | {found.cpu_ms:.2f} | {found.p50_ms:.1f} | {found.p95_ms:.1f}"
    alone = f"{found.alone_p50_ms:.1f} | {found.alone_p95_ms:.1f} | {found.rss_mb:.0f} MB"
    print(f"| {tasks} | {name} | {together} | {alone} |", flush=True)


if __name__ == "__main__":
    main()
