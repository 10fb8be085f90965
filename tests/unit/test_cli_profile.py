"""Which control plane and which key the command uses."""

from pathlib import Path

import pytest

from client.profile import resolve_data_dir, resolve_profile, resolve_url
from client.profile_store import Login, Logins, load_logins, save_logins
from protocols.errors import InvalidInput, InvalidName, InvalidSettings, Unauthenticated, Unreachable

LOCAL = "http://127.0.0.1:8000"
PROD = "https://warren.example:8000"
STAGE = "https://stage.example"


@pytest.fixture
def logins(tmp_path: Path) -> dict[str, str]:
    """An environment with two profiles, of which `prod` is the current one."""
    directory = tmp_path / "config"
    save_logins(directory, Logins({"prod": Login(PROD, "prod-key"), "stage": Login(STAGE, "stage-key")}, "prod"))
    return {"WARREN_CONFIG_DIR": str(directory)}


@pytest.fixture(autouse=True)
def _no_logins_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


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
    environ = {"WARREN_URL": "https://env:1/", "WARREN_API_KEY": "env-key", "WARREN_DATA_DIR": str(data_dir)}
    key_file = tmp_path / "k"
    key_file.write_text("file-key\n")
    assert resolve_profile("https://opt:2", key_file, data_dir, environ).url == "https://opt:2"
    assert resolve_profile("https://opt:2", key_file, data_dir, environ).key == "file-key"
    assert resolve_profile(None, None, None, environ).url == "https://env:1"
    assert resolve_profile(None, None, None, environ).key == "env-key"
    assert resolve_profile(None, None, data_dir, environ).url == LOCAL


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
    assert "warren login" in str(caught.value.hint)


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


def test_the_current_profile_wins_over_the_users_own_data_directory_only(
    data_dir: Path, logins: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word the current profile counts; a data directory that was named wins over it."""
    monkeypatch.setattr("client.profile.resolve_data_dir", lambda given, environ: data_dir)
    assert (resolve_profile(None, None, None, logins).url, resolve_profile(None, None, None, logins).key) == (
        PROD,
        "prod-key",
    )
    for named in (
        resolve_profile(None, None, data_dir, logins),
        resolve_profile(None, None, None, logins | {"WARREN_DATA_DIR": str(data_dir)}),
    ):
        assert (named.url, named.key) == (LOCAL, "local-key")


@pytest.mark.parametrize(
    ("option", "more", "url", "key"),
    [
        (None, {}, PROD, "prod-key"),
        ("stage", {}, STAGE, "stage-key"),
        (None, {"WARREN_PROFILE": "stage"}, STAGE, "stage-key"),
        ("prod", {"WARREN_PROFILE": "stage"}, PROD, "prod-key"),
        ("stage", {"WARREN_URL": PROD, "WARREN_API_KEY": "env-key"}, STAGE, "stage-key"),
        (None, {"WARREN_PROFILE": "stage", "WARREN_URL": PROD, "WARREN_API_KEY": "env-key"}, PROD, "env-key"),
        (None, {"WARREN_API_KEY": "env-key"}, PROD, "env-key"),
        (None, {"WARREN_URL": PROD}, PROD, "prod-key"),
    ],
)
def test_a_named_profile_wins_as_options_and_environment_do(
    logins: dict[str, str], option: str | None, more: dict[str, str], url: str, key: str
) -> None:
    """--profile wins over the environment, WARREN_URL and WARREN_API_KEY over WARREN_PROFILE, that over the current."""
    found = resolve_profile(None, None, None, logins | more, profile=option)
    assert (found.url, found.key) == (url, key)


@pytest.mark.parametrize("url", [STAGE, "http://warren.example:8000", "https://warren.example", LOCAL])
def test_a_profiles_key_goes_to_its_own_url_only(logins: dict[str, str], tmp_path: Path, url: str) -> None:
    """Another scheme, host or port never gets a profile's key."""
    for environ, option in ((logins, "prod"), (logins | {"WARREN_URL": url}, None)):
        with pytest.raises(Unauthenticated, match="no API key"):
            resolve_profile(url if option else None, None, None, environ, profile=option)


def test_an_unknown_profile_is_refused_with_a_way_out(logins: dict[str, str]) -> None:
    """A profile that does not exist is named, and how to make it."""
    with pytest.raises(InvalidInput, match="'nope'") as caught:
        resolve_profile(None, None, None, logins, profile="nope")
    assert "warren login --profile nope" in str(caught.value.hint)


def test_a_url_alone_needs_no_key(logins: dict[str, str]) -> None:
    """Where a control plane is can be told without a key for it."""
    save_logins(Path(logins["WARREN_CONFIG_DIR"]), Logins({"prod": Login(PROD)}, "prod"))
    assert resolve_url(None, None, logins) == PROD
    with pytest.raises(Unauthenticated) as caught:
        resolve_profile(None, None, None, logins)
    assert "warren login" in str(caught.value.hint)


def test_profiles_are_kept_privately_and_whole(tmp_path: Path) -> None:
    """The file and its directory are for the user alone; what was kept is what is loaded."""
    directory = tmp_path / "config" / "warren"
    kept = Logins().with_login("a", Login(PROD, "key-a")).with_login("b", Login(STAGE, "key-b"))
    save_logins(directory, kept)
    file = directory / "profiles.json"
    assert (file.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(directory.iterdir()) == [file]
    assert load_logins(directory) == kept
    assert kept.current == "b"
    assert "key-a" not in repr(kept)
    assert load_logins(tmp_path / "nowhere") == Logins()


def test_logging_out_and_deleting_forget_what_they_say() -> None:
    """Logging out keeps the URL, deleting keeps nothing; the current profile is one that exists."""
    logins = Logins().with_login("a", Login(PROD, "key-a")).with_login("b", Login(STAGE, "key-b"))
    assert logins.without_key("a").find("a") == Login(PROD)
    assert logins.without("b").current is None
    assert logins.without("a").current == "b"
    assert logins.with_current("a").current == "a"
    for act in (logins.with_current, logins.without, logins.without_key):
        with pytest.raises(InvalidInput):
            act("c")
    with pytest.raises(InvalidName):
        logins.with_login("no name", Login(PROD))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"profiles": {"a": {}}}', '{"profiles": {"a": "b"}}'])
def test_a_broken_file_of_profiles_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    """What is no file of profiles is refused with its path, not with a traceback."""
    (tmp_path / "profiles.json").write_text(content)
    (tmp_path / "profiles.json").chmod(0o600)
    with pytest.raises(InvalidSettings, match="no file of profiles"):
        load_logins(tmp_path)


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    """A file that others can read is refused, and how to mend it is said."""
    save_logins(tmp_path, Logins().with_login("a", Login(PROD, "key-a")))
    (tmp_path / "profiles.json").chmod(0o640)
    with pytest.raises(InvalidSettings) as caught:
        load_logins(tmp_path)
    assert "chmod 600" in str(caught.value.hint)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    """Who keeps the file elsewhere, behind a link, keeps it there."""
    real = tmp_path / "real" / "kept.json"
    real.parent.mkdir()
    (tmp_path / "profiles.json").symlink_to(real)
    save_logins(tmp_path, Logins().with_login("a", Login(PROD, "key-a")))
    assert (tmp_path / "profiles.json").is_symlink()
    assert "key-a" in real.read_text()
