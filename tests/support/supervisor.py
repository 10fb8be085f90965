"""Starts processes again whenever they end, as systemd would."""

import threading
from collections import Counter
from typing import Self

from tests.support.processes import Process

_LOOK_S = 0.02


class Supervisor:
    """Watches processes for the length of a `with`, and counts how often each has ended."""

    def __init__(self, *processes: Process) -> None:
        self._processes = processes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self.deaths: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_S):
            for process in self._processes:
                if not process.alive:
                    self.deaths[process.name] += 1
                    process.spawn()
