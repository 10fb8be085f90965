"""The dispatcher: keeps each lane's window filled with what can start now.

It fills at the end of the transaction that freed a place or made a task due, so that a submission, a claim or
an outcome carries its refill in its own commit.
"""

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa
import structlog

from broker.store.tables import attempts, batches, in_state, paused_lanes, tasks
from broker.store.writer import Transaction
from broker.transitions import move
from protocols import ids
from protocols.clock import Clock
from protocols.codec import unpack
from protocols.envelope import MAX_ENVELOPE_BYTES, Envelope, envelope_sha256
from protocols.lanes.seam import LaneBroker
from protocols.states import PRIORITY_WEIGHTS, Delivery, Priority, TaskState

MIN_WINDOW = 4
MAX_WINDOW = 2000
WINDOW_S = 0.25
"""A window holds what its lane starts in this time."""
_RATE_S = 2.0
"""Time constant of the start rate's moving average."""

_log = structlog.get_logger(__name__)

_QUEUED = sa.select(
    sa.func.count().label("queued"),
    # In the same statement, since a second one would cost as much again for every lane that is woken.
    sa.exists().where(paused_lanes.c.lane == sa.bindparam("lane")).label("paused"),
).where(tasks.c.lane == sa.bindparam("lane"), in_state(TaskState.QUEUED))
_DUE = sa.union_all(
    *(
        sa.select(tasks)
        .where(
            in_state(TaskState.SCHEDULED),
            tasks.c.lane == sa.bindparam("lane"),
            tasks.c.priority == level.value,
            tasks.c.due_at <= sa.bindparam("now"),
        )
        .order_by(tasks.c.due_at, tasks.c.id)
        .limit(sa.bindparam("places"))
        .subquery()
        .select()
        for level in Priority
    )
)
"""The first due tasks of each priority, in order."""
_OPEN_BATCH = batches.insert()
_ADD_ATTEMPTS = attempts.insert()
_CONFIRM = (
    batches.update()
    .where(batches.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(confirmed_at=sa.bindparam("now"))
)
_HOLDERS = sa.select(sa.func.count()).where(
    tasks.c.concurrency_key == sa.bindparam("key"),
    sa.or_(in_state(TaskState.QUEUED), in_state(TaskState.RUNNING)),
)


class StartRate:
    """Tasks that a lane starts in a second: an exponentially weighted moving average."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate: dict[str, tuple[float, float]] = {}

    def count(self, lane: str, starts: int) -> None:
        """Tasks of the lane have started."""
        rate, _ = self._decayed(lane)
        self._rate[lane] = (rate + starts / _RATE_S, self._clock.monotonic())

    def window(self, lane: str) -> int:
        """Return how many messages the lane shall hold ready."""
        rate, _ = self._decayed(lane)
        return min(MAX_WINDOW, max(MIN_WINDOW, math.ceil(rate * WINDOW_S)))

    def per_second(self, lane: str) -> float:
        """Return how many tasks the lane starts in a second, as of now; from any thread."""
        return self._decayed(lane)[0]

    def _decayed(self, lane: str) -> tuple[float, float]:
        rate, at = self._rate.get(lane, (0.0, 0.0))
        now = self._clock.monotonic()
        return rate * math.exp((at - now) / _RATE_S), now


class Dispatcher:
    """Fills windows and hands the envelopes to the lane transport."""

    def __init__(self, lanes: LaneBroker, clock: Clock, transport: str, on_due: Callable[[int], None]) -> None:
        self._confirmed: deque[str] = deque()
        self._lanes = lanes
        self._transport = transport
        self._on_due = on_due
        self._turns: dict[str, Iterator[Priority]] = defaultdict(_turns)
        self.starts = StartRate(clock)

    def fill(self, transaction: Transaction) -> None:
        """Queue what fits into the lanes that the transaction has woken (a before-commit hook)."""
        self._confirm(transaction)
        # A task that is parked or dies while a lane is filled may wake further lanes.
        while transaction.lanes:
            self._fill_lane(transaction, transaction.lanes.pop())
        if transaction.next_due is not None:
            due_at = transaction.next_due
            transaction.after_commit(lambda: self._on_due(due_at))

    def _confirm(self, transaction: Transaction) -> None:
        """Note which batches the lanes have taken.

        A confirmation rides along with the next transaction, whatever that is for: it would double the commits
        to give it one of its own, and one that is lost in a crash only has its batch published again.
        """
        confirmed = list(self._confirmed)
        if confirmed:
            transaction.connection.execute(_CONFIRM, {"ids": confirmed, "now": transaction.now})
            transaction.after_commit(lambda: self._forget(len(confirmed)))

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._confirmed.popleft()

    def _fill_lane(self, transaction: Transaction, lane: str) -> None:
        queued, paused = transaction.connection.execute(_QUEUED, {"lane": lane}).one()
        places = 0 if paused else self.starts.window(lane) - queued
        chosen = self._choose(transaction, lane, places) if places > 0 else []
        if not chosen:
            return
        batch_id = ids.new_id(ids.BATCH)
        transaction.connection.execute(
            _OPEN_BATCH,
            {"id": batch_id, "lane": lane, "transport": self._transport, "published_at": transaction.now},
        )
        bodies = [_publish(transaction, task, batch_id) for task in chosen]
        transaction.connection.execute(
            _ADD_ATTEMPTS,
            [
                {
                    "task_id": task["id"],
                    "attempt": task["attempt"] + 1,
                    "lane": lane,
                    "batch_id": batch_id,
                    "envelope_sha256": envelope_sha256(body),
                    "published_at": transaction.now,
                }
                for task, body in zip(chosen, bodies, strict=True)
            ],
        )
        transaction.after_commit(lambda: self._hand_over(lane, batch_id, bodies))

    def _choose(self, transaction: Transaction, lane: str, places: int) -> list[Mapping[str, Any]]:
        """Return due tasks for the free places, weighted by priority, within their concurrency limits."""
        waiting = self._due(transaction, lane, places)
        holders: dict[str, int] = {}
        chosen: list[Mapping[str, Any]] = []
        while len(chosen) < places and any(waiting.values()):
            level = next(turn for turn in self._turns[lane] if waiting[turn])
            task = waiting[level].pop(0)
            key = task["concurrency_key"]
            if key is not None and _holders(transaction, key, holders) >= task["concurrency_limit"]:
                _park(transaction, key, holders[key])
                # Whoever stands behind the parked ones has not been looked at yet.
                transaction.lanes.add(lane)
                continue
            if key is not None:
                holders[key] += 1
            chosen.append(task)
        return chosen

    def _due(self, transaction: Transaction, lane: str, places: int) -> dict[Priority, list[Mapping[str, Any]]]:
        waiting: dict[Priority, list[Mapping[str, Any]]] = {level: [] for level in Priority}
        rows = transaction.connection.execute(_DUE, {"lane": lane, "now": transaction.now, "places": places})
        for row in rows:
            waiting[Priority(row.priority)].append(row._asdict())
        return waiting

    def _hand_over(self, lane: str, batch_id: str, bodies: Sequence[bytes]) -> None:
        def taken(published: Future[None]) -> None:
            error = published.exception()
            if error is None:
                self._confirmed.append(batch_id)
            else:
                # The batch stays unconfirmed, and the sweeper publishes its tasks anew.
                _log.warning("lane_did_not_take_batch", lane=lane, batch=batch_id, error=str(error))

        self._lanes.publish(lane, bodies).add_done_callback(taken)


def _turns() -> Iterator[Priority]:
    """Yield priorities for ever, each as often as its weight, evenly spread (smooth weighted round-robin)."""
    credit = dict.fromkeys(Priority, 0)
    total = sum(PRIORITY_WEIGHTS.values())
    for _ in itertools.count():
        for level, weight in PRIORITY_WEIGHTS.items():
            credit[level] += weight
        level = max(credit, key=lambda candidate: (credit[candidate], candidate))
        credit[level] -= total
        yield level


def _holders(transaction: Transaction, key: str, known: dict[str, int]) -> int:
    if key not in known:
        known[key] = transaction.connection.execute(_HOLDERS, {"key": key}).scalar_one()
    return known[key]


def _park(transaction: Transaction, key: str, holders: int) -> None:
    """Set the due tasks of a key without a free place aside until one is free; only that wakes them."""
    transaction.connection.execute(
        tasks.update()
        .where(
            tasks.c.concurrency_key == key,
            tasks.c.state == TaskState.SCHEDULED.value,
            tasks.c.due_at <= transaction.now,
            tasks.c.concurrency_limit <= holders,
        )
        .values(due_at=None, wait_reason=f"concurrency key {key!r} is at its limit")
    )


def _publish(transaction: Transaction, task: Mapping[str, Any], batch_id: str) -> bytes:
    """Move a task into its lane's window and return its envelope's bytes."""
    attempt = task["attempt"] + 1
    move(
        transaction,
        task,
        TaskState.QUEUED,
        "task.queued",
        attempt=attempt,
        batch_id=batch_id,
        queued_at=transaction.now,
        # Parking the rest of its key may have parked it too.
        due_at=task["due_at"],
    )
    args, kwargs = unpack(task["input_blob"], MAX_ENVELOPE_BYTES)
    return Envelope(
        lane=task["lane"],
        action=task["action"],
        args=tuple(args),
        kwargs=kwargs,
        task_id=task["id"],
        attempt=attempt,
        delivery=Delivery(task["delivery"]),
        published_at=transaction.now,
    ).encode()
