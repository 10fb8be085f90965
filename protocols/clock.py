"""Time as a value that is handed in, so that tests can own it."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Tells wall time for what is stored and monotonic time for what is measured."""

    def now(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        ...


class SystemClock:
    """The machine's clocks; safe from any thread.

    `now` never runs backwards: where somebody sets the wall clock back, it goes on at half speed until the wall
    has caught up. Otherwise all that was due would have to wait until the same time comes again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now_ms = 0.0
        self._at = time.monotonic()

    def now(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""
        with self._lock:
            at = time.monotonic()
            slow_ms = self._now_ms + (at - self._at) * 500
            self._now_ms, self._at = max(time.time_ns() / 1e6, slow_ms), at
            return int(self._now_ms)

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 1000.0

    def now(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""
        return self._now_ms

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_ms += int(seconds * 1000)
        self._monotonic += seconds
