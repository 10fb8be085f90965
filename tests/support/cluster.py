"""A control plane with its workers, for one test or one file of them; whatever happens, nothing outlives it."""

import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.support.api import Api
from tests.support.effects import Effects
from tests.support.invariant import Ledger
from tests.support.killer import Trigger
from tests.support.processes import ROOT, Broker, Process, Worker, wait_until

GONE_S = 10.0
MARK = "WARREN_TEST_MARK"
"""In the environment of everything that a cluster starts, and of what that starts in turn."""


class Cluster:
    """Starts processes in one directory and stops all of them at the end; one that is left over is a failure."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        """`settings` are the control plane's, as environment variables."""
        self.directory = directory
        self.processes: list[Process] = []
        self.effects = Effects(directory / "effects.txt")
        self._mark = uuid.uuid4().hex
        self._kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
        self._kept |= {"PYTHONPATH": str(ROOT), MARK: self._mark}
        # Hundreds of starts: compiling every module at each of them would be most of the run.
        self._kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.broker = Broker(directory, {**self._kept, **settings})
        self.processes.append(self.broker)
        self._api: Api | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._api is not None:
            self._api.close()
        for process in reversed(self.processes):
            process.kill()
        self._leave_nothing()

    @property
    def api(self) -> Api:
        """A client with the administrator's key."""
        if self._api is None:
            self._api = self.broker.api()
        return self._api

    @property
    def ledger(self) -> Ledger:
        """What the database says."""
        return Ledger(self.broker.data_dir, self.broker.environment)

    def worker(self, name: str, *, url: str | None = None, **settings: str) -> Worker:
        """Return a worker that is not started yet; it reaches the control plane at `url`."""
        environment = {**self._kept, **{f"WARREN_WORKER_{key.upper()}": value for key, value in settings.items()}}
        worker = Worker(name, self.directory, self.broker, environment, url or self.broker.url)
        self.processes.append(worker)
        return worker

    def start(self, *workers: Worker) -> None:
        """Start workers side by side and wait until they are at work."""
        for worker in workers:
            worker.spawn()
        for worker in workers:
            worker.ready()

    def lethal(self, process: Process, points: Sequence[str]) -> Trigger:
        """Have a process run under the killer from its next start on; returns what arms its points."""
        trigger = Trigger(self.directory / f"{process.name}.trigger")
        at = [word for point in points for word in ("--at", point)]
        killer = [sys.executable, "-m", "tests.support.killer", process.command[-1]]
        process.command = [*killer, "--trigger", str(trigger.path), *at]
        return trigger

    def effect(self, key: str, seconds: float = 0.0, **form: Any) -> dict[str, Any]:
        """Return the form of a task that does something countable and then takes some time."""
        return {"action": "effect", "args": [str(self.effects.path), key, seconds], "title": key, **form}

    def outputs(self) -> list[tuple[str, str]]:
        """Return the name and the output of each process."""
        return [(process.name, process.output) for process in self.processes]

    def descendants(self) -> list[psutil.Process]:
        """Return every living process that this cluster has started, and those that these have started."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        # Nobody reaps orphans on some machines: a zombie holds nothing any more.
        with suppress(psutil.Error):
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark
        return False

    def _leave_nothing(self) -> None:
        try:
            wait_until("everything that was started has ended", lambda: not self.descendants(), GONE_S)
        except AssertionError:
            left = [" ".join(process.cmdline()) for process in self.descendants()]
            for process in self.descendants():
                with suppress(psutil.Error):
                    process.kill()
            raise AssertionError(f"left over: {left}") from None


def tasks_of_both_kinds(make: Callable[..., dict[str, Any]], prefix: str, each: int, **more: Any) -> list[Any]:
    """Return forms of so many at_least_once and at_most_once tasks each.

    They come in pairs of a kind, so that two workers which take turns get tasks of both kinds each.
    """
    return [
        make(f"{prefix}-{mode}-{number}", delivery=mode, **more)
        for first in range(0, each, 2)
        for mode in ("at_least_once", "at_most_once")
        for number in range(first, min(first + 2, each))
    ]
