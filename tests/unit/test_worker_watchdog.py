"""When the watchdog is fed, and when it is not."""

import pytest

from worker import watchdog as watchdog_module
from worker.watchdog import Watchdog


def test_a_part_that_stops_beating_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a part that works and has not beaten for too long is stuck; one at rest owes nothing."""
    watchdog = Watchdog(0)
    working, resting, gone = (watchdog.heart(name) for name in ("working", "resting", "gone"))
    for heart in (working, resting, gone):
        heart.beat()
    assert watchdog.stuck() == []
    monkeypatch.setattr(watchdog_module, "PATIENCE_S", -1.0)
    resting.stop()
    watchdog.forget(gone)
    assert watchdog.stuck() == ["working"]
