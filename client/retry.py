"""How often a request is tried: the one policy of the command and the library."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from client.http_errors import Untrusted
from protocols.errors import WarrenError

T = TypeVar("T")

_PASSING = frozenset({429, 503})
"""Statuses of errors that may be gone at the next try: too many requests, and all that is unavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Goes on for `for_s` seconds after the first failure, with growing pauses."""

    for_s: float
    base_s: float = 0.1
    cap_s: float = 5.0

    def pause_s(self, failures: int, asked_s: float | None, draw: Callable[[], float] = random.random) -> float:
        """Return the pause after so many failures: full jitter, on top of what the other side asked for.

        Full jitter spreads clients that failed together best (Brooker, "Exponential Backoff And Jitter", 2015).
        """
        return (asked_s or 0.0) + draw() * min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 40))

    def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns as soon as it does not fail in passing; raises its last error."""
        patience = Patience(self)
        while True:
            try:
                return work()
            except WarrenError as error:
                patience.bear(error)


class Patience:
    """What is left of a policy while one thing fails again and again."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._over_at = 0.0

    def bear(self, error: WarrenError, until: float | None = None) -> None:
        """Sleep before the next try, at most `until` then (monotonic); raises `error` if there shall be none."""
        if error.status not in _PASSING or isinstance(error, Untrusted):
            raise error
        now = time.monotonic()
        if not self._failures:
            self._over_at = now + self._policy.for_s
        self._failures += 1
        pause = self._policy.pause_s(self._failures, error.retry_after_s)
        if now + pause > self._over_at:
            raise error
        time.sleep(pause if until is None else max(0.0, min(pause, until - now)))
