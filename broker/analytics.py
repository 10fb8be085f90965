"""Analytics: figures about tasks, agents and workers over some days, for people and for charts.

Counts are exact and read nothing but indexes. How long tasks took and what tokens they used stands in their rows,
behind all that went in and came out: those figures are of a sample, the newest ones, and every answer says of how many.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.condition import presences
from broker.fleet_view import presence_of
from broker.store.tables import agents, dead_letters, in_state, tasks, workers
from broker.views import Time, View
from protocols import ids
from protocols.codec import unpack
from protocols.states import FINISHED_STATES, Approval, TaskState

SAMPLE = 1000
"""Rows that one answer looks into, however many there are: each may lie behind megabytes of input."""
HOURLY_DAYS = 2
"""Up to so many days a timeline tells of hours, beyond them of days."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_MAX_USAGE = 64 * 1024
_ENDS = (TaskState.SUCCEEDED, TaskState.DEAD, TaskState.CANCELLED)
_WAYS = tuple(state for state in TaskState if state not in FINISHED_STATES)


@dataclass(frozen=True, slots=True)
class Period:
    """The last `days` times 24 hours."""

    days: int
    now: int
    """Milliseconds since the epoch."""

    @property
    def since(self) -> int:
        """When it began."""
        return self.now - self.days * DAY_MS


class Tokens(View):
    """Tokens of LLM calls, as their providers counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Figures(View):
    """Figures of some tasks."""

    tasks: int = Field(description="How many tasks the other figures are of.")
    succeeded: int
    dead: int
    cancelled: int
    average_duration_s: float | None = Field(description="Of those that succeeded: the execution that did it.")
    tokens: Tokens


class TaskCounts(View):
    """Tasks that were created and that finished in the period, and those that have not finished by now."""

    created: int
    succeeded: int
    dead: int
    cancelled: int
    awaiting_approval: int
    scheduled: int
    queued: int
    running: int


class Presences(View):
    """Approved workers."""

    total: int
    by_presence: dict[str, int]


class AgentCounts(View):
    """Agents."""

    total: int
    by_status: dict[str, int]


class DeadLetterCounts(View):
    """Dead letters that nobody has dealt with."""

    open: int


class Sample(View):
    """What the figures that are no counts are of."""

    tasks: int = Field(description="How many of the period's finished tasks were looked into, the newest ones.")
    limit: int = SAMPLE


class Overview(View):
    """Everything at a glance."""

    days: int
    since: Time
    tasks: TaskCounts
    success_rate: float | None = Field(description="Of the tasks that succeeded or died; none if there were none.")
    average_duration_s: float | None = Field(description="Of the sample's tasks that succeeded.")
    tokens: Tokens = Field(description="Of the sample.")
    sample: Sample
    workers: Presences
    agents: AgentCounts
    dead_letters: DeadLetterCounts


class Bucket(View):
    """What happened in an hour or a day, UTC."""

    at: Time = Field(description="Its beginning.")
    created: int
    succeeded: int
    dead: int
    cancelled: int


class Timeline(View):
    """Buckets from the oldest to the one that is not over yet, none left out."""

    days: int
    bucket: Literal["hour", "day"]
    data: list[Bucket]


class AgentActivity(View):
    """What an agent did."""

    id: str
    name: str
    tasks: int = Field(description="Its tasks that were created in the period.")
    last_task_at: Time | None
    success_rate: float | None = Field(description="Of the sample's tasks that succeeded or died.")
    sample: Figures = Field(description="Of the newest of these tasks.")


class SlotUse(View):
    """Places for work of one kind."""

    busy: int
    total: int


class WorkerUse(View):
    """How busy a worker is, by its last heartbeat."""

    id: str
    name: str
    presence: str
    busy: int
    total: int
    slots: dict[str, SlotUse]
    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    reported_at: Time | None
    sample: Figures = Field(description="Of its tasks among the newest of all that finished in the period.")


def overview(connection: Connection, period: Period) -> Overview:
    """Return everything at a glance."""
    counts = connection.execute(_COUNTS, {"since": period.since}).one()
    sampled = _figures(connection.execute(_NEWEST, {"since": period.since}))
    presence = presences(connection, period.now)
    statuses: dict[str, int] = {row[0]: row[1] for row in connection.execute(_AGENT_STATUSES)}
    return Overview(
        days=period.days,
        since=period.since,
        tasks=TaskCounts.model_validate(counts),
        success_rate=_rate(counts.succeeded, counts.dead),
        average_duration_s=sampled.average_duration_s,
        tokens=sampled.tokens,
        sample=Sample(tasks=sampled.tasks),
        workers=Presences(total=presence.total(), by_presence=dict(presence)),
        agents=AgentCounts(total=sum(statuses.values()), by_status=statuses),
        dead_letters=DeadLetterCounts(open=counts.open_letters),
    )


def timeline(connection: Connection, period: Period) -> Timeline:
    """Return how many tasks were created and finished in each hour or day."""
    hourly = period.days <= HOURLY_DAYS
    width = HOUR_MS if hourly else DAY_MS
    last = period.now - period.now % width
    first = last + width - period.days * DAY_MS
    rows = connection.execute(_BUCKETS, {"first": first, "last": last, "width": width})
    return Timeline(
        days=period.days,
        bucket="hour" if hourly else "day",
        data=[Bucket.model_validate(row) for row in rows],
    )


def agent_activity(connection: Connection, agent: Mapping[str, Any], period: Period, sample: int) -> AgentActivity:
    """Return what an agent (a row) did, with figures of at most `sample` tasks."""
    place = {"agent_id": agent["id"], "first": ids.first_id(ids.TASK, period.since)}
    rows = connection.execute(_AGENTS_NEWEST, {**place, "sample": sample}).all()
    sampled = _figures(rows)
    return AgentActivity(
        id=agent["id"],
        name=agent["name"],
        tasks=connection.execute(_AGENTS_TASKS, place).scalar_one(),
        last_task_at=rows[0].created_at if rows else None,
        success_rate=_rate(sampled.succeeded, sampled.dead),
        sample=sampled,
    )


def figures_by_worker(connection: Connection, period: Period) -> Mapping[str, Figures]:
    """Return figures of each worker that ran one of the newest finished tasks."""
    rows: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(_NEWEST, {"since": period.since}):
        if row.worker_id is not None:
            rows[row.worker_id].append(row)
    return {worker_id: _figures(done) for worker_id, done in rows.items()}


def listed_workers(now: int) -> sa.Select[Any]:
    """Return the query of approved workers, with what `worker_use` needs."""
    return sa.select(workers.c.id, workers.c.name, workers.c.heartbeat, presence_of(now).label("presence")).where(
        workers.c.approval == Approval.APPROVED.value
    )


def worker_use(worker: Mapping[str, Any], sample: Figures | None) -> WorkerUse:
    """Return how busy a worker (a row of `listed_workers`) is."""
    beat: Mapping[str, Any] = worker["heartbeat"] or {}
    slots = {kind: SlotUse.model_validate(slot) for kind, slot in beat.get("slots", {}).items()}
    return WorkerUse(
        id=worker["id"],
        name=worker["name"],
        presence=worker["presence"],
        busy=sum(slot.busy for slot in slots.values()),
        total=sum(slot.total for slot in slots.values()),
        slots=slots,
        cpu_percent=beat.get("cpu_percent"),
        memory_percent=beat.get("memory_percent"),
        disk_percent=beat.get("disk_percent"),
        reported_at=beat.get("at"),
        sample=sample or _figures(()),
    )


def _figures(rows: Iterable[Row[Any]]) -> Figures:
    states: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    took_ms = []
    for row in rows:
        states[row.state] += 1
        if row.state == TaskState.SUCCEEDED and row.started_at is not None:
            took_ms.append(row.finished_at - row.started_at)
        if row.usage_blob is not None:
            usage = unpack(row.usage_blob, _MAX_USAGE)
            tokens.update({name: usage.get(name, 0) for name in Tokens.model_fields})
    return Figures(
        tasks=states.total(),
        succeeded=states[TaskState.SUCCEEDED],
        dead=states[TaskState.DEAD],
        cancelled=states[TaskState.CANCELLED],
        average_duration_s=round(fmean(took_ms) / 1000, 3) if took_ms else None,
        tokens=Tokens.model_validate(tokens),
    )


def _rate(succeeded: int, dead: int) -> float | None:
    return round(succeeded / (succeeded + dead), 4) if succeeded + dead else None


def _count(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(tasks).where(*where).scalar_subquery()


_SINCE = sa.bindparam("since", type_=sa.BigInteger)
_SAMPLED = (
    tasks.c.state,
    tasks.c.worker_id,
    tasks.c.created_at,
    tasks.c.started_at,
    tasks.c.finished_at,
    tasks.c.usage_blob,
)


def _newest(state: TaskState) -> sa.Select[Any]:
    found = (
        sa.select(tasks.c.id, tasks.c.finished_at)
        .where(in_state(state), tasks.c.finished_at >= _SINCE)
        .order_by(tasks.c.finished_at.desc())
        .limit(SAMPLE)
    )
    return sa.select(found.subquery())


# The ids first: of three times as many rows as are wanted, only the beginning is read.
_chosen = sa.union_all(*(_newest(state) for state in _ENDS)).order_by(sa.desc("finished_at")).limit(SAMPLE).subquery()
_NEWEST: sa.Select[Any] = sa.select(*_SAMPLED).where(tasks.c.id.in_(sa.select(_chosen.c.id)))

_COUNTS = sa.select(
    _count(tasks.c.created_at >= _SINCE).label("created"),
    *(_count(in_state(state), tasks.c.finished_at >= _SINCE).label(state.value) for state in _ENDS),
    *(_count(in_state(state)).label(state.value) for state in _WAYS),
    sa.select(sa.func.count())
    .select_from(dead_letters)
    .where(dead_letters.c.resolved_at.is_(None))
    .scalar_subquery()
    .label("open_letters"),
)

_AGENT_STATUSES = (
    sa.select(agents.c.status, sa.func.count()).where(agents.c.deleted_at.is_(None)).group_by(agents.c.status)
)

_WIDTH = sa.bindparam("width", type_=sa.BigInteger)
_places = sa.select(sa.bindparam("first", type_=sa.BigInteger).label("at")).cte("places", recursive=True)
_places = _places.union_all(
    sa.select(_places.c.at + _WIDTH).where(_places.c.at < sa.bindparam("last", type_=sa.BigInteger))
)


def _within(moment: sa.Column[Any]) -> tuple[sa.ColumnElement[bool], ...]:
    return moment >= _places.c.at, moment < _places.c.at + _WIDTH


_BUCKETS = sa.select(
    _places.c.at,
    _count(*_within(tasks.c.created_at)).label("created"),
    *(_count(in_state(state), *_within(tasks.c.finished_at)).label(state.value) for state in _ENDS),
).order_by(_places.c.at)

_OF_AGENT = (tasks.c.agent_id == sa.bindparam("agent_id"), tasks.c.id >= sa.bindparam("first"))
_AGENTS_TASKS = sa.select(sa.func.count()).select_from(tasks).where(*_OF_AGENT)
_AGENTS_NEWEST: sa.Select[Any] = (
    sa.select(*_SAMPLED).where(*_OF_AGENT).order_by(tasks.c.id.desc()).limit(sa.bindparam("sample"))
)

LISTED_AGENTS = sa.select(agents).where(agents.c.deleted_at.is_(None))
