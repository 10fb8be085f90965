"""Preferences: what an admin may change, what is refused, and what outlives a restart."""

import json
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.preferences import Preferences, PreferenceStore, parsed
from broker.store.store import Store
from broker.store.tables import audit, settings
from protocols.clock import SystemClock
from protocols.errors import InvalidInput, NotFound


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database of its own."""
    store = Store(tmp_path / "warren.db", SystemClock())
    store.start()
    yield store
    store.stop()


@pytest.fixture
def preferences(store: Store) -> PreferenceStore:
    """Preferences as after the first start."""
    return loaded(store)


def loaded(store: Store) -> PreferenceStore:
    """Return the preferences as a process finds them that starts now."""
    preferences = PreferenceStore(store)
    preferences.load()
    return preferences


def rows(store: Store, table: sa.Table) -> list[Any]:
    """Return all rows of a table."""
    return list(store.read(lambda connection: connection.execute(sa.select(table)).all()).result())


def test_without_a_change_the_defaults_hold(preferences: PreferenceStore) -> None:
    """Every preference has its default, a type, a description, and nobody who changed it."""
    assert preferences.current == Preferences()
    for preference in preferences.listed():
        assert preference.value == preference.default
        assert preference.type in {"string", "integer", "number", "boolean"}
        assert preference.description.endswith(".")
        assert (preference.updated_at, preference.updated_by) == (None, None)


def test_a_change_holds_at_once_and_over_a_restart(preferences: PreferenceStore, store: Store) -> None:
    """The value, and who set it, are there when the change is durable, and after the next start; others stay."""
    preferences.change({"tasks.default_max_attempts": 7}, "ann").result()
    for held in (preferences, loaded(store)):
        assert held.current.tasks.default_max_attempts == 7
        (listed,) = [one for one in held.listed() if one.name == "tasks.default_max_attempts"]
        assert (listed.value, listed.default, listed.updated_by) == (7, 3, "ann")
        assert listed.updated_at is not None
        assert held.current.files == Preferences().files


def test_the_last_change_wins(preferences: PreferenceStore, store: Store) -> None:
    """A second change of the same preference replaces the first, and both are in the audit log."""
    preferences.change({"tasks.default_priority": "high"}, "ann").result()
    preferences.change({"tasks.default_priority": "low"}, "bob").result()
    assert loaded(store).current.tasks.default_priority == "low"
    assert len(rows(store, settings)) == 1
    noted = [(entry.actor, entry.action, entry.object, entry.data) for entry in rows(store, audit)]
    assert noted == [
        ("ann", "setting.change", "tasks.default_priority", {"value": "high"}),
        ("bob", "setting.change", "tasks.default_priority", {"value": "low"}),
    ]


@pytest.mark.parametrize(
    ("name", "sent", "value"),
    [
        ("tasks.default_max_attempts", "5", 5),
        ("tasks.default_timeout_s", "1.5", 1.5),
        ("tasks.default_timeout_s", 30, 30.0),
        ("api.public_docs", "true", True),
        ("tasks.default_agent", "writer", "writer"),
        ("tasks.default_agent", "5", "5"),
        ("tasks.default_agent", None, None),
    ],
)
def test_a_value_is_read_in_its_own_type(name: str, sent: Any, value: Any) -> None:
    """A text that can be read as the preference's type is."""
    (read,) = parsed({name: sent}).values()
    assert (read, type(read)) == (value, type(value))


def test_what_was_read_is_kept(preferences: PreferenceStore, store: Store) -> None:
    """The database holds the value that a text was read as, not the text."""
    preferences.change({"tasks.default_max_attempts": "5", "api.public_docs": "true"}, "ann").result()
    assert {row.key: row.value for row in rows(store, settings)} == {
        "tasks.default_max_attempts": 5,
        "api.public_docs": True,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks.default_max_attempts", 0),
        ("tasks.default_max_attempts", "many"),
        ("tasks.default_max_attempts", 2.5),
        ("tasks.default_max_attempts", None),
        ("tasks.default_timeout_s", float("inf")),
        ("tasks.default_timeout_s", [600]),
        ("tasks.default_priority", "urgent"),
        ("tasks.default_agent", "a" * 129),
        ("api.public_docs", "perhaps"),
        ("files.max_bytes", {"value": 1}),
    ],
)
def test_a_value_that_it_does_not_take_is_refused(name: str, value: Any) -> None:
    """The refusal names the preference and quotes nothing."""
    with pytest.raises(InvalidInput) as refusal:
        parsed({name: value})
    assert refusal.value.field == name
    assert "many" not in refusal.value.message


@pytest.mark.parametrize(
    "name", ["", ".", "tasks", "tasks.", "tasks.x", "x.y", "tasks.default_priority.x", "__class__.x"]
)
def test_an_unknown_name_is_refused(name: str) -> None:
    """The hint lists the names that there are."""
    with pytest.raises(NotFound) as refusal:
        parsed({name: 1})
    assert "files.max_bytes" in (refusal.value.hint or "")


@pytest.mark.parametrize("bad", [{"tasks.default_priority": "urgent"}, {"tasks.unknown": 1}])
def test_several_are_changed_together_or_not_at_all(
    preferences: PreferenceStore, store: Store, bad: dict[str, Any]
) -> None:
    """One that is refused keeps all the others from being changed."""
    with pytest.raises((InvalidInput, NotFound)):
        preferences.change({"tasks.default_max_attempts": 9, **bad}, "ann").result()
    assert preferences.current == Preferences()
    assert rows(store, settings) == []


def test_changes_that_meet_in_one_transaction_all_hold(preferences: PreferenceStore, store: Store) -> None:
    """Neither of two admins undoes the other's change, in memory or in the database."""
    wanted = {
        "tasks.default_max_attempts": 9,
        "tasks.default_priority": "high",
        "files.max_bytes": 1000,
        "files.url_expires_s": 60,
        "api.rate_limit_per_minute": 100,
        "api.public_docs": True,
    }
    wait([preferences.change({name: value}, "ann") for name, value in wanted.items()])
    for held in (preferences, loaded(store)):
        found = {one.name: one.value for one in held.listed()}
        assert found == found | wanted


@pytest.mark.parametrize(
    ("name", "stored"), [("tasks.default_max_attempts", 1000), ("tasks.default_max_attempts", "x"), ("old.gone", 1)]
)
def test_a_stored_value_that_is_no_longer_valid_counts_as_not_stored(store: Store, name: str, stored: Any) -> None:
    """After an update that takes fewer values Warren starts with its default, and can be changed again."""
    row = {"key": name, "value": stored, "updated_at": 1, "updated_by": "ann"}
    good = {"key": "tasks.default_priority", "value": "high", "updated_at": 1, "updated_by": "ann"}
    store.writer.write(
        lambda transaction: transaction.connection.execute(settings.insert(), [row, good]).close()
    ).result()
    preferences = loaded(store)
    assert preferences.current.tasks.default_max_attempts == 3
    assert preferences.current.tasks.default_priority == "high"
    assert {one.name for one in preferences.listed() if one.updated_by} == {"tasks.default_priority"}
    preferences.change({"tasks.default_max_attempts": 4}, "bob").result()
    assert loaded(store).current.tasks.default_max_attempts == 4


def test_every_default_can_be_set(preferences: PreferenceStore) -> None:
    """What is listed can be sent back as JSON carries it, as a form of an admin's page does."""
    listed = {one.name: one.value for one in preferences.listed()}
    preferences.change(json.loads(json.dumps(listed)), "ann").result()
    assert preferences.current == Preferences()
