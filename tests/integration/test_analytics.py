"""Analytics: what is counted, over which time, of how many tasks, and by which indexes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import sqlalchemy as sa

from broker import analytics
from broker.analytics import DAY_MS, HOUR_MS, Period
from broker.store.database import dicts
from broker.store.store import Store
from broker.store.tables import agents, dead_letters, tasks, workers
from protocols.clock import SystemClock
from protocols.ids import TASK, first_id, new_id

NOW = 1_800_000_000_000 - 1_800_000_000_000 % DAY_MS + 13 * HOUR_MS + 60_000
"""A minute past one in the afternoon, UTC."""
USAGE = {"input_tokens": 100, "output_tokens": 10, "cached_tokens": 1, "reasoning_tokens": 2, "estimated": False}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database of its own."""
    store = Store(tmp_path / "warren.db", SystemClock())
    store.start()
    yield store
    store.stop()


def add(store: Store, table: sa.Table, *rows: dict[str, Any]) -> None:
    """Insert rows."""
    store.writer.write(
        lambda transaction: transaction.connection.execute(table.insert(), list(rows)).close() if rows else None
    ).result()


def task(state: str, *, created: int, took: int | None = None, **more: Any) -> dict[str, Any]:
    """Return the row of a task; times are milliseconds before NOW, it finishes `took` after it was created."""
    at = NOW - created
    finished = None if took is None else at + took
    row = {
        "id": first_id(TASK, at) + new_id("x")[14:],
        "state": state,
        "action": "noop",
        "lane": "q.t.default.python",
        "pool": "default",
        "input_blob": b"\x92\x90\x80",
        "priority": 1,
        "delivery": "at_least_once",
        "max_attempts": 3,
        "timeout_s": 600.0,
        "eligible_at": at,
        "concurrency_limit": 1,
        "attempt": 1,
        "tries": 1,
        "losses": 0,
        "cancel_requested": False,
        "created_by": "test",
        "created_at": at,
        "started_at": None if took is None else at,
        "finished_at": finished,
        "worker_id": None,
        "agent_id": None,
        "usage_blob": None,
    }
    return {**row, **more}


def worker(name: str, **more: Any) -> dict[str, Any]:
    """Return the row of an approved worker."""
    row = {
        "id": f"w-{name}",
        "name": name,
        "hostname": name,
        "approval": "approved",
        "pools": ["default"],
        "presence": "online",
        "identity_key": b"k" * 32,
        "epoch": 1,
        "actions": [],
        "slots": {},
        "heartbeat": None,
        "registered_at": 1,
        "last_seen_at": NOW,
    }
    return {**row, **more}


def agent(name: str, **more: Any) -> dict[str, Any]:
    """Return the row of an agent."""
    row = {
        "id": f"agent_{name}",
        "name": name,
        "enabled_tools": [],
        "pool": "default",
        "status": "idle",
        "version": 1,
        "created_at": 1,
        "created_by": "test",
        "updated_at": 1,
        "deleted_at": None,
    }
    return {**row, **more}


def overview(store: Store, days: int) -> analytics.Overview:
    """Return the overview of so many days before NOW."""
    return store.read(lambda connection: analytics.overview(connection, Period(days, NOW))).result()


def timeline(store: Store, days: int) -> analytics.Timeline:
    """Return the timeline of so many days before NOW."""
    return store.read(lambda connection: analytics.timeline(connection, Period(days, NOW))).result()


def test_an_empty_warren_has_an_overview(store: Store) -> None:
    """Nothing is divided by nothing."""
    found = overview(store, 7)
    assert (found.success_rate, found.average_duration_s) == (None, None)
    assert found.tasks.created == found.sample.tasks == found.workers.total == found.agents.total == 0
    assert found.dead_letters.open == 0


def test_the_overview_counts_what_the_period_holds(store: Store) -> None:
    """Created and finished tasks count by their own times; unfinished ones count however old they are."""
    add(
        store,
        tasks,
        task("succeeded", created=HOUR_MS, took=2000),
        task("succeeded", created=2 * HOUR_MS, took=4000),
        task("succeeded", created=25 * HOUR_MS, took=2 * HOUR_MS),
        task("dead", created=3 * HOUR_MS, took=1000),
        task("cancelled", created=HOUR_MS, took=1),
        task("succeeded", created=9 * DAY_MS, took=1000),
        task("scheduled", created=9 * DAY_MS),
        task("queued", created=5),
        task("running", created=5),
    )
    found = overview(store, 1)
    assert found.tasks.model_dump() == {
        "created": 6,
        "succeeded": 3,
        "dead": 1,
        "cancelled": 1,
        "awaiting_approval": 0,
        "scheduled": 1,
        "queued": 1,
        "running": 1,
    }
    assert found.success_rate == 0.75
    assert found.average_duration_s == (2 + 4 + 7200) / 3
    assert found.sample.tasks == 5
    assert overview(store, 10).tasks.created == 9


def test_the_overview_counts_workers_agents_and_dead_letters(store: Store) -> None:
    """Only approved workers, agents that are not deleted, and dead letters that nobody dealt with."""
    add(
        store,
        workers,
        worker("a"),
        worker("b", presence="lost"),
        worker("c", approval="pending"),
        worker("d", identity_key=None, last_seen_at=NOW - 1000, presence="offline"),
    )
    add(store, agents, agent("a"), agent("b", status="offline"), agent("c", deleted_at=5))
    letter: dict[str, Any] = {"id": "dead_1", "task_id": "task_1", "action": "resize", "lane": "q.t.default.python"}
    letter |= {"cause": "manual", "attempts": 1, "tries": 1, "dead_at": 1}
    add(store, dead_letters, {**letter, "resolved_at": None}, {**letter, "id": "dead_2", "resolved_at": 2})
    found = overview(store, 7)
    assert (found.workers.total, found.workers.by_presence) == (3, {"online": 2, "lost": 1})
    assert (found.agents.total, found.agents.by_status) == (2, {"idle": 1, "offline": 1})
    assert found.dead_letters.open == 1


def test_durations_and_tokens_are_of_the_newest_and_the_answer_says_so(store: Store) -> None:
    """However many tasks there are, only so many are looked into, whatever their end."""
    usage = msgpack.packb(USAGE)
    newest = [
        task("succeeded", created=1000 + number, took=100, usage_blob=usage) for number in range(analytics.SAMPLE - 2)
    ]
    failed = [task("dead", created=500, took=100, usage_blob=usage), task("cancelled", created=500, took=100)]
    older = [task("succeeded", created=HOUR_MS + number, took=9000, usage_blob=usage) for number in range(50)]
    add(store, tasks, *older, *failed, *newest)
    found = overview(store, 7)
    assert found.tasks.succeeded == len(newest) + len(older)
    assert (found.sample.tasks, found.sample.limit) == (analytics.SAMPLE, analytics.SAMPLE)
    assert found.average_duration_s == 0.1
    counted = analytics.SAMPLE - 1
    assert found.tokens.model_dump() == {
        "input_tokens": 100 * counted,
        "output_tokens": 10 * counted,
        "cached_tokens": counted,
        "reasoning_tokens": 2 * counted,
    }


@pytest.mark.parametrize(
    ("days", "bucket", "buckets"), [(1, "hour", 24), (2, "hour", 48), (3, "day", 3), (365, "day", 365)]
)
def test_a_timeline_leaves_no_bucket_out(store: Store, days: int, bucket: str, buckets: int) -> None:
    """Hours up to two days, days beyond; whole ones in UTC, the last is the one that goes on."""
    width = {"hour": HOUR_MS, "day": DAY_MS}[bucket]
    found = timeline(store, days)
    assert (found.bucket, len(found.data)) == (bucket, buckets)
    assert found.data[-1].at == NOW - NOW % width
    assert [later.at - one.at for one, later in zip(found.data, found.data[1:], strict=False)] == [width] * (
        buckets - 1
    )
    assert {(one.created, one.succeeded, one.dead, one.cancelled) for one in found.data} == {(0, 0, 0, 0)}


def test_a_timeline_counts_each_task_where_it_happened(store: Store) -> None:
    """By the hour in which it was created, and that in which it finished; a boundary belongs to what it begins."""
    past_the_hour = NOW % HOUR_MS
    add(
        store,
        tasks,
        task("succeeded", created=past_the_hour, took=10),
        task("dead", created=past_the_hour + 1, took=1),
        task("cancelled", created=past_the_hour + 2 * HOUR_MS, took=HOUR_MS),
        task("running", created=0),
        task("succeeded", created=30 * HOUR_MS, took=10),
    )
    found = timeline(store, 1).data
    shown = [(one.created, one.succeeded, one.dead, one.cancelled) for one in found]
    assert shown[-3:] == [(1, 0, 0, 0), (1, 0, 0, 1), (2, 1, 1, 0)]
    assert set(shown[:-3]) == {(0, 0, 0, 0)}
    days = timeline(store, 3).data
    totals = [sum(getattr(one, name) for one in days) for name in ("created", "succeeded", "dead", "cancelled")]
    assert totals == [5, 2, 1, 1]


def test_an_agents_activity(store: Store) -> None:
    """All of its tasks in the period count; how they ended is told of the newest."""
    add(store, agents, agent("a"))
    add(
        store,
        tasks,
        task("dead", created=5000, took=10, agent_id="agent_a"),
        task("succeeded", created=4000, took=2000, agent_id="agent_a", usage_blob=msgpack.packb(USAGE)),
        task("running", created=3000, agent_id="agent_a"),
        task("dead", created=9 * DAY_MS, took=10, agent_id="agent_a"),
        task("dead", created=100, took=10, agent_id="agent_b"),
    )

    def read(connection: sa.Connection, sample: int) -> analytics.AgentActivity:
        row = connection.execute(analytics.LISTED_AGENTS).one()._asdict()
        return analytics.agent_activity(connection, row, Period(7, NOW), sample)

    found = store.read(lambda connection: read(connection, 10)).result()
    assert (found.tasks, found.success_rate, found.last_task_at) == (3, 0.5, NOW - 3000)
    assert (found.sample.tasks, found.sample.average_duration_s) == (3, 2.0)
    assert found.sample.tokens.input_tokens == 100
    fewer = store.read(lambda connection: read(connection, 2)).result()
    assert (fewer.tasks, fewer.sample.tasks, fewer.success_rate) == (3, 2, 1.0)


def test_a_workers_use(store: Store) -> None:
    """Its last heartbeat, and what it did of the newest finished tasks."""
    slots = {"python": {"busy": 2, "total": 4}, "ssh": {"busy": 1, "total": 8}}
    beat = {"at": NOW - 5, "cpu_percent": 12.5, "memory_percent": 40.0, "disk_percent": 3.0, "slots": slots}
    add(store, workers, worker("a", heartbeat=beat), worker("b"))
    add(
        store,
        tasks,
        task("succeeded", created=1000, took=500, worker_id="w-a"),
        task("dead", created=1000, took=500, worker_id="w-a"),
        task("cancelled", created=1000, took=500),
    )

    def read(connection: sa.Connection) -> list[analytics.WorkerUse]:
        figures = analytics.figures_by_worker(connection, Period(7, NOW))
        rows = dicts(connection.execute(analytics.listed_workers(NOW).order_by(workers.c.id)))
        return [analytics.worker_use(row, figures.get(row["id"])) for row in rows]

    busy, idle = store.read(read).result()
    assert (busy.busy, busy.total, busy.cpu_percent, busy.reported_at) == (3, 12, 12.5, NOW - 5)
    assert (busy.sample.tasks, busy.sample.succeeded, busy.sample.average_duration_s) == (2, 1, 0.5)
    assert (idle.busy, idle.total, idle.cpu_percent, idle.reported_at, idle.sample.tasks) == (0, 0, None, None, 0)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (analytics._COUNTS, {"since": 1}),
        (analytics._BUCKETS, {"first": 1, "last": 10, "width": 1}),
        (analytics._AGENTS_TASKS, {"agent_id": "x", "first": "x"}),
    ],
)
def test_counts_read_nothing_but_indexes(store: Store, query: Any, parameters: dict[str, Any]) -> None:
    """A count over a year of a million tasks does not touch one of them."""
    steps = [step for step in plan(store, query, parameters) if "tasks" in step or "dead_letters" in step]
    assert steps
    assert all(step.startswith("SEARCH") and "COVERING INDEX" in step for step in steps), steps


@pytest.mark.parametrize(
    ("query", "parameters"),
    [(analytics._NEWEST, {"since": 1}), (analytics._AGENTS_NEWEST, {"agent_id": "x", "first": "x", "sample": 5})],
)
def test_a_sample_is_found_by_an_index(store: Store, query: Any, parameters: dict[str, Any]) -> None:
    """The newest tasks are found without looking at older ones."""
    steps = [step for step in plan(store, query, parameters) if "tasks" in step]
    assert steps
    assert all(step.startswith("SEARCH") for step in steps), steps


def plan(store: Store, query: Any, parameters: dict[str, Any]) -> list[str]:
    """Return how the database would carry a query out."""

    def explain(connection: sa.Connection) -> list[str]:
        compiled = query.compile(connection, compile_kwargs={"render_postcompile": True})
        values = compiled.construct_params(parameters)
        ordered = tuple(values[name] for name in compiled.positiontup or ())
        return [step.detail for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", ordered)]

    return store.read(explain).result()
