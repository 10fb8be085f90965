"""The verbs of the whole surface, with a real control plane, a real worker, a real sshd and a stand-in model."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.processes import Child, stop
from client.tour.model import start_stand_in
from tests.support.sshd import PrivateSshd
from tests.support.warren import DEADLINE_S, Warren, until, warren_up

MODEL = "stand-in"
LANE = "q.t.default.ssh"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def warren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warren]:
    """A Warren with the connection `host`, the provider `llm` and the agent `writer`."""
    directory = tmp_path_factory.mktemp("surface")
    helpers: list[Child] = []
    with warren_up(directory / "data") as running, PrivateSshd(directory / "sshd") as sshd:
        key = directory / "key"
        key.write_text(sshd.private_key)
        _fine(running.run("secret", "create", "host-key", "--from-file", str(key)))
        options = ["--hostname", sshd.hostname, "--port", str(sshd.port), "--username", sshd.username]
        host_keys = [word for host_key in sshd.host_keys for word in ("--host-key", host_key)]
        _fine(running.run("connection", "create", "host", *options, "--secret", "host-key", *host_keys))
        try:
            provider = start_stand_in(directory / "provider.log", helpers.append)
            _fine(running.run("provider", "create", "llm", "--base-url", provider.base_url))
            _fine(running.run("agent", "create", "writer", "--provider", "llm", "--model", MODEL, "--tool", "web"))
            yield running
        finally:
            stop(helpers)


def _fine(ended: "subprocess.CompletedProcess[str]") -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _data(warren: Warren, *arguments: str) -> Any:
    return json.loads(_fine(warren.run(*arguments, "--output", "json")))


def _submit(warren: Warren, line: str, *options: str) -> str:
    return _fine(warren.run("task", "submit", "ssh", "host", *options, "--", line)).strip()


def test_a_login_is_used_until_the_logout(warren: Warren, tmp_path: Path) -> None:
    """Logged in, the command finds the control plane without its data directory; logged out, it does not."""
    elsewhere = {"WARREN_CONFIG_DIR": str(tmp_path), "WARREN_DATA_DIR": "", "XDG_DATA_HOME": str(tmp_path)}
    key = (warren.data_dir / "admin.key").read_text()
    _fine(warren.run("login", "--url", warren.url, stdin=key, **elsewhere))
    me = json.loads(_fine(warren.run("whoami", "-o", "json", **elsewhere)))
    assert (me["url"], me["role"]) == (warren.url, "admin")
    assert "local-1" in _fine(warren.run("worker", "list", **elsewhere))
    refused = warren.run("login", "--url", warren.url, "--profile", "other", stdin="wrong", **elsewhere)
    assert refused.returncode == 6
    _fine(warren.run("logout", **elsewhere))
    assert warren.run("worker", "list", **elsewhere).returncode == 6


def test_an_agent_works_is_changed_and_stopped(warren: Warren) -> None:
    """An agent's task is answered; a change is a version; a stopped agent takes no work."""
    answered = _fine(warren.run("task", "submit", "agent", "writer", "Hello there", "--tool", "web", "--wait"))
    assert "stand-in" in answered
    assert [task["agent"] for task in _data(warren, "task", "list", "--agent", "writer")] == ["writer"]
    _fine(warren.run("agent", "update", "writer", "--system", "Be brief"))
    assert [row["version"] for row in _data(warren, "agent", "versions", "writer")] == [2, 1]
    _fine(warren.run("agent", "stop", "writer"))
    assert warren.run("task", "submit", "agent", "writer", "Hello").returncode == 6
    assert "writer" in _fine(warren.run("agent", "list", "--status", "offline"))
    _fine(warren.run("agent", "start", "writer"))


def test_a_paused_queue_starts_nothing_until_it_is_resumed(warren: Warren) -> None:
    """What is submitted to a paused queue waits, and runs when the queue is resumed."""
    _fine(warren.run("queue", "pause", LANE, "--reason", "a test"))
    task = _submit(warren, "echo ran", "--title", "waiting")
    assert "a test" in _fine(warren.run("queue", "list"))
    assert _data(warren, "queue", "show", LANE)["waiting"] == 1
    _fine(warren.run("task", "edit", task, "--priority", "high", "--title", "edited"))
    shown = _data(warren, "task", "show", task)
    assert (shown["state"], shown["priority"], shown["title"]) == ("scheduled", "high", "edited")
    _fine(warren.run("queue", "resume", LANE))
    assert _fine(warren.run("task", "watch", task)) == "ran\n"


def test_a_worker_is_drained_to_the_last_task(warren: Warren, tmp_path: Path) -> None:
    """`worker drain --wait` returns when what ran has ended; until it is resumed nothing new starts there."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = _submit(warren, f"cat {gate}")
    until("it runs", lambda: _data(warren, "task", "show", running)["state"] == "running")
    with warren.running("worker", "drain", "local-1", "--wait") as (process, stdout):
        assert stdout.readline() == b"waiting for 1 task\n"
        gate.write_text("")
        assert process.wait(DEADLINE_S) == 0
    assert _data(warren, "worker", "show", "local-1")["presence"] == "draining"
    waiting = _submit(warren, "echo after")
    _fine(warren.run("worker", "resume", "local-1"))
    assert _fine(warren.run("task", "watch", waiting)) == "after\n"
    assert _data(warren, "worker", "overview")["by_presence"]["online"] == 1


def test_a_dead_task_tells_its_story_and_lives_again(warren: Warren, tmp_path: Path) -> None:
    """Attempts, timeline, tree and statistics tell of a death; `task retry` ends it."""
    wanted = tmp_path / "wanted"
    task = _submit(warren, f"cat {wanted}", "--max-attempts", "1")
    assert warren.run("task", "watch", task).returncode == 3
    assert "local-1" in _fine(warren.run("task", "attempts", task))
    assert "began attempt 1" in _fine(warren.run("task", "timeline", task))
    assert _fine(warren.run("task", "tree", task)).startswith(f"{task}  dead")
    assert _data(warren, "task", "stats")["by_state"]["dead"] >= 1
    assert task in _fine(warren.run("task", "list", "--state", "dead", "--created-after", "1h"))
    wanted.write_text("here now\n")
    again = warren.run("task", "retry", task, "--wait")
    assert (again.returncode, again.stdout, again.stderr) == (0, "here now\n", "")


def test_dead_letters_are_made_counted_and_retried_together(warren: Warren) -> None:
    """A task that waits can be given up; all that were are retried with one command."""
    _fine(warren.run("queue", "pause", LANE))
    tasks = [_submit(warren, "echo again") for _ in range(3)]
    for task in tasks:
        _fine(warren.run("dead-letter", "add", task, "--reason", "a test", "--yes"))
    assert _data(warren, "dead-letter", "stats")["by_cause"]["manual"] == 3
    assert len(_data(warren, "dead-letter", "list", "--cause", "manual", "--queue", LANE)) == 3
    _fine(warren.run("queue", "resume", LANE))
    assert _data(warren, "dead-letter", "retry-all", "--cause", "manual", "--yes")["retried"] == 3
    for task in tasks:
        assert _fine(warren.run("task", "watch", task)) == "again\n"


def test_a_connection_is_tried_out_and_used(warren: Warren) -> None:
    """`connection test` and `execute` go through a worker to the host, and come back with what it says."""
    assert "connection host works" in _fine(warren.run("connection", "test", "host"))
    ended = warren.run("connection", "execute", "host", "--", "echo out; echo err >&2")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "out\n", "err\n")
    assert warren.run("connection", "execute", "host", "--", "exit 9").returncode == 3
    _fine(warren.run("connection", "update", "host", "--host-key", "SHA256:" + "A" * 43))
    tried = warren.run("connection", "test", "host")
    assert tried.returncode == 3
    assert "host key" in tried.stderr
    dead = warren.run("task", "submit", "ssh", "host", "--wait", "--", "true")
    assert (dead.returncode, dead.stdout) == (3, "")
    real = [word for key in _host_keys(tried.stderr) for word in ("--host-key", key)]
    _fine(warren.run("connection", "update", "host", *real))
    _fine(warren.run("connection", "test", "host"))


def _host_keys(said: str) -> list[str]:
    return [word.strip(",.;:") for word in said.split() if word.startswith("SHA256:") and "A" * 43 not in word]


def test_files_go_up_and_come_down(warren: Warren, tmp_path: Path) -> None:
    """A file comes back byte for byte, into a directory, over what is there, or to stdout."""
    content = os.urandom(1_500_000)
    (tmp_path / "report.bin").write_bytes(content)
    task = _submit(warren, "true")
    file = _fine(warren.run("file", "upload", str(tmp_path / "report.bin"), "--task", task)).strip()
    assert [row["id"] for row in _data(warren, "file", "list", "--task", task)] == [file]
    target = tmp_path / "copy.bin"
    _fine(warren.run("file", "download", file, "--to", str(target)))
    assert target.read_bytes() == content
    assert warren.run("file", "download", file, "--to", str(target)).returncode == 2
    _fine(warren.run("file", "download", file, "--to", str(target), "--force"))
    with warren.running("file", "download", file, "--to", "-") as (_, stdout):
        assert stdout.read() == content
    assert _fine(warren.run("file", "url", file)).startswith(warren.url)
    _fine(warren.run("file", "delete", file, "--yes"))
    assert warren.run("file", "show", file).returncode == 6


def test_settings_change_while_it_runs(warren: Warren) -> None:
    """A setting holds from the next task on; one that cannot be is refused with a hint."""
    _fine(warren.run("setting", "set", "tasks.default_priority", "high"))
    assert _data(warren, "setting", "show", "tasks.default_priority")["value"] == "high"
    assert _data(warren, "task", "show", _submit(warren, "true"))["priority"] == "high"
    assert warren.run("setting", "set", "tasks.default_priority", "huge").returncode == 2
    assert warren.run("setting", "set", "tasks.nope", "1").returncode == 6
    _fine(warren.run("setting", "set", "tasks.default_priority", "normal"))
    assert _data(warren, "setting", "health")["database"]["status"] == "ok"


def test_secrets_are_rotated_and_shown_to_nobody(warren: Warren) -> None:
    """A secret has versions and a date; its value is not revealed unless the control plane was started for it."""
    _fine(warren.run("secret", "create", "short", "--expires-at", "2020-01-01T00:00:00Z", stdin="very-private"))
    _fine(warren.run("secret", "rotate", "short", stdin="newer"))
    (expiring,) = _data(warren, "secret", "expiring")
    assert (expiring["name"], expiring["version"]) == ("short", 2)
    refused = warren.run("secret", "reveal", "short")
    assert (refused.returncode, refused.stdout) == (6, "")
    _fine(warren.run("secret", "delete", "short", "--yes"))
