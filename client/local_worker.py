"""A worker that runs here as a child process, and is started again when it falls."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from client.http import Json
from client.processes import Child
from protocols.names import ExitCode

LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""After running for this long a fall counts as the first again."""
_STAYS_DOWN = frozenset({ExitCode.OK, ExitCode.REVOKED, ExitCode.CONFIG})
"""Statuses after which another start would end the same way."""


class LocalWorker:
    """The child process of one worker, and its state directory."""

    def __init__(self, child: Child, state_dir: Path) -> None:
        self.child = child
        self._state_dir = state_dir
        self._falls = 0
        self._started_at = 0.0
        self._restart_at: float | None = None
        self._down = False

    def start(self) -> None:
        """Start the process."""
        self._restart_at = None
        self._started_at = time.monotonic()
        self.child.start()

    def identity(self) -> Json | None:
        """Return the id and fingerprint that the worker wrote about itself, None if it has not yet."""
        try:
            found: Json = json.loads((self._state_dir / "worker.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if {"worker_id", "fingerprint"} <= found.keys() else None

    def tend(self, report: Callable[[str], None]) -> None:
        """Start the worker again if it has fallen, after a pause that grows with every fall."""
        if self._down:
            return
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self.start()
        elif self.child.exit_status is not None:
            self._plan_restart(report)

    def _plan_restart(self, report: Callable[[str], None]) -> None:
        if self.child.exit_status in _STAYS_DOWN:
            self._down = True
            report(f"{self.child.obituary()}\nIt stays down.")
            return
        if time.monotonic() - self._started_at > STEADY_S:
            self._falls = 0
        pause = min(2.0**self._falls, LONGEST_PAUSE_S)
        self._falls += 1
        self._restart_at = time.monotonic() + pause
        report(f"{self.child.obituary()}\nIt is started again in {pause:.0f} s.")
