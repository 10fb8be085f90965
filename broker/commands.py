"""Commands on SSH connections for somebody who waits: each is an ordinary task, run by a worker like any other."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.events import Journal
from broker.live import LiveOutput
from broker.resources import CONNECTION, find
from broker.store.store import Store
from broker.store.tables import tasks, workers
from broker.store.writer import Transaction
from broker.submit import Submission, Submitter, TaskForm
from broker.tasks import Tasks
from protocols.clock import Clock
from protocols.errors import Conflict, Unavailable
from protocols.names import BuiltinAction
from protocols.states import FINISHED_STATES, Approval, Presence, TaskState

MAX_OUTPUT_BYTES = 256 * 1024
"""What is given back of each stream; all that is kept is at `/tasks/{id}/output`."""
_LATE_S = 5.0
"""A test that nobody waits for any more, since the control plane was restarted, does not start later than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command for a connection, and who wants it."""

    connection: str
    """An id or a name."""
    command: str
    timeout_s: float
    pool: str
    worker: str | None
    actor: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a test failed."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """How a test ended."""

    task_id: str
    state: TaskState
    duration_ms: int | None
    """From a worker's start to its end; None if no worker began it."""
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command has written, as text."""

    stdout: str
    stderr: str
    truncated: bool
    """Whether some of it is left out."""


class Commands:
    """Has commands run on connections and waits for their ends."""

    def __init__(
        self, *, store: Store, clock: Clock, submitter: Submitter, tasks: Tasks, journal: Journal, live: LiveOutput
    ) -> None:
        self._store = store
        self._clock = clock
        self._submitter = submitter
        self._tasks = tasks
        self._journal = journal
        self._live = live

    async def execute(self, order: Order, wait_s: float) -> str:
        """Submit a command and return its task's id when the task has finished, but after `wait_s` at the latest.

        Raises NotFound for an unknown connection or worker, and what a submission raises.
        """
        task_id = await self._submit(order, "execute", None)
        await self._end(task_id, wait_s)
        return task_id

    async def test(self, order: Order) -> Tested:
        """Have a worker log in; one that takes longer than `order.timeout_s` is told to stop. Raises like `execute`."""
        latest = self._clock.now() / 1000 + order.timeout_s + _LATE_S
        task_id = await self._submit(order, "test", datetime.fromtimestamp(latest, UTC))
        ended = await self._end(task_id, order.timeout_s)
        if not ended:
            with suppress(Conflict):
                await asyncio.wrap_future(self._tasks.cancel(task_id, "the test took too long", order.actor))
        tested = await asyncio.wrap_future(self._store.read(lambda connection: _tested(connection, task_id, order)))
        if ended and tested.state not in FINISHED_STATES:
            raise Unavailable("the control plane is stopping")
        return tested

    async def output(self, task_id: str) -> CommandOutput:
        """Return what is kept of a finished command's output, up to a limit."""
        pieces = await self._live.kept(task_id)
        written = sum(len(piece.data) for piece in pieces)
        streams = {
            name: b"".join(piece.data for piece in pieces if piece.stream == name) for name in ("stdout", "stderr")
        }
        gap = bool(pieces) and written < pieces[-1].offset + len(pieces[-1].data)
        cut = {name: data[:MAX_OUTPUT_BYTES] for name, data in streams.items()}
        return CommandOutput(
            stdout=cut["stdout"].decode(errors="replace"),
            stderr=cut["stderr"].decode(errors="replace"),
            truncated=gap or cut != streams,
        )

    async def _submit(self, order: Order, verb: str, deadline: datetime | None) -> str:
        reference = order.connection
        target = await asyncio.wrap_future(self._store.read(lambda connection: find(connection, CONNECTION, reference)))
        form = TaskForm(
            action=BuiltinAction.SSH_EXEC.value,
            input={"command": order.command},
            connection=target.id,
            pool=order.pool,
            worker=order.worker,
            timeout_s=order.timeout_s,
            # Whoever waits hears of the first failure, and decides.
            max_attempts=1,
            deadline=deadline,
            title=f"{verb} on {target.name}",
        )
        submission = Submission(forms=(form,), created_by=order.actor)
        (submitted,) = await asyncio.wrap_future(self._submitter.submit(submission))
        task_id = submitted.task_id

        def note(transaction: Transaction) -> None:
            # Without the command, which may hold a password: the task has it.
            record(transaction, order.actor, f"connection.{verb}", target.id, {"task_id": task_id})

        await asyncio.wrap_future(self._store.writer.write(note))
        return task_id

    async def _end(self, task_id: str, within_s: float) -> bool:
        """Wait for the task's end, or the control plane's; return False if neither came in time."""
        try:
            async with asyncio.timeout(within_s), aclosing(self._journal.follow(task_id, 0)) as events:
                async for _ in events:
                    pass
        except TimeoutError:
            return False
        return True


def _tested(connection: Connection, task_id: str, order: Order) -> Tested:
    task = connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).one()
    state = TaskState(task.state)
    duration_ms = None
    if task.started_at is not None and task.finished_at is not None:
        duration_ms = task.finished_at - task.started_at
    return Tested(task_id, state, duration_ms, _problem(connection, task, order))


def _problem(connection: Connection, task: sa.Row[Any], order: Order) -> Problem | None:
    if task.state == TaskState.SUCCEEDED:
        return None
    if task.error_code is not None:
        return Problem(task.error_code, task.error_message)
    if task.started_at is not None:
        return Problem("timeout", f"the worker was not done within {order.timeout_s:g} s", "see the task's events")
    who = f"worker {order.worker!r}" if order.worker else f"a worker of pool {order.pool!r}"
    if not _is_online(connection, order):
        return Problem("no_worker", f"{who} would run this, and none is online", "see GET /workers")
    return Problem("not_started", f"{who} is online, but none began within {order.timeout_s:g} s", "see GET /queues")


def _is_online(connection: Connection, order: Order) -> bool:
    online = sa.select(workers.c.id, workers.c.name, workers.c.pools).where(
        workers.c.approval == Approval.APPROVED.value, workers.c.presence == Presence.ONLINE.value
    )
    return any(
        order.worker in (worker.id, worker.name) if order.worker else order.pool in worker.pools
        for worker in connection.execute(online)
    )
