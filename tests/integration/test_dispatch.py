"""The dispatcher: what starts when, in which order, and how many at a time."""

import asyncio
from collections import Counter
from pathlib import Path

from broker.dispatch import MIN_WINDOW
from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass
from tests.support.kernel import PYTHON_LANE, Execution, Kernel, kernel


async def test_a_submission_into_a_lane_with_room_is_queued_at_once(tmp_path: Path) -> None:
    """What can start now needs no second transaction."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        assert (await subject.task(task_id)).state == "queued"
        assert await subject.event_types(task_id) == ["task.created", "task.queued"]


async def test_a_lane_holds_no_more_than_its_window(tmp_path: Path) -> None:
    """The rest are rows, so that their order can still change."""
    async with kernel(tmp_path) as subject:
        await subject.submit_all([{} for _ in range(50)])
        assert subject.control.lanes.depth(PYTHON_LANE) == MIN_WINDOW


async def test_every_priority_advances_and_higher_ones_more(tmp_path: Path) -> None:
    """Weighted, not strict: low tasks start while high ones wait."""
    async with kernel(tmp_path) as subject:
        levels = ("low", "normal", "high", "critical")
        wanted = [{"priority": level, "title": level} for level in levels for _ in range(60)]
        ids = await subject.submit_all(wanted)
        level_of = {task_id: form["priority"] for task_id, form in zip(ids, wanted, strict=True)}
        started = Counter([level_of[(await subject.start()).claim.task_id] for _ in range(60)])
        assert started["critical"] > started["high"] > started["normal"] > started["low"] >= 1


async def test_a_key_never_runs_more_than_its_limit(tmp_path: Path) -> None:
    """Tasks of one concurrency key take turns; others pass them."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        keyed = await subject.submit_all([{"concurrency_key": "db", "concurrency_limit": 2} for _ in range(6)])
        free = await subject.submit()
        running = [await subject.start(), await subject.start(), await subject.start()]
        assert {execution.claim.task_id for execution in running} == {*keyed[:2], free}
        assert await subject.deliver(timeout_s=0.3) is None
        waiting = await subject.task(keyed[2])
        assert (waiting.state, waiting.due_at) == ("scheduled", None)
        assert "'db'" in waiting.wait_reason
        await _finish_in_turns(subject, running, keyed)


async def _finish_in_turns(subject: Kernel, running: list[Execution], keyed: list[str]) -> None:
    for execution in running:
        await subject.succeed(execution)
    for _ in keyed[2:]:
        await subject.succeed(await subject.start())
    for task_id in keyed:
        assert (await subject.task(task_id)).state == "succeeded"


async def test_what_a_full_key_runs_keeps_its_place(tmp_path: Path) -> None:
    """Parking those behind it leaves it alone: when its worker is lost, it is still before them."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        ids = await subject.submit_all([{"concurrency_key": "k"} for _ in range(3)])
        execution = await subject.start()
        assert (await subject.task(execution.claim.task_id)).due_at is not None
        await subject.end_lease()
        await subject.open("w-1", boot_id="again")
        assert (await subject.start()).claim.task_id == ids[0]


async def test_a_cancelled_holder_frees_its_key(tmp_path: Path) -> None:
    """Whatever way a task leaves, the next of its key goes on."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        first, second = await subject.submit_all([{"concurrency_key": "k"}, {"concurrency_key": "k"}])
        await asyncio.wrap_future(subject.control.tasks.cancel(first, "", "test"))
        assert (await subject.task(second)).state == "queued"


async def test_a_delayed_task_starts_when_it_is_due(tmp_path: Path) -> None:
    """Not before, and without waiting for a sweep."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        submitted = subject.control.clock.now()
        task_id = await subject.submit(delay_s=0.4)
        assert (await subject.task(task_id)).state == "scheduled"
        assert (await subject.start()).claim.task_id == task_id
        assert subject.control.clock.now() - submitted >= 400


async def test_a_failure_is_retried_until_its_tries_are_spent(tmp_path: Path) -> None:
    """Then it is a dead letter that names the last error."""
    async with kernel(tmp_path, retry_base_s=0.001) as subject:
        task_id = await subject.submit(max_attempts=3)
        for _ in range(3):
            await subject.fail(await subject.start())
        task = await subject.task(task_id)
        assert (task.state, task.cause, task.tries, task.attempt) == ("dead", "max_attempts", 3, 3)
        assert (task.error_class, task.error_code) == ("exit", "exit_status")
        assert (await subject.event_types(task_id)).count("task.retrying") == 2


async def test_a_throttled_task_spends_no_tries(tmp_path: Path) -> None:
    """The provider asked to wait: that is no failure of the task."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit(max_attempts=1)
        for _ in range(3):
            throttled = Outcome.failed(
                FailureClass.THROTTLED, "rate_limit", "slow down", effect=Effect.NONE, retry_after_s=0.01
            )
            await subject.report(await subject.start(), throttled)
        await subject.succeed(await subject.start())
        task = await subject.task(task_id)
        assert (task.state, task.tries, task.attempt) == ("succeeded", 0, 4)


async def test_a_dead_task_is_redriven_with_all_of_its_tries(tmp_path: Path) -> None:
    """The same task, a new attempt, and its old dead letter is dealt with."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit(max_attempts=1)
        await subject.fail(await subject.start())
        letter = await subject.dead_letter(task_id)
        assert await asyncio.wrap_future(subject.control.dead_letters.redrive(letter, "test")) == task_id
        execution = await subject.start()
        assert (execution.claim.task_id, execution.claim.attempt) == (task_id, 2)
        assert (await subject.task(task_id)).tries == 0
        await subject.succeed(execution)


async def test_pinned_work_goes_to_its_worker_alone(tmp_path: Path) -> None:
    """It has a lane of its own."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit(worker="w-1")
        assert (await subject.task(task_id)).lane == "q.t.w.w-1"
        assert (await subject.start(lane="q.t.w.w-1")).claim.task_id == task_id


async def test_a_message_that_its_lane_lost_is_published_again(tmp_path: Path) -> None:
    """The queue is a doorbell; the row knows that nobody came."""
    async with kernel(tmp_path, sweep_s=0.05, lost_in_lane_s=0.3) as subject:
        task_id = await subject.submit()
        subject.control.lanes.flush(PYTHON_LANE)
        execution = await subject.start()
        assert (execution.claim.task_id, execution.claim.attempt) == (task_id, 2)
        assert "task.requeued" in await subject.event_types(task_id)
        await subject.succeed(execution)


async def test_what_was_queued_when_the_control_plane_stopped_is_published_anew(tmp_path: Path) -> None:
    """Direct lanes live in memory; their tasks do not."""
    async with kernel(tmp_path) as subject:
        ids = await subject.submit_all([{} for _ in range(10)])
    async with kernel(tmp_path) as subject:
        assert [(await subject.start()).claim.task_id for _ in ids] == ids


async def test_a_deadline_ends_a_task_that_waits(tmp_path: Path) -> None:
    """Nobody has to come for it."""
    async with kernel(tmp_path, sweep_s=0.05) as subject:
        task_id = await subject.submit(delay_s=3600, deadline="2999-01-01T00:00:00Z")
        await subject.change(task_id, deadline_at=subject.control.clock.now() + 50)
        assert (await subject.until_state(task_id, "dead")).cause == "deadline"


async def test_a_task_that_is_only_throttled_dies_after_max_wait(tmp_path: Path) -> None:
    """Counted from when it might first have run: a redrive begins anew."""
    async with kernel(tmp_path, max_wait_s=60) as subject:
        task_id = await subject.submit()
        throttled = Outcome.failed(FailureClass.THROTTLED, "rate_limit", "slow down", effect=Effect.NONE)
        execution = await subject.start()
        await subject.change(task_id, eligible_at=subject.control.clock.now() - 61_000)
        await subject.report(execution, throttled)
        assert (await subject.task(task_id)).cause == "unavailable"
        await asyncio.wrap_future(subject.control.dead_letters.redrive(await subject.dead_letter(task_id), "test"))
        await subject.report(await subject.start(), throttled)
        assert (await subject.task(task_id)).state == "scheduled"
