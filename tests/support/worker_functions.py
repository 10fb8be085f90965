"""Functions that the worker's tests run as tasks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq


def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


async def add_async(left: int, right: int) -> int:
    """Return the sum, from a coroutine."""
    await asyncio.sleep(0)
    return left + right


@dramatiq.actor(max_retries=3)
def add_actor(left: int, right: int) -> int:
    """Return the sum, as a dramatiq actor."""
    return left + right


@dramatiq.actor
async def add_async_actor(left: int, right: int) -> int:
    """Return the sum, as an asynchronous dramatiq actor."""
    await asyncio.sleep(0)
    return left + right


@dramatiq.actor
def publish() -> None:
    """Try to publish a task, which no worker may."""
    add_actor.send(1, 2)


def say(out: str, err: str) -> None:
    """Write to both streams, from this process and from one that it starts."""
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.stdout.flush()
    subprocess.run(["echo", "and a child"], check=True)


def pid_of_child(*_: Any) -> int:
    """Return who runs it."""
    return os.getpid()


def touch_and_wait(path: str, seconds: float = 600.0) -> str:
    """Show that it has begun, then wait."""
    _show(path)
    time.sleep(seconds)
    return "waited"


def wait_for_file(path: str, started: str) -> str:
    """Show that it has begun, then wait for a file."""
    _show(started)
    while not Path(path).exists():
        time.sleep(0.005)
    return "seen"


def clean_up(started: str, cleaned: str) -> None:
    """Wait, and tidy up when ended."""
    try:
        touch_and_wait(started)
    finally:
        Path(cleaned).write_text("yes")


def spin(path: str) -> None:
    """Never let go of the processor, and ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _show(path)
    while True:
        pass


def hang_in_thread(path: str) -> None:
    """Wait in C for a thread that does not end."""
    thread = threading.Thread(target=time.sleep, args=(600,))
    thread.start()
    _show(path)
    thread.join()


def kill_itself() -> None:
    """End the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Raise."""
    raise ValueError("the third wheel is missing")


def leave() -> None:
    """Call sys.exit."""
    sys.exit(3)


def large() -> str:
    """Return more than a result may hold."""
    return "x" * 300_000


def strange() -> object:
    """Return what cannot travel."""
    return object()


def deep() -> Any:
    """Return what no reader accepts."""
    value: Any = 1
    for _ in range(40):
        value = [value]
    return value


def _show(path: str) -> None:
    partial = Path(f"{path}.partial")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
