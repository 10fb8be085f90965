"""The `warren` command against a real control plane, a real worker and a real sshd."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from client.processes import Child, stop
from client.tour.model import start_stand_in
from tests.support.completion import completions
from tests.support.sshd import PrivateSshd
from tests.support.warren import DEADLINE_S, Warren, until, warren_up

MODEL = "stand-in"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def warren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warren]:
    """A Warren with the connection `host` and the provider `llm`, both made with the command."""
    directory = tmp_path_factory.mktemp("cli")
    helpers: list[Child] = []
    with warren_up(directory / "data") as running, PrivateSshd(directory / "sshd") as sshd:
        key = directory / "key"
        key.write_text(sshd.private_key)
        _fine(running.run("secret", "add", "host-key", "--from-file", str(key)))
        options = [
            "--hostname",
            sshd.hostname,
            "--username",
            sshd.username,
            "--port",
            str(sshd.port),
            "--secret",
            "host-key",
        ]
        host_keys = [word for host_key in sshd.host_keys for word in ("--host-key", host_key)]
        _fine(running.run("connection", "create", "host", *options, *host_keys))
        try:
            provider = start_stand_in(directory / "provider.log", helpers.append)
            _fine(running.run("provider", "add", "llm", "--base-url", provider.base_url))
            yield running
        finally:
            stop(helpers)


def _fine(ended: "subprocess.CompletedProcess[str]") -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _submit_ssh(warren: Warren, line: str, *options: str) -> str:
    return _fine(warren.run("task", "submit", "ssh", "host", *options, "--", line)).strip()


def test_an_ssh_task_is_waited_for_with_its_output_and_status(warren: Warren) -> None:
    """`task submit ssh --wait` passes stdout and stderr on and exits 0."""
    ended = warren.run("task", "submit", "ssh", "host", "--wait", "--", "echo out; echo err >&2")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "out\n", "err\n")


def test_a_failed_task_exits_3_with_its_cause(warren: Warren) -> None:
    """A task that dies exits 3, says why in one line, and what to do in another."""
    ended = warren.run("task", "submit", "ssh", "host", "--max-attempts", "1", "--wait", "--", "exit 9")
    assert ended.returncode == 3
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: task_")
    assert "9" in error
    assert "warren task retry task_" in hint


def test_an_llm_task_prints_the_answer(warren: Warren) -> None:
    """`task submit llm --wait` prints the model's words."""
    ended = warren.run("task", "submit", "llm", "-p", "llm", "-m", MODEL, "--wait", "Hello there")
    assert "stand-in" in _fine(ended)
    assert "Hello there" in ended.stdout


def test_watching_shows_output_while_the_task_runs(warren: Warren, tmp_path: Path) -> None:
    """`task watch` prints a line before the task has ended, and ends with it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = _submit_ssh(warren, f"echo first; cat {gate}; echo second")
    with warren.running("task", "watch", task) as (process, stdout):
        assert stdout.readline() == b"first\n"
        gate.write_text("opened\n")
        assert stdout.read() == b"opened\nsecond\n"
        assert process.wait(DEADLINE_S) == 0
    assert _fine(warren.run("task", "watch", task)) == "first\nopened\nsecond\n"


def test_a_cancelled_task_exits_4(warren: Warren, tmp_path: Path) -> None:
    """Cancelling a running task ends it, and whoever watches it exits 4."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = _submit_ssh(warren, f"echo first; cat {gate}")
    with warren.running("task", "watch", task) as (process, stdout):
        assert stdout.readline() == b"first\n"
        _fine(warren.run("task", "cancel", task, "--reason", "a test"))
        assert process.wait(DEADLINE_S) == 4


def test_a_dead_letter_is_listed_retried_and_deleted(warren: Warren, tmp_path: Path) -> None:
    """A dead task shows among the dead letters, lives again when its cause is mended, and its record can go."""
    wanted = tmp_path / "wanted"
    tasks = [_submit_ssh(warren, f"cat {wanted}", "--max-attempts", "1") for _ in range(2)]
    for task in tasks:
        assert warren.run("task", "watch", task).returncode == 3
    letters = json.loads(_fine(warren.run("dead-letter", "list", "-o", "json")))
    first, second = (next(row["id"] for row in letters if row["task_id"] == task) for task in tasks)
    shown = json.loads(_fine(warren.run("dead-letter", "show", first, "-o", "json")))
    assert shown["task_state"] == "dead"
    wanted.write_text("here now\n")
    ended = warren.run("dead-letter", "retry", first, "--wait")
    assert _fine(ended).endswith("here now\n")
    _fine(warren.run("dead-letter", "delete", second, "--yes"))
    left = [row["id"] for row in json.loads(_fine(warren.run("dead-letter", "list", "-o", "json")))]
    assert first not in left
    assert second not in left


def test_many_tasks_are_submitted_from_stdin(warren: Warren) -> None:
    """`task submit --file -` reads one form a line and tells how many went."""
    form = {"action": "ssh.exec", "connection": "host", "input": {"command": "true"}, "title": "bulk"}
    ended = warren.run("task", "submit", "--file", "-", stdin="\n".join([json.dumps(form)] * 5))
    assert _fine(ended) == "5 tasks submitted\n"

    def finished() -> bool:
        rows = json.loads(_fine(warren.run("task", "list", "--state", "succeeded", "-o", "json")))
        return len([row for row in rows if row.get("title") == "bulk"]) == 5

    until("five tasks", finished)


def test_tasks_are_submitted_and_printed_as_yaml(warren: Warren, tmp_path: Path) -> None:
    """A YAML file of forms is submitted, and what is printed as YAML says what JSON says."""
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "- &base {action: ssh.exec, connection: host, title: from yaml, input: {command: 'echo no'}}\n"
        "- <<: *base\n  priority: high\n"
    )
    submitted = yaml.safe_load(_fine(warren.run("task", "submit", "--file", str(file), "-o", "yaml")))
    high = submitted[1]["id"]
    assert _fine(warren.run("task", "watch", high)) == "no\n"
    assert _fine(warren.run("task", "output", high)) == "no\n"
    shown = [_fine(warren.run("task", "show", high, "-o", form)) for form in ("yaml", "json")]
    assert yaml.safe_load(shown[0]) == json.loads(shown[1])
    assert json.loads(shown[1])["priority"] == "high"


def test_events_are_followed_until_the_task_has_ended(warren: Warren, tmp_path: Path) -> None:
    """`task events --follow` prints what happens while it happens, and ends with the task."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = _submit_ssh(warren, f"cat {gate}")
    with warren.running("task", "events", task, "--follow", "-o", "json") as (process, stdout):
        while json.loads(stdout.readline())["type"] != "task.started":
            pass
        gate.write_text("")
        assert [json.loads(line)["type"] for line in stdout] == ["task.succeeded"]
        assert process.wait(DEADLINE_S) == 0
    listed = json.loads(_fine(warren.run("task", "events", task, "-o", "json")))
    assert listed[-1]["type"] == "task.succeeded"


def test_a_key_is_made_used_and_revoked(warren: Warren, tmp_path: Path) -> None:
    """A new key may do what its role may, until it is deleted; the audit log knows who made it."""
    key = tmp_path / "key"
    key.write_text(_fine(warren.run("key", "create", "reader", "--role", "viewer")))
    assert "local-1" in _fine(warren.run("worker", "list", "--key-file", str(key)))
    assert warren.run("secret", "list", "--key-file", str(key)).returncode == 6
    keys = json.loads(_fine(warren.run("key", "list", "-o", "json")))
    (made,) = (row["id"] for row in keys if row["name"] == "reader")
    _fine(warren.run("key", "delete", made, "--yes"))
    assert warren.run("worker", "list", "--key-file", str(key)).returncode == 6
    assert made in _fine(warren.run("audit", "list", "-n", "2"))


def test_names_are_completed(warren: Warren, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tab key offers the names that the control plane has."""
    monkeypatch.setenv("WARREN_DATA_DIR", str(warren.data_dir))
    for line in ("warren task submit ssh ho", "warren connection show ho"):
        assert completions(line) == ["host"]
    assert completions("warren worker show loc") == ["local-1"]


def test_a_python_function_that_no_worker_has_is_dead_at_once(warren: Warren) -> None:
    """An unknown function is not tried again and again: its task dies and the error names it."""
    ended = warren.run("task", "submit", "python", "no-such-function", "--wait")
    assert ended.returncode == 3
    assert "no-such-function" in ended.stderr


def test_nouns_are_added_listed_and_removed(warren: Warren) -> None:
    """Secrets, providers and connections appear in their lists and go; a secret's value is never shown."""
    _fine(warren.run("secret", "add", "spare", stdin="very-private"))
    _fine(warren.run("provider", "add", "spare", "--base-url", "https://example.org/v1", "--secret", "spare"))
    for noun in ("secret", "provider"):
        assert "spare" in _fine(warren.run(noun, "list"))
        assert "very-private" not in _fine(warren.run(noun, "list", "-o", "json"))
    again = warren.run("secret", "add", "spare", stdin="other")
    assert again.returncode == 6, again.stderr
    _fine(warren.run("secret", "add", "spare", "--replace", stdin="other"))
    _fine(warren.run("provider", "update", "spare", "--base-url", "https://example.org/v2", "--secret", ""))
    provider = json.loads(_fine(warren.run("provider", "show", "spare", "-o", "json")))
    assert (provider["base_url"], provider["secret"]) == ("https://example.org/v2", None)
    _fine(warren.run("provider", "rm", "spare", "--yes"))
    _fine(warren.run("secret", "rm", "spare", "--yes"))
    for noun in ("secret", "provider"):
        assert "spare" not in _fine(warren.run(noun, "list"))
    assert "host" in _fine(warren.run("connection", "list"))


def test_api_and_worker_list_show_the_same_worker(warren: Warren) -> None:
    """`warren api GET /workers` prints what the API says, and `worker list` the same for people."""
    (worker,) = json.loads(_fine(warren.run("api", "GET", "/workers")))["data"]
    assert (worker["name"], worker["approval"]) == ("local-1", "approved")
    table = _fine(warren.run("worker", "list"))
    assert worker["fingerprint"] in table
    assert worker["id"] in table


def test_refusals_have_their_status(warren: Warren) -> None:
    """What is not there, a wrong key and a role that is too small are refused with 6."""
    assert warren.run("task", "show", "task_none").returncode == 6
    assert warren.run("worker", "list", WARREN_API_KEY="wrong").returncode == 6
    worker_key = warren.data_dir / "worker.key"
    ended = warren.run("secret", "list", "--key-file", str(worker_key))
    assert ended.returncode == 6
    assert worker_key.read_text().strip() not in ended.stderr
