"""Leases, resumption and late outcomes: what a silent worker costs, and what it may still say."""

import asyncio
from pathlib import Path

import sqlalchemy as sa

from broker.app import running
from broker.roll import Opened
from broker.settings import Settings
from broker.store.tables import events
from protocols.clock import SystemClock
from protocols.outcome import Outcome
from protocols.states import Effect
from tests.support.kernel import Kernel, kernel

ONCE = {"delivery": "at_most_once"}


async def test_at_least_once_work_of_a_lost_worker_is_claimable_at_once(tmp_path: Path) -> None:
    """The loss spends no try."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        task_id = await subject.submit(max_attempts=1)
        await subject.start()
        await subject.end_lease()
        second = await subject.start("w-2")
        assert second.claim.task_id == task_id
        await subject.succeed(second, "w-2")
        task = await subject.task(task_id)
        assert (task.state, task.tries, task.losses) == ("succeeded", 0, 1)


async def test_a_lease_ends_once(tmp_path: Path) -> None:
    """Whoever comes second changes nothing: a task is charged one loss."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        await subject.start()
        assert await subject.end_lease()
        assert not await subject.end_lease()
        assert (await subject.task(task_id)).losses == 1


async def test_at_most_once_work_is_given_up_and_never_run_again(tmp_path: Path) -> None:
    """Nobody can know whether it ran: a dead letter says so."""
    async with kernel(tmp_path, at_most_once_s=0.2) as subject:
        task_id = await subject.submit(**ONCE)
        await subject.start()
        await subject.end_lease()
        assert (await subject.task(task_id)).state == "running"
        task = await subject.until_state(task_id, "dead")
        assert (task.cause, task.error_class) == ("lost_unknown", "lost")


async def test_a_late_success_settles_a_task_that_waits(tmp_path: Path) -> None:
    """Its work is done; running it again would be waste. The loss is given back."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
        await subject.end_lease()
        await subject.succeed(execution)
        task = await subject.task(task_id)
        assert (task.state, task.losses) == ("succeeded", 0)
        redelivered = await subject.deliver()
        assert redelivered is not None
        await subject.open("w-1", boot_id="boot-w-1")
        assert not (await subject.claim(redelivered)).runs


async def test_a_late_success_brings_a_dead_task_back(tmp_path: Path) -> None:
    """It was given up as lost_unknown; now it is known."""
    async with kernel(tmp_path, at_most_once_s=0.1) as subject:
        task_id = await subject.submit(**ONCE)
        execution = await subject.start()
        await subject.end_lease()
        await subject.until_state(task_id, "dead")
        await subject.succeed(execution)
        assert (await subject.task(task_id)).state == "succeeded"


async def test_the_outcome_of_a_replaced_execution_is_only_stored(tmp_path: Path) -> None:
    """Once the next claim has committed, the first worker's word no longer counts."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        task_id = await subject.submit()
        first = await subject.start()
        await subject.end_lease()
        second = await subject.start("w-2")
        await subject.fail(first)
        assert (await subject.task(task_id)).state == "running"
        assert "task.late_outcome" in await subject.event_types(task_id)
        await subject.succeed(second, "w-2")
        assert (await subject.task(task_id)).state == "succeeded"


async def test_work_that_never_began_reopens_the_task(tmp_path: Path) -> None:
    """`interrupted` without effect after the lease ended: an at_most_once task may run after all."""
    async with kernel(tmp_path, at_most_once_s=0.1) as subject:
        task_id = await subject.submit(**ONCE)
        execution = await subject.start()
        await subject.end_lease()
        await subject.until_state(task_id, "dead")
        await subject.report(execution, Outcome.interrupted("lease_ended", "never began", effect=Effect.NONE))
        await subject.open("w-1", boot_id="boot-w-1")
        again = await subject.start()
        assert (again.claim.task_id, again.claim.attempt) == (task_id, 2)
        await subject.succeed(again)


async def test_a_repeated_outcome_changes_nothing(tmp_path: Path) -> None:
    """A worker that did not hear the answer says it again."""
    async with kernel(tmp_path, retry_base_s=60) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
        for _ in range(3):
            await subject.fail(execution)
        assert (await subject.task(task_id)).tries == 1


async def test_nobody_reports_for_another_worker(tmp_path: Path) -> None:
    """An outcome counts only from the worker that holds the execution."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        task_id = await subject.submit()
        execution = await subject.start()
        await subject.succeed(execution, "w-2")
        assert (await subject.task(task_id)).state == "running"
        await subject.succeed(execution)


async def test_a_resumed_session_keeps_its_work(tmp_path: Path) -> None:
    """A break shorter than the grace changes nothing at all."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
        opened = await _reopen(subject, epoch=1, holds=(execution.claim.execution_id,))
        assert (opened.resumed, opened.epoch, opened.ended) == (True, 1, ())
        await subject.succeed(execution)
        assert (await subject.task(task_id)).attempt == 1


async def test_a_resumed_worker_hears_which_leases_ended(tmp_path: Path) -> None:
    """It cancels those, and only those: at_most_once work goes on under the new session."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        again = await subject.start()
        once_id = await subject.submit(**ONCE)
        once = await subject.start()
        await subject.end_lease()
        opened = await _reopen(
            subject, epoch=1, holds=(again.claim.execution_id, once.claim.execution_id, "exec_never_seen")
        )
        assert (opened.resumed, opened.epoch) == (False, 2)
        assert opened.ended == (again.claim.execution_id,)
        await subject.succeed(once)
        assert (await subject.task(once_id)).state == "succeeded"


async def test_a_restarted_worker_loses_what_it_does_not_know_of(tmp_path: Path) -> None:
    """A new process without the work cannot finish it: nobody waits for the lease to end."""
    async with kernel(tmp_path) as subject:
        lost_id = await subject.submit()
        await subject.start()
        once_id = await subject.submit(**ONCE)
        await subject.start()
        spooled_id = await subject.submit()
        spooled = await subject.start()
        await subject.open("w-1", boot_id="second-boot", holds=(spooled.claim.execution_id,))
        assert (await subject.task(lost_id)).state in ("scheduled", "queued")
        assert (await subject.task(once_id)).cause == "lost_unknown"
        await subject.succeed(spooled)
        assert (await subject.task(spooled_id)).state == "succeeded"


async def test_a_cancel_during_an_absence_is_told_at_the_resumption(tmp_path: Path) -> None:
    """It is a row, not a broadcast."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
        await _cancel(subject, task_id)
        opened = await _reopen(subject, epoch=1, holds=(execution.claim.execution_id,))
        assert opened.cancelled == (execution.claim.execution_id,)
        await subject.report(execution, Outcome.cancelled("as asked", effect=Effect.MAYBE))
        assert (await subject.task(task_id)).state == "cancelled"


async def test_a_task_that_finishes_although_it_was_cancelled_has_finished(tmp_path: Path) -> None:
    """The outcome decides."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
        await _cancel(subject, task_id)
        await subject.succeed(execution)
        assert (await subject.task(task_id)).state == "succeeded"


async def test_four_lost_workers_quarantine_a_task(tmp_path: Path) -> None:
    """Even if nobody saw it kill anything."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        for number in range(4):
            await subject.start()
            await subject.end_lease()
            await subject.open("w-1", boot_id=f"boot-{number}")
        task = await subject.task(task_id)
        assert (task.state, task.cause, task.tries, task.attempt) == ("dead", "quarantined", 0, 4)


async def test_leases_of_an_earlier_control_plane_go_on(tmp_path: Path) -> None:
    """After a restart a worker resumes its session and what it runs."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        execution = await subject.start()
    async with running(Settings(data_dir=tmp_path), SystemClock()) as control:
        subject = Kernel(control)
        opened = await _reopen(subject, epoch=1, holds=(execution.claim.execution_id,))
        assert (opened.resumed, opened.ended) == (True, ())
        await subject.succeed(execution)
        task = await subject.task(task_id)
        assert (task.state, task.attempt, task.losses) == ("succeeded", 1, 0)


async def test_leases_of_an_earlier_control_plane_end_when_nobody_comes(tmp_path: Path) -> None:
    """Its workers get their time, and no more."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        await subject.start()
    async with running(Settings(data_dir=tmp_path, orphan_s=0.3), SystemClock()) as control:
        subject = Kernel(control)
        assert (await subject.task(task_id)).state == "running"
        await subject.until_state(task_id, "queued")


async def _reopen(subject: Kernel, *, epoch: int, holds: tuple[str, ...]) -> Opened:
    return await subject.open("w-1", boot_id="boot-w-1", epoch=epoch, holds=holds)


async def _cancel(subject: Kernel, task_id: str) -> None:
    await asyncio.wrap_future(subject.control.tasks.cancel(task_id, "asked", "test"))


async def test_the_journal_tells_who_is_lost_who_left_and_who_is_back(tmp_path: Path) -> None:
    """A goodbye is no loss; a worker that starts anew before it was missed is lost and back at that moment."""
    async with kernel(tmp_path) as subject:
        await subject.open("w-1", boot_id="boot-2")
        resumed = await subject.open("w-1", boot_id="boot-2", epoch=2)
        assert resumed.resumed
        await asyncio.wrap_future(subject.control.sessions.roll.leave("w-1", 2))
        query = sa.select(events.c.type).where(events.c.worker_id == "w-1").order_by(events.c.id)
        told = await asyncio.wrap_future(
            subject.control.store.read(lambda connection: list(connection.execute(query).scalars()))
        )
        assert told == ["worker.online", "worker.lost", "worker.online", "worker.offline"]
