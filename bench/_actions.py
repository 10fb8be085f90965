"""Actions that the benchmarks run on a worker."""

import time


def noop() -> None:
    """Do nothing."""


def started_at() -> int:
    """Return when the action began: nanoseconds since the epoch."""
    return time.time_ns()
