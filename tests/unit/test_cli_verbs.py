"""What each verb asks the control plane for, and what it says then."""

import io
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import yaml

from client.cli.main import main
from tests.support.scripted_http import Answer, Asked, ScriptedServer

TASK: dict[str, Any] = {"id": "t", "state": "queued", "action": "f", "finished_at": None}
WORKER: dict[str, Any] = {"id": "w1", "name": "web-1", "running": 0, "approval": "approved", "fingerprint": "SHA256:x"}
Run = tuple[int, str, str, list[Asked]]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WARREN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARREN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WARREN_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WARREN_API_KEY", "wk_private")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command against a server with this script; gives status, stdout, stderr and what was asked."""

    def run(arguments: list[str], script: dict[str, Answer | list[Answer]]) -> Run:
        answers = {path: one if isinstance(one, list) else [one] for path, one in script.items()}
        with ScriptedServer(answers) as server:
            monkeypatch.setenv("WARREN_URL", server.url)
            status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err, server.asked

    return run


@pytest.mark.parametrize(
    ("arguments", "method", "path", "body", "answer", "said"),
    [
        (["task", "retry", "t"], "POST", "/tasks/t/retry", None, TASK, "task t is queued again\n"),
        (
            ["task", "edit", "t", "--title", "x", "--priority", "high", "--deadline", ""],
            "PATCH",
            "/tasks/t",
            {"title": "x", "priority": "high", "deadline": None},
            TASK,
            "task t updated\n",
        ),
        (["task", "cancel", "t"], "POST", "/tasks/t/cancel", None, TASK, "task t was asked to stop\n"),
        (
            ["dead-letter", "add", "t", "--reason", "gone", "--yes"],
            "POST",
            "/dead-letter",
            {"task_id": "t", "reason": "gone"},
            {"id": "d"},
            "task t is given up: dead letter d\n",
        ),
        (
            ["dead-letter", "retry-all", "--cause", "unavailable", "--queue", "q.t.a.b", "--yes"],
            "POST",
            "/dead-letter/retry-all",
            {"cause": "unavailable", "lane": "q.t.a.b"},
            {"retried": 1200, "skipped": 2},
            "retried 1,200 tasks, 2 skipped that had changed meanwhile\n",
        ),
        (
            ["queue", "pause", "q.t.default.ssh", "--reason", "x"],
            "POST",
            "/queues/q.t.default.ssh/pause",
            {"reason": "x"},
            {"name": "q"},
            "queue q.t.default.ssh is paused\n",
        ),
        (["queue", "resume", "q"], "POST", "/queues/q/resume", None, {"name": "q"}, "queue q runs\n"),
        (
            ["worker", "drain", "web-1"],
            "POST",
            "/workers/web-1/drain",
            None,
            WORKER | {"running": 2},
            "worker web-1 takes nothing new; it still runs 2 tasks\n",
        ),
        (
            ["worker", "resume", "web-1"],
            "POST",
            "/workers/web-1/resume",
            None,
            WORKER,
            "worker web-1 takes tasks again\n",
        ),
        (
            ["agent", "create", "a", "-p", "openai", "-m", "m", "--tool", "x", "--tool", "y", "--worker", "w"],
            "POST",
            "/agents",
            {
                "name": "a",
                "llm_provider": "openai",
                "llm_model": "m",
                "enabled_tools": ["x", "y"],
                "worker_id": "w",
            },
            {"id": "a"},
            "agent a created\n",
        ),
        (
            ["agent", "update", "a b", "--system", "", "--tool", ""],
            "PATCH",
            "/agents/a%20b",
            {"system_prompt": None, "enabled_tools": []},
            {"id": "a"},
            "agent a b updated\n",
        ),
        (["agent", "start", "a"], "POST", "/agents/a/start", None, {"status": "idle"}, "agent a is idle\n"),
        (["agent", "stop", "a"], "POST", "/agents/a/stop", None, {"status": "offline"}, "agent a is offline\n"),
        (
            ["provider", "create", "p", "--base-url", "http://x/v1", "--model", "m"],
            "POST",
            "/providers",
            {"name": "p", "base_url": "http://x/v1", "models": ["m"]},
            {},
            "provider p created\n",
        ),
        (
            ["provider", "set", "p", "--secret", "", "--name", "q"],
            "PATCH",
            "/providers/p",
            {"secret": None, "name": "q"},
            {},
            "provider p updated\n",
        ),
        (
            ["connection", "add", "c", "--hostname", "h", "-u", "me", "--secret", "s", "--host-key", "SHA256:a"],
            "POST",
            "/ssh-connections",
            {"name": "c", "hostname": "h", "username": "me", "secret": "s", "host_keys": ["SHA256:a"]},
            {},
            "connection c created\n",
        ),
        (
            ["connection", "update", "c", "--hostname", "h2"],
            "PATCH",
            "/ssh-connections/c",
            {"hostname": "h2"},
            {},
            "connection c updated\n",
        ),
        (
            ["secret", "rotate", "s", "--from-file", "value"],
            "POST",
            "/secrets/s/rotate",
            {"value": "private"},
            {"version": 3},
            "secret s is at version 3\n",
        ),
        (
            ["secret", "update", "s", "--category", "x"],
            "PATCH",
            "/secrets/s",
            {"category": "x"},
            {},
            "secret s updated\n",
        ),
        (
            ["key", "create", "ci", "--role", "operator"],
            "POST",
            "/security/api-keys",
            {"name": "ci", "role": "operator"},
            {"id": "k", "key": "wk_new"},
            "wk_new\n",
        ),
        (
            ["setting", "set", "tasks.default_timeout_s", "300"],
            "PUT",
            "/settings/tasks/default_timeout_s",
            {"value": 300},
            {},
            "tasks.default_timeout_s is 300\n",
        ),
        (
            ["setting", "set", "tasks.default_agent", "writer"],
            "PUT",
            "/settings/tasks/default_agent",
            {"value": "writer"},
            {},
            "tasks.default_agent is writer\n",
        ),
        (["file", "delete", "f", "--yes"], "DELETE", "/files/f", None, {}, "file f deleted\n"),
        (["key", "delete", "k", "--yes"], "DELETE", "/security/api-keys/k", None, {}, "key k deleted\n"),
        (["agent", "rm", "a", "--yes"], "DELETE", "/agents/a", None, {}, "agent a deleted\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_verb_asks_for_one_thing_and_says_that_it_was_done(
    run: Any, arguments: list[str], method: str, path: str, body: Any, answer: Any, said: str
) -> None:
    """Each verb that changes something sends exactly this request, and a sentence tells that it was done."""
    Path("value").write_text("private\n")
    status, out, _, asked = run(arguments, {path: Answer(body=answer)})
    assert [(one.method, one.path, one.body) for one in asked] == [(method, path, body)]
    assert (status, out) == (0, said)


@pytest.mark.parametrize(
    ("arguments", "path", "query"),
    [
        (
            ["task", "list", "--state", "dead", "--agent", "a", "--queue", "q", "--worker", "w", "--parent", "p"],
            "/tasks",
            {"state": "dead", "agent_id": "a", "lane": "q", "worker_id": "w", "parent_id": "p", "limit": "51"},
        ),
        (
            ["task", "list", "--created-after", "2026-01-01T00:00:00Z", "--pool", "x", "--priority", "low", "-n", "3"],
            "/tasks",
            {"created_after": "2026-01-01T00:00:00Z", "pool": "x", "priority": "low", "limit": "4"},
        ),
        (
            [
                "dead-letter",
                "list",
                "--error-code",
                "timeout",
                "--action",
                "x",
                "--dead-before",
                "2026-01-01T00:00:00Z",
            ],
            "/dead-letter",
            {"error_code": "timeout", "action": "x", "dead_before": "2026-01-01T00:00:00Z", "limit": "51"},
        ),
        (
            ["agent", "list", "--status", "busy", "--role", "r"],
            "/agents",
            {"status": "busy", "role": "r", "limit": "51"},
        ),
        (
            ["worker", "list", "--status", "pending", "--pool", "p"],
            "/workers",
            {"status": "pending", "pool": "p", "limit": "51"},
        ),
        (["file", "list", "--task", "t"], "/files", {"task_id": "t", "limit": "51"}),
        (["audit", "list", "-n", "1000"], "/admin/audit", {"limit": "200"}),
        (["secret", "expiring", "--days", "7"], "/secrets/expiring", {"limit": "200", "days": "7"}),
        (["queue", "list"], "/queues", {"limit": "51"}),
        (["key", "list"], "/security/api-keys", {"limit": "51"}),
        (["worker", "tasks", "w"], "/workers/w/tasks", {"limit": "200"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_list_is_chosen_by_options(run: Any, arguments: list[str], path: str, query: dict[str, str]) -> None:
    """Filters are options; an empty list says so on stderr and leaves stdout empty."""
    status, out, err, asked = run(arguments, {path: Answer(body={"data": []})})
    assert status == 0
    assert out == ""
    assert err
    (one,) = asked
    sent_path, _, sent = one.path.partition("?")
    assert (one.method, sent_path, dict(parse_qsl(sent))) == ("GET", path, query)


def test_a_time_can_be_said_as_how_long_ago(run: Any) -> None:
    """`2h` is a time that lies two hours back."""
    _, _, _, asked = run(["task", "list", "--created-after", "2h"], {"/tasks": Answer(body={"data": []})})
    sent = datetime.fromisoformat(parse_qs(urlsplit(asked[0].path).query)["created_after"][0])
    assert abs(datetime.now(UTC) - timedelta(hours=2) - sent) < timedelta(minutes=1)


def test_a_list_that_goes_on_says_so(run: Any) -> None:
    """What --limit leaves out is mentioned on stderr, and only what it allows is printed."""
    rows = [{"id": f"task_{number}"} for number in range(5)]
    status, out, err, _ = run(["task", "list", "-n", "3", "-o", "json"], {"/tasks": Answer(body={"data": rows})})
    assert (status, len(json.loads(out))) == (0, 3)
    assert "--limit" in err
    _, _, err, _ = run(["task", "list", "-n", "5", "-o", "json"], {"/tasks": Answer(body={"data": rows})})
    assert err == ""


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(
    ("arguments", "path", "body", "printed"),
    [
        (["provider", "list"], "/providers", {"data": [{"name": "p"}]}, [{"name": "p"}]),
        (["task", "show", "t"], "/tasks/t", TASK, TASK),
        (["task", "cancel", "t"], "/tasks/t/cancel", TASK, TASK),
        (
            ["task", "tree", "t"],
            "/tasks/t/tree",
            {"root": TASK, "truncated": False},
            {"root": TASK, "truncated": False},
        ),
        (["task", "stats"], "/tasks/stats", {"total": 1, "by_status": {}}, {"total": 1, "by_status": {}}),
        (["api", "GET", "/workers"], "/workers", {"data": []}, {"data": []}),
        (["setting", "list"], "/settings", {"a": {"b": {"value": 1}}}, [{"name": "a.b", "value": 1}]),
        (["provider", "delete", "p", "--yes"], "/providers/p", {}, {"deleted": "p"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else None,
)
def test_programs_get_data(run: Any, arguments: list[str], path: str, body: Any, printed: Any, form: str) -> None:
    """With --output json or yaml a program reads what the server said, whatever the command."""
    status, out, _, _ = run([*arguments, "--output", form], {path: Answer(body=body)})
    assert status == 0
    assert (json.loads(out) if form == "json" else yaml.safe_load(out)) == printed


def test_update_without_a_change_is_a_mistake(run: Any) -> None:
    """An update that names nothing asks for nothing."""
    status, out, err, asked = run(["provider", "update", "p"], {})
    assert (status, out, asked) == (2, "", [])
    assert "say what to change" in err


def test_what_has_to_be_said_is_missed_before_anything_is_sent(run: Any) -> None:
    """A form's required fields are options that have to be given."""
    status, _, err, asked = run(["provider", "create", "p"], {})
    assert (status, asked) == (2, [])
    assert "--base-url" in err


def test_an_empty_reference_is_no_reference(run: Any) -> None:
    """An empty name, as of a variable that is not set, does not become the whole list."""
    for arguments in (["task", "show", ""], ["provider", "delete", "", "--yes"], ["queue", "pause", ""]):
        status, _, _, asked = run(arguments, {})
        assert (status, asked) == (2, [])


def test_a_drain_waits_until_nothing_runs(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`worker drain --wait` looks again and again until the worker is idle."""
    monkeypatch.setattr("client.cli.worker.GLANCE_S", 0.01)
    script = {
        "/workers/w/drain": Answer(body=WORKER | {"running": 2}),
        "/workers/w": [Answer(body=WORKER | {"running": left}) for left in (2, 2, 1, 0)],
    }
    status, out, err, asked = run(["worker", "drain", "w", "--wait"], script)
    assert (status, out) == (0, "worker web-1 takes nothing new and runs nothing\n")
    assert err == "waiting for 2 tasks\nwaiting for 1 task\n"
    assert len(asked) == 5


def test_a_drain_that_takes_too_long_is_given_up(run: Any) -> None:
    """After --timeout it exits 5 and says that the worker stays drained."""
    busy = Answer(body=WORKER | {"running": 1})
    arguments = ["worker", "drain", "w", "--wait", "--timeout", "0"]
    status, out, err, _ = run(arguments, {"/workers/w/drain": busy, "/workers/w": busy})
    assert (status, out) == (5, "")
    assert "it stays drained" in err


def test_a_secret_is_revealed_on_stdout_alone(run: Any) -> None:
    """`secret reveal` prints the value and nothing else, so that it can be piped."""
    answer = Answer(body={"name": "s", "value": "very-private"})
    status, out, err, asked = run(["secret", "reveal", "s"], {"/secrets/s": answer})
    assert (status, out, err) == (0, "very-private\n", "")
    assert asked[0].path == "/secrets/s?reveal=true"


def test_a_new_key_is_printed_alone_on_stdout(run: Any) -> None:
    """The key can be sent into a file; that it is not shown again stands on stderr."""
    answer = Answer(status=201, body={"id": "k", "name": "ci", "role": "viewer", "key": "wk_new"})
    status, out, err, _ = run(["key", "create", "ci", "--role", "viewer"], {"/security/api-keys": answer})
    assert (status, out) == (0, "wk_new\n")
    assert "only time" in err


def test_a_connection_that_works_or_not(run: Any) -> None:
    """`connection test` says how long it took, or exits 3 with the reason."""
    path = "/ssh-connections/c/test"
    works = {"ok": True, "task_id": "t", "state": "succeeded", "duration_ms": 120, "error": None}
    status, out, _, asked = run(["connection", "test", "c", "--timeout", "5"], {path: Answer(body=works)})
    assert (status, out) == (0, "connection c works (120 ms)\n")
    assert asked[0].body == {"timeout_s": 5.0}
    fails = works | {"ok": False, "error": {"code": "no_worker", "message": "no worker is online"}}
    status, out, err, _ = run(["connection", "test", "c"], {path: Answer(body=fails)})
    assert (status, out) == (3, "")
    assert "no worker is online" in err


def test_a_command_is_executed_with_its_output_and_status(run: Any) -> None:
    """`connection execute` passes both streams on, and exits 0 or 3."""
    path = "/ssh-connections/c/execute"
    done = TASK | {"state": "succeeded", "finished_at": "2026-01-01T00:00:00Z"}
    answer = {"task": done, "exit_status": 0, "stdout": "out\n", "stderr": "err\n"}
    status, out, err, asked = run(["connection", "execute", "c", "--", "ls", "a b"], {path: Answer(body=answer)})
    assert (status, out, err) == (0, "out\n", "err\n")
    assert asked[0].body["command"] == "ls 'a b'"
    answer |= {"truncated": True}
    assert "warren task output t" in run(["connection", "execute", "c", "--", "ls"], {path: Answer(body=answer)})[2]
    dead = done | {"state": "dead", "error": {"message": "exit status 9", "cause": "max_attempts"}}
    status, _, err, _ = run(
        ["connection", "execute", "c", "--", "false"], {path: Answer(body=answer | {"task": dead, "exit_status": 9})}
    )
    assert status == 3
    assert "exit status 9" in err


def test_a_command_that_goes_on_is_followed(run: Any) -> None:
    """What is not over when the control plane answers is watched to its end."""
    events = (
        'event: output\nid: 1.4\ndata: {"attempt": 1, "stream": "stdout", "offset": 0, "text": "out\\n"}\n\n'
        'event: end\ndata: {"state": "succeeded"}\n\n'
    )
    script = {
        "/ssh-connections/c/execute": Answer(
            status=202, body={"task": TASK | {"state": "running"}, "exit_status": None, "stdout": "", "stderr": ""}
        ),
        "/tasks/t/output": Answer(stream=events),
        "/tasks/t": Answer(body=TASK | {"state": "succeeded"}),
    }
    status, _, _, asked = run(["connection", "execute", "c", "--", "sleep 60"], script)
    assert status == 0
    assert asked[-1].path == "/tasks/t"


def test_a_task_is_given_to_an_agent(run: Any) -> None:
    """`task submit agent` names the agent, what it shall do and the tools it needs."""
    arguments = ["task", "submit", "agent", "writer", "Write!", "--tool", "web", "--priority", "low", "--timeout", "9"]
    status, out, _, asked = run(arguments, {"/tasks": Answer(status=201, body=TASK)})
    assert (status, out) == (0, "t\n")
    assert asked[0].body == {
        "agent_id": "writer",
        "instructions": "Write!",
        "required_tools": ["web"],
        "priority": "low",
        "timeout_s": 9.0,
    }


def test_a_tree_is_drawn(run: Any) -> None:
    """A task's tree has a line for each task, below the one that it follows."""
    tree = TASK | {
        "state": "succeeded",
        "title": "first",
        "children": [TASK | {"id": "u", "children": [TASK | {"id": "v", "children": []}]}],
    }
    status, out, err, _ = run(["task", "tree", "u"], {"/tasks/u/tree": Answer(body={"root": tree, "truncated": True})})
    assert status == 0
    assert out.splitlines() == ["t  succeeded  first", "└── u  queued  f", "    └── v  queued  f"]
    assert "more" in err


def test_events_are_followed_to_the_end_of_a_task_that_lived_twice(run: Any) -> None:
    """Of a task that died, was retried and succeeded, --follow prints every event, one on a line for programs."""

    def event(number: int, kind: str) -> str:
        return json.dumps({"id": number, "type": f"task.{kind}", "at": "2026-01-01T00:00:00Z", "data": {}})

    stream = "".join(
        f"id: {number}\nevent: task.{kind}\ndata: {event(number, kind)}\n\n"
        for number, kind in enumerate(["queued", "dead"], start=1)
    )
    rest = [json.loads(event(3, "redriven")), json.loads(event(4, "succeeded"))]
    script = {
        "/tasks/t/events": [Answer(stream=stream), Answer(body={"data": rest})],
        "/tasks/t": Answer(body=TASK | {"state": "succeeded"}),
    }
    status, out, _, asked = run(["task", "events", "t", "--follow", "-o", "json"], script)
    assert status == 0
    assert [json.loads(line)["type"] for line in out.splitlines()] == [
        "task.queued",
        "task.dead",
        "task.redriven",
        "task.succeeded",
    ]
    assert "after=2" in asked[-1].path


def test_attempts_show_each_execution(run: Any) -> None:
    """A row tells where an attempt ran and how it ended; one that no worker began has a row too."""
    attempts = [
        {
            "attempt": 1,
            "published_at": "2026-01-01T00:00:00Z",
            "executions": [
                {"worker": "web-1", "outcome": "failed", "duration_s": 1.25, "error": {"message": "no route"}},
                {"worker": "web-2", "outcome": None, "error": None},
            ],
        },
        {"attempt": 2, "published_at": "2026-01-01T00:00:00Z", "executions": []},
    ]
    status, out, _, _ = run(["task", "attempts", "t"], {"/tasks/t/attempts": Answer(body={"data": attempts})})
    assert status == 0
    heading, first, second, third = out.splitlines()
    assert heading.split() == ["ATTEMPT", "AGE", "WORKER", "OUTCOME", "TOOK", "ERROR"]
    assert first.split()[0] == "1"
    assert first.split()[2:] == ["web-1", "failed", "1.2", "s", "no", "route"]
    assert second.split()[2:] == ["web-2"]
    assert third.split()[0] == "2"


def test_a_setting_is_shown_with_its_history(run: Any) -> None:
    """`setting show` finds one by its name; one that does not exist is refused."""
    answer = Answer(body={"tasks": {"default_timeout_s": {"value": 300, "updated_by": "me"}}})
    status, out, _, _ = run(["setting", "show", "tasks.default_timeout_s"], {"/settings": answer})
    assert status == 0
    assert ["updated", "by", "me"] in [line.split() for line in out.splitlines()]
    assert run(["setting", "show", "tasks.nope"], {"/settings": answer})[0] == 6
    assert run(["setting", "set", "nope", "1"], {})[0] == 2


def test_output_of_a_task_is_printed_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """`task output` is what `task watch` printed, also when it is no text."""
    with ScriptedServer({"/tasks/t/output": [Answer(stream="a\u00ffb")]}) as server:
        assert main(["task", "output", "t", "--url", server.url]) == 0
    assert capfdbinary.readouterr().out == "a\u00ffb".encode()


def test_bulk_reads_yaml_by_suffix_and_by_its_look(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms may be YAML: a list, `tasks:`, or documents; on stdin that is seen from the first line."""
    forms = [{"action": "a", "args": [1, "no"]}, {"action": "b", "deadline": "2030-01-01T00:00:00Z"}]
    texts = {
        "list.yaml": "- {action: a, args: [1, no]}\n- {action: b, deadline: 2030-01-01T00:00:00Z}\n",
        "tasks.yml": yaml.safe_dump({"tasks": forms}),
        "documents.yaml": "action: a\nargs: [1, no]\n---\naction: b\ndeadline: 2030-01-01T00:00:00Z\n",
        "odd.txt": "# a remark\n- {action: a, args: [1, no]}\n- {action: b, deadline: 2030-01-01T00:00:00Z}\n",
        "lines.jsonl": "\n".join(["", *map(json.dumps, forms), ""]),
        "pretty.json": json.dumps(forms, indent=2),
    }
    answer = Answer(status=201, body={"data": [{"id": "x"}, {"id": "y"}]})
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        for source in (str(tmp_path / name), "-"):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            status, out, err, asked = run(["task", "submit", "-f", source], {"/tasks/bulk": answer})
            assert (status, out, err) == (0, "2 tasks submitted\n", ""), name
            assert asked[0].body == {"tasks": forms}, name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", b"- action: [", "no YAML: line"),
        ("a.json", b"action: a", "neither JSON"),
        ("a.jsonl", b'{"action": "a"}\n{', "line 2"),
        ("a.json", b"[1", "neither JSON"),
        ("a.yaml", b"just words", "objects"),
        ("a.json", b'{"tasks": 1}', "objects"),
        ("a.jsonl", b"\xff", "UTF-8"),
        ("a.yaml", b"", "no tasks"),
        ("a", b"", "no tasks"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_place(run: Any, name: str, content: bytes, said: str) -> None:
    """What is no file of task forms is refused in one line that says where it is wrong."""
    Path(name).write_bytes(content)
    status, out, err, _ = run(["task", "submit", "-f", name], {})
    assert (status, out) == (2, "")
    assert said in err.splitlines()[0]
