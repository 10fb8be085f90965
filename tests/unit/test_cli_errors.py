"""How the command ends: one error line, one hint, and the documented status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.cli.main import main
from tests.support.ports import free_port
from tests.support.scripted_http import Answer, ScriptedServer

TASK = {"id": "task_1", "state": "queued"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WARREN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARREN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WARREN_API_KEY", "wk_very-private")


def _refusal(code: str, message: str, hint: str | None = None) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "hint": hint}}


@pytest.mark.parametrize(
    ("answer", "status", "lines"),
    [
        (Answer(status=404, body=_refusal("not_found", "no task x")), 6, ["error: no task x"]),
        (
            Answer(status=403, body=_refusal("forbidden", "no", "ask")),
            6,
            ["error: no", "hint: ask"],
        ),
        (Answer(status=422, body=_refusal("invalid_input", "bad")), 2, ["error: bad"]),
        (
            Answer(status=503, body=_refusal("unavailable", "busy")),
            5,
            ["error: busy", "hint: try again in a moment"],
        ),
        (
            Answer(status=507, body=_refusal("storage_full", "full", "free some")),
            74,
            ["error: full", "hint: free some"],
        ),
        (Answer(status=500, body=_refusal("internal", "oops\x1b[2J")), 1, ["error: oops\\x1b[2J"]),
    ],
)
def test_a_refusal_is_one_line_a_hint_and_its_status(
    answer: Answer, status: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the server refuses becomes `error:`, `hint:` and the documented exit status."""
    with ScriptedServer({"/tasks/x": [answer]}) as server:
        assert main(["task", "show", "x", "--url", server.url]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()) == ("", lines)


def test_an_unreachable_server_is_status_5_and_the_hint_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing listening exits 5 and suggests `warren up`."""
    assert main(["worker", "list", "--url", f"http://127.0.0.1:{free_port()}"]) == 5
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: http://127.0.0.1:")
    assert "warren up" in hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["task", "list", "--no-such-option"],
        ["no-such-noun"],
        ["task", "submit"],
        ["task", "submit", "llm", "-p", "x"],
        ["task", "submit", "python", "f", "--arg", "{no json"],
        ["task", "submit", "python", "f", "--input", "[1]"],
        ["task", "submit", "--file", "/no/such/file"],
        ["api", "POST", "/tasks", "--data", "{no json"],
        ["serve", "--tls-cert", "only.pem"],
    ],
)
def test_misuse_is_status_2_and_says_what_would_be_right(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong command line exits 2 with one error line, a hint at most, and nothing on stdout."""
    monkeypatch.setenv("WARREN_URL", f"http://127.0.0.1:{free_port()}")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["secret", "rm", "s"],
        ["provider", "rm", "p"],
        ["connection", "rm", "c"],
        ["dead-letter", "delete", "d"],
        ["worker", "reject", "w"],
    ],
)
def test_what_cannot_be_undone_is_not_done_without_yes(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A destructive command asks; where nobody can answer it does nothing unless --yes is given."""
    with ScriptedServer({}) as server:
        assert main([*arguments, "--url", server.url]) == 2
        assert server.asked == []
        main([*arguments, "--url", server.url, "--yes"])
        assert server.asked
    assert "--yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (
            [
                "llm",
                "-p",
                "openai",
                "-m",
                "tiny",
                "hello",
                "--system",
                "be kind",
                "--priority",
                "high",
                "--max-attempts",
                "2",
            ],
            {
                "action": "llm.chat",
                "provider": "openai",
                "input": {"model": "tiny", "prompt": "hello", "system": "be kind"},
                "priority": "high",
                "max_attempts": 2,
            },
        ),
        (
            ["ssh", "host", "--timeout", "5", "--", "ls", "-l", "a b"],
            {"action": "ssh.exec", "connection": "host", "input": {"command": "ls -l 'a b'"}, "timeout_s": 5.0},
        ),
        (
            ["ssh", "host", "--delay", "1.5", "--", "ls | wc -l"],
            {"action": "ssh.exec", "connection": "host", "input": {"command": "ls | wc -l"}, "delay_s": 1.5},
        ),
        (
            ["python", "add", "--arg", "1", "--arg", '"x"', "--input", '{"k": [2]}', "--pool", "gpu"],
            {"action": "add", "args": [1, "x"], "input": {"k": [2]}, "pool": "gpu"},
        ),
    ],
)
def test_each_kind_of_task_becomes_its_form(
    arguments: list[str],
    form: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was typed becomes exactly this task form, and the new task's id is all that is printed."""
    with ScriptedServer({"/tasks": [Answer(status=201, body=TASK)]}) as server:
        monkeypatch.setenv("WARREN_URL", server.url)
        assert main(["task", "submit", *arguments]) == 0
    assert [asked.body for asked in server.asked] == [form]
    assert capsys.readouterr().out == "task_1\n"


def test_a_secret_comes_from_a_file_or_stdin_and_never_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret's value is read from a file; no option or argument takes one."""
    (tmp_path / "value").write_text("private\n")
    with ScriptedServer({"/secrets": [Answer(status=201, body={"name": "s"})]}) as server:
        assert main(["secret", "add", "s", "--from-file", str(tmp_path / "value"), "--url", server.url]) == 0
        assert main(["secret", "add", "s", "private", "--url", server.url]) == 2
        assert main(["secret", "add", "s", "--value", "private", "--url", server.url]) == 2
    assert [asked.body["value"] for asked in server.asked] == ["private"]
    assert "private" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [("succeeded", 0, ""), ("dead", 3, "(max_attempts): it broke"), ("cancelled", 4, "cancelled")],
)
def test_watching_ends_as_the_task_ends(
    state: str, status: int, said: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Output goes byte for byte to stdout and stderr, and the exit status is the task's."""
    events = (
        'event: output\nid: 1.3\ndata: {"attempt": 1, "stream": "stdout", "offset": 0, "base64": "AP8K"}\n\n'
        'event: output\nid: 1.6\ndata: {"attempt": 1, "stream": "stderr", "offset": 3, "text": "err"}\n\n'
        'event: end\ndata: {"state": "x"}\n\n'
    )
    error = None if state == "succeeded" else {"cause": "max_attempts", "message": "it broke"}
    script = {
        "/tasks/t/output": [Answer(stream=events)],
        "/tasks/t": [Answer(body={"id": "t", "state": state, "error": error})],
    }
    with ScriptedServer(script) as server:
        command = [sys.executable, "-m", "client", "task", "watch", "t", "--url", server.url]
        ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == status
    assert ended.stdout == b"\x00\xff\n"
    assert ended.stderr.startswith(b"err")
    assert said in ended.stderr.decode()


def test_many_tasks_go_in_chunks_from_jsonl_json_and_stdin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of forms is submitted in bulk requests of at most 500, in order, whichever way it is written."""
    forms = [{"action": "add", "args": [number]} for number in range(700)]
    texts = {
        "lines": "\n".join(json.dumps(form) for form in forms) + "\n\n",
        "array": json.dumps(forms, indent=1),
        "object": json.dumps({"tasks": forms}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        answers = [Answer(status=201, body={"data": [{"id": "a"}] * size}) for size in (500, 200)]
        with ScriptedServer({"/tasks/bulk": answers}) as server:
            assert main(["task", "submit", "--file", str(tmp_path / name), "--url", server.url]) == 0
        assert [form for asked in server.asked for form in asked.body["tasks"]] == forms
        assert [len(asked.body["tasks"]) for asked in server.asked] == [500, 200]
    assert capsys.readouterr().out == "700 tasks submitted\n" * 3


def test_a_bulk_that_stops_says_where_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a later chunk is refused the hint says how many tasks went before it."""
    (tmp_path / "f").write_text('{"action": "a"}\n' * 501)
    answers = [
        Answer(status=201, body={"data": [{"id": "a"}] * 500}),
        Answer(status=422, body=_refusal("invalid_input", "bad")),
    ]
    with ScriptedServer({"/tasks/bulk": answers}) as server:
        assert main(["task", "submit", "--file", str(tmp_path / "f"), "--url", server.url]) == 2
    assert "go on with number 501" in capsys.readouterr().err


def test_api_prints_what_the_server_says_whatever_the_path_looks_like(capsys: pytest.CaptureFixture[str]) -> None:
    """`warren api` takes paths with and without the base and prints JSON; nothing for an empty answer."""
    script = {"/workers": [Answer(body={"data": []})], "/secrets/x": [Answer(status=204)]}
    with ScriptedServer(script) as server:
        for path in ("/workers", "workers", "/api/v1/workers"):
            assert main(["api", "get", path, "--url", server.url]) == 0
            assert json.loads(capsys.readouterr().out) == {"data": []}
        assert main(["api", "DELETE", "/secrets/x", "--url", server.url]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    """A closed pipe, as of `warren … | head`, ends the command quietly."""
    rows = [{"id": f"task_{number}", "title": "x" * 200} for number in range(2000)]
    with ScriptedServer({"/tasks": [Answer(body={"data": rows})]}) as server:
        command = [sys.executable, "-m", "client", "task", "list", "-n", "2000", "--url", server.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
        process.stderr.close()
