"""Time as a value that is handed in, so that tests can own it."""

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
    """The machine's clocks."""

    def now(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000_000

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
