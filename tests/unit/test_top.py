"""What `warren top` shows of one moment and the one before it."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from client.top import STATES, Snapshot, frame


def snapshot(at: float, exact: bool, **numbers: int) -> Snapshot:
    """Return what a control plane says that has so many tasks in these states."""
    tasks: dict[str, Any] = {"by_state": {**dict.fromkeys(STATES, 0), **numbers}, "counts_are_exact": exact}
    health = {"status": "healthy", "version": "1", "uptime_s": 5}
    return Snapshot(at, health, tasks, queues=[], workers=[])


def lines(now: Snapshot, before: Snapshot | None) -> list[list[str]]:
    """Return the words of the lines that tell of tasks: how many now, and how many a second."""
    console = Console(width=120, record=True, file=StringIO())
    console.print(frame("http://warren", now, before, width=120, height=40))
    shown = [line.split() for line in console.export_text().splitlines()]
    return [line for line in shown if line[:1] in (["now"], ["per"])]


@pytest.mark.parametrize("exact", [True, False])
def test_no_rate_comes_from_a_number_that_stopped_at_its_limit(exact: bool) -> None:
    """It stands still whatever happens; the others tell their rates."""
    before = snapshot(10, exact, succeeded=50_000, dead=10)
    now, rates = lines(snapshot(12, exact, succeeded=50_000, dead=30), before)
    assert now == ["now", "0", "0", "0", "50,000" if exact else "50,000+", "30", "0"]
    assert rates == ["per", "second", *(["0.0"] if exact else []), "10.0", "0.0"]
