"""API keys: who is let in, as what, and until when."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker.keys import Keys, Principal
from broker.store.store import Store
from broker.store.tables import api_keys, audit
from protocols.clock import SystemClock
from protocols.errors import Conflict, InvalidSettings, NotFound, Unauthenticated
from protocols.states import Role


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database of its own."""
    store = Store(tmp_path / "warren.db", SystemClock())
    store.start()
    yield store
    store.stop()


@pytest.fixture
def keys(store: Store, tmp_path: Path) -> Keys:
    """Keys after the first start."""
    keys = Keys(store)
    keys.bootstrap(tmp_path)
    return keys


def text_of(data_dir: Path, role: str) -> str:
    """Return the key in a key file."""
    return (data_dir / f"{role}.key").read_text().strip()


@pytest.mark.parametrize("role", ["admin", "worker"])
def test_the_first_start_makes_private_keys_that_work(keys: Keys, tmp_path: Path, role: str) -> None:
    """Each built-in key lies in its file with mode 0600 and has the role that the file is named after."""
    principal = keys.authenticate(text_of(tmp_path, role))
    assert (principal.name, principal.role) == (role, Role(role))
    assert stat.S_IMODE((tmp_path / f"{role}.key").stat().st_mode) == 0o600
    assert len(text_of(tmp_path, role)) == len("wrn_") + 43


def test_a_restart_changes_nothing(keys: Keys, store: Store, tmp_path: Path) -> None:
    """The same files give the same principals, and no new rows."""
    before = keys.authenticate(text_of(tmp_path, "admin"))
    again = Keys(store)
    again.bootstrap(tmp_path)
    assert again.authenticate(text_of(tmp_path, "admin")) == before
    assert len(store.read(lambda connection: connection.execute(sa.select(api_keys)).all()).result()) == 2


def test_a_deleted_file_means_a_new_key_and_the_old_one_revoked(keys: Keys, store: Store, tmp_path: Path) -> None:
    """After deleting admin.key and a restart the old key is refused and the new one works; worker.key stays."""
    old, worker = text_of(tmp_path, "admin"), text_of(tmp_path, "worker")
    (tmp_path / "admin.key").unlink()
    again = Keys(store)
    again.bootstrap(tmp_path)
    with pytest.raises(Unauthenticated):
        again.authenticate(old)
    assert again.authenticate(text_of(tmp_path, "admin")).role is Role.ADMIN
    assert again.authenticate(worker).role is Role.WORKER


def test_a_revoked_key_does_not_come_back_with_its_file(keys: Keys, store: Store, tmp_path: Path) -> None:
    """A restored copy of a key file whose key was revoked stops the start."""
    old = text_of(tmp_path, "admin")
    (tmp_path / "admin.key").unlink()
    Keys(store).bootstrap(tmp_path)
    (tmp_path / "admin.key").write_text(old + "\n")
    with pytest.raises(InvalidSettings, match="revoked"):
        Keys(store).bootstrap(tmp_path)


def test_a_key_file_outlives_its_database(keys: Keys, tmp_path: Path) -> None:
    """With a new database the keys in the files still work."""
    other = Store(tmp_path / "other.db", SystemClock())
    other.start()
    try:
        again = Keys(other)
        again.bootstrap(tmp_path)
        assert again.authenticate(text_of(tmp_path, "admin")).role is Role.ADMIN
    finally:
        other.stop()


@pytest.mark.parametrize("content", ["", "secret\n", "wrn_short\n"])
def test_a_file_without_a_key_is_a_clear_error(store: Store, tmp_path: Path, content: str) -> None:
    """A damaged key file stops the start and is not quoted."""
    path = tmp_path / "admin.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InvalidSettings) as refusal:
        Keys(store).bootstrap(tmp_path)
    assert "secret" not in refusal.value.message


def test_a_key_file_that_others_can_read_is_refused(keys: Keys, store: Store, tmp_path: Path) -> None:
    """A key file with a wider mode stops the start."""
    (tmp_path / "worker.key").chmod(0o644)
    with pytest.raises(InvalidSettings):
        Keys(store).bootstrap(tmp_path)


@pytest.mark.parametrize("presented", [None, "", "wrn_", "wrn_" + "a" * 43, "x" * 100_000, "\ud800", "é\0"])
def test_anything_else_is_nobody(keys: Keys, presented: str | None) -> None:
    """What is no valid key is refused as unauthenticated, whatever it looks like."""
    with pytest.raises(Unauthenticated):
        keys.authenticate(presented)


def test_a_made_key_works_until_it_is_revoked(keys: Keys, store: Store, tmp_path: Path) -> None:
    """A revocation holds from the moment that it is durable, also after a restart."""
    made = keys.create("ci", Role.OPERATOR, "admin").result()
    assert keys.authenticate(made.text) == made.principal
    keys.revoke(made.principal.key_id, "admin").result()
    again = Keys(store)
    again.bootstrap(tmp_path)
    for held in (keys, again):
        with pytest.raises(Unauthenticated):
            held.authenticate(made.text)


def test_only_digests_are_stored(keys: Keys, store: Store, tmp_path: Path) -> None:
    """No key's text is anywhere in the database."""
    made = keys.create("ci", Role.VIEWER, "admin").result()
    rows = store.read(lambda connection: repr(connection.execute(sa.select(api_keys)).all())).result()
    noted = store.read(lambda connection: repr(connection.execute(sa.select(audit)).all())).result()
    for text in (made.text, text_of(tmp_path, "admin"), text_of(tmp_path, "worker")):
        assert text not in rows + noted


def test_a_name_belongs_to_one_valid_key(keys: Keys) -> None:
    """A second valid key of a name is refused; after a revocation the name is free."""
    made = keys.create("ci", Role.VIEWER, "admin").result()
    with pytest.raises(Conflict):
        keys.create("ci", Role.VIEWER, "admin").result()
    keys.revoke(made.principal.key_id, "admin").result()
    assert keys.create("ci", Role.VIEWER, "admin").result().principal.name == "ci"


def test_a_built_in_key_is_revoked_by_its_file_only(keys: Keys, tmp_path: Path) -> None:
    """Nobody can lock himself out by revoking the data directory's own key; an unknown one is not found."""
    with pytest.raises(Conflict):
        keys.revoke(keys.authenticate(text_of(tmp_path, "admin")).key_id, "admin").result()
    with pytest.raises(NotFound):
        keys.revoke("key_unknown", "admin").result()


@pytest.mark.parametrize(
    ("held", "may"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.OPERATOR, {Role.VIEWER, Role.OPERATOR}),
        (Role.ADMIN, {Role.VIEWER, Role.OPERATOR, Role.ADMIN}),
        (Role.WORKER, {Role.WORKER}),
    ],
)
def test_roles_contain_each_other_except_the_workers(held: Role, may: set[Role]) -> None:
    """Each human role contains the ones before it; an admin is no worker and a worker nothing else."""
    assert {role for role in Role if Principal("x", held, "key_1").may(role)} == may
