"""Which control plane and which key the command uses."""

from pathlib import Path

import pytest

from client.profile import resolve_data_dir, resolve_profile
from protocols.errors import InvalidSettings, Unauthenticated, Unreachable

LOCAL = "http://127.0.0.1:8000"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory as a control plane leaves it."""
    (tmp_path / "url").write_text(LOCAL + "\n")
    (tmp_path / "admin.key").write_text("local-key\n")
    return tmp_path


def test_a_local_control_plane_is_found_with_its_key(data_dir: Path) -> None:
    """Without options the data directory names the control plane and its administrator's key."""
    profile = resolve_profile(None, None, data_dir, {})
    assert (profile.url, profile.key) == (LOCAL, "local-key")
    assert "local-key" not in repr(profile)


def test_options_win_over_the_environment_and_that_over_the_directory(data_dir: Path, tmp_path: Path) -> None:
    """--url and --key-file come first, then WARREN_URL and WARREN_API_KEY, then the data directory."""
    environ = {"WARREN_URL": "https://env:1/", "WARREN_API_KEY": "env-key"}
    key_file = tmp_path / "k"
    key_file.write_text("file-key\n")
    assert resolve_profile("https://opt:2", key_file, data_dir, environ).url == "https://opt:2"
    assert resolve_profile("https://opt:2", key_file, data_dir, environ).key == "file-key"
    assert resolve_profile(None, None, data_dir, environ).url == "https://env:1"
    assert resolve_profile(None, None, data_dir, environ).key == "env-key"


@pytest.mark.parametrize("url", ["https://elsewhere:8000", "http://127.0.0.1:8001", "https://127.0.0.1:8000"])
def test_the_local_administrators_key_goes_to_no_other_control_plane(data_dir: Path, url: str) -> None:
    """A URL that is not the data directory's own never gets its key."""
    with pytest.raises(Unauthenticated, match="no API key"):
        resolve_profile(url, None, data_dir, {})
    assert resolve_profile(LOCAL + "/", None, data_dir, {}).key == "local-key"


def test_nothing_known_says_how_to_begin(tmp_path: Path) -> None:
    """Where no control plane is known the hint is `warren up`."""
    with pytest.raises(Unreachable) as caught:
        resolve_profile(None, None, tmp_path, {})
    assert "warren up" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["elsewhere:8000", "ftp://host", "http://", "https://me:word@host"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    """A URL that cannot be one, or that has a password in it, is refused before anything is sent."""
    with pytest.raises(InvalidSettings) as caught:
        resolve_profile(url, None, tmp_path, {"WARREN_API_KEY": "k"})
    assert "word" not in caught.value.message.replace("password", "")


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "ключ"])
def test_what_is_no_key_is_refused_without_being_shown(data_dir: Path, content: str) -> None:
    """A key file with something else in it is refused, and its content stays unsaid."""
    (data_dir / "k").write_text(content)
    with pytest.raises(InvalidSettings) as caught:
        resolve_profile(None, data_dir / "k", data_dir, {})
    assert not content or content not in caught.value.message


def test_the_data_directory_is_the_given_one_or_the_environments_or_the_users(tmp_path: Path) -> None:
    """--data-dir, then WARREN_DATA_DIR, then the user's own directory."""
    assert resolve_data_dir(tmp_path, {"WARREN_DATA_DIR": "/elsewhere"}) == tmp_path
    assert resolve_data_dir(None, {"WARREN_DATA_DIR": str(tmp_path)}) == tmp_path
    assert resolve_data_dir(None, {}).name == "warren"
