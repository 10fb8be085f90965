"""The HTTP interface of one control plane on SQLite: requests per second, CPU per request, p95, by number of tasks.

    sh ./dev bench api [TASKS ...]       (default: 1000 100000 1000000)

Eight connections from this program, which shares the machine with the control plane; no worker. The peers, in the same
run, are the least that a durable HTTP submission can be: the same form through FastAPI without any database, and with
one SQLite commit for each.
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
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import psutil

CONNECTIONS = 8
SECONDS = 4.0
BULK = 100
REPOSITORY = Path(__file__).parent.parent
FORM = {"action": "noop", "input": {"path": "/srv/a.png", "width": 640}, "delay_s": 86_400}
YEAR_MS = 366 * 86_400_000


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


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", type=int, default=[1_000, 100_000, 1_000_000])
    sizes = parser.parse_args().tasks
    print(f"{CONNECTIONS} connections, {SECONDS:.0f} s each, {len(os.sched_getaffinity(0))} cores for everything\n")
    print("| tasks | request | per second | CPU of the server, ms | p50, ms | p95, ms |\n|---|---|---|---|---|---|")
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
        _fill(directory / "warren.db", size)
        with _control_plane(directory) as (url, pid, key):
            found = {load.name: _measure(url, pid, key, load) for load in _loads(size)}
    for name, figures in found.items():
        _print(f"{size:,}", name, figures)
    return found["submit"]


def _loads(size: int) -> list[Load]:
    numbers = itertools.count()

    def get() -> str:
        return f"/api/v1/tasks/{_id(next(numbers) * 7919 % size)}"

    def at(path: str) -> Callable[[], str]:
        return lambda: f"/api/v1{path}"

    return [
        Load("get", "GET", get),
        Load("list, newest 50", "GET", at("/tasks")),
        Load("list, state=dead", "GET", at("/tasks?state=dead")),
        Load("list, action and priority", "GET", at("/tasks?action=noop&priority=high")),
        Load("list, page in the middle by cursor", "GET", at(f"/tasks?cursor={_id(size // 2)}")),
        Load("stats", "GET", at("/tasks/stats")),
        Load("queues", "GET", at("/queues")),
        Load("analytics overview", "GET", at("/analytics/overview")),
        Load("analytics timeline, 30 days", "GET", at("/analytics/tasks/timeline?days=30")),
        Load("submit", "POST", at("/tasks"), _json(FORM)),
        Load(f"submit, bulk of {BULK}", "POST", at("/tasks/bulk"), _json({"tasks": [FORM] * BULK})),
    ]


def _measure(url: str, pid: int, key: str, load: Load) -> Figures:
    process = psutil.Process(pid)
    asyncio.run(_run(url, key, load, SECONDS / 4))
    before = sum(process.cpu_times()[:2])
    took = asyncio.run(_run(url, key, load, SECONDS))
    spent = sum(process.cpu_times()[:2]) - before
    return Figures(
        per_second=len(took) / SECONDS,
        cpu_ms=spent / len(took) * 1000,
        p50_ms=statistics.median(took) * 1000,
        p95_ms=statistics.quantiles(took, n=20)[18] * 1000 if len(took) > 1 else took[0] * 1000,
    )


async def _run(url: str, key: str, load: Load, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    found = await asyncio.gather(*(_connection(url, key, load, until) for _ in range(CONNECTIONS)))
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


def _id(number: int) -> str:
    return f"task_{number + 1:032x}"


def _fill(database: Path, size: int) -> None:
    """Copy the one task until there are `size`: seven in ten succeeded, the others dead, cancelled and waiting."""
    connection = sqlite3.connect(database)
    row = connection.execute("SELECT * FROM tasks").fetchone()
    columns = [column[1] for column in connection.execute("PRAGMA table_info(tasks)")]
    template = dict(zip(columns, row, strict=True))
    connection.execute("DELETE FROM tasks")
    connection.execute("DELETE FROM events")
    now = template["created_at"]
    states = ["succeeded"] * 7 + ["dead", "cancelled", "scheduled"]

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(size):
            state = states[number % 10]
            created = now - (size - number) * 1000
            finished = None if state == "scheduled" else created + 500
            yield tuple(
                {
                    **template,
                    "id": _id(number),
                    "state": state,
                    "priority": number // 10 % 4,
                    "created_at": created,
                    "due_at": now + YEAR_MS,
                    "started_at": finished and created + 100,
                    "finished_at": finished,
                    "error_code": "exception" if state == "dead" else None,
                    "cause": "max_attempts" if state == "dead" else None,
                }.values()
            )

    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO tasks VALUES ({marks})", rows())
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


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
    rate = f"{found.per_second:,.0f} | {found.cpu_ms:.2f}"
    print(f"| {tasks} | {name} | {rate} | {found.p50_ms:.1f} | {found.p95_ms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
