"""What the library asks for, and what it makes of the answers."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import InvalidFrame
from tests.support.scripted_http import Answer, ScriptedServer
from warren import (
    Conflict,
    Event,
    InvalidInput,
    InvalidSettings,
    NotFound,
    Queue,
    StorageUnavailable,
    TaskInfo,
    Tree,
    Unauthenticated,
    Unreachable,
    Warren,
    forms,
)

NOON = "2030-01-31T12:00:00.000Z"
KEY = "wk_very-private"
TASK = {
    "id": "task_1",
    "state": "queued",
    "action": "add",
    "lane": "q.t.default.python",
    "pool": "default",
    "priority": "normal",
    "delivery": "at_least_once",
    "max_attempts": 3,
    "timeout_s": 600.0,
    "attempt": 1,
    "tries": 0,
    "cancel_requested": False,
    "created_at": NOON,
    "created_by": "admin",
    "input": {},
    "args": [],
    "result": None,
}
WORKER = {
    "id": "w1",
    "name": "web-1",
    "hostname": "web",
    "approval": "approved",
    "presence": "online",
    "status": "online",
    "pools": ["default"],
    "actions": ["add"],
    "running": 0,
    "registered_at": NOON,
}
QUEUE = {
    "name": "q.t.default.ssh",
    "kind": "ssh",
    "waiting": 2,
    "delayed": 1,
    "queued": 0,
    "running": 0,
    "paused": True,
    "paused_at": NOON,
}
AGENT = {
    "id": "agent_1",
    "name": "writer",
    "status": "idle",
    "version": 1,
    "pool": "default",
    "created_at": NOON,
    "updated_at": NOON,
    "enabled_tools": ["search"],
}
SECRET = {"id": "sec_1", "name": "s", "version": 2, "created_at": NOON, "updated_at": NOON, "value": "********"}
PROVIDER = {"id": "p", "name": "p", "kind": "openai", "base_url": "u", "created_at": NOON, "updated_at": NOON}
HOST = {
    "id": "c",
    "name": "web-1",
    "hostname": "web",
    "port": 22,
    "username": "me",
    "auth_method": "key",
    "created_at": NOON,
    "updated_at": NOON,
}
LETTER = {
    "id": "dead_1",
    "task_id": "task_1",
    "action": "add",
    "lane": "q.t.default.python",
    "cause": "manual",
    "attempts": 1,
    "tries": 1,
    "dead_at": NOON,
    "task_state": "dead",
}
STATS = {"total": 1, "by_cause": {"manual": 1}, "by_action": {"add": 1}, "oldest_at": NOON, "newest_at": NOON}
OVERVIEW = {
    "total": 1,
    "by_status": {},
    "by_presence": {},
    "by_approval": {},
    "running": 0,
    "slots": {"ssh": {"busy": 0, "total": 4}},
    "pools": {"default": 1},
}
LANE = "q.t.default.ssh"
Call = Callable[[Warren], Any]


def _page(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(rows), "total": len(rows), "has_more": False}


def _connected(server: ScriptedServer) -> Warren:
    return Warren(server.url, KEY, retry_for_s=0.0)


CALLS: list[tuple[Call, str, Any, Any]] = [
    (lambda w: w.queues.get(LANE), f"GET /queues/{LANE}", None, QUEUE),
    (lambda w: list(w.queues.list()), "GET /queues", None, _page(QUEUE)),
    (lambda w: w.queues.pause(LANE, "a fire"), f"POST /queues/{LANE}/pause", {"reason": "a fire"}, QUEUE),
    (lambda w: w.queues.resume(LANE), f"POST /queues/{LANE}/resume", None, QUEUE),
    (lambda w: list(w.workers.list(status="online")), "GET /workers", None, _page(WORKER)),
    (lambda w: w.workers.drain("web-1"), "POST /workers/web-1/drain", None, WORKER),
    (lambda w: w.workers.resume("web-1"), "POST /workers/web-1/resume", None, WORKER),
    (lambda w: w.workers.overview(), "GET /workers/overview", None, OVERVIEW),
    (lambda w: list(w.workers.tasks("web-1")), "GET /workers/web-1/tasks", None, _page(TASK)),
    (
        lambda w: w.workers.approve("web-1", "0000", pools=["gpu"]),
        "PATCH /admin/workers/web-1/approve",
        {"is_approved": True, "fingerprint": "0000", "pools": ["gpu"]},
        WORKER,
    ),
    (lambda w: w.workers.reject("web-1"), "PATCH /admin/workers/web-1/approve", {"is_approved": False}, WORKER),
    (
        lambda w: w.agents.create("writer", llm_provider="p", llm_model="m"),
        "POST /agents",
        {"name": "writer", "llm_provider": "p", "llm_model": "m"},
        AGENT,
    ),
    (
        lambda w: w.agents.update("writer", system_prompt=None, name="author"),
        "PATCH /agents/writer",
        {"system_prompt": None, "name": "author"},
        AGENT,
    ),
    (lambda w: list(w.agents.list(role="author")), "GET /agents", None, _page(AGENT)),
    (lambda w: w.agents.start("writer"), "POST /agents/writer/start", None, AGENT),
    (lambda w: w.agents.stop("writer"), "POST /agents/writer/stop", None, AGENT),
    (lambda w: w.agents.delete("a/b"), "DELETE /agents/a%2Fb", None, None),
    (
        lambda w: list(w.agents.versions("writer")),
        "GET /agents/writer/versions",
        None,
        _page({"version": 1, "at": NOON, "profile": {}}),
    ),
    (
        lambda w: w.agents.version("writer", 1),
        "GET /agents/writer/versions/1",
        None,
        {"version": 1, "at": NOON, "profile": {}},
    ),
    (lambda w: w.secrets.rotate("s", "new"), "POST /secrets/s/rotate", {"value": "new"}, SECRET),
    (lambda w: w.secrets.reveal("s"), "GET /secrets/s", None, {**SECRET, "value": KEY}),
    (lambda w: list(w.secrets.expiring(7)), "GET /secrets/expiring", None, _page(SECRET)),
    (
        lambda w: w.secrets.create("s", "v", expires_at=datetime(2030, 1, 31, 12, tzinfo=UTC)),
        "POST /secrets",
        {"name": "s", "value": "v", "expires_at": "2030-01-31T12:00:00+00:00"},
        SECRET,
    ),
    (lambda w: w.providers.create("p", "u"), "POST /providers", {"name": "p", "base_url": "u"}, PROVIDER),
    (lambda w: w.providers.update("p", secret=None), "PATCH /providers/p", {"secret": None}, PROVIDER),
    (
        lambda w: w.connections.create("web-1", hostname="web", username="me", secret="s", host_keys=["SHA256:x"]),
        "POST /ssh-connections",
        {"name": "web-1", "hostname": "web", "username": "me", "secret": "s", "host_keys": ["SHA256:x"]},
        HOST,
    ),
    (lambda w: w.connections.update("web-1", port=2222), "PATCH /ssh-connections/web-1", {"port": 2222}, HOST),
    (
        lambda w: w.connections.test("web-1"),
        "POST /ssh-connections/web-1/test",
        {"timeout_s": 30.0},
        {"ok": False, "task_id": "t", "state": "dead", "error": {"code": "c", "message": "m", "hint": None}},
    ),
    (
        lambda w: w.connections.execute("web-1", "uptime", wait_s=5),
        "POST /ssh-connections/web-1/execute",
        {"command": "uptime", "wait_s": 5},
        {"task": TASK, "exit_status": 0, "stdout": "up", "stderr": "", "truncated": False},
    ),
    (lambda w: w.settings.set("tasks.default_timeout_s", 5), "PUT /settings/tasks/default_timeout_s", {"value": 5}, {}),
    (lambda w: w.settings.set_many({"a.b": 1}), "PUT /settings/bulk", {"settings": {"a.b": 1}}, {}),
    (lambda w: w.settings.health(), "GET /settings/health", None, {"status": "ok"}),
    (lambda w: w.dead_letters.stats(), "GET /dead-letter/stats", None, STATS),
    (
        lambda w: w.dead_letters.retry_all(cause="manual", dead_before=datetime(2030, 1, 31, tzinfo=UTC)),
        "POST /dead-letter/retry-all",
        {"cause": "manual", "dead_before": "2030-01-31T00:00:00+00:00"},
        {"retried": 2, "skipped": 0},
    ),
    (
        lambda w: w.dead_letters.give_up("task_1", "why"),
        "POST /dead-letter",
        {"task_id": "task_1", "reason": "why"},
        LETTER,
    ),
    (lambda w: w.tasks.stats(), "GET /tasks/stats", None, {"total": 0}),
    (lambda w: w.request("GET", "/auth/whoami"), "GET /auth/whoami", None, {"role": "admin"}),
]


@pytest.mark.parametrize(
    ("call", "asked", "body", "answer"), CALLS, ids=[f"{n} {row[1]}" for n, row in enumerate(CALLS)]
)
def test_each_call_is_its_request(call: Call, asked: str, body: Any, answer: Any) -> None:
    """Each method asks for its path with its body, and reads the answer."""
    path = asked.partition(" ")[2]
    with ScriptedServer({path: [Answer(body=answer)]}) as server, _connected(server) as warren:
        call(warren)
    (only,) = server.asked
    assert (f"{only.method} {only.path.partition('?')[0]}", only.body) == (asked, body)
    assert only.headers["Authorization"] == f"Bearer {KEY}"


def test_a_tasks_history_is_read() -> None:
    """Attempts, timeline and tree come as records, nested ones too."""
    execution = {"id": "exec_1", "worker_id": "w1", "claimed_at": NOON, "outcome": "failed", "error": {"code": "x"}}
    node = {"id": "task_1", "action": "add", "state": "dead", "children": []}
    script = {
        "/tasks/task_1": [Answer(body=TASK)],
        "/tasks/task_1/attempts": [Answer(body=_page({"attempt": 1, "executions": [execution]}))],
        "/tasks/task_1/timeline": [
            Answer(body=_page({"type": "task.created", "at": NOON, "summary": "it began", "elapsed_s": 0.0}))
        ],
        "/tasks/task_1/tree": [Answer(body={"root": {**node, "children": [node]}, "truncated": False})],
        "/tasks/task_1/retry": [Answer(body=TASK)],
    }
    with ScriptedServer(script) as server, _connected(server) as warren:
        task = warren.tasks.get("task_1")
        (attempt,) = task.attempts()
        assert attempt.executions[0].claimed_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
        assert attempt.executions[0].error is not None
        assert attempt.executions[0].error.code == "x"
        assert [moment.summary for moment in task.timeline()] == ["it began"]
        tree = task.tree()
        assert isinstance(tree, Tree)
        assert [child.state for child in tree.root.children] == ["dead"]
        assert task.retry().state == "queued"


def test_settings_are_told_by_category_and_key() -> None:
    """Settings come by their full names; one that does not exist is NotFound."""
    told = {"tasks": {"default_timeout_s": {"value": 5, "default": 600, "type": "number"}}}
    with ScriptedServer({"/settings": [Answer(body=told)]}) as server, _connected(server) as warren:
        assert warren.settings.all()["tasks.default_timeout_s"].default == 600
        assert warren.settings.get("tasks.default_timeout_s") == 5
        with pytest.raises(NotFound):
            warren.settings.get("tasks.nothing")


def test_a_secret_is_put_whether_it_exists_or_not() -> None:
    """A secret that does not exist is made."""
    script = {"/secrets/s": [Answer(status=404, body={})], "/secrets": [Answer(status=201, body=SECRET)]}
    with ScriptedServer(script) as server, _connected(server) as warren:
        shown = repr(warren.secrets.put("s", "very-private"))
    assert [(asked.method, asked.body) for asked in server.asked] == [
        ("PATCH", {"value": "very-private"}),
        ("POST", {"name": "s", "value": "very-private"}),
    ]
    assert "***" not in shown


def test_new_fields_come_through_and_missing_ones_are_told() -> None:
    """What a newer control plane adds is in `raw`; what an older one lacks is an error that names the record."""
    newer = Queue.of({**QUEUE, "colour": "blue"})
    assert (newer.raw["colour"], newer.waiting, newer.paused_by) == ("blue", 2, None)
    assert newer.paused_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    for broken in ({}, {**QUEUE, "paused_at": "noon"}, {**QUEUE, "paused_at": 5}):
        with pytest.raises(InvalidFrame, match="Queue"):
            Queue.of(broken)
    with pytest.raises(InvalidFrame, match="Event"):
        Event.parse("<html>")


def test_results_have_their_own_forms() -> None:
    """A result is an answer, a command's end, or a function's value; or nothing."""
    assert TaskInfo.of(TASK).value is None
    assert TaskInfo.of({**TASK, "result": {"value": 3}}).value == 3
    chat = TaskInfo.of({**TASK, "action": "llm.chat", "result": {"text": "hello", "truncated": True}}).value
    assert (chat.text, chat.truncated) == ("hello", True)
    command = TaskInfo.of({**TASK, "action": "ssh.exec", "result": {"outcome": "signalled", "signal": "KILL"}}).value
    assert (command.signal, command.exit_status) == ("KILL", None)


def test_forms_keep_options_and_arguments_apart() -> None:
    """A function's own `priority` is an argument, the task's an option; what is None is left out."""
    assert forms.call("f", args=[1], input={"priority": 5}, priority="high", pool=None) == {
        "action": "f",
        "args": [1],
        "input": {"priority": 5},
        "priority": "high",
    }
    deadline = datetime(2030, 1, 31, tzinfo=UTC)
    assert forms.llm("p", "m", "hi", system="be kind", temperature=0.0, deadline=deadline) == {
        "action": "llm.chat",
        "provider": "p",
        "input": {"model": "m", "prompt": "hi", "system": "be kind", "temperature": 0.0},
        "deadline": "2030-01-31T00:00:00+00:00",
    }
    messages = [{"role": "user", "content": "hi"}]
    assert forms.llm("p", "m", messages)["input"] == {"model": "m", "messages": messages}
    assert forms.ssh("web-1", ["rm", "a b"], cwd="/tmp", timeout_s=5) == {
        "action": "ssh.exec",
        "connection": "web-1",
        "input": {"command": "rm 'a b'", "cwd": "/tmp"},
        "timeout_s": 5,
    }
    assert forms.agent("writer", "write", pool="gpu") == {"pool": "gpu", "agent_id": "writer", "instructions": "write"}


def test_an_agents_task_is_submitted() -> None:
    """A task for an agent is a form without an action."""
    with ScriptedServer({"/tasks": [Answer(status=201, body=TASK)]}) as server, _connected(server) as warren:
        warren.agent("writer", "write", idempotency_key="once")
    assert server.asked[0].body == {"agent_id": "writer", "instructions": "write"}
    assert server.asked[0].headers["Idempotency-Key"] == "once"


def test_large_forms_are_sent_in_small_requests() -> None:
    """Chunks are bounded in bytes too, and each has a key of its own that follows from the caller's."""
    answers = [Answer(status=201, body={"data": [{"id": f"t{number}"}]}) for number in range(3)]
    big = forms.call("f", args=["x" * 5_000_000])
    with ScriptedServer({"/tasks/bulk": answers}) as server, _connected(server) as warren:
        tasks = warren.submit_many(iter([big] * 3), idempotency_key="k")
        assert warren.submit_many([]) == []
    assert [task.id for task in tasks] == ["t0", "t1", "t2"]
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == ["k/0", "k/1", "k/2"]


def test_files_go_up_and_come_down_whole(tmp_path: Path) -> None:
    """A download is proven by its SHA-256 and replaces its target at once; a broken one leaves nothing."""
    content = "the whole report"
    told = {
        "id": "file_1",
        "name": "report.txt",
        "content_type": "text/plain",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "created_at": NOON,
        "created_by": "admin",
    }
    script = {
        "/files/file_1": [Answer(body=told)],
        "/files/file_1/download": [Answer(stream="the wrong"), Answer(stream=content)],
        "/files/file_1/url": [Answer(body={"url": "http://x", "expires_at": NOON, "expires_in": 60})],
    }
    target = tmp_path / "got.txt"
    with ScriptedServer(script) as server, _connected(server) as warren:
        with pytest.raises(Unreachable):
            warren.files.download("file_1", target)
        assert list(tmp_path.iterdir()) == []
        assert warren.files.download("file_1", target).name == "report.txt"
        assert target.read_text() == content
        assert warren.files.read("file_1") == content.encode()
        assert warren.files.url("file_1").url == "http://x"
        with pytest.raises(StorageUnavailable):
            warren.files.download("file_1", tmp_path / "nowhere" / "got.txt")
        with pytest.raises(InvalidInput):
            warren.files.upload(tmp_path / "missing")


def test_a_lists_pages_are_asked_for_as_they_are_needed() -> None:
    """Nothing is asked for before the first row is wanted, and no page beyond the last that is."""
    page = {"data": [TASK], "has_more": True, "next_cursor": "task_1"}
    with ScriptedServer({"/tasks": [Answer(body=page)]}) as server, _connected(server) as warren:
        rows = warren.tasks.list(state="queued", created_after=datetime(2030, 1, 31, tzinfo=UTC))
        assert server.asked == []
        next(rows)
        next(rows)
        assert list(warren.tasks.list(limit=1))
    assert len(server.asked) == 3
    assert "created_after=2030-01-31T00%3A00%3A00%2B00%3A00" in server.asked[0].path


def test_where_and_with_which_key_is_found_as_the_command_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments come first, then the environment, then this machine's own control plane; a key is never shown."""
    for name in ("WARREN_URL", "WARREN_API_KEY", "WARREN_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "url").write_text("http://127.0.0.1:1")
    (tmp_path / "admin.key").write_text(KEY)
    with Warren(data_dir=tmp_path) as local:
        assert local.url == "http://127.0.0.1:1"
        assert KEY not in repr(local) + repr(vars(local))
    with pytest.raises(Unauthenticated):
        Warren("http://127.0.0.1:2", data_dir=tmp_path)
    with pytest.raises(Unreachable, match="no control plane"):
        Warren(data_dir=tmp_path / "empty")
    with pytest.raises(InvalidSettings):
        Warren("ftp://x", KEY)
    with ScriptedServer({"/tasks/stats": [Answer(body={})]}) as server:
        monkeypatch.setenv("WARREN_URL", server.url)
        monkeypatch.setenv("WARREN_API_KEY", "wk_env")
        with Warren() as warren:
            warren.tasks.stats()
        with Warren(key=KEY) as warren:
            warren.tasks.stats()
    assert [asked.headers["Authorization"] for asked in server.asked] == ["Bearer wk_env", f"Bearer {KEY}"]


def test_a_conflict_of_a_stopped_agent_is_told() -> None:
    """A refusal is the error that the control plane named."""
    body = {"error": {"code": "conflict", "message": "agent writer is stopped"}}
    with (
        ScriptedServer({"/tasks": [Answer(status=409, body=body)]}) as server,
        _connected(server) as warren,
        pytest.raises(Conflict, match="stopped"),
    ):
        warren.agent("writer", "write")


@pytest.mark.parametrize("opened", [False, True])
def test_a_file_goes_up_with_its_name_and_type(tmp_path: Path, opened: bool) -> None:
    """A file is sent by its path or open, as one part of a form, for a task."""
    source = tmp_path / "report.txt"
    source.write_bytes(b"the report")
    answer = {"id": "file_1", "name": "report.txt", "content_type": "text/plain", "size_bytes": 10, "sha256": "00"}
    whole = {**answer, "created_at": NOON, "created_by": "admin", "task_id": "task_1"}
    script = {"/files/upload": [Answer(status=201, body=whole)]}
    with ScriptedServer(script) as server, _connected(server) as warren, source.open("rb") as file:
        assert warren.files.upload(file if opened else source, task_id="task_1").id == "file_1"
    (asked,) = server.asked
    assert asked.path == "/files/upload?task_id=task_1"
    for part in (b'name="file"; filename="report.txt"', b"Content-Type: text/plain", b"the report"):
        assert part in asked.body
