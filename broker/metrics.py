"""Metrics for Prometheus, counted in the database when somebody asks for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel
from sqlalchemy import Column
from sqlalchemy.engine import Connection

from broker.counting import MONITORING_LIMIT, Grouping, counted, shown
from broker.store.tables import dead_letters, in_state, sessions, tasks, workers
from protocols.states import Presence, TaskState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TOTAL = sa.select(sa.func.count()).select_from(tasks)
_BY_STATE = Grouping(tasks.c.state, limit=MONITORING_LIMIT)
_LIVE = sa.select(sa.func.count()).select_from(sessions).where(sessions.c.lease_ended_at.is_(None))
_UNRESOLVED = sa.select(
    counted(sa.select(dead_letters.c.id).where(dead_letters.c.resolved_at.is_(None)), MONITORING_LIMIT)
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the database holds; numbers of tasks and dead letters stop at MONITORING_LIMIT."""

    tasks: Mapping[str, int]
    queued: Mapping[str, int]
    """By lane."""
    workers: Mapping[str, int]
    sessions: int
    dead_letters: int


def count(connection: Connection) -> Counts:
    """Count everything on one snapshot."""
    total = connection.execute(_TOTAL).scalar_one()
    return Counts(
        tasks={**dict.fromkeys(TaskState, 0), **_BY_STATE.read(connection, total).numbers},
        queued=_by(connection, tasks.c.lane, in_state(TaskState.QUEUED)),
        workers={**dict.fromkeys(Presence, 0), **_by(connection, workers.c.presence)},
        sessions=connection.execute(_LIVE).scalar_one(),
        dead_letters=shown(connection.execute(_UNRESOLVED).scalar_one(), MONITORING_LIMIT),
    )


class Sample(BaseModel):
    """One number."""

    labels: dict[str, str]
    value: float


class Family(BaseModel):
    """A metric with all of its numbers."""

    name: str
    type: str
    help: str
    samples: list[Sample]


class Snapshot(Collector):
    """All metrics at one moment; without `counts`, those that need no database."""

    def __init__(self, counts: Counts | None, *, writer_failing_s: float, uptime_s: float) -> None:
        self._counts = counts
        self._writer_failing_s = writer_failing_s
        self._uptime_s = uptime_s

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        yield _gauge("warren_uptime_seconds", "Seconds since the control plane started.", self._uptime_s)
        yield _gauge(
            "warren_writer_failing_seconds",
            "Seconds for which commits have been failing; 0 while they succeed.",
            self._writer_failing_s,
        )
        if self._counts is not None:
            yield _labelled("warren_tasks", "Tasks by state.", "state", self._counts.tasks)
            yield _labelled("warren_lane_queued", "Tasks in each lane's window.", "lane", self._counts.queued)
            yield _labelled(
                "warren_workers", "Workers by the presence of their sessions.", "presence", self._counts.workers
            )
            yield _gauge("warren_sessions", "Sessions of workers that hold leases.", self._counts.sessions)
            yield _gauge("warren_dead_letters", "Dead letters that nobody dealt with.", self._counts.dead_letters)


def exposition(snapshot: Snapshot) -> bytes:
    """Return the text that Prometheus reads."""
    return generate_latest(snapshot)


def families(snapshot: Snapshot) -> list[Family]:
    """Return the same as values."""
    return [
        Family(
            name=metric.name,
            type=metric.type,
            help=metric.documentation,
            samples=[Sample(labels=sample.labels, value=sample.value) for sample in metric.samples],
        )
        for metric in snapshot.collect()
    ]


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _labelled(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _by(connection: Connection, column: Column[Any], *where: sa.ColumnElement[bool]) -> dict[str, int]:
    query = sa.select(column, sa.func.count()).where(*where).group_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}
