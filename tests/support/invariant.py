"""Looks into a control plane's database from outside, read-only, and proves that no task is lost or run twice."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from broker.invariant import violations
from broker.store.tables import events, executions, tasks
from protocols.clock import SystemClock
from protocols.states import FINISHED_STATES, Delivery, TaskState
from tests.support.effects import Effects
from tests.support.processes import wait_until

_FINISHED = {state.value for state in FINISHED_STATES}


@dataclass(frozen=True, slots=True)
class Row:
    """What tests ask of a task."""

    id: str
    title: str
    state: str
    delivery: str
    attempt: int
    tries: int
    losses: int
    cause: str | None


class Ledger:
    """Reads the database of a control plane, whether or not that runs."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str]) -> None:
        self._path = data_dir / "warren.db"
        self._confirm_ms = int(float(settings.get("WARREN_CONFIRM_S", "30")) * 1000)
        self._at_most_once_ms = int(float(settings.get("WARREN_AT_MOST_ONCE_S", "60")) * 1000)

    def rows(self, ids: Iterable[str] | None = None) -> list[Row]:
        """Return tasks in the order of their ids, all of them by default."""
        columns = (getattr(tasks.c, name) for name in Row.__dataclass_fields__)
        query = sa.select(*columns).order_by(tasks.c.id)
        if ids is not None:
            query = query.where(tasks.c.id.in_(list(ids)))
        return [Row(**{**row._asdict(), "title": row.title or ""}) for row in self._read(query)]

    def row(self, task_id: str) -> Row:
        """Return one task."""
        (found,) = self.rows([task_id])
        return found

    def states(self, ids: Iterable[str]) -> Counter[str]:
        """Return how many of these tasks are in each state."""
        return Counter(row.state for row in self.rows(ids))

    def wait_for(self, ids: Iterable[str], state: TaskState, timeout_s: float = 60.0) -> None:
        """Wait until all of these tasks are in one state."""
        wanted = list(ids)
        wait_until(
            f"all of {len(wanted)} tasks are {state.value}",
            lambda: self.states(wanted) == {state.value: len(wanted)},
            timeout_s,
        )

    def wait_ended(self, ids: Iterable[str], timeout_s: float = 60.0) -> list[Row]:
        """Wait until these tasks have ended and return them."""
        wanted = list(ids)
        try:
            wait_until("they have ended", lambda: not self.states(wanted).keys() - _FINISHED, timeout_s)
        except AssertionError:
            open_rows = [row for row in self.rows(wanted) if row.state not in _FINISHED]
            raise AssertionError(f"not ended within {timeout_s:g} s: {open_rows[:5]}") from None
        found = self.rows(wanted)
        assert len(found) == len(set(wanted)), "a submitted task is not in the database"
        return found

    def starts(self, task_id: str) -> int:
        """Return how many executions of a task have passed the gate."""
        query = sa.select(sa.func.count()).select_from(executions).where(executions.c.task_id == task_id)
        return int(self._read(query)[0][0])

    def executions_of(self, worker_id: str) -> int:
        """Return how many executions have passed the gate for a worker."""
        query = sa.select(sa.func.count()).select_from(executions).where(executions.c.worker_id == worker_id)
        return int(self._read(query)[0][0])

    def events(self, task_id: str) -> list[tuple[str, int]]:
        """Return a task's events as (type, milliseconds since the epoch), oldest first."""
        query = sa.select(events.c.type, events.c.at).where(events.c.task_id == task_id).order_by(events.c.id)
        return [(row.type, row.at) for row in self._read(query)]

    def count_events(self, kind: str) -> int:
        """Return how many events of one type there are, of all tasks and workers."""
        return int(self._read(sa.select(sa.func.count()).select_from(events).where(events.c.type == kind))[0][0])

    def violations(self) -> list[str]:
        """Return what breaks the ownership invariant now."""
        now = SystemClock().now()
        engine = self._engine()
        with engine.connect() as connection:
            found = violations(connection, now=now, confirm_ms=self._confirm_ms, at_most_once_ms=self._at_most_once_ms)
        engine.dispose()
        return [f"{violation.task_id}: {violation.problem}" for violation in found]

    def check(self, effects: Effects, *, timeout_s: float = 30.0) -> None:
        """Assert that every task has ended, the invariant holds, and no at_most_once effect happened twice.

        Keys of effects are the titles of their tasks.
        """
        self.wait_ended([row.id for row in self.rows()], timeout_s)
        wait_until(f"the invariant holds: {self.violations()[:3]}", lambda: not self.violations(), timeout_s)
        counts = effects.counts()
        once = [row for row in self.rows() if row.delivery == Delivery.AT_MOST_ONCE.value]
        assert not [row for row in once if counts[row.title] > 1], "an at_most_once effect happened twice"
        undone = [row for row in self.rows() if row.state == "succeeded" and row.title and not counts[row.title]]
        assert not undone, f"succeeded without an effect: {undone[:3]}"

    def _read(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                return list(connection.execute(query).all())
        finally:
            engine.dispose()

    def _engine(self) -> sa.Engine:
        return sa.create_engine(f"sqlite+pysqlite:///file:{self._path}?mode=ro&uri=true&timeout=10")
