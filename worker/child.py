"""The program of a child process: does jobs for its worker until the channel between them closes."""

import asyncio
import ctypes
import importlib
import inspect
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import dramatiq
from dramatiq.middleware import default_middleware

from protocols.lanes.seam import LaneBroker
from protocols.outcome import Outcome
from worker.child_channel import OUTCOME, frame, receive

PR_SET_PDEATHSIG = 1
BUILTIN = "worker.child_builtin:run"
"""Loaded like a user's function, since most children never need what it imports."""


class Terminated(BaseException):
    """SIGTERM came: the job unwinds, like at a KeyboardInterrupt, and the process ends."""


class DeclaringBroker(LaneBroker):
    """Lets users' modules declare dramatiq actors; a worker publishes nothing."""

    def __init__(self) -> None:
        super().__init__()
        for middleware in default_middleware:
            # Options of dramatiq's own middleware are accepted and without meaning: the task has its own.
            self.actor_options |= middleware().actor_options


def main() -> None:
    """Serve the channel whose descriptor is the only argument."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    dramatiq.set_broker(DeclaringBroker())
    channel.sendall(frame({"k": "ready"}))
    try:
        while (job := receive(channel)) is not None:
            answer = _call(job) if job["source"] is not None else _load(BUILTIN)(job, channel)
            channel.sendall(frame(answer))
    except Terminated:
        sys.exit(128 + signal.SIGTERM)
    except (BrokenPipeError, ConnectionResetError):
        return


def _call(job: dict[str, Any]) -> dict[str, Any]:
    """Call a user's function; SIGTERM unwinds it so that its `finally` clauses run."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        function = _load(job["source"])
        value = function(*job["args"], **job["kwargs"])
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        outcome = Outcome.returned(value)
    except Exception as error:
        traceback.print_exception(error, limit=-20)
        outcome = Outcome.raised(error)
    except SystemExit as error:
        outcome = Outcome.raised(error)
    finally:
        signal.signal(signal.SIGTERM, previous)
        sys.stdout.flush()
        sys.stderr.flush()
    return {"k": "outcome", "outcome": OUTCOME.dump_python(outcome)}


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _load(source: str) -> Callable[..., Any]:
    module, _, path = source.partition(":")
    target: Any = importlib.import_module(module)
    for name in path.split("."):
        target = getattr(target, name)
    if isinstance(target, dramatiq.Actor):
        # dramatiq wraps an async function so that it needs a thread of its middleware; here it has its own loop.
        inner = getattr(target.fn, "__wrapped__", None)
        target = inner if inspect.iscoroutinefunction(inner) else target.fn
    if not callable(target):
        raise TypeError(f"{source} is not callable")
    function: Callable[..., Any] = target
    return function


if __name__ == "__main__":
    main()
