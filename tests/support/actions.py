"""Python actions for workers under test. Whatever they do to the world, they do on disk, where tests can count it."""

import itertools
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.support.effects import Effects, append_line

CATALOGUE = {
    name: f"tests.support.actions:{name}"
    for name in (
        "effect",
        "effect_then_kill_worker",
        "kill_worker",
        "kill_self",
        "hang",
        "busy_loop",
        "hang_in_c",
        "ignore_sigterm",
        "fail_first",
    )
}
"""What WARREN_WORKER_ACTIONS declares for every worker of a test."""


def effect(path: str, key: str, seconds: float = 0.0) -> str:
    """Do something once, then take some time."""
    append_line(path, key)
    time.sleep(seconds)
    return key


def effect_then_kill_worker(path: str, key: str, name: str, once: str) -> str:
    """Do something, then end the worker that runs this, if it is the one called `name`, and only once."""
    append_line(path, key)
    if os.environ["WARREN_WORKER_NAME"] == name:
        with suppress(FileExistsError):
            Path(once).touch(exist_ok=False)
            kill_worker()
    return key


def kill_worker(path: str | None = None) -> None:
    """End the worker that runs this, every time, as the kernel's out-of-memory killer would."""
    if path is not None:
        append_line(path, "kill_worker")
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def kill_self(path: str) -> None:
    """End the process that runs this, every time, and nothing else."""
    append_line(path, "kill_self")
    os.kill(os.getpid(), signal.SIGKILL)


def hang(path: str) -> None:
    """Sleep for ever."""
    append_line(path, "hang")
    while True:
        signal.pause()


def busy_loop(path: str) -> None:
    """Compute for ever."""
    append_line(path, "busy_loop")
    while True:
        pass


def hang_in_c(path: str) -> None:
    """Stay in C code that holds the interpreter lock and never looks at signals."""
    append_line(path, "hang_in_c")
    sum(itertools.repeat(1, 1 << 62))


def ignore_sigterm(path: str) -> None:
    """Sleep for ever and refuse to be asked to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    append_line(path, "ignore_sigterm")
    while True:
        signal.pause()


def fail_first(path: str, key: str, failures: int) -> str:
    """Fail some times, then succeed."""
    append_line(path, key)
    if Effects(Path(path)).count(key) <= failures:
        raise RuntimeError("not yet")
    return key
