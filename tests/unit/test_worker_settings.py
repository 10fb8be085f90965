"""A worker's settings and identity, as they come from its environment and its state directory."""

import os
from pathlib import Path

import pytest

from protocols.errors import InstanceLocked, InvalidSettings, StorageUnavailable
from protocols.identity import fingerprint, worker_id
from protocols.names import LaneKind
from worker.identity import IDENTITY_FILE, StateDir
from worker.settings import is_loopback, load_settings


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("WARREN_WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WARREN_WORKER_URL", "https://control.example:8000/")
    monkeypatch.setenv("WARREN_WORKER_KEY_FILE", "/keys/worker")
    monkeypatch.setenv("WARREN_WORKER_STATE_DIR", "/state")
    return monkeypatch


def test_three_settings_are_enough(minimal: pytest.MonkeyPatch) -> None:
    """URL, key file and state directory suffice; the rest has defaults."""
    settings = load_settings()
    assert settings.session_url == "wss://control.example:8000/api/v1/workers/session"
    assert settings.pools == ("default",)
    assert settings.slots[LaneKind.LLM] == 32
    assert settings.slots[LaneKind.PYTHON] == os.cpu_count()


def test_lists_are_written_with_commas(minimal: pytest.MonkeyPatch) -> None:
    """Pools and actions are comma separated."""
    minimal.setenv("WARREN_WORKER_POOLS", "one, two,")
    minimal.setenv("WARREN_WORKER_ACTIONS", "add=operator:add, my.job=pkg.mod:Class.method")
    settings = load_settings()
    assert settings.pools == ("one", "two")
    assert settings.actions == {"add": "operator:add", "my.job": "pkg.mod:Class.method"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "ftp://x"),
        ("URL", "http://192.0.2.1:8000"),
        ("POOLS", "ssh"),
        ("SLOTS_SSH", "0"),
        ("GRACE_S", "-1"),
        ("LOG_FORMAT", "xml"),
        ("ACTIONS", "add"),
    ],
)
def test_a_wrong_setting_is_named(minimal: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error names the variable."""
    minimal.setenv(f"WARREN_WORKER_{name}", value)
    with pytest.raises(InvalidSettings, match=f"^WARREN_WORKER_{name}: "):
        load_settings()


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a", False)],
)
def test_only_this_machine_is_loopback(host: str, local: bool) -> None:
    """Plain http is for addresses that cannot leave the machine."""
    assert is_loopback(host) is local


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    """The same directory gives the same keys, private files are private, and the id follows from the key."""
    with StateDir(tmp_path / "state") as state:
        first = state.identity()
    with StateDir(tmp_path / "state") as state:
        second = state.identity()
    assert first.identity_key == second.identity_key
    assert first.worker_id == worker_id(first.identity_key)
    assert first.fingerprint == fingerprint(first.identity_key, first.sealing_key)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state" / "worker.json").stat().st_mode & 0o777 == 0o644
    assert "PrivateKey" not in repr(first)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"signing": "AAAA", "sealing": "AAAA"}', '{"signing": 5}'])
def test_a_damaged_identity_is_an_error(tmp_path: Path, content: str) -> None:
    """No content of the file makes a new identity."""
    path = tmp_path / IDENTITY_FILE
    path.write_text(content)
    path.chmod(0o600)
    with StateDir(tmp_path) as state, pytest.raises(InvalidSettings, match="is damaged"):
        state.identity()
    assert path.read_text() == content


def test_an_identity_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A private key with group or world permissions is not used."""
    with StateDir(tmp_path) as state:
        state.identity()
        (tmp_path / IDENTITY_FILE).chmod(0o640)
        with pytest.raises(InvalidSettings, match="chmod 600"):
            state.identity()


def test_a_state_directory_belongs_to_one_process(tmp_path: Path) -> None:
    """The lock is held until it is given back."""
    with StateDir(tmp_path), pytest.raises(InstanceLocked), StateDir(tmp_path):
        pass
    with StateDir(tmp_path):
        pass


def test_a_state_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in its place is said, not raised as an OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable), StateDir(tmp_path / "file" / "state"):
        pass
