"""Carrying out one claimed execution: named steps over one value, to a closed outcome. It never raises."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog
from pydantic import ValidationError

from protocols.claim import Answer, Verdict
from protocols.codec import FrameCodec, first_problem, pack, unpack
from protocols.envelope import Envelope, envelope_sha256
from protocols.errors import InvalidFrame, SealBroken, TooLarge, WarrenError
from protocols.frames import MAX_FRAME_BYTES, Kept, Outcomes, UpFrame, up_codec
from protocols.lanes.seam import Delivery, LaneBroker
from protocols.outcome import MAX_RESULT_BYTES, Outcome, OutcomeReport
from protocols.sealing import secret_context, unseal
from protocols.states import Effect, FailureClass, OutcomeKind
from worker.actions.registry import Registry, UnknownAction
from worker.actions.seam import Action, Invocation, Stopped
from worker.identity import Identity
from worker.output import LiveOutput, Output
from worker.redact import Redactor

log = structlog.get_logger(__name__)

STOP_S = 10.0
"""How long a cancelled action may take to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A claimed execution that may begin."""

    envelope: Envelope
    delivery: Delivery
    execution_id: str
    answer: Answer
    stop: "asyncio.Future[StopReason]"
    """Set from outside when the execution shall end before it has finished."""


@dataclass(frozen=True, slots=True)
class Done:
    """How it ended, and its output."""

    report: OutcomeReport
    kept: tuple[Kept, ...]


class Refused(Exception):
    """The execution ends before its action has begun."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome.rejected(code, message)


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why an action is stopped, and what that makes of its outcome."""

    kind: OutcomeKind
    code: str
    message: str

    def outcome(self, effect: Effect, told: Outcome | None = None) -> Outcome:
        """Return the outcome of an action that was stopped; `told` is what it could find out."""
        if self.kind is OutcomeKind.FAILED:
            ended = Outcome.failed(FailureClass.TIMEOUT, self.code, self.message, effect=effect)
        elif self.kind is OutcomeKind.CANCELLED:
            ended = Outcome.cancelled(self.message, effect=effect)
        else:
            ended = Outcome.interrupted(self.code, self.message, effect=effect)
        return ended if told is None else replace(ended, result=told.result, usage=told.usage)


def deadline(timeout_s: float) -> StopReason:
    """The execution took longer than it may."""
    return StopReason(OutcomeKind.FAILED, "timeout", f"not finished after {timeout_s:g} s")


def cancelled(reason: str) -> StopReason:
    """Someone asked for it."""
    return StopReason(OutcomeKind.CANCELLED, "cancelled", reason or "cancelled")


LEASE_ENDED = StopReason(OutcomeKind.INTERRUPTED, "lease_ended", "the lease ended while the session was away")
DRAINED = StopReason(OutcomeKind.INTERRUPTED, "drain", "the worker stopped before it was finished")


class Executor:
    """Runs claimed executions, as many at once as it is given."""

    def __init__(self, identity: Identity, lanes: LaneBroker, registry: Registry, live: LiveOutput) -> None:
        self._identity = identity
        self._lanes = lanes
        self._registry = registry
        self._live = live
        self._codec: FrameCodec[UpFrame] = up_codec()

    async def execute(self, work: Work) -> Done:
        """Return how the execution ended."""
        began = time.monotonic()
        secrets: dict[str, str] = {}
        output = self._output(work, secrets)
        try:
            action = self._check(work)
            secrets = self._unseal(work)
            output = self._output(work, secrets)
            invocation = _invocation(work, secrets, output)
            outcome = await self._hooked(work, lambda: _run(action, invocation, work.stop))
        except Refused as refused:
            outcome = refused.outcome
        kept = output.finish()
        outcome = replace(outcome, duration_s=time.monotonic() - began)
        return Done(self._fitting(_report(work, _redacted(outcome, secrets))), kept)

    def _output(self, work: Work, secrets: dict[str, str]) -> Output:
        envelope = work.envelope
        return Output(envelope.task_id, envelope.attempt, work.execution_id, self._live, secrets.values())

    def _check(self, work: Work) -> Action:
        if work.answer.envelope_sha256 != envelope_sha256(work.delivery.body):
            raise Refused("envelope_mismatch", "the delivered envelope is not the one that was submitted")
        try:
            if work.answer.verdict is Verdict.RUN_ISOLATED:
                return self._registry.isolated(work.envelope.action)
            return self._registry.action(work.envelope.action)
        except UnknownAction as error:
            raise Refused("unknown_action", error.message) from error

    def _unseal(self, work: Work) -> dict[str, str]:
        opened: dict[str, str] = {}
        for name, sealed in work.answer.secrets.items():
            context = secret_context(worker_id=self._identity.worker_id, execution_id=work.execution_id, name=name)
            try:
                opened[name] = unseal(sealed, key=self._identity.sealing, context=context).decode()
            except (SealBroken, UnicodeDecodeError) as error:
                raise Refused("secret_unreadable", f"secret {name!r} was not sealed for this execution") from error
        return opened

    async def _hooked(self, work: Work, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        if self._lanes.middleware:
            try:
                # Hooks are other people's code and may block.
                await asyncio.to_thread(self._lanes.emit_before, "process_message", work.delivery)
            except Exception as error:
                raise Refused("hook_refused", f"{type(error).__name__}: {error}") from error
        outcome = await run()
        if self._lanes.middleware:
            await asyncio.to_thread(
                self._lanes.emit_after, "process_message", work.delivery, result=outcome.result, exception=None
            )
        return outcome

    def _fitting(self, report: OutcomeReport) -> OutcomeReport:
        """Return the report in a form that the control plane will take, whatever the action returned."""
        outcome = report.outcome
        try:
            pack(outcome.result, MAX_RESULT_BYTES)
            unpack(self._codec.encode(Outcomes(items=(report,))), MAX_FRAME_BYTES)
        except TooLarge as error:
            code, problem = "result_too_large", error.message
        except InvalidFrame as error:
            code, problem = "result_not_serializable", error.message
        else:
            return report
        note = f"the action's result cannot be stored: {problem}"
        failed = Outcome.failed(FailureClass.REQUEST, code, _printable(note), effect=outcome.effect)
        return replace(report, outcome=replace(failed, usage=outcome.usage, duration_s=outcome.duration_s))


async def _run(action: Action, invocation: Invocation, stop: "asyncio.Future[StopReason]") -> Outcome:
    if stop.done():
        return stop.result().outcome(Effect.NONE)
    task = asyncio.ensure_future(action(invocation))
    try:
        waiting: set[asyncio.Future[Any]] = {task, stop}
        await asyncio.wait(waiting, timeout=invocation.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return _ended(task, None)
        reason = stop.result() if stop.done() else deadline(invocation.timeout_s)
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done():
        return _ended(task, reason)
    task.add_done_callback(_forget)
    log.error("an action did not stop and is abandoned", execution_id=invocation.execution_id, action=invocation.action)
    unconfirmed = StopReason(reason.kind, "kill_unconfirmed", f"{reason.message}; the action did not stop")
    return unconfirmed.outcome(Effect.MAYBE)


def _ended(task: "asyncio.Future[Outcome]", reason: StopReason | None) -> Outcome:
    """Return the outcome of an action that has ended. One that finished although it was stopped has finished."""
    try:
        return task.result()
    except Stopped as stopped:
        reason = reason or cancelled("the action stopped by itself")
        return reason.outcome(stopped.outcome.effect, stopped.outcome)
    except asyncio.CancelledError:
        return (reason or cancelled("the action stopped by itself")).outcome(Effect.MAYBE)
    except ValidationError as error:
        message = f"the action made an impossible outcome: {first_problem(error)}"
        return Outcome.failed(FailureClass.LOCAL, "action_crashed", message, effect=Effect.MAYBE)
    except Exception as error:
        log.exception("an action crashed")
        message = error.message if isinstance(error, WarrenError) else str(error)
        return Outcome.failed(
            FailureClass.LOCAL, "action_crashed", f"{type(error).__name__}: {message}", effect=Effect.MAYBE
        )


def _forget(task: "asyncio.Future[Outcome]") -> None:
    if not task.cancelled():
        task.exception()


def _invocation(work: Work, secrets: dict[str, str], output: Output) -> Invocation:
    envelope, answer = work.envelope, work.answer
    return Invocation(
        task_id=envelope.task_id,
        attempt=envelope.attempt,
        execution_id=work.execution_id,
        action=envelope.action,
        args=envelope.args,
        kwargs=envelope.kwargs,
        delivery=envelope.delivery,
        timeout_s=answer.timeout_s,
        sink=output,
        provider=answer.provider,
        connection=answer.connection,
        secrets=secrets,
    )


def _report(work: Work, outcome: Outcome) -> OutcomeReport:
    return OutcomeReport(
        task_id=work.envelope.task_id,
        attempt=work.envelope.attempt,
        execution_id=work.execution_id,
        outcome=outcome,
    )


def handed_back(envelope: Envelope, execution_id: str, code: str, message: str) -> OutcomeReport:
    """Return the report of an execution that never began."""
    return OutcomeReport(
        task_id=envelope.task_id,
        attempt=envelope.attempt,
        execution_id=execution_id,
        outcome=Outcome.interrupted(code, message, effect=Effect.NONE),
    )


def _redacted(outcome: Outcome, secrets: dict[str, str]) -> Outcome:
    if outcome.failure is None:
        return outcome
    message = Redactor(secrets.values()).text(outcome.failure.message)
    return replace(outcome, failure=replace(outcome.failure, message=_printable(message)))


def _printable(message: str) -> str:
    return message.encode(errors="replace").decode()
