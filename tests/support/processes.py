"""Real processes for tests: a control plane and its workers in a directory of their own, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from tests.support.actions import CATALOGUE
from tests.support.api import Api
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
"""Generous: it is only ever used up by a test that fails."""
STOP_S = 45.0
FAST = {
    "WARREN_PING_S": "0.5",
    "WARREN_SILENCE_S": "2.5",
    "WARREN_RESUME_S": "1",
    "WARREN_ORPHAN_S": "15",
    "WARREN_AT_MOST_ONCE_S": "1",
    "WARREN_RETRY_BASE_S": "0.05",
    "WARREN_SWEEP_S": "1",
    "WARREN_LOST_IN_LANE_S": "3",
}
"""Settings under which leases end within seconds."""

T = TypeVar("T")


def wait_until(what: str, look: Callable[[], T], timeout_s: float = DEADLINE_S) -> T:
    """Return what `look` gives as soon as that is true; AssertionError when it is not in time."""
    deadline = time.monotonic() + timeout_s
    pause = 0.01
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return found


class Process:
    """One program, started again as often as a test likes; what it prints is kept in one file."""

    def __init__(self, name: str, log: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self.command = list(command)
        self.environment = dict(environment)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.poll() is None

    @property
    def pid(self) -> int:
        """The process id of what was started last."""
        assert self._running is not None, f"{self.name} was not started"
        return self._running.pid

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def spawn(self) -> None:
        """Start it, without waiting for anything."""
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end and return the exit status, -9 for SIGKILL."""
        assert self._running is not None, f"{self.name} was not started"
        try:
            return self._running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:g} s") from None

    def kill(self) -> None:
        """End it as a power failure would."""
        self.signal(signal.SIGKILL)
        if self._running is not None:
            self.ended()

    def stop(self) -> int:
        """End it as a service manager would and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended(STOP_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.alive:
            os.kill(self.pid, number)

    def freeze(self, *, children: bool = False) -> None:
        """Stop its execution, with `children` that of everything it started, as a suspended machine does."""
        for process in self._tree(children):
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        process = psutil.Process(self.pid)
        wait_until(f"{self.name} stands still", lambda: process.status() == psutil.STATUS_STOPPED)

    def thaw(self, *, children: bool = False) -> None:
        """Let it go on."""
        for process in self._tree(children):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def _tree(self, children: bool) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *(process.children(recursive=True) if children else ())]


class Broker(Process):
    """A control plane on a port that stays the same over its restarts."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.data_dir = directory / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        place = {"WARREN_DATA_DIR": str(self.data_dir), "WARREN_PORT": str(self.port)}
        super().__init__("broker", directory / "broker.log", [sys.executable, "-m", "broker"], {**environment, **place})

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.spawn()
        self.answers()

    def answers(self) -> None:
        """Wait until it answers /healthz; AssertionError when it ends instead."""
        with Api(self.url, None) as api:
            wait_until("the control plane answers", lambda: api.healthy() or not self.alive)
        assert self.alive, f"the control plane ended:\n{self.output[-3000:]}"

    def api(self) -> Api:
        """Return a client with the administrator's key."""
        return Api(self.url, self.key("admin"))

    def key(self, role: str) -> str:
        """Return the API key that it made for `admin` or `worker`."""
        return (self.data_dir / f"{role}.key").read_text().strip()


class Worker(Process):
    """A worker whose state directory outlives its process."""

    def __init__(self, name: str, directory: Path, broker: Broker, environment: Mapping[str, str], url: str) -> None:
        self.state_dir = directory / f"worker-{name}"
        settings = {
            "WARREN_WORKER_URL": url,
            "WARREN_WORKER_KEY_FILE": str(broker.data_dir / "worker.key"),
            "WARREN_WORKER_STATE_DIR": str(self.state_dir),
            "WARREN_WORKER_NAME": name,
            "WARREN_WORKER_ACTIONS": ",".join(f"{action}={source}" for action, source in CATALOGUE.items()),
            "WARREN_WORKER_SLOTS_PYTHON": "4",
        }
        command = [sys.executable, "-m", "worker"]
        super().__init__(name, directory / f"{name}.log", command, {**settings, **environment})
        self._broker = broker
        self._approved = False
        self._opened = 0

    @property
    def id(self) -> str:
        """Its id, once it has made its keys."""
        return str(self._public()["worker_id"])

    def start(self) -> None:
        """Start it and wait until it is at work."""
        self.spawn()
        self.ready()

    def ready(self) -> None:
        """Approve it if nobody has, and wait until it is online."""
        with self._broker.api() as api:
            if not self._approved:
                wait_until(f"{self.name} registers", lambda: self._registered(api) or not self.alive)
                api.approve(self.id, self._public()["fingerprint"])
                self._approved = True
        self.online()

    def spawn(self) -> None:
        """Start it, without waiting for anything."""
        self._opened = self.sessions_opened()
        super().spawn()

    def online(self) -> None:
        """Wait until the process that was started last has opened a session."""
        wait_until(f"{self.name} is online", lambda: self.sessions_opened() > self._opened or not self.alive)
        assert self.alive, f"worker {self.name} ended:\n{self.output[-3000:]}"

    def sessions_opened(self) -> int:
        """Return how many sessions it has opened or resumed, over all of its starts."""
        return self.output.count("session open")

    @property
    def spooled(self) -> list[Path]:
        """The outcomes on its disk."""
        return sorted((self.state_dir / "spool").glob("*.outcome"))

    def _registered(self, api: Api) -> bool:
        return (self.state_dir / "worker.json").exists() and api.worker(self.id) is not None

    def _public(self) -> dict[str, str]:
        public: dict[str, str] = json.loads((self.state_dir / "worker.json").read_text())
        return public
