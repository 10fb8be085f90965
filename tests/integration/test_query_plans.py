"""Queries that run for every task touch only the rows that they are about, however many others there are."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker import dispatch, due
from broker.store.database import open_sqlite
from broker.store.migrate import upgrade

PLANS: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "the window's size": (dispatch._QUEUED, {"lane": "x"}, {"ix_tasks_window"}),
    "what is due": (dispatch._DUE, {"lane": "x", "now": 1, "places": 4}, {"ix_tasks_waiting"}),
    "a concurrency key's holders": (dispatch._HOLDERS, {"key": "x"}, {"ix_tasks_concurrency"}),
    "lanes with waiting tasks": (due._SCHEDULED_LANES, {}, {"ix_tasks_waiting"}),
    "a lane's earliest": (due._EARLIEST, {"lane": "x", "level": 1}, {"ix_tasks_waiting"}),
    "the next due time": (due._NEXT, {"now": 1}, {"ix_tasks_due"}),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_hot_query_uses_its_index(tmp_path: Path, name: str) -> None:
    """It neither scans the table nor sorts."""
    query, parameters, wanted = PLANS[name]
    engine = open_sqlite(tmp_path / "warren.db", write=True)
    upgrade(engine)
    with engine.begin() as connection:
        compiled = query.compile(connection)
        values = compiled.construct_params(parameters)
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {compiled}", tuple(values[key] for key in compiled.positiontup or ())
        ).all()
    engine.dispose()
    steps = [step.detail for step in plan if "tasks" in step.detail]
    used = {index for step in steps for index in wanted if index in step}
    assert steps
    assert used == wanted, steps
    assert all(any(index in step for index in wanted) for step in steps), steps
    assert not any("TEMP B-TREE" in step.detail for step in plan), plan


def test_the_table_has_the_indexes_that_are_named(tmp_path: Path) -> None:
    """A renamed index would make the test above say nothing."""
    engine = open_sqlite(tmp_path / "warren.db", write=True)
    upgrade(engine)
    names = {index["name"] for index in sa.inspect(engine).get_indexes("tasks")}
    engine.dispose()
    assert {index for _, _, wanted in PLANS.values() for index in wanted} <= names
