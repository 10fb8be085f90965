"""Telling systemd that the worker makes progress, which is more than that it exists."""

import asyncio
import os
import threading
import time

import sdnotify
import structlog

from worker.service import Service

log = structlog.get_logger(__name__)

PATIENCE_S = 45.0
"""A part that has not beaten for so long is stuck. Longer than any wait that a part may take, above all the
15 s of a silent control plane plus the 10 s of a connection attempt: no peer can make the watchdog bite."""
IDLE_CHECK_S = 10.0


class Heart:
    """One part's sign of progress; beats from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: float | None = None
        """None while the part does nothing and owes no sign."""

    def beat(self) -> None:
        """The part has made progress."""
        self.last = time.monotonic()

    def stop(self) -> None:
        """The part is at rest."""
        self.last = None


class Watchdog(Service):
    """Feeds systemd's watchdog only while the event loop and every part at work have made progress.

    `ready` is said when the first attempt to open a session has ended, well or not: a worker that waits for
    its approval, or for a control plane that is away, does what it should, and its unit must not fail for it.
    """

    def __init__(self, interval_usec: int) -> None:
        super().__init__()
        self._period_s = interval_usec / 3e6 if interval_usec else IDLE_CHECK_S
        self._feeds = interval_usec > 0
        self._notifier: sdnotify.SystemdNotifier | None = None
        self._hearts: list[Heart] = []
        self._lock = threading.Lock()
        self._ready = False

    def heart(self, name: str) -> Heart:
        """Return a new part's heart."""
        heart = Heart(name)
        with self._lock:
            self._hearts.append(heart)
        return heart

    def forget(self, heart: Heart) -> None:
        """A part is gone for good."""
        with self._lock:
            self._hearts.remove(heart)

    def report(self, status: str) -> None:
        """Show `status` in `systemctl status`, and say READY the first time."""
        # One line: a newline in a peer's message would begin a new statement to systemd.
        self._notify(f"STATUS={' '.join(status.split())[:200]}")
        if not self._ready:
            self._ready = True
            self._notify("READY=1")

    def stopping(self) -> None:
        """The worker drains."""
        self._notify("STOPPING=1\nSTATUS=draining")

    def stuck(self) -> list[str]:
        """Return the names of the parts that have made no progress for too long."""
        oldest = time.monotonic() - PATIENCE_S
        with self._lock:
            return [heart.name for heart in self._hearts if heart.last is not None and heart.last < oldest]

    async def run(self) -> None:
        """Feed the watchdog, or say what is stuck."""
        while True:
            stuck = self.stuck()
            if stuck:
                log.error("parts of the worker make no progress", parts=stuck)
            elif self._feeds:
                self._notify("WATCHDOG=1")
            await asyncio.sleep(self._period_s)

    async def open(self) -> None:
        """Find systemd, if it started this process."""
        if "NOTIFY_SOCKET" in os.environ:
            self._notifier = sdnotify.SystemdNotifier()

    async def close(self) -> None:
        """Tell no more."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None and notifier.socket is not None:
            notifier.socket.close()

    def _notify(self, state: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(state)
