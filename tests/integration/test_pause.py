"""Paused queues: nothing of them starts, nothing of them is lost, and others go on."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker import dispatch
from broker.queues import BITE, Queue
from broker.store.tables import paused_lanes, tasks
from broker.store.writer import Transaction
from protocols.errors import NotFound
from protocols.names import LaneKind
from tests.support.kernel import PYTHON_LANE, Kernel, kernel

OTHER_LANE = "q.t.w.w-1"


async def pause(subject: Kernel, lane: str = PYTHON_LANE) -> None:
    await subject.control.queues.pause(lane, "maintenance", "test")


async def resume(subject: Kernel, lane: str = PYTHON_LANE) -> None:
    await asyncio.wrap_future(subject.control.queues.resume(lane, "", "test"))


async def look(subject: Kernel, lane: str = PYTHON_LANE) -> Queue:
    described = subject.control.store.read(lambda connection: subject.control.queues.describe(connection, [lane]))
    (queue,) = await asyncio.wrap_future(described)
    return queue


async def states(subject: Kernel, lane: str = PYTHON_LANE) -> set[str]:
    query = sa.select(tasks.c.state).where(tasks.c.lane == lane).distinct()
    found = subject.control.store.read(lambda connection: set(connection.execute(query).scalars()))
    return await asyncio.wrap_future(found)


async def test_what_is_in_the_window_is_put_back_and_its_messages_start_nothing(tmp_path: Path) -> None:
    """Also a message that a worker holds already; its task keeps its place in line."""
    async with kernel(tmp_path) as subject:
        first, *rest = await subject.submit_all([{} for _ in range(10)])
        held = await subject.deliver()
        assert held is not None
        due_at = (await subject.task(first)).due_at
        await pause(subject)
        assert await states(subject) == {"scheduled"}
        assert subject.control.lanes.depth(PYTHON_LANE) == 0
        assert not (await subject.claim(held)).runs
        assert (await subject.task(first)).due_at == due_at
        assert await subject.event_types(first) == ["task.created", "task.queued", "task.requeued"]
        stale = [await subject.start() for _ in range(dispatch.MIN_WINDOW - 1)]
        assert not any(execution.runs for execution in stale)
        await resume(subject)
        assert [(await subject.start()).claim.task_id for _ in range(10)] == [first, *rest]


async def test_nothing_enters_the_window_of_a_paused_queue(tmp_path: Path) -> None:
    """Neither what is submitted, nor what becomes due, nor what is lost or fails while it runs."""
    async with kernel(tmp_path, retry_base_s=0.001) as subject:
        await subject.submit_all([{}, {}])
        lost, failed = await subject.start(), await subject.start()
        await pause(subject)
        new = await subject.submit()
        later = await subject.submit(delay_s=0.1)
        await subject.fail(failed)
        await subject.end_lease()
        await subject.open("w-1", boot_id="again")
        while (await subject.task(later)).due_at > subject.control.clock.now():
            await asyncio.sleep(0.01)
        assert await subject.deliver(timeout_s=0.5) is None
        assert await states(subject) == {"scheduled"}
        await resume(subject)
        started = {(await subject.start()).claim.task_id for _ in range(4)}
        assert started == {lost.claim.task_id, failed.claim.task_id, new, later}


async def test_running_work_goes_on_and_other_queues_too(tmp_path: Path) -> None:
    """A pause concerns one queue, and of that only what has not begun."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        execution = await subject.start()
        await pause(subject)
        await subject.succeed(execution)
        assert (await subject.task(execution.claim.task_id)).state == "succeeded"
        pinned = await subject.submit(worker="w-1")
        assert (await subject.start(lane=OTHER_LANE)).claim.task_id == pinned


async def test_a_pinned_queue_can_be_paused(tmp_path: Path) -> None:
    """It is a queue like others."""
    async with kernel(tmp_path) as subject:
        await pause(subject, OTHER_LANE)
        task_id = await subject.submit(worker="w-1")
        assert (await subject.task(task_id)).state == "scheduled"
        await resume(subject, OTHER_LANE)
        assert (await subject.start(lane=OTHER_LANE)).claim.task_id == task_id


async def test_a_large_window_is_empty_when_the_pause_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many transactions it takes."""
    monkeypatch.setattr(dispatch, "MIN_WINDOW", 2 * BITE + 50)
    async with kernel(tmp_path, sweep_s=3600) as subject:
        await subject.submit_all([{} for _ in range(2 * BITE + 50)])
        assert await states(subject) == {"queued"}
        await pause(subject)
        assert await states(subject) == {"scheduled"}


async def test_a_pause_that_broke_off_is_finished_by_the_sweeper(tmp_path: Path) -> None:
    """The row says what shall be."""

    def note(transaction: Transaction) -> None:
        row = {"lane": PYTHON_LANE, "paused_at": transaction.now, "paused_by": "test"}
        transaction.connection.execute(paused_lanes.insert().values(row))

    async with kernel(tmp_path, sweep_s=0.05) as subject:
        task_id = await subject.submit()
        await asyncio.wrap_future(subject.control.store.writer.write(note))
        await subject.until_state(task_id, "scheduled")


async def test_a_pause_outlives_the_control_plane(tmp_path: Path) -> None:
    """After a restart nothing starts either, until it is resumed; then each task starts once."""
    async with kernel(tmp_path) as subject:
        ids = await subject.submit_all([{} for _ in range(10)])
        await pause(subject)
    async with kernel(tmp_path) as subject:
        assert await subject.deliver(timeout_s=0.5) is None
        assert await states(subject) == {"scheduled"}
        await resume(subject)
        assert [(await subject.start()).claim.task_id for _ in ids] == ids
        assert await subject.deliver(timeout_s=0.2) is None


async def test_a_paused_queue_keeps_no_key_from_others(tmp_path: Path) -> None:
    """The free place of a concurrency key goes to a task that can use it, without waiting for a sweep."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        key = {"concurrency_key": "k"}
        holder = await subject.submit(**key)
        await subject.submit_all([key, key])
        other = await subject.submit(worker="w-1", **key)
        assert (await subject.task(other)).due_at is None
        await pause(subject)
        assert (await subject.task(holder)).state == "scheduled"
        assert (await subject.task(other)).state == "queued"


async def test_pausing_and_resuming_again_changes_nothing(tmp_path: Path) -> None:
    """The first pause is the one that is told; a queue that is not paused stays as it is."""
    async with kernel(tmp_path) as subject:
        await pause(subject)
        paused = await look(subject)
        await subject.control.queues.pause(PYTHON_LANE, "another reason", "another")
        assert await look(subject) == paused
        assert (paused.paused, paused.paused_by, paused.reason) == (True, "test", "maintenance")
        await resume(subject)
        await resume(subject)
        assert not (await look(subject)).paused


async def test_a_queue_tells_what_is_in_it(tmp_path: Path) -> None:
    """Waiting, delayed, in the window and running are told apart; so is since when the first one waits."""
    async with kernel(tmp_path) as subject:
        ids = await subject.submit_all([{} for _ in range(8)])
        await subject.submit(delay_s=3600)
        await subject.start()
        queue = await look(subject)
        assert (queue.waiting, queue.queued, queue.running, queue.delayed) == (3, 4, 1, 1)
        assert queue.oldest_waiting_at == (await subject.task(ids[5])).due_at
        assert queue.starts_per_s > 0
        assert (queue.kind, queue.pool, queue.consumers) == (LaneKind.PYTHON, "default", 1)
        pinned = await look(subject, OTHER_LANE)
        assert (pinned.kind, pinned.pool, pinned.worker_id, pinned.waiting) == (LaneKind.PINNED, None, "w-1", 0)


@pytest.mark.parametrize("lane", ["q.t.default.unheard-of", "q.t.w.nobody", "nonsense", ""])
async def test_what_is_no_queue_cannot_be_paused(tmp_path: Path, lane: str) -> None:
    """The refusal says where to look."""
    async with kernel(tmp_path) as subject:
        with pytest.raises(NotFound) as refused:
            await pause(subject, lane)
        assert "GET /queues" in (refused.value.hint or "")
