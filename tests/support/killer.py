"""Ends a program by SIGKILL at a chosen point of its code, so that production code needs no hooks for tests.

    python -m tests.support.killer PROGRAM --trigger FILE --at POINT [--at POINT …]

runs PROGRAM as its `-m` would. A point is `package.module:Class.method:before|after[?text]`; with `?text` only
calls whose arguments show that text in their repr count. A point fires while FILE holds its spelling; FILE is then
renamed to FILE.fired, in the same instant before the process dies, so that it fires once.
"""

import argparse
import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """Where a process shall die."""

    module: str
    attribute: str
    moment: str
    text: str
    spelling: str

    @classmethod
    def parse(cls, spelling: str) -> "Point":
        """Return the point; ValueError for what is none."""
        where, _, text = spelling.partition("?")
        module, attribute, moment = where.split(":")
        if moment not in {"before", "after"}:
            raise ValueError(f"{spelling}: neither before nor after")
        return cls(module, attribute, moment, text, spelling)


class Trigger:
    """The file that says which point is live."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def arm(self, spelling: str) -> None:
        """Make a point live."""
        self.fired.unlink(missing_ok=True)
        self.path.write_text(spelling)

    def disarm(self) -> None:
        """Make no point live."""
        self.path.unlink(missing_ok=True)

    @property
    def fired(self) -> Path:
        """There once the point has been reached."""
        return self.path.with_suffix(".fired")

    def pull(self, point: Point, arguments: object) -> None:
        """Kill this process if the point is live and the arguments are those it waits for."""
        try:
            live = self.path.read_text() == point.spelling
        except FileNotFoundError:
            return
        if live and (not point.text or point.text in repr(arguments)):
            self.path.rename(self.fired)
            os.kill(os.getpid(), signal.SIGKILL)


def wrap(point: Point, trigger: Trigger) -> None:
    """Replace the attribute by one that can kill."""
    *path, name = point.attribute.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(point.module))
    setattr(owner, name, _lethal(getattr(owner, name), point, trigger))


def _lethal(original: Callable[..., Any], point: Point, trigger: Trigger) -> Callable[..., Any]:
    def pull(moment: str, *arguments: object) -> None:
        if moment == point.moment:
            trigger.pull(point, arguments)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        pull("before", args, kwargs)
        result = original(*args, **kwargs)
        pull("after", args, kwargs)
        return result

    @functools.wraps(original)
    async def await_call(*args: Any, **kwargs: Any) -> Any:
        pull("before", args, kwargs)
        result = await original(*args, **kwargs)
        pull("after", args, kwargs)
        return result

    return await_call if inspect.iscoroutinefunction(original) else call


def main() -> None:
    """Wrap the points, then run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--trigger", type=Path, required=True)
    parser.add_argument("--at", action="append", default=[])
    options = parser.parse_args()
    for spelling in options.at:
        wrap(Point.parse(spelling), Trigger(options.trigger))
    sys.argv = [options.program]
    runpy.run_module(options.program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
