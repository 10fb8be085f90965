"""Queries that run for every task touch only the rows that they are about, however many others there are."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import broker.dead_letters
import broker.tasks
from broker import dispatch, due, fleet_view, queues
from broker.agents import living_agents
from broker.api import tasks as api_tasks
from broker.keys import Principal
from broker.store.database import open_sqlite
from broker.store.migrate import upgrade
from broker.store.tables import tasks
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
    "an agent that succeeded": (
        {"agent_id": "x", "state": TaskState.SUCCEEDED},
        "ix_tasks_agent_id_id (agent_id=?)",
    ),
    "an agent's running": ({"agent_id": "x", "state": TaskState.RUNNING}, "ix_tasks_state_id (state=?)"),
    "a lane's dead": ({"lane": "x", "state": TaskState.DEAD}, "ix_tasks_state_id (state=?)"),
    "a worker's running": ({"worker_id": "x", "state": TaskState.RUNNING}, "ix_tasks_state_id (state=?)"),
    "an idempotency key": (
        {"idempotency_key": "x"},
        "sqlite_autoindex_tasks_2 (created_by=? AND idempotency_key=?)",
    ),
    "a parent's dead": ({"parent_id": "x", "state": TaskState.DEAD}, "ix_tasks_parent_id_id (parent_id=?)"),
}
"""The filters of a list, and how its rows are found, in order."""
SOMEBODY = Principal("somebody", Role.VIEWER, "key_1")


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_is_read_in_order_by_an_index(tmp_path: Path, name: str) -> None:
    """The newest page is found by the index of what was filtered for, and nothing is sorted."""
    filters, wanted = LISTS[name]
    query = api_tasks._SUMMARIES.where(*await api_tasks.chosen(SOMEBODY, **{"state": None, **filters}))
    plan = plan_of(tmp_path, query.order_by(tasks.c.id.desc()).limit(51), {})
    (step,) = [step for step in plan if "tasks" in step]
    assert wanted in step
    assert not any("TEMP B-TREE" in step for step in plan), plan


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
    engine = open_sqlite(folder / "warren.db", write=True)
    upgrade(engine)
    with engine.begin() as connection:
        expanded = query.compile(connection).construct_expanded_state(parameters)
        statement, values = f"EXPLAIN QUERY PLAN {expanded.statement}", tuple(expanded.positional_parameters)
        plan = connection.exec_driver_sql(statement, values).all()
    engine.dispose()
    return [step.detail for step in plan]


def test_the_table_has_the_indexes_that_are_named(tmp_path: Path) -> None:
    """A renamed index would make the test above say nothing."""
    engine = open_sqlite(tmp_path / "warren.db", write=True)
    upgrade(engine)
    names = {index["name"] for index in sa.inspect(engine).get_indexes("tasks")}
    engine.dispose()
    assert {index for _, _, wanted in PLANS.values() for index in wanted} <= names
