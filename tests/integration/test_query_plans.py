"""Queries that run for every task touch only the rows that they are about, however many others there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

import broker.dead_letters
import broker.tasks
from broker import dispatch, due, fleet_view, queues
from broker.agents import living_agents
from broker.api import tasks as api_tasks
from broker.api.filters import Filters
from broker.dead_letters import OPEN, LetterFilter
from broker.keys import Principal
from broker.store.database import open_sqlite
from broker.store.migrate import upgrade
from broker.store.tables import dead_letters, tasks
from protocols.ids import DEAD_LETTER, TASK, new_id
from protocols.states import Role, TaskState

PLANS: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "the window's size": (dispatch._QUEUED, {"lane": "x"}, {"ix_tasks_window"}),
    "what is due": (dispatch._DUE, {"lane": "x", "now": 1, "places": 4}, {"ix_tasks_waiting"}),
    "what a queue holds": (queues._WAITING, {"now": 1, "lane": "x"}, {"ix_tasks_waiting"}),
    "what is queued in paused lanes": (queues._QUEUED_IN_PAUSED, {}, {"ix_tasks_window"}),
    "a worker's unfinished tasks": (
        fleet_view.unfinished_of("x"),
        {},
        {"ix_tasks_pinned_unfinished", "ix_tasks_agent_unfinished"},
    ),
    "a concurrency key's holders": (dispatch._HOLDERS, {"key": "x"}, {"ix_tasks_concurrency"}),
    "lanes with waiting tasks": (due._SCHEDULED_LANES, {}, {"ix_tasks_waiting"}),
    "a lane's earliest": (due._EARLIEST, {"lane": "x", "level": 1}, {"ix_tasks_waiting"}),
    "the next due time": (due._NEXT, {"now": 1}, {"ix_tasks_due"}),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_hot_query_uses_its_index(tmp_path: Path, name: str) -> None:
    """It neither scans the table nor sorts."""
    query, parameters, wanted = PLANS[name]
    plan = plan_of(tmp_path, query, parameters)
    steps = [step for step in plan if "tasks" in step]
    used = {index for step in steps for index in wanted if index in step}
    assert steps
    assert used == wanted, steps
    assert all(any(index in step for index in wanted) for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in plan), plan


SINCE = datetime(2026, 1, 1, tzinfo=UTC)
LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({}, "sqlite_autoindex_tasks_1"),
    "a state": ({"state": TaskState.SUCCEEDED}, "ix_tasks_state_id (state=?)"),
    "an action": ({"action": "x"}, "ix_tasks_action_id (action=?)"),
    "a priority": ({"priority": "low"}, "ix_tasks_priority_id (priority=?)"),
    "an agent": ({"agent_id": "x"}, "ix_tasks_agent_id_id (agent_id=?)"),
    "a lane": ({"lane": "x"}, "ix_tasks_lane_id (lane=?)"),
    "a pool": ({"pool": "x"}, "ix_tasks_pool_id (pool=?)"),
    "a worker": ({"worker_id": "x"}, "ix_tasks_worker_id_id (worker_id=?)"),
    "a parent": ({"parent_id": "x"}, "ix_tasks_parent_id_id (parent_id=?)"),
    "a time": ({"created_after": SINCE, "created_before": SINCE}, "sqlite_autoindex_tasks_1 (id>? AND id<?)"),
    "an action and a time": ({"action": "x", "created_after": SINCE}, "ix_tasks_action_id (action=? AND id>?)"),
    "a lane's rare action": ({"lane": "many", "action": "few"}, "ix_tasks_action_id (action=?)"),
    "an action's rare lane": ({"lane": "few", "action": "many"}, "ix_tasks_lane_id (lane=?)"),
    "a pool's few dead": ({"pool": "many", "state": TaskState.DEAD}, "ix_tasks_state_id (state=?)"),
    "the many scheduled of an agent": (
        {"agent_id": "few", "state": TaskState.SCHEDULED, "created_after": SINCE},
        "ix_tasks_agent_id_id (agent_id=? AND id>?)",
    ),
    "an idempotency key": (
        {"idempotency_key": "x", "lane": "many", "action": "many"},
        "sqlite_autoindex_tasks_2 (created_by=? AND idempotency_key=?)",
    ),
    "a parent's scheduled": ({"parent_id": "few", "state": TaskState.SCHEDULED}, "ix_tasks_parent_id_id (parent_id=?)"),
}
"""The filters of a list, and how its rows are found, in order. The words say how many tasks have them."""
SOMEBODY = Principal("somebody", Role.VIEWER, "key_1")


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_is_read_in_order_by_an_index(tmp_path: Path, name: str) -> None:
    """The newest page is found by the index of what fewest tasks have, and nothing is sorted."""
    given, wanted = LISTS[name]
    filters = await api_tasks.chosen(SOMEBODY, **{"state": None, **given})
    with database(tmp_path) as connection:
        many = [row("many", TaskState.SCHEDULED) for _ in range(3)]
        connection.execute(tasks.insert(), [*many, row("few", TaskState.DEAD)])
        query = filters.narrow(connection, api_tasks._SUMMARIES)
        plan = steps_of(connection, query.order_by(tasks.c.id.desc()).limit(51), {})
    (step,) = [step for step in plan if "tasks" in step]
    assert wanted in step
    assert not any("TEMP B-TREE" in step for step in plan), plan


LETTERS: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({}, "ix_dead_letters_resolved_at_id (resolved_at=?)"),
    "a lane": ({"lane": "x"}, "ix_dead_letters_lane (lane=?)"),
    "a lane's rare action": ({"lane": "many", "action": "few"}, "ix_dead_letters_action (action=?)"),
    "an action's rare error": ({"action": "many", "error_code": "few"}, "ix_dead_letters_error_code (error_code=?)"),
    "a rare lane and a time": (
        {"action": "many", "lane": "few", "dead_after": SINCE},
        "ix_dead_letters_lane (lane=? AND id>?)",
    ),
}


@pytest.mark.parametrize("name", LETTERS)
def test_dead_letters_are_read_in_order_by_an_index(tmp_path: Path, name: str) -> None:
    """In the same way."""
    given, wanted = LETTERS[name]
    chosen = LetterFilter.model_validate(given)
    with database(tmp_path) as connection:
        for word in ("many", "many", "few"):
            words = dict.fromkeys(("action", "lane", "error_code"), word)
            more = {"task_id": "x", "cause": "manual", "attempts": 1, "tries": 1, "dead_at": 1}
            connection.execute(dead_letters.insert().values(id=new_id(DEAD_LETTER), **words, **more))
        query = Filters(chosen.equal(), chosen.others(), OPEN).narrow(connection, sa.select(dead_letters))
        (step,) = steps_of(connection, query.order_by(dead_letters.c.id.desc()).limit(51), {})
    assert step == f"SEARCH dead_letters USING INDEX {wanted}"


GROUPINGS = {
    "tasks by state": (broker.tasks._BY_STATE, "tasks USING COVERING INDEX ix_tasks_state_id"),
    "tasks by priority": (broker.tasks._BY_PRIORITY, "tasks USING COVERING INDEX ix_tasks_priority_id"),
    "dead letters by cause": (broker.dead_letters._BY_CAUSE, "dead_letters USING INDEX ix_dead_letters_cause"),
    "dead letters by action": (broker.dead_letters._BY_ACTION, "dead_letters USING INDEX ix_dead_letters_action"),
}


@pytest.mark.parametrize("name", GROUPINGS)
def test_a_statistic_looks_up_each_group(tmp_path: Path, name: str) -> None:
    """The values are found and counted in an index; all rows are read for none of it."""
    grouping, wanted = GROUPINGS[name]
    first, following, number = [step for step in plan_of(tmp_path, grouping.query, {}) if wanted in step]
    assert first.startswith("SEARCH")  # the least value is at its beginning
    assert following.endswith(">?)")
    assert number.endswith("=?)")


def test_what_runs_is_found_by_its_state(tmp_path: Path) -> None:
    """Not by the lanes of all tasks there ever were."""
    steps = [step for step in plan_of(tmp_path, queues._RUNNING, {}) if "tasks" in step]
    assert steps == ["SEARCH tasks USING INDEX ix_tasks_state_id (state=?)"]


def test_busy_agents_are_found_by_what_runs(tmp_path: Path) -> None:
    """Not by all tasks that an agent ever had."""
    plan = plan_of(tmp_path, living_agents(), {})
    assert [step for step in plan if "tasks" in step] == ["SEARCH tasks USING INDEX ix_tasks_state_id (state=?)"]


def plan_of(folder: Path, query: Any, parameters: dict[str, Any]) -> list[str]:
    """Return the steps in which SQLite would carry out a query."""
    with database(folder) as connection:
        return steps_of(connection, query, parameters)


def steps_of(connection: Connection, query: Any, parameters: dict[str, Any]) -> list[str]:
    """Return the same for a database with rows in it."""
    expanded = query.compile(connection).construct_expanded_state(parameters)
    statement, values = f"EXPLAIN QUERY PLAN {expanded.statement}", tuple(expanded.positional_parameters)
    return [step.detail for step in connection.exec_driver_sql(statement, values)]


@contextmanager
def database(folder: Path) -> Iterator[Connection]:
    """Open a new database."""
    engine = open_sqlite(folder / "warren.db", write=True)
    upgrade(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def row(word: str, state: TaskState) -> dict[str, Any]:
    """Return a task that has this word wherever one can filter for it."""
    words = dict.fromkeys(("action", "lane", "pool", "agent_id", "parent_id"), word)
    numbers = dict.fromkeys(("max_attempts", "eligible_at", "concurrency_limit", "attempt", "tries", "losses"), 1)
    more = {"timeout_s": 1.0, "input_blob": b"", "delivery": "", "created_by": "", "created_at": 1}
    return {"id": new_id(TASK), "state": state, "priority": 1, "cancel_requested": False, **words, **numbers, **more}


def test_the_table_has_the_indexes_that_are_named(tmp_path: Path) -> None:
    """A renamed index would make the test above say nothing."""
    engine = open_sqlite(tmp_path / "warren.db", write=True)
    upgrade(engine)
    names = {index["name"] for index in sa.inspect(engine).get_indexes("tasks")}
    engine.dispose()
    assert {index for _, _, wanted in PLANS.values() for index in wanted} <= names
