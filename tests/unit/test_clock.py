"""Clocks: milliseconds UTC for what is stored, seconds that never run backwards for what is measured."""

import time
from datetime import UTC, datetime

import pytest

from protocols.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_tells_the_milliseconds_of_now() -> None:
    before = datetime.now(UTC)
    told = datetime.fromtimestamp((SystemClock().now() + 1) / 1000, UTC)
    assert abs((told - before).total_seconds()) < 5


def test_the_system_clocks_monotonic_time_is_the_processes() -> None:
    before = time.monotonic()
    assert before <= SystemClock().monotonic() <= time.monotonic()


def test_a_manual_clock_stands_still_until_it_is_told() -> None:
    clock: Clock = ManualClock(5_000)
    assert (clock.now(), clock.monotonic()) == (clock.now(), clock.monotonic())
    assert clock.now() == 5_000


@pytest.mark.parametrize("seconds", [0.001, 0.25, 1, 3600])
def test_a_manual_clock_moves_both_times_alike(seconds: float) -> None:
    clock = ManualClock()
    stored, measured = clock.now(), clock.monotonic()
    clock.advance(seconds)
    assert clock.now() - stored == int(seconds * 1000)
    assert clock.monotonic() - measured == pytest.approx(seconds)
