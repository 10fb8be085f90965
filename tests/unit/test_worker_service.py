"""The start and stop discipline, of a service that counts and of every real one of the daemon."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control_plane import API_KEY
from worker.agent import Agent
from worker.identity import StateDir
from worker.service import Service
from worker.settings import Settings


class Counting(Service):
    """Knows how often it is open, and complains about being opened twice."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.runs = 0
        self.most = 0

    async def open(self) -> None:
        self.opened += 1
        self.most = max(self.most, self.opened)
        await asyncio.sleep(0)

    async def run(self) -> None:
        self.runs += 1
        await asyncio.Event().wait()

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.opened -= 1


class Broken(Service):
    """Fails where it is told to."""

    def __init__(self, *, in_open: bool) -> None:
        super().__init__()
        self._in_open = in_open
        self.closed = 0

    async def open(self) -> None:
        if self._in_open:
            raise OSError("no")

    async def run(self) -> None:
        raise RuntimeError("broken")

    async def close(self) -> None:
        self.closed += 1


async def stress(service: Service, rounds: int = 10, calls: int = 50) -> None:
    """Start and stop a service concurrently and in any order; it must end stopped, and start again."""
    crashes: list[Exception] = []
    service.report_crash_to(lambda _, error: crashes.append(error))
    order = random.Random(7)
    for _ in range(rounds):
        await asyncio.gather(*(order.choice((service.start, service.stop))() for _ in range(calls)))
        await service.stop()
        assert not service.running
        await service.start()
        assert service.running
    await service.stop()
    assert crashes == []


async def test_a_service_is_open_once_at_most_under_any_calls() -> None:
    """500 concurrent calls never open it twice and never leave it open."""
    service = Counting()
    await stress(service)
    assert (service.opened, service.most) == (0, 1)
    assert service.runs > 1


async def test_stop_before_start_does_nothing() -> None:
    """A service that never ran can be stopped."""
    service = Counting()
    await service.stop()
    assert service.opened == 0


async def test_a_stop_during_the_start_wins() -> None:
    """A stop that comes while the service opens leaves it stopped."""
    service = Counting()
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0)
    await service.stop()
    await starting
    assert (service.running, service.opened) == (False, 0)


async def test_a_cancelled_start_leaves_nothing_open() -> None:
    """Cancelling a start in the middle closes what was opened."""
    service = Counting()
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (service.running, service.opened) == (False, 0)


async def test_a_failed_open_is_passed_on_and_closed() -> None:
    """What goes wrong at the start reaches the caller, and the service is closed and stopped."""
    service = Broken(in_open=True)
    with pytest.raises(OSError, match="no"):
        await service.start()
    assert (service.running, service.closed) == (False, 1)


async def test_a_crash_is_reported_to_the_owner() -> None:
    """A service whose work raises tells its owner, and can still be stopped."""
    service = Broken(in_open=False)
    told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    service.report_crash_to(lambda _, error: told.set_result(error))
    await service.start()
    assert str(await told) == "broken"
    await service.stop()
    assert service.closed == 1


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    key = tmp_path / "key"
    key.write_text(API_KEY)
    # A port that nobody listens on: the session tries again and again.
    settings = Settings(url="http://127.0.0.1:9", key_file=key, state_dir=tmp_path / "state")
    with StateDir(settings.state_dir) as state:
        agent = Agent(settings, state, state.identity())
        yield agent
        await agent.close()


@pytest.mark.parametrize("number", range(6))
async def test_every_part_of_the_daemon_keeps_the_discipline(agent: Agent, number: int) -> None:
    """Each real service survives the same 500 concurrent calls."""
    assert len(agent.services) == 6
    await stress(agent.services[number])
