"""The gate: what starts, starts once, and only what may."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from protocols.claim import Verdict
from protocols.envelope import envelope_sha256
from protocols.outcome import Outcome
from protocols.states import CauseOfDeath, Effect, FailureClass
from tests.support.kernel import PYTHON_LANE, kernel


async def test_of_two_claims_for_one_attempt_one_runs(tmp_path: Path) -> None:
    """A redelivered message cannot start a task twice, whoever holds it."""
    async with kernel(tmp_path) as subject:
        await subject.enrol("w-2")
        task_id = await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        claims = await asyncio.gather(subject.claim(delivery), subject.claim(delivery, "w-2"))
        assert sorted(claim.answer.verdict for claim in claims) == [Verdict.DROP, Verdict.RUN]
        task = await subject.task(task_id)
        assert task.execution_id == next(claim for claim in claims if claim.runs).claim.execution_id
        dropped = next(claim for claim in claims if not claim.runs)
        assert dropped.answer.reason == "it is running"


async def test_a_repeated_claim_gets_the_same_answer(tmp_path: Path) -> None:
    """A worker that lost the answer asks again under the same execution id and may run."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        first = await subject.claim(delivery)
        again = await subject.claim(delivery, execution_id=first.claim.execution_id)
        assert again.answer == first.answer


async def test_a_claim_and_its_repetition_in_one_transaction_both_run(tmp_path: Path) -> None:
    """The repetition may meet the claim itself in the same commit."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        answers = await asyncio.gather(*(subject.claim(delivery, execution_id="exec_same") for _ in range(5)))
        assert {answer.answer.verdict for answer in answers} == {Verdict.RUN}


async def test_a_claim_whose_lease_has_ended_is_dropped_when_repeated(tmp_path: Path) -> None:
    """Nobody begins on an answer to a lease that is over."""
    async with kernel(tmp_path) as subject:
        await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        first = await subject.claim(delivery)
        assert await subject.end_lease()
        await subject.open("w-1", boot_id="boot-w-1")
        again = await subject.claim(delivery, execution_id=first.claim.execution_id)
        assert not again.runs


async def test_a_session_without_a_lease_gets_no_answer(tmp_path: Path) -> None:
    """What a worker claims after its lease has ended starts nothing."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        await subject.end_lease()
        with pytest.raises(AssertionError, match="lease has ended"):
            await subject.claim(delivery)
        assert (await subject.task(task_id)).state == "queued"


async def test_the_answer_names_the_digest_of_the_delivered_envelope(tmp_path: Path) -> None:
    """An altered envelope is recognised by the worker."""
    async with kernel(tmp_path) as subject:
        await subject.submit(args=[1, "two"])
        delivery = await subject.deliver()
        assert delivery is not None
        execution = await subject.claim(delivery)
        assert execution.answer.envelope_sha256 == envelope_sha256(delivery.body)


async def test_a_cancelled_task_is_dropped_at_the_gate(tmp_path: Path) -> None:
    """Unclaimed work is cancelled at once, also when its message is on its way."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        delivery = await subject.deliver()
        assert delivery is not None
        await asyncio.wrap_future(subject.control.tasks.cancel(task_id, "no longer needed", "test"))
        execution = await subject.claim(delivery)
        assert execution.answer.verdict is Verdict.DROP
        assert execution.answer.reason == "it was cancelled"
        assert (await subject.task(task_id)).state == "cancelled"


async def test_an_older_attempt_is_dropped(tmp_path: Path) -> None:
    """After a retry only the newest message counts."""
    async with kernel(tmp_path, retry_base_s=0.001) as subject:
        await subject.submit()
        old = await subject.deliver()
        assert old is not None
        await subject.fail(await subject.claim(old))
        new = await subject.deliver()
        assert new is not None
        stale = await subject.claim(old)
        assert not stale.runs
        assert stale.answer.reason == "attempt 1 was replaced by attempt 2"
        assert (await subject.claim(new)).runs


async def test_a_task_past_its_deadline_dies_at_the_gate(tmp_path: Path) -> None:
    """A worker that comes late starts nothing, and the task is a dead letter that says why."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        soon = subject.control.clock.now() + 300
        task_id = await subject.submit(deadline=_rfc3339(soon))
        delivery = await subject.deliver()
        assert delivery is not None
        while subject.control.clock.now() <= soon:
            await asyncio.sleep(0.01)
        assert not (await subject.claim(delivery)).runs
        task = await subject.task(task_id)
        assert (task.state, task.cause) == ("dead", CauseOfDeath.DEADLINE.value)


async def test_a_suspect_runs_isolated_and_its_next_death_quarantines_it(tmp_path: Path) -> None:
    """Two losses make a task a suspect; what a living parent then reports ends it for good."""
    async with kernel(tmp_path) as subject:
        task_id = await subject.submit()
        for number in (1, 2):
            execution = await subject.start()
            assert execution.answer.verdict is Verdict.RUN
            await subject.end_lease()
            await subject.open("w-1", boot_id=f"again-{number}")
        execution = await subject.start()
        assert execution.answer.verdict is Verdict.RUN_ISOLATED
        await subject.report(execution, _process_died())
        task = await subject.task(task_id)
        assert (task.state, task.cause, task.tries) == ("dead", CauseOfDeath.QUARANTINED.value, 0)


async def test_a_waiting_lane_is_refilled_in_the_commit_of_the_claim(tmp_path: Path) -> None:
    """More tasks than a window holds all come through, without a timer."""
    async with kernel(tmp_path, sweep_s=3600) as subject:
        ids = await subject.submit_all([{} for _ in range(30)])
        started = [(await subject.start()).claim.task_id for _ in ids]
        assert started == ids
        assert subject.control.lanes.depth(PYTHON_LANE) == 0


def _process_died() -> Outcome:
    return Outcome.failed(FailureClass.LOST, "process_died", "signal SIGKILL", effect=Effect.MAYBE)


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
