"""The journal: what happened to tasks and workers, in one order, for everyone who wants to follow."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.store.store import Store
from broker.store.tables import events, tasks
from broker.store.writer import Transaction
from protocols.states import FINISHED_STATES, TaskState

EVENT_TYPES = frozenset(
    {
        "task.created",
        "task.queued",
        "task.started",
        "task.interrupted",
        "task.retrying",
        "task.lost",
        "task.succeeded",
        "task.dead",
        "task.cancelled",
        "task.cancel_requested",
        "task.redriven",
        "task.late_outcome",
        "task.requeued",
        "task.updated",
        "worker.registered",
        "worker.approved",
        "worker.rejected",
        "worker.online",
        "worker.offline",
        "worker.lost",
        "worker.draining",
        "worker.resumed",
        "agent.status",
        "queue.paused",
        "queue.resumed",
    }
)
"""What the journal tells of."""

_ADD = events.insert()
_NEWEST = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))
_PAGE = 500
_GLANCE_S = 1.0
"""How long a reader sleeps at most: `stopping` rings no bell."""


def task_event(kind: str, task: Mapping[str, Any], data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the journal entry of something that happened to `task` (a row or part of one)."""
    return {
        "type": kind,
        "task_id": task["id"],
        "attempt": task.get("attempt"),
        "execution_id": more.get("execution_id", task.get("execution_id")),
        "worker_id": more.get("worker_id", task.get("worker_id")),
        "data": dict(data),
    }


def worker_event(kind: str, worker_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the journal entry of something that happened to a worker."""
    return {**general_event(kind, data), "worker_id": worker_id}


def general_event(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the journal entry of something that concerns neither one task nor one worker; `data` says what."""
    return {
        "type": kind,
        "task_id": None,
        "attempt": None,
        "execution_id": None,
        "worker_id": None,
        "data": dict(data),
    }


def agent_event(agent_id: str, name: str, status: str, actor: str) -> dict[str, Any]:
    """Return the journal entry of an agent that was created, started, stopped or deleted."""
    return {
        "type": "agent.status",
        "task_id": None,
        "attempt": None,
        "execution_id": None,
        "worker_id": None,
        "data": {"agent_id": agent_id, "name": name, "status": status, "by": actor},
    }


class Doorbell:
    """Wakes coroutines of one event loop from any thread. It carries nothing: who wakes looks for himself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._asked = False
        self._waiters: set[asyncio.Event] = set()

    def ring(self) -> None:
        """Wake everyone who waits; rings before the loop gets to it count as one."""
        with self._lock:
            if self._asked:
                return
            self._asked = True
        self._loop.call_soon_threadsafe(self._wake)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """Yield an event that every ring sets. Clear it before looking, so that no ring is missed."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        with self._lock:
            self._asked = False
        for waiter in self._waiters:
            waiter.set()


class Journal:
    """Writes the events of each transaction with it, and lets readers follow."""

    def __init__(self, store: Store, stopping: asyncio.Event, doorbell: Doorbell) -> None:
        self._store = store
        self._stopping = stopping
        self._doorbell = doorbell

    def record(self, transaction: Transaction) -> None:
        """Write what the transaction's work left in `events` (a before-commit hook)."""
        if transaction.events:
            rows = [{**event, "at": transaction.now} for event in transaction.events]
            transaction.connection.execute(_ADD, rows)
            transaction.after_commit(self._doorbell.ring)

    async def newest(self) -> int:
        """Return the id of the newest event, 0 if there is none: where those begin that nobody knows yet."""
        query = self._store.read(lambda connection: connection.execute(_NEWEST).scalar_one())
        return await asyncio.wrap_future(query)

    async def follow(self, task_id: str | None, after: int) -> AsyncGenerator[dict[str, Any], None]:
        """Yield events with ids above `after`, of one task or of all, as they happen.

        Ends when the task has finished and all of its events were given, or when the control plane stops.
        """
        with self._doorbell.listen() as rung:
            while not self._stopping.is_set():
                rung.clear()
                page, finished = await asyncio.wrap_future(self._store.read(_page(task_id, after)))
                for event in page:
                    after = event["id"]
                    yield event
                if finished and not page:
                    return
                if not page:
                    await wait_until(rung, _GLANCE_S)


async def wait_until(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, at most this long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _page(task_id: str | None, after: int) -> Any:
    def query(connection: Connection) -> tuple[list[dict[str, Any]], bool]:
        chosen = sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(_PAGE)
        finished = False
        if task_id is not None:
            chosen = chosen.where(events.c.task_id == task_id)
            state = connection.execute(sa.select(tasks.c.state).where(tasks.c.id == task_id)).scalar()
            finished = state is None or TaskState(state) in FINISHED_STATES
        return [row._asdict() for row in connection.execute(chosen)], finished

    return query
