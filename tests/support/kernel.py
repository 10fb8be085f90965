"""A control plane's kernel inside the test's process: real store, real lanes, and claims made by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from broker.app import running
from broker.control import ControlPlane
from broker.gate import ClaimBatch
from broker.intake import Reported
from broker.invariant import Violation, violations
from broker.leases import Leases
from broker.roll import Opened
from broker.settings import Settings
from broker.store.database import insert_new
from broker.store.tables import dead_letters, events, tasks, workers
from broker.store.writer import Transaction
from broker.submit import Submission, TaskForm
from protocols.claim import Answer, Claim, Verdict
from protocols.clock import SystemClock
from protocols.envelope import Envelope
from protocols.frames import Hello
from protocols.ids import new_id
from protocols.lanes.seam import Delivery as LaneDelivery
from protocols.lanes.seam import LaneConsumer
from protocols.outcome import Outcome, OutcomeReport
from protocols.states import Effect, FailureClass

PYTHON_LANE = "q.t.default.python"
SETTLE_MS = 3_600_000


@dataclass(frozen=True)
class Execution:
    """A claim that was answered `run`, or not."""

    envelope: Envelope
    claim: Claim
    answer: Answer

    @property
    def runs(self) -> bool:
        """Whether it may begin."""
        return self.answer.verdict is not Verdict.DROP


class Kernel:
    """One control plane, spoken to as its sessions would."""

    def __init__(self, control: ControlPlane) -> None:
        self.control = control
        self._consumers: dict[str, LaneConsumer] = {}
        self._epochs: dict[str, int] = {}

    async def enrol(self, worker_id: str) -> None:
        """Make an approved worker, unless it is there already, and open a session for it."""

        def add(transaction: Transaction) -> None:
            transaction.connection.execute(
                insert_new(transaction.connection, workers).values(
                    id=worker_id,
                    name=worker_id,
                    hostname="test",
                    approval="approved",
                    pools=["default"],
                    presence="offline",
                    epoch=0,
                    actions=[],
                    slots={},
                    registered_at=transaction.now,
                )
            )

        await asyncio.wrap_future(self.control.store.writer.write(add))
        await self.open(worker_id, boot_id=f"boot-{worker_id}")

    async def open(self, worker_id: str, *, boot_id: str, epoch: int = 0, holds: tuple[str, ...] = ()) -> Opened:
        """Open or resume a worker's session."""
        hello = Hello(
            worker_id=worker_id,
            boot_id=boot_id,
            signature=b"\0" * 64,
            version="test",
            slots={},
            epoch=epoch,
            running=holds,
        )
        opened = await asyncio.wrap_future(self.control.sessions.roll.open(hello))
        self._epochs[worker_id] = opened.epoch
        return opened

    async def submit(self, **form: Any) -> str:
        """Submit one task (a no-op unless it says otherwise) and return its id."""
        return (await self.submit_all([form]))[0]

    async def submit_all(self, forms: list[dict[str, Any]]) -> list[str]:
        """Submit tasks together and return their ids."""
        filled = tuple(TaskForm.model_validate({"action": "noop", **form}) for form in forms)
        made = self.control.submitter.submit(Submission(forms=filled, created_by="test"))
        return [submitted.task_id for submitted in await asyncio.wrap_future(made)]

    async def deliver(self, lane: str = PYTHON_LANE, timeout_s: float = 20.0) -> LaneDelivery | None:
        """Return the next delivery of a lane, with credit for everything; None if none comes in time."""
        if lane not in self._consumers:
            self._consumers[lane] = self.control.lanes.consume(lane, prefetch=10_000, timeout=50)
        try:
            async with asyncio.timeout(timeout_s):
                while (delivery := await asyncio.to_thread(self._consumers[lane].__next__)) is None:
                    pass
        except TimeoutError:
            return None
        return delivery

    async def claim(self, delivery: LaneDelivery, worker_id: str = "w-1", execution_id: str | None = None) -> Execution:
        """Claim a delivery for a worker; AssertionError if its session holds no lease."""
        envelope = delivery.envelope()
        claim = Claim(
            task_id=envelope.task_id,
            attempt=envelope.attempt,
            execution_id=execution_id or new_id("exec"),
            redelivered=delivery.redelivered,
        )
        batch = ClaimBatch(worker_id, self._epochs[worker_id], (claim,))
        granted = await asyncio.wrap_future(self.control.sessions.gate.claim(batch))
        assert granted is not None, "the session's lease has ended"
        return Execution(envelope, claim, granted[0].answer)

    async def start(self, worker_id: str = "w-1", lane: str = PYTHON_LANE) -> Execution:
        """Deliver and claim the lane's next task, and acknowledge it."""
        delivery = await self.deliver(lane)
        assert delivery is not None, "nothing was delivered"
        execution = await self.claim(delivery, worker_id)
        self._consumers[lane].ack(delivery)
        return execution

    async def report(self, execution: Execution, outcome: Outcome, worker_id: str = "w-1") -> None:
        """Report how an execution ended."""
        report = OutcomeReport(
            task_id=execution.claim.task_id,
            attempt=execution.claim.attempt,
            execution_id=execution.claim.execution_id,
            outcome=outcome,
        )
        await asyncio.wrap_future(self.control.sessions.intake.outcome(Reported(worker_id, report)))

    async def succeed(self, execution: Execution, worker_id: str = "w-1") -> None:
        """Report success."""
        await self.report(execution, Outcome.success({}), worker_id)

    async def fail(self, execution: Execution, effect: Effect = Effect.DONE, worker_id: str = "w-1") -> None:
        """Report an ordinary failure."""
        outcome = Outcome.failed(FailureClass.EXIT, "exit_status", "exit status 1", effect=effect)
        await self.report(execution, outcome, worker_id)

    async def end_lease(self, worker_id: str = "w-1") -> bool:
        """End the lease of a worker's session, as if it had gone silent."""
        return await asyncio.wrap_future(
            Leases(self.control.store.writer).end(worker_id, self._epochs[worker_id], "test")
        )

    async def task(self, task_id: str) -> Any:
        """Return a task's row."""
        query = sa.select(tasks).where(tasks.c.id == task_id)
        return await asyncio.wrap_future(self.control.store.read(lambda connection: connection.execute(query).one()))

    async def event_types(self, task_id: str) -> list[str]:
        """Return what happened to a task, in order."""
        query = sa.select(events.c.type).where(events.c.task_id == task_id).order_by(events.c.id)
        return await asyncio.wrap_future(
            self.control.store.read(lambda connection: list(connection.execute(query).scalars()))
        )

    async def until_state(self, task_id: str, state: str) -> Any:
        """Wait until a task is in a state and return its row."""
        async with asyncio.timeout(20):
            while (task := await self.task(task_id)).state != state:
                await asyncio.sleep(0.01)
        return task

    async def dead_letter(self, task_id: str) -> str:
        """Return the id of a task's open dead letter."""
        query = sa.select(dead_letters.c.id).where(
            dead_letters.c.task_id == task_id, dead_letters.c.resolved_at.is_(None)
        )
        return await asyncio.wrap_future(
            self.control.store.read(lambda connection: connection.execute(query).scalar_one())
        )

    async def change(self, task_id: str, **columns: Any) -> None:
        """Change a task's row behind everyone's back."""
        update = tasks.update().where(tasks.c.id == task_id).values(columns)
        await asyncio.wrap_future(
            self.control.store.writer.write(lambda transaction: transaction.connection.execute(update).close())
        )

    async def violations(self) -> list[Violation]:
        """Return what breaks the ownership invariant now."""
        now = self.control.clock.now()
        return await asyncio.wrap_future(
            self.control.store.read(
                lambda connection: violations(connection, now=now, confirm_ms=SETTLE_MS, at_most_once_ms=SETTLE_MS)
            )
        )


@asynccontextmanager
async def kernel(directory: Path, **settings: Any) -> AsyncIterator[Kernel]:
    """Yield a kernel with one worker `w-1`; prove the invariant at the end."""
    async with running(Settings(data_dir=directory, **settings), SystemClock()) as control:
        subject = Kernel(control)
        await subject.enrol("w-1")
        yield subject
        assert await subject.violations() == []
