"""The real `warren` command, and a whole Warren started with it in a directory of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from client.http import ApiClient
from tests.support.ports import free_port

COMMAND = (sys.executable, "-m", "client")
DEADLINE_S = 90.0
_KEYS = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}


def environ(data_dir: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the command finds this data directory and no provider's key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_") and name not in _KEYS}
    return {**kept, "WARREN_DATA_DIR": str(data_dir), **more}


def until(what: str, condition: Callable[[], Any], timeout_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


def processes_of(data_dir: Path) -> list[str]:
    """Return the command lines of all living processes that were started for this data directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(data_dir) in text for text in told):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


class Warren:
    """`warren up`, running on a data directory and a free port."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self._output = data_dir.with_suffix(".up.txt")
        self._arguments = arguments
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where its control plane listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """All that `warren up` has printed."""
        return self._output.read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--port", str(self.port), *self._arguments],
                env=environ(self.data_dir),
                stdout=file,
                stderr=file,
            )
        until("warren up", lambda: "Ctrl-C stops it" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output

    def stop(self) -> int:
        """End it as a service manager would, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def client(self) -> ApiClient:
        """Return a client with the administrator's key."""
        return ApiClient(self.url, (self.data_dir / "admin.key").read_text().strip())

    def run(self, *arguments: str, stdin: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end, as a user of this data directory."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environ(self.data_dir, **more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
        """Run the command beside the test; gives the process and its unbuffered stdout."""
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environ(self.data_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@contextmanager
def warren_up(data_dir: Path, *arguments: str) -> Iterator[Warren]:
    """Give a running Warren, and end it."""
    warren = Warren(data_dir, "--no-tour", *arguments)
    try:
        warren.start()
        yield warren
    finally:
        if warren.process.poll() is None:
            warren.stop()
