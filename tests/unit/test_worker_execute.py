"""Executing one claimed execution: hooks, ends that actions should not have, and stops."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware

from protocols.claim import Answer, Verdict
from protocols.envelope import Envelope, envelope_sha256
from protocols.lanes.direct import SessionLanes
from protocols.lanes.seam import Delivery, LaneBroker
from protocols.outcome import Outcome, Usage
from protocols.sealing import seal, secret_context
from protocols.states import Delivery as Promise
from protocols.states import Effect, FailureClass, OutcomeKind
from worker import execute as execute_module
from worker.actions.registry import Registry
from worker.actions.seam import Invocation, Stopped
from worker.execute import DRAINED, Executor, StopReason, Work, cancelled
from worker.identity import Identity, StateDir
from worker.outbox import Outbox
from worker.output import LiveOutput


@pytest.fixture
def identity(tmp_path: Path) -> Iterator[Identity]:
    with StateDir(tmp_path) as state:
        yield state.identity()


class Bench:
    """An executor with one action, and work for it."""

    def __init__(
        self, identity: Identity, action: Callable[[Invocation], Any], lanes: LaneBroker | None = None
    ) -> None:
        self.lanes = lanes or SessionLanes()
        self.identity = identity
        registry = Registry(self.lanes, lambda name: _Callable(action))
        registry.declare("act", _Callable(action))
        live = LiveOutput(Outbox(), asyncio.get_running_loop())
        self.executor = Executor(identity, self.lanes, registry, live)
        self.stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()

    async def run(self, timeout_s: float = 60.0, secrets: dict[str, str] | None = None) -> Outcome:
        envelope = Envelope(
            lane="q.t.default.python",
            action="act",
            args=(),
            kwargs={},
            task_id="task_1",
            attempt=1,
            delivery=Promise.AT_MOST_ONCE,
            published_at=0,
        )
        body = envelope.encode()
        answer = Answer(
            task_id="task_1",
            execution_id="exec_1",
            verdict=Verdict.RUN,
            envelope_sha256=envelope_sha256(body),
            timeout_s=timeout_s,
            secrets={name: self._sealed(name, value) for name, value in (secrets or {}).items()},
        )
        delivery = Delivery.decode(body, delivery_tag=1, redelivered=False)
        work = Work(envelope=envelope, delivery=delivery, execution_id="exec_1", answer=answer, stop=self.stop)
        return (await self.executor.execute(work)).report.outcome

    def _sealed(self, name: str, value: str) -> bytes:
        context = secret_context(worker_id=self.identity.worker_id, execution_id="exec_1", name=name)
        return seal(value.encode(), recipient=self.identity.sealing_key, context=context)


class _Callable:
    def __init__(self, work: Callable[[Invocation], Any]) -> None:
        self._work = work

    async def __call__(self, invocation: Invocation) -> Outcome:
        outcome: Outcome = await self._work(invocation)
        return outcome


async def succeed(_: Invocation) -> Outcome:
    return Outcome.success({"value": 1})


async def wait(_: Invocation) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


class Hook(Middleware):
    """A hook that can refuse, and remembers the calls."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.calls: list[str] = []

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.calls.append("before")
        if self.error is not None:
            raise self.error

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        self.calls.append(f"after {result}")


async def test_hooks_surround_the_action(identity: Identity) -> None:
    """dramatiq's hooks see the message before and the result after."""
    lanes, hook = SessionLanes(), Hook()
    lanes.add_middleware(hook)
    assert (await Bench(identity, succeed, lanes).run()).kind is OutcomeKind.SUCCEEDED
    assert hook.calls == ["before", "after {'value': 1}"]


async def test_a_hook_that_raises_refuses_the_run(identity: Identity) -> None:
    """Any exception of a before-hook means that the action never begins."""
    began: list[Invocation] = []

    async def remember(invocation: Invocation) -> Outcome:
        began.append(invocation)
        return Outcome.success({})

    lanes = SessionLanes()
    lanes.add_middleware(Hook(RuntimeError("not on Sundays")))
    outcome = await Bench(identity, remember, lanes).run()
    assert (outcome.kind, outcome.effect) == (OutcomeKind.REJECTED, Effect.NONE)
    assert outcome.failure is not None
    assert outcome.failure.code == "hook_refused"
    assert began == []


async def test_an_action_that_raises_is_crashed_without_its_secrets(identity: Identity) -> None:
    """Type and message reach the user; an opened secret in them does not."""

    async def crash(invocation: Invocation) -> Outcome:
        raise ValueError(f"cannot use {invocation.secrets['key']}")

    outcome = await Bench(identity, crash).run(secrets={"key": "sk-very-secret"})
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.LOCAL, "action_crashed")
    assert outcome.failure.message == "ValueError: cannot use ***"
    assert outcome.effect is Effect.MAYBE


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"value": "x" * 300_000}, "result_too_large"),
        ({"value": object()}, "result_not_serializable"),
        ({"value": {1: 2}}, "result_not_serializable"),
        ({"value": [0] * 20_000}, "result_not_serializable"),
        ({"value": "\ud800"}, "result_not_serializable"),
        ({"value": 2**70}, "result_not_serializable"),
    ],
)
async def test_a_result_that_nobody_would_take_is_a_failure(identity: Identity, result: Any, code: str) -> None:
    """A result that cannot travel fails the task with its effect, and never blocks the session."""

    async def act(_: Invocation) -> Outcome:
        return Outcome.success(result)

    outcome = await Bench(identity, act).run()
    assert outcome.failure is not None
    assert outcome.failure.failure_class is FailureClass.REQUEST
    assert outcome.failure.code == code
    assert outcome.effect is Effect.DONE


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (None, OutcomeKind.FAILED),
        (cancelled("enough"), OutcomeKind.CANCELLED),
        (DRAINED, OutcomeKind.INTERRUPTED),
    ],
)
async def test_what_a_stopped_action_knows_is_told(
    identity: Identity, reason: StopReason | None, kind: OutcomeKind
) -> None:
    """Deadline, cancel and drain take effect, result and usage from the action's own last word."""
    usage = Usage(output_tokens=7, estimated=True)

    async def know(invocation: Invocation) -> Outcome:
        try:
            return await wait(invocation)
        except asyncio.CancelledError:
            told = Outcome(kind=OutcomeKind.CANCELLED, effect=Effect.NONE, result={"outcome": "gone"}, usage=usage)
            raise Stopped(told) from None

    bench = Bench(identity, know)
    if reason is not None:
        asyncio.get_running_loop().call_later(0.05, bench.stop.set_result, reason)
    outcome = await bench.run(timeout_s=0.1 if reason is None else 60.0)
    assert (outcome.kind, outcome.effect, outcome.usage) == (kind, Effect.NONE, usage)
    assert outcome.result == {"outcome": "gone"}


async def test_an_action_that_finished_although_it_was_stopped_has_finished(identity: Identity) -> None:
    """A success that comes while the action is being stopped is a success."""

    async def finish(invocation: Invocation) -> Outcome:
        try:
            return await wait(invocation)
        except asyncio.CancelledError:
            return Outcome.success({"value": "just in time"})

    outcome = await Bench(identity, finish).run(timeout_s=0.05)
    assert outcome.kind is OutcomeKind.SUCCEEDED


async def test_an_action_that_does_not_stop_is_abandoned(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is free after a while all the same, and the outcome says that nobody knows."""
    monkeypatch.setattr(execute_module, "STOP_S", 0.1)
    released = asyncio.Event()

    async def stubborn(_: Invocation) -> Outcome:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return Outcome.success({})

    outcome = await Bench(identity, stubborn).run(timeout_s=0.05)
    released.set()
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.TIMEOUT, "kill_unconfirmed")
    assert outcome.effect is Effect.MAYBE


async def test_a_stop_before_the_beginning_leaves_no_effect(identity: Identity) -> None:
    """An execution that was cancelled before its action began has changed nothing."""
    bench = Bench(identity, succeed)
    bench.stop.set_result(cancelled("at once"))
    outcome = await bench.run()
    assert (outcome.kind, outcome.effect) == (OutcomeKind.CANCELLED, Effect.NONE)
