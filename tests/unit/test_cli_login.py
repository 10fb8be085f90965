"""Logging in: what is kept, what is never shown, and where a key goes."""

import io
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.cli.main import main
from client.profile_store import Login, Logins, load_logins, save_logins
from tests.support.completion import completions
from tests.support.scripted_http import Answer, ScriptedServer
from tests.support.warren import until

KEY = "wk_very-private"
ME = {"id": "key_1", "name": "ada", "role": "operator"}
REFUSED = Answer(status=401, body={"error": {"code": "unauthenticated", "message": "no valid API key came"}})


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of the user's configuration, in an environment without any other."""
    for name in list(os.environ):
        if name.startswith("WARREN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("WARREN_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A control plane that knows the key, and has one worker."""
    script = {
        "/auth/whoami": [Answer(body=ME)],
        "/workers": [Answer(body={"data": [{"name": "web-1"}, {"name": "web-2"}, {"name": "db"}]})],
    }
    with ScriptedServer(script) as running:
        yield running


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a text on stdin."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_login_is_tried_kept_and_used(
    config: Path, server: ScriptedServer, type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """After a login every command finds the control plane and the key; neither shows the key."""
    type_in(KEY + "\n")
    assert main(["login", "--url", server.url + "/"]) == 0
    assert load_logins(config) == Logins({"default": Login(server.url, KEY)}, "default")
    assert main(["whoami"]) == 0
    assert main(["worker", "list", "-o", "json"]) == 0
    assert main(["profile", "list"]) == 0
    assert main(["profile", "show", "default", "-o", "json"]) == 0
    assert [asked.headers["Authorization"] for asked in server.asked] == [f"Bearer {KEY}"] * 3
    captured = capsys.readouterr()
    assert "ada" in captured.out
    assert "(operator)" in captured.out
    assert KEY not in captured.out + captured.err


def test_a_key_that_is_refused_is_not_kept(
    config: Path, type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A login that fails leaves everything as it was."""
    save_logins(config, Logins({"default": Login("http://127.0.0.1:1", "older")}, "default"))
    before = load_logins(config)
    type_in(KEY)
    with ScriptedServer({"/auth/whoami": [REFUSED]}) as server:
        assert main(["login", "--url", server.url, "--profile", "other"]) == 6
    assert load_logins(config) == before
    assert KEY not in "".join(capsys.readouterr())


def test_a_key_file_is_read_and_a_profile_named(config: Path, server: ScriptedServer, tmp_path: Path) -> None:
    """`--key-file` takes the key from a file; a second login without a URL goes to the profile's own."""
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "newer").write_text("wk_newer")
    assert main(["login", "--url", server.url, "--key-file", str(tmp_path / "key"), "--profile", "prod"]) == 0
    assert main(["login", "--key-file", str(tmp_path / "newer"), "--profile", "prod"]) == 0
    assert load_logins(config) == Logins({"prod": Login(server.url, "wk_newer")}, "prod")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["login"], "--url"),
        (["login", "--url", "elsewhere"], "no URL"),
        (["login", "--url", "http://127.0.0.1:1", "--profile", "no name"], "profile 'no name'"),
        (["logout"], "not logged in"),
        (["logout", "--profile", "nope"], "'nope'"),
        (["profile", "use", "nope"], "'nope'"),
        (["profile", "delete", "nope", "--yes"], "'nope'"),
        (["whoami", "--profile", "nope"], "'nope'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent_or_kept(
    config: Path, type_in: Callable[[str], None], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A login or profile that cannot be is refused in words, without a request."""
    type_in(KEY)
    assert main(arguments) in {2, 78}
    assert said in capsys.readouterr().err
    assert not config.exists()


def test_logging_out_forgets_the_key_and_deleting_the_rest(
    config: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """After logout the URL is still known and the key is not; after delete neither."""
    save_logins(config, Logins({"a": Login(server.url, KEY), "b": Login(server.url, "wk_b")}, "a"))
    assert main(["logout"]) == 0
    assert KEY not in (config / "profiles.json").read_text()
    assert main(["whoami"]) == 6
    assert "warren login" in capsys.readouterr().err
    assert main(["profile", "use", "b"]) == 0
    assert main(["whoami"]) == 0
    assert main(["profile", "delete", "b"]) == 2
    assert main(["profile", "delete", "b", "--yes"]) == 0
    assert load_logins(config).by_name == {"a": Login(server.url)}


def test_a_list_of_profiles_marks_the_current_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The list says which profile counts, and where one is logged in."""
    save_logins(config, Logins({"a": Login("http://a:1", "k"), "b": Login("http://b:1")}, "b"))
    assert main(["profile", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["NAME", "URL", "LOGGED", "IN"], ["a", "http://a:1", "yes"], ["*", "b", "http://b:1", "no"]]


def test_http_to_another_machine_is_warned_about(
    config: Path, type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Over http to elsewhere the key can be read on its way, which is said before it is asked for."""
    type_in("")
    assert main(["login", "--url", "http://warren.invalid"]) == 2
    assert "http the key can be read" in capsys.readouterr().err


def test_the_documentation_is_found_without_a_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`warren docs` needs to know where, not who."""
    assert main(["docs", "--url", "https://warren.example"]) == 0
    assert capsys.readouterr().out == "https://warren.example/docs\n"


def test_a_key_that_is_typed_is_not_shown(config: Path, server: ScriptedServer) -> None:
    """On a terminal the key is asked for, and nothing of it is echoed."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "client", "login", "--url", server.url]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True) as process:
        try:
            # What is typed before the terminal hides it is thrown away.
            until("a hidden prompt", lambda: not termios.tcgetattr(follower)[3] & termios.ECHO, 60)
            os.write(leader, KEY.encode() + b"\n")
            assert process.wait(60) == 0
        finally:
            process.kill()
    shown = os.read(leader, 10_000)
    os.close(follower)
    os.close(leader)
    assert b"API key" in shown
    assert b"logged in" in shown
    assert KEY.encode() not in shown
    assert load_logins(config).by_name["default"].key == KEY


def test_names_are_completed_from_the_control_plane(config: Path, server: ScriptedServer) -> None:
    """The tab key offers names that exist, of workers and of profiles, with the options that were typed so far."""
    save_logins(config, Logins({"prod": Login(server.url, KEY), "stage": Login("http://127.0.0.1:1", KEY)}, "prod"))
    assert completions("warren worker show web") == ["web-1", "web-2"]
    assert completions("warren task submit ssh --worker d") == ["db"]
    assert completions("warren worker list --profile st") == ["stage"]
    assert completions("warren worker show --profile stage w") == []


@pytest.mark.parametrize("broken", ["nothing", "[]", "\x00"])
def test_completion_is_silent_whatever_is_wrong(config: Path, broken: str) -> None:
    """Without a control plane, a key or a readable file of profiles there is nothing to offer, and nothing to say."""
    config.mkdir()
    (config / "profiles.json").write_text(broken)
    (config / "profiles.json").chmod(0o600)
    assert completions("warren worker show w") == []
    assert completions("warren worker list --profile p") == []


def test_what_is_kept_is_json_that_other_programs_can_read(config: Path) -> None:
    """The file's form is fixed: the current profile's name, and a URL and key for each."""
    save_logins(config, Logins().with_login("a", Login("http://a:1", "k")))
    assert json.loads((config / "profiles.json").read_text()) == {
        "current": "a",
        "profiles": {"a": {"url": "http://a:1", "key": "k"}},
    }
