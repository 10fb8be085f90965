"""Pipelines: what `then` names follows a success exactly once, whatever happens on the way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.store.tables import dead_letters, events, tasks, workers
from protocols.codec import unpack
from protocols.errors import InvalidFrame, NotFound, TooLarge
from protocols.outcome import Outcome
from protocols.states import Effect, Priority
from tests.support.kernel import Kernel, kernel

BIG = 200 * 1024


def returned(value: object) -> Outcome:
    """Return the outcome of a function that returned `value`."""
    return Outcome.success({"value": value})


async def followers(subject: Kernel, task_id: str) -> list[Any]:
    """Return the rows of the tasks that a task's success has made."""
    query = sa.select(tasks).where(tasks.c.parent_id == task_id)
    return await asyncio.wrap_future(subject.control.store.read(lambda connection: list(connection.execute(query))))


async def follower(subject: Kernel, task_id: str) -> Any:
    """Return the one task that a task's success has made."""
    (row,) = await followers(subject, task_id)
    return row


def arguments(row: Any) -> Any:
    """Return what a task is called with: [args, input]."""
    return unpack(row.input_blob, 2**20)


async def test_a_success_makes_the_next_step_with_the_result_and_the_rest_of_the_plan(tmp_path: Path) -> None:
    """Each step is called with its own arguments and what the one before it returned."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(
            then=[{"action": "second", "args": ["a"], "input": {"k": 1}, "title": "t"}, {"action": "third"}]
        )
        await subject.report(await subject.start(), returned({"x": [1, None]}))
        second = await follower(subject, first)
        assert (second.action, second.title, second.state) == ("second", "t", "queued")
        assert arguments(second) == [["a", {"x": [1, None]}], {"k": 1}]
        await subject.report(await subject.start(), returned("end"))
        third = await follower(subject, second.id)
        assert (third.action, third.then_blob, arguments(third)) == ("third", None, [["end"], {}])
        await subject.report(await subject.start(), returned(None))
        assert await followers(subject, third.id) == []
        assert {(await subject.task(task)).state for task in (first, second.id, third.id)} == {"succeeded"}


async def test_the_step_is_made_in_the_transaction_of_the_success(tmp_path: Path) -> None:
    """Nobody ever sees one without the other; the journal says whose success it was."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second"}])
        await subject.report(await subject.start(), returned(1))
        second = await follower(subject, first)
        found = await asyncio.wrap_future(
            subject.control.store.read(
                lambda connection: connection.execute(
                    sa.select(events.c.type, events.c.task_id, events.c.data, events.c.at)
                    .where(events.c.type.in_(("task.succeeded", "task.created")))
                    .order_by(events.c.id.desc())
                    .limit(2)
                ).all()
            )
        )
        created, succeeded = found
        assert (succeeded.type, succeeded.task_id) == ("task.succeeded", first)
        assert (created.type, created.task_id) == ("task.created", second.id)
        assert created.data == {"action": "second", "lane": "q.t.default.python", "parent": first}
        assert created.at == succeeded.at == second.created_at


async def test_what_a_step_does_not_say_is_as_with_the_task_before_it(tmp_path: Path) -> None:
    """Pool, priority, attempts and timeout go on; a step's own words win."""
    async with kernel(tmp_path) as subject:
        before = {"pool": "media", "priority": "high", "max_attempts": 7, "timeout_s": 12.5}
        plain = await subject.submit(**before, then=[{"action": "second"}])
        await subject.report(await subject.start(lane=await _allow(subject, "media")), returned(1))
        row = await follower(subject, plain)
        assert (row.pool, row.lane) == ("media", "q.t.media.python")
        assert (row.priority, row.max_attempts, row.timeout_s) == (Priority.HIGH.value, 7, 12.5)
        assert (row.delivery, row.created_by, row.tries) == ("at_least_once", "test", 0)
        own = {"pool": "other", "priority": "low", "max_attempts": 1, "timeout_s": 3, "delivery": "at_most_once"}
        await subject.succeed(await subject.start(lane="q.t.media.python"))
        told = await subject.submit(**before, then=[{"action": "second", **own, "delay_s": 60}])
        await subject.report(await subject.start(lane="q.t.media.python"), returned(1))
        row = await follower(subject, told)
        assert (row.pool, row.lane, row.priority) == ("other", "q.t.other.python", Priority.LOW.value)
        assert (row.max_attempts, row.timeout_s, row.delivery) == (1, 3.0, "at_most_once")
        assert (row.state, row.due_at - row.created_at) == ("scheduled", 60_000)


async def _allow(subject: Kernel, pool: str) -> str:
    change = workers.update().values(pools=["default", pool])
    write = subject.control.store.writer.write
    await asyncio.wrap_future(write(lambda transaction: transaction.connection.execute(change).close()))
    return f"q.t.{pool}.python"


async def test_a_step_may_ignore_the_result(tmp_path: Path) -> None:
    """`pass_result` false leaves a step's arguments alone, also when the result could not be carried."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second", "args": ["x" * 900_000], "pass_result": False}])
        await subject.report(await subject.start(), returned("y" * BIG))
        row = await follower(subject, first)
        assert (row.state, arguments(row)) == ("queued", [["x" * 900_000], {}])
        await subject.succeed(await subject.start())


async def test_all_of_a_builtin_actions_result_is_passed(tmp_path: Path) -> None:
    """A command's exit status and an answer's text belong together."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second"}])
        execution = await subject.start()
        await subject.change(first, action="ssh.exec")
        await subject.report(execution, Outcome.success({"exit_status": 0, "value": 1}))
        assert arguments(await follower(subject, first)) == [[{"exit_status": 0, "value": 1}], {}]


async def test_an_outcome_that_is_reported_twice_makes_one_step(tmp_path: Path) -> None:
    """The worker repeats what it does not know to be stored."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second"}])
        execution = await subject.start()
        await asyncio.gather(*(subject.report(execution, returned(1)) for _ in range(5)))
        await subject.report(execution, returned(2))
        assert arguments(await follower(subject, first)) == [[1], {}]


async def test_nothing_follows_a_failure_until_a_redrive_succeeds(tmp_path: Path) -> None:
    """A pipeline that stopped goes on where it stopped."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(max_attempts=1, then=[{"action": "second"}, {"action": "third"}])
        await subject.fail(await subject.start())
        assert (await subject.task(first)).state == "dead"
        assert await followers(subject, first) == []
        await asyncio.wrap_future(subject.control.dead_letters.redrive(await subject.dead_letter(first), "test"))
        await subject.report(await subject.start(), returned(1))
        second = await follower(subject, first)
        await subject.fail(await subject.start())
        assert (await subject.task(second.id)).state == "dead"
        await asyncio.wrap_future(subject.control.dead_letters.redrive(await subject.dead_letter(second.id), "test"))
        again = await subject.start()
        assert (again.envelope.action, again.envelope.args) == ("second", (1,))
        await subject.report(again, returned(2))
        assert arguments(await follower(subject, second.id)) == [[2], {}]


async def test_nothing_follows_a_cancelled_task(tmp_path: Path) -> None:
    """Cancelling a stage ends its pipeline."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second"}])
        execution = await subject.start()
        await asyncio.wrap_future(subject.control.tasks.cancel(first, "", "test"))
        await subject.report(execution, Outcome.cancelled("stopped", effect=Effect.NONE))
        assert (await subject.task(first)).state == "cancelled"
        assert await followers(subject, first) == []


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_a_late_success_is_followed_too(tmp_path: Path, delivery: str) -> None:
    """A task that waits again, or was given up with its worker, succeeds by a late outcome; then its step comes."""
    async with kernel(tmp_path, at_most_once_s=0.01) as subject:
        first = await subject.submit(delivery=delivery, then=[{"action": "second"}])
        execution = await subject.start()
        assert await subject.end_lease()
        if delivery == "at_most_once":
            await subject.until_state(first, "dead")
        assert await followers(subject, first) == []
        await subject.report(execution, returned("late"))
        assert (await subject.task(first)).state == "succeeded"
        assert arguments(await follower(subject, first)) == [["late"], {}]


async def test_a_step_whose_arguments_cannot_be_carried_is_a_dead_letter(tmp_path: Path) -> None:
    """Nothing is lost silently: the success is stored, and the step is there, with its own arguments and the reason."""
    async with kernel(tmp_path) as subject:
        plan = [{"action": "second", "args": ["x" * 900_000]}, {"action": "third"}]
        first = await subject.submit(then=plan, max_attempts=5)
        await subject.report(await subject.start(), returned("y" * BIG))
        parent, step = await subject.task(first), await follower(subject, first)
        assert (parent.state, len(unpack(parent.result_blob, 2**20)["value"])) == ("succeeded", BIG)
        assert (step.state, step.cause, step.error_code) == ("dead", "not_retryable", "too_large")
        assert first in step.error_message
        assert "the limit is 1,044,480" in step.error_message
        assert arguments(step) == [["x" * 900_000], {}]
        assert await subject.event_types(step.id) == ["task.created", "task.dead"]
        await asyncio.wrap_future(subject.control.dead_letters.redrive(await subject.dead_letter(step.id), "test"))
        await subject.report(await subject.start(), returned(3))
        assert arguments(await follower(subject, step.id)) == [[3], {}]


async def test_a_step_with_too_many_arguments_is_a_dead_letter(tmp_path: Path) -> None:
    """What no worker could read never reaches a lane."""
    async with kernel(tmp_path) as subject:
        first = await subject.submit(then=[{"action": "second", "args": [0] * 16_384}])
        await subject.report(await subject.start(), returned(1))
        step = await follower(subject, first)
        assert (step.state, step.error_code) == ("dead", InvalidFrame.code)


@pytest.mark.parametrize(("fate", "code"), [("gone", "not_found"), ("revoked", "conflict"), ("approved", None)])
async def test_a_step_for_a_worker_that_is_gone_is_a_dead_letter(tmp_path: Path, fate: str, code: str | None) -> None:
    """It keeps its place on that worker, since somebody wanted it there."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        first = await subject.submit(then=[{"action": "second", "worker": "w-2"}])
        change = workers.delete() if fate == "gone" else workers.update().values(approval=fate)
        write = subject.control.store.writer.write
        await asyncio.wrap_future(
            write(lambda transaction: transaction.connection.execute(change.where(workers.c.id == "w-2")).close())
        )
        await subject.report(await subject.start(), returned(1))
        step = await follower(subject, first)
        assert (step.state, step.error_code) == ("dead" if code else "queued", code)
        assert (step.lane, step.pinned_worker_id, arguments(step)) == ("q.t.w.w-2", "w-2", [[1], {}])
        letters = sa.select(sa.func.count()).select_from(dead_letters)
        read = subject.control.store.read
        assert await asyncio.wrap_future(read(lambda connection: connection.execute(letters).scalar_one())) == (
            code is not None
        )


async def test_many_successes_in_one_transaction_make_one_step_each(tmp_path: Path) -> None:
    """Outcomes are applied in batches."""
    async with kernel(tmp_path) as subject:
        firsts = await subject.submit_all([{"then": [{"action": "second", "args": [number]}]} for number in range(30)])
        executions = [await subject.start() for _ in firsts]
        await asyncio.gather(*(subject.report(one, returned(one.claim.task_id)) for one in executions))
        for number, first in enumerate(firsts):
            assert arguments(await follower(subject, first)) == [[number, first], {}]


async def test_a_plan_names_only_workers_that_exist(tmp_path: Path) -> None:
    """A wrong name is refused while someone can still be told where it is."""
    async with kernel(tmp_path) as subject:
        with pytest.raises(NotFound) as caught:
            await subject.submit(then=[{"action": "second"}, {"action": "third", "worker": "nobody"}])
        assert caught.value.field == "then.1.worker"


async def test_a_plan_fits_into_an_envelope(tmp_path: Path) -> None:
    """All steps together are limited, since each of them carries the rest."""
    async with kernel(tmp_path) as subject:
        step = {"action": "second", "args": ["x" * 600_000]}
        await subject.submit(then=[step], delay_s=60)
        with pytest.raises(TooLarge) as caught:
            await subject.submit(then=[step, step])
        assert caught.value.field == "then"
