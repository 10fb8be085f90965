"""Migrations lead from every older schema to the one in `tables.py`, and back."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

import broker.store
from broker.store.database import open_sqlite
from broker.store.migrate import downgrade, upgrade
from broker.store.store import Store
from broker.store.tables import metadata
from protocols.clock import SystemClock
from protocols.errors import InvalidSettings, StorageUnavailable

Schema = dict[str, str]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_sqlite(tmp_path / "warren.db", write=True)
    yield engine
    engine.dispose()


def schema(engine: Engine) -> Schema:
    """Return the statement that made each table and index of ours, without its layout."""
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {row.name: normal(row.sql) for row in rows if not row.name.startswith(("alembic_", "sqlite_"))}


def normal(statement: str) -> str:
    """Return the parts of a statement in an order that does not depend on who wrote it."""
    head, _, parts = " ".join(statement.replace('"', "").split()).partition("(")
    return f"{head.strip()} ({', '.join(sorted(part.strip(' )') for part in parts.split(', ')))})"


def sample(column: sa.Column[Any]) -> object:
    """Return a value that the column takes."""
    samples: dict[type, object] = {int: 7, float: 1.5, str: "text", bytes: b"\x07" * 32, bool: True}
    return {"sample": True} if isinstance(column.type, sa.JSON) else samples[column.type.python_type]


def fill(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.insert().values({column.name: sample(column) for column in table.columns}))


def counts(engine: Engine) -> dict[str, int]:
    with engine.begin() as connection:
        return {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }


def test_upgrading_nothing_gives_the_tables_of_this_version(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    declared = open_sqlite(tmp_path / "declared.db", write=True)
    with declared.begin() as connection:
        metadata.create_all(connection)
    assert schema(engine) == schema(declared)
    declared.dispose()


def test_down_and_up_again_with_rows_in_every_table(engine: Engine) -> None:
    upgrade(engine)
    made = schema(engine)
    fill(engine)
    assert set(counts(engine).values()) == {1}
    downgrade(engine, "base")
    assert schema(engine) == {}
    upgrade(engine)
    assert schema(engine) == made
    assert set(counts(engine).values()) == {0}
    fill(engine)


def test_dead_letters_of_the_first_tables_learn_their_tasks_action_and_lane(engine: Engine) -> None:
    """One whose task is gone keeps them empty."""
    upgrade(engine, "0001")
    with engine.begin() as connection:
        for name in ("tasks", "dead_letters"):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            row = {column.name: sample(metadata.tables[name].c[column.name]) for column in table.columns}
            known = {"id": "task_1", "action": "add", "lane": "q.t.default.python"} if name == "tasks" else {}
            connection.execute(table.insert().values({**row, **known}))
        connection.exec_driver_sql("UPDATE dead_letters SET task_id = 'task_1'")
        connection.execute(table.insert().values({**row, "id": "dead_2", "task_id": "task_gone"}))
    upgrade(engine)
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT action, lane FROM dead_letters ORDER BY task_id").all()
    assert [tuple(row) for row in found] == [("add", "q.t.default.python"), ("", "")]


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    fill(engine)
    before = (schema(engine), counts(engine))
    upgrade(engine)
    assert (schema(engine), counts(engine)) == before


def test_every_migration_but_the_first_follows_another_one() -> None:
    scripts = ScriptDirectory(str(Path(broker.store.__file__).parent / "migrations"))
    assert len(scripts.get_heads()) == len(scripts.get_bases()) == 1
    assert all(script.doc.strip() for script in scripts.walk_revisions())


def test_a_migration_that_breaks_off_leaves_nothing_behind(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE workers (in_the_way INTEGER)")
    before = schema(engine)
    with pytest.raises(sa.exc.OperationalError, match="workers"):
        upgrade(engine)
    assert schema(engine) == before


def test_a_database_of_a_newer_version_is_refused_and_left_alone(engine: Engine, tmp_path: Path) -> None:
    upgrade(engine)
    before = schema(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store = Store(tmp_path / "warren.db", SystemClock())
    with pytest.raises(InvalidSettings, match="newer version of Warren"):
        store.start()
    store.stop()
    assert schema(engine) == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "warren.db"
    path.write_bytes(b"my diary" * 1000)
    store = Store(path, SystemClock())
    with pytest.raises(StorageUnavailable):
        store.start()
    store.stop()
    assert path.read_bytes() == b"my diary" * 1000


def test_rising_ids_are_never_given_twice(engine: Engine) -> None:
    """Also not after the newest rows were deleted, so that a cursor never skips an event."""
    upgrade(engine)
    with engine.begin() as connection:
        for name in ("events", "audit"):
            table = metadata.tables[name]
            row = {column.name: sample(column) for column in table.columns if not column.primary_key}
            first = connection.execute(table.insert().values(row)).inserted_primary_key
            connection.execute(table.delete())
            second = connection.execute(table.insert().values(row)).inserted_primary_key
            assert first is not None
            assert second is not None
            assert second[0] > first[0]


def test_sqlite_is_new_enough() -> None:
    """For partial indexes, upserts and RETURNING, which the queries use."""
    assert sqlite3.sqlite_version_info >= (3, 35)
