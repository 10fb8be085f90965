"""One control plane and one worker on SQLite and direct lanes: latency, throughput, and what idling costs.

    sh ./dev bench one_machine

Everything, this program included, shares the machine; the table says how many cores that are. There is no peer
in this run: it shows where Warren stands, not how it compares.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
import psutil

LATENCY_ROUNDS = 200
THROUGHPUT_TASKS = 3000
SUBMITTERS = 16
SLOTS = 8
IDLE_S = 10
T = TypeVar("T")
REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    """Run all measurements and print the table."""
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder, _cluster(Path(folder)) as (api, pids):
        idle = [_idle(name, pid) for name, pid in pids.items()]
        latency = _latency(api)
        single = _throughput(api, _submit_single)
        before = {name: _cpu_s(pid) for name, pid in pids.items()}
        bulk = _throughput(api, _submit_bulk)
        cost = {name: (_cpu_s(pid) - before[name]) / THROUGHPUT_TASKS * 1000 for name, pid in pids.items()}
    cores = len(os.sched_getaffinity(0))
    print(f"SQLite, direct lanes, one worker with {SLOTS} slots for Python, {cores} cores for everything\n")
    print("| what | value |\n|---|---|")
    print(f"| submit to start, idle, p50 | {statistics.median(latency):.1f} ms |")
    print(f"| submit to start, idle, p99 | {statistics.quantiles(latency, n=100)[98]:.1f} ms |")
    print(f"| no-op tasks, submitted singly by {SUBMITTERS} clients, until all have succeeded | {single:.0f} /s |")
    print(f"| no-op tasks, submitted in bulks of 1,000, until all have succeeded | {bulk:.0f} /s |")
    for name, spent in cost.items():
        print(f"| CPU per task of the {name}, in bulks | {spent:.2f} ms |")
    for name, rss, cpu in idle:
        print(f"| idle {name}: resident memory, CPU | {rss:.0f} MB, {cpu:.2f} % of a core |")


def _idle(name: str, pid: int) -> tuple[str, float, float]:
    """Return (name, MB resident, percent of a core) of a process and its children over IDLE_S seconds."""
    before = _cpu_s(pid)
    time.sleep(IDLE_S)
    used = _cpu_s(pid) - before
    return name, sum(process.memory_info().rss for process in _family(pid)) / 1e6, 100 * used / IDLE_S


def _cpu_s(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def _latency(api: httpx2.Client) -> list[float]:
    """Return milliseconds from just before the request to the first line of the action, one task at a time."""
    found = []
    for _ in range(LATENCY_ROUNDS + 10):
        submitted = time.time_ns()
        task_id = _checked(api.post("/api/v1/tasks", json={"action": "started_at"})).json()["id"]
        while (task := _checked(api.get(f"/api/v1/tasks/{task_id}")).json())["state"] != "succeeded":
            time.sleep(0.01)
        found.append((task["result"]["value"] - submitted) / 1e6)
    return found[10:]


def _throughput(api: httpx2.Client, submit: Callable[[httpx2.Client], None]) -> float:
    """Return tasks per second from the first request until all have succeeded."""
    done = _succeeded(api)
    began = time.monotonic()
    submit(api)
    while _succeeded(api) < done + THROUGHPUT_TASKS:
        time.sleep(0.05)
    return THROUGHPUT_TASKS / (time.monotonic() - began)


def _submit_single(api: httpx2.Client) -> None:
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        for answer in pool.map(lambda _: api.post("/api/v1/tasks", json={"action": "noop"}), range(THROUGHPUT_TASKS)):
            _checked(answer)


def _submit_bulk(api: httpx2.Client) -> None:
    for _ in range(THROUGHPUT_TASKS // 1000):
        _checked(api.post("/api/v1/tasks/bulk", json={"tasks": [{"action": "noop"}] * 1000}))


def _succeeded(api: httpx2.Client) -> int:
    answer = _checked(api.get("/api/v1/tasks", params={"state": "succeeded", "limit": 1}))
    return int(answer.json()["total"])


def _checked(answer: httpx2.Response) -> httpx2.Response:
    answer.raise_for_status()
    return answer


@contextmanager
def _cluster(folder: Path) -> Iterator[tuple[httpx2.Client, dict[str, int]]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WARREN_LOG_LEVEL": "warning"}
    broker = subprocess.Popen(
        [sys.executable, "-m", "broker"],
        env={**environment, "WARREN_DATA_DIR": str(folder), "WARREN_PORT": "0"},
    )
    worker = None
    try:
        url = _eventually(lambda: (folder / "url").read_text().strip())
        key = (folder / "admin.key").read_text().strip()
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env={
                **environment,
                "WARREN_WORKER_URL": url,
                "WARREN_WORKER_KEY_FILE": str(folder / "worker.key"),
                "WARREN_WORKER_STATE_DIR": str(folder / "worker"),
                "WARREN_WORKER_SLOTS_PYTHON": str(SLOTS),
                "WARREN_WORKER_ACTIONS": "noop=bench._actions:noop,started_at=bench._actions:started_at",
            },
        )
        with httpx2.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        ) as api:
            found = _eventually(lambda: _checked(api.get("/api/v1/workers")).json()["data"][0])
            _checked(api.patch(f"/api/v1/admin/workers/{found['id']}/approve", json={"is_approved": True}))
            _eventually(lambda: _online(api))
            yield api, {"control plane": broker.pid, "worker": worker.pid}
    finally:
        for process in (worker, broker):
            if process is not None:
                process.terminate()
                process.wait(20)


def _online(api: httpx2.Client) -> None:
    if _checked(api.get("/api/v1/workers")).json()["data"][0]["presence"] != "online":
        raise LookupError("the worker is not online yet")


def _eventually(look: Callable[[], T], deadline_s: float = 30) -> T:
    """Return what `look` gives once it raises no more."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            return look()
        except (OSError, LookupError, httpx2.HTTPError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
