"""What a worker promises about a task that it was given."""

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocols.claim import Answer, Claim, ProviderAccess, Verdict
from protocols.frames import Answers, Cancel, OutcomesStored
from protocols.names import BuiltinAction
from protocols.outcome import Outcome
from protocols.sealing import seal, secret_context
from protocols.states import Effect, FailureClass, OutcomeKind
from tests.support.control_plane import ControlPlane
from tests.support.worker_agent import running_agent


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as plane, running_agent(plane, tmp_path):
        yield plane


async def outcome_of(plane: ControlPlane, action: str, *args: object) -> Outcome:
    return (await plane.outcome_of(plane.submit(action, *args))).outcome


def alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("action", ["add", "add_async", "add_actor", "add_async_actor"])
async def test_functions_and_dramatiq_actors_run_alike(plane: ControlPlane, action: str) -> None:
    """A plain or asynchronous function and a dramatiq actor of either kind give their result."""
    outcome = await outcome_of(plane, action, 20, 22)
    assert (outcome.kind, outcome.result) == (OutcomeKind.SUCCEEDED, {"value": 42})


async def test_a_delivery_is_acknowledged_once_its_outcome_is_stored(plane: ControlPlane) -> None:
    """An outcome that is not stored leaves its delivery unacknowledged."""
    plane.stores = False
    task = plane.submit("add", 1, 2)
    report = await plane.outcome_of(task)
    again = plane.submit("add", 3, 4)
    await plane.outcome_of(again)
    assert plane.settled.acks == ()
    plane.send(OutcomesStored(execution_ids=(report.execution_id,)))
    await plane.until(lambda: len(plane.settled.acks) == 1)


async def test_an_exception_is_the_outcome_and_its_traceback_is_output(plane: ControlPlane) -> None:
    """A function that raises fails with `exception`; where it happened is in stderr."""
    task = plane.submit("fail")
    outcome = (await plane.outcome_of(task)).outcome
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.EXIT, "exception")
    assert outcome.failure.message == "ValueError: the third wheel is missing"
    assert outcome.effect is Effect.MAYBE
    assert b"in fail" in plane.kept_bytes(task, "stderr")


@pytest.mark.parametrize(
    ("action", "kind", "code"),
    [
        ("leave", OutcomeKind.FAILED, "exception"),
        ("large", OutcomeKind.FAILED, "result_too_large"),
        ("strange", OutcomeKind.FAILED, "result_not_serializable"),
        ("deep", OutcomeKind.FAILED, "result_not_serializable"),
        ("publish", OutcomeKind.FAILED, "exception"),
        ("nobody_has_this", OutcomeKind.REJECTED, "unknown_action"),
        (BuiltinAction.LLM_CHAT, OutcomeKind.FAILED, None),
    ],
)
async def test_bad_ends_are_outcomes(plane: ControlPlane, action: str, kind: OutcomeKind, code: str | None) -> None:
    """Every end that a function can find becomes an outcome, and the worker goes on."""
    outcome = await outcome_of(plane, action)
    assert outcome.kind is kind
    assert outcome.failure is not None
    assert code is None or outcome.failure.code == code
    assert (await outcome_of(plane, "add", 1, 1)).kind is OutcomeKind.SUCCEEDED


async def test_output_of_a_function_and_its_processes_is_kept_and_live(plane: ControlPlane) -> None:
    """Both streams are kept whole before the outcome is applied, and went up live as well."""
    task = plane.submit("say", "hello\n", "problem\n")
    await plane.outcome_of(task)
    assert plane.kept_bytes(task, "stdout") == b"hello\nand a child\n"
    assert plane.kept_bytes(task, "stderr") == b"problem\n"
    await plane.until(lambda: sum(len(chunk.data) for chunk in plane.chunks if chunk.task_id == task) == 26)


async def test_a_child_process_is_used_again(plane: ControlPlane) -> None:
    """Tasks one after another share a child process, so that they start fast."""
    first = await outcome_of(plane, "pid_of_child")
    second = await outcome_of(plane, "pid_of_child")
    assert first.result == second.result != {"value": os.getpid()}


async def test_a_killed_child_is_lost_and_nothing_else_is(plane: ControlPlane) -> None:
    """When a child dies its execution is `lost` with the signal, and the next one runs in a new child."""
    outcome = await outcome_of(plane, "kill_itself")
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.LOST, "process_died")
    assert "SIGKILL" in outcome.failure.message
    assert outcome.effect is Effect.MAYBE
    assert (await outcome_of(plane, "add", 1, 1)).kind is OutcomeKind.SUCCEEDED


async def test_a_child_killed_from_outside_is_lost(plane: ControlPlane, tmp_path: Path) -> None:
    """kill -9 of a child that runs a task gives `process_died`."""
    started = tmp_path / "started"
    task = plane.submit("touch_and_wait", str(started))
    await plane.until(lambda: started.exists() and bool(started.read_text()))
    os.kill(int(started.read_text()), signal.SIGKILL)
    outcome = (await plane.outcome_of(task)).outcome
    assert outcome.failure is not None
    assert outcome.failure.code == "process_died"


@pytest.mark.parametrize("action", ["touch_and_wait", "spin", "hang_in_thread"])
async def test_the_deadline_ends_whatever_a_function_does(plane: ControlPlane, tmp_path: Path, action: str) -> None:
    """A function that sleeps, spins with SIGTERM ignored or hangs in a thread is ended by its deadline."""
    started = tmp_path / "started"
    plane.timeout_s = 3.0
    began = time.monotonic()
    outcome = await outcome_of(plane, action, str(started))
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.TIMEOUT, "timeout")
    assert outcome.effect is Effect.MAYBE
    assert time.monotonic() - began < 30
    assert not alive(int(started.read_text()))


async def test_a_cancel_ends_the_work_and_lets_it_tidy_up(plane: ControlPlane, tmp_path: Path) -> None:
    """A cancel ends a function within seconds; its `finally` clauses run."""
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    task = plane.submit("clean_up", str(started), str(cleaned))
    await plane.until(lambda: started.exists() and bool(started.read_text()))
    plane.send(Cancel(execution_id=plane.claims[0].execution_id, reason="no longer wanted"))
    outcome = (await plane.outcome_of(task)).outcome
    assert (outcome.kind, outcome.effect) == (OutcomeKind.CANCELLED, Effect.MAYBE)
    assert cleaned.read_text() == "yes"
    assert not alive(int(started.read_text()))


async def test_a_cancel_right_behind_the_answer_stops_the_execution_before_it_begins(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """A cancel that is read together with the answer leaves no effect behind."""
    started = tmp_path / "started"
    plane.answer = lambda claim: None
    task = plane.submit("touch_and_wait", str(started))
    await plane.until(lambda: bool(plane.claims))
    claim = plane.claims[0]
    plane.send(Answers(items=(plane.grant(claim),)))
    plane.send(Cancel(execution_id=claim.execution_id, reason="at once"))
    outcome = (await plane.outcome_of(task)).outcome
    assert outcome.kind is OutcomeKind.CANCELLED
    assert not started.exists()


async def test_an_altered_envelope_does_not_run(plane: ControlPlane, tmp_path: Path) -> None:
    """An envelope whose hash is not the claimed one is rejected without any effect."""
    task = plane.submit("add", 1, 2, attempt=7)
    forged = plane.envelope("touch_and_wait", [str(tmp_path / "ran")], {}, task_id=task, attempt=8)
    plane.digests[task, 8] = plane.digests[task, 7]
    await plane.outcome_of(task)
    plane.outcomes.clear()
    plane.lanes.publish("q.t.default.python", [forged])
    outcome = (await plane.outcome_of(task)).outcome
    assert (outcome.kind, outcome.effect) == (OutcomeKind.REJECTED, Effect.NONE)
    assert outcome.failure is not None
    assert outcome.failure.code == "envelope_mismatch"
    assert not (tmp_path / "ran").exists()


async def test_what_is_no_envelope_is_refused(plane: ControlPlane) -> None:
    """Bytes that are no envelope go to the collector and block nothing."""
    plane.lanes.publish("q.t.default.python", [b"\xc1garbage"])
    await plane.until(lambda: plane.rejected == [b"\xc1garbage"])
    assert (await outcome_of(plane, "add", 1, 1)).kind is OutcomeKind.SUCCEEDED


async def test_a_dropped_claim_is_acknowledged_and_never_runs(plane: ControlPlane, tmp_path: Path) -> None:
    """`drop` settles the delivery, and that is all."""
    plane.answer = plane.drop
    plane.submit("touch_and_wait", str(tmp_path / "ran"))
    await plane.until(lambda: len(plane.settled.acks) == 1)
    assert plane.outcomes == []
    assert not (tmp_path / "ran").exists()


async def test_an_isolated_execution_has_a_process_of_its_own(plane: ControlPlane) -> None:
    """`run_isolated` runs in a child that served nobody before and serves nobody after."""
    shared = await outcome_of(plane, "pid_of_child")
    plane.answer = lambda claim: plane.grant(claim, verdict=Verdict.RUN_ISOLATED)
    first = await outcome_of(plane, "pid_of_child")
    second = await outcome_of(plane, "pid_of_child")
    assert shared.result is not None
    assert first.result is not None
    assert second.result is not None
    assert len({shared.result["value"], first.result["value"], second.result["value"]}) == 3


async def test_an_isolated_builtin_runs_in_a_child_with_its_secrets(plane: ControlPlane) -> None:
    """A built-in action runs whole in a child: its own check of its input comes back as its outcome."""

    def isolated(claim: Claim) -> Answer:
        worker = plane.hellos[-1].worker_id
        context = secret_context(worker_id=worker, execution_id=claim.execution_id, name="key")
        sealed = seal(b"sk-very-secret", recipient=plane.public_keys[worker][1], context=context)
        access = ProviderAccess(name="p", kind="unheard-of", base_url="http://127.0.0.1:9/v1", secret="key")
        return plane.grant(claim, verdict=Verdict.RUN_ISOLATED, provider=access, secrets={"key": sealed})

    plane.answer = isolated
    outcome = await outcome_of(plane, BuiltinAction.LLM_CHAT)
    assert outcome.failure is not None
    assert outcome.failure.failure_class is FailureClass.REQUEST


async def test_a_secret_sealed_for_another_execution_is_refused(plane: ControlPlane) -> None:
    """A secret that was sealed for something else opens for nobody, and nothing runs."""

    def misplaced(claim: Claim) -> Answer:
        worker = plane.hellos[-1].worker_id
        context = secret_context(worker_id=worker, execution_id="exec_other", name="key")
        sealed = seal(b"sk-very-secret", recipient=plane.public_keys[worker][1], context=context)
        return plane.grant(claim, secrets={"key": sealed})

    plane.answer = misplaced
    outcome = await outcome_of(plane, "add", 1, 2)
    assert outcome.kind is OutcomeKind.REJECTED
    assert outcome.failure is not None
    assert outcome.failure.code == "secret_unreadable"
