"""Drained workers, as the gate and the roll see them."""

import asyncio
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from broker.store.tables import workers
from protocols.frames import Heartbeat
from tests.support.kernel import Kernel, kernel


async def drain(subject: Kernel, worker_id: str = "w-1") -> None:
    await asyncio.wrap_future(subject.control.fleet.drain(worker_id, "maintenance", "test"))


async def resume(subject: Kernel, worker_id: str = "w-1") -> None:
    await asyncio.wrap_future(subject.control.fleet.resume(worker_id, "", "test"))


async def row(subject: Kernel, worker_id: str = "w-1") -> Any:
    query = sa.select(workers).where(workers.c.id == worker_id)
    return await asyncio.wrap_future(subject.control.store.read(lambda connection: connection.execute(query).one()))


async def beat(subject: Kernel, *, draining: bool = False) -> None:
    told = Heartbeat(
        cpu_percent=1.0,
        cpus=1.0,
        memory_percent=1.0,
        memory_used_bytes=1,
        memory_total_bytes=1,
        disk_percent=1.0,
        load_1m=1.0,
        container=False,
        slots={},
        unsettled=0,
        uptime_s=1.0,
        version="test",
        draining=draining,
    )
    await asyncio.wrap_future(subject.control.sessions.roll.heartbeat("w-1", told))


async def test_what_a_drained_worker_claims_goes_back_and_runs_elsewhere(tmp_path: Path) -> None:
    """It costs no try, and the task keeps its place in line."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        ids = await subject.submit_all([{} for _ in range(3)])
        held = await subject.deliver()
        assert held is not None
        due_at = (await subject.task(ids[0])).due_at
        await drain(subject)
        refused = await subject.claim(held)
        assert (refused.runs, refused.answer.reason) == (False, "the worker is drained")
        assert "task.requeued" in await subject.event_types(ids[0])
        started = [await subject.start("w-2") for _ in ids]
        assert {execution.claim.task_id for execution in started} == set(ids)
        task = await subject.task(ids[0])
        assert (task.attempt, task.tries, task.losses, task.due_at) == (2, 0, 0, due_at)


async def test_what_it_had_claimed_before_is_its_own(tmp_path: Path) -> None:
    """A claim whose answer was lost is repeated after the drain, and runs to its end."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        held = await subject.deliver()
        assert held is not None
        first = await subject.claim(held)
        await drain(subject)
        again = await subject.claim(held, execution_id=first.claim.execution_id)
        assert again.answer == first.answer
        await subject.succeed(first)
        assert (await subject.task(first.claim.task_id)).state == "succeeded"


async def test_pinned_work_waits_for_its_drained_worker(tmp_path: Path) -> None:
    """Nobody else may run it."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        await drain(subject)
        task_id = await subject.submit(worker="w-1")
        held = await subject.deliver("q.t.w.w-1")
        assert held is not None
        assert not (await subject.claim(held)).runs
        await resume(subject)
        assert (await subject.start(lane="q.t.w.w-1")).claim.task_id == task_id


async def test_a_drained_worker_has_no_lanes_and_is_shown_as_draining(tmp_path: Path) -> None:
    """Whatever it says and however often it comes back, until it is resumed."""
    async with kernel(tmp_path) as subject:
        await drain(subject)
        assert (await row(subject)).presence == "draining"
        await beat(subject)
        drained = await row(subject)
        assert (drained.presence, drained.drained_by) == ("draining", "test")
        resumed = await subject.open("w-1", boot_id="boot-w-1", epoch=1)
        anew = await subject.open("w-1", boot_id="another")
        assert (resumed.resumed, resumed.lanes, anew.resumed, anew.lanes) == (True, (), False, ())
        assert (await row(subject)).presence == "draining"
        await resume(subject)
        assert (await row(subject)).presence == "online"
        assert (await subject.open("w-1", boot_id="third")).lanes
        assert ((await row(subject)).presence, (await row(subject)).drained_at) == ("online", None)


async def test_resuming_does_not_hide_that_a_worker_leaves(tmp_path: Path) -> None:
    """One that was told to stop by its machine is draining, whatever an admin wants."""
    async with kernel(tmp_path) as subject:
        await drain(subject)
        await beat(subject, draining=True)
        await resume(subject)
        assert (await row(subject)).presence == "draining"
        await beat(subject)
        assert (await row(subject)).presence == "online"


async def test_draining_again_changes_nothing(tmp_path: Path) -> None:
    """Who drained it first, and when, stays; resuming one that is not drained does nothing."""
    async with kernel(tmp_path) as subject:
        await drain(subject)
        first = await row(subject)
        await asyncio.wrap_future(subject.control.fleet.drain("w-1", "", "another"))
        assert await row(subject) == first
        await resume(subject)
        await resume(subject)
        assert (await row(subject)).presence == "online"
