"""The HTTP client keeps its promises against a real server."""

import fcntl
import itertools
from pathlib import Path

import pytest

from client.follow import Piece, follow
from client.http import ApiClient
from client.instance import check_unused
from client.ports import check_port_free
from protocols.errors import (
    AddressInUse,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InstanceLocked,
    InvalidInput,
    NotFound,
    StorageFull,
    Unavailable,
    Unreachable,
    WarrenError,
)
from tests.support.ports import free_port
from tests.support.scripted_http import Answer, ScriptedServer

KEY = "wk_very-private"


def _error(code: str, message: str = "no") -> dict[str, object]:
    return {"error": {"code": code, "message": message, "field": "name", "hint": "do this", "request_id": "r1"}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, _error("idempotency_mismatch"), IdempotencyMismatch),
        (409, _error("conflict"), Conflict),
        (507, _error("storage_full"), StorageFull),
        (403, _error("forbidden"), Forbidden),
        (422, _error("a_code_of_a_newer_version"), InvalidInput),
        (404, {"detail": "not ours"}, NotFound),
        (502, "<html>", Unavailable),
        (500, ["odd"], WarrenError),
    ],
)
def test_a_refusal_is_the_error_that_the_server_named_or_that_its_status_means(
    status: int, body: object, kind: type[WarrenError]
) -> None:
    """A refusal arrives as the error class that the server named, else as the one its status means."""
    answers = [Answer(status=status, body=body)]
    with (
        ScriptedServer({"/x": answers}) as server,
        ApiClient(server.url) as client,
        pytest.raises(WarrenError) as caught,
    ):
        client.get("/x")
    assert type(caught.value) is kind


def test_an_error_keeps_message_field_hint_and_the_request_of_a_server_error() -> None:
    """What the server says about an error reaches the caller whole."""
    answers = [Answer(status=500, body=_error("internal", "it broke"))]
    with (
        ScriptedServer({"/x": answers}) as server,
        ApiClient(server.url) as client,
        pytest.raises(WarrenError) as caught,
    ):
        client.get("/x")
    assert (caught.value.message, caught.value.field, caught.value.hint) == ("it broke (request r1)", "name", "do this")


def test_the_key_is_sent_and_never_shown() -> None:
    """The key travels in the Authorization header and appears in no error and no representation."""
    with ScriptedServer({"/x": [Answer(body={})]}) as server, ApiClient(server.url, KEY) as client:
        client.get("/x")
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
        shown = repr(client) + repr(vars(client))
    with pytest.raises(Unreachable) as caught:
        ApiClient(server.url, KEY).get("/x")
    assert KEY not in shown + repr(caught.value) + str(caught.value)


def test_a_server_that_does_not_listen_is_unreachable() -> None:
    """No listener is Unreachable, with the URL that was tried."""
    url = f"http://127.0.0.1:{free_port()}"
    with ApiClient(url) as client, pytest.raises(Unreachable, match=url):
        client.get("/x")


def test_loopback_is_never_asked_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment does not stand between the command and this machine."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ScriptedServer({"/x": [Answer(body={"a": 1})]}) as server, ApiClient(server.url) as client:
        assert client.get("/x") == {"a": 1}


def test_rows_walk_all_pages_by_cursor_or_offset() -> None:
    """A list is walked to its end, by cursor where there is one, else by offset."""
    by_cursor = [
        Answer(body={"data": [{"id": 1}], "has_more": True, "next_cursor": "c1"}),
        Answer(body={"data": [{"id": 2}], "has_more": False}),
    ]
    by_offset = [
        Answer(body={"data": [{"id": 1}, {"id": 2}], "has_more": True, "offset": 0}),
        Answer(body={"data": [{"id": 3}], "has_more": False, "offset": 2}),
    ]
    with ScriptedServer({"/c": by_cursor, "/o": by_offset}) as server, ApiClient(server.url) as client:
        assert [row["id"] for row in client.rows("/c")] == [1, 2]
        assert [row["id"] for row in client.rows("/o", {"state": "dead"})] == [1, 2, 3]
    assert "cursor=c1" in server.asked[1].path
    assert "offset=2" in server.asked[3].path
    assert "state=dead" in server.asked[3].path


def test_a_submission_whose_connection_broke_is_repeated_under_the_same_key() -> None:
    """A broken connection repeats a submission once, with the Idempotency-Key that makes it one task."""
    script = {"/tasks": [Answer(breaks=True), Answer(status=201, body={"id": "task_1"})]}
    with ScriptedServer(script) as server, ApiClient(server.url) as client:
        assert client.create("/tasks", {"action": "a"}) == {"id": "task_1"}
    first, second = server.asked
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.body == second.body == {"action": "a"}


def _event(name: str, event_id: str, data: str) -> str:
    return f"event: {name}\nid: {event_id}\ndata: {data}\n\n"


def _output(attempt: int, offset: int, text: str) -> str:
    data = f'{{"attempt": {attempt}, "stream": "stdout", "offset": {offset}, "text": "{text}"}}'
    return _event("output", f"{attempt}.{offset + len(text)}", data)


def test_a_followed_task_survives_broken_streams_and_resumes_after_the_last_event() -> None:
    """Output is followed over broken connections, each taken up after the last piece, until the task has ended."""
    script = {
        "/tasks/t/output": [
            Answer(stream=_output(1, 0, "one"), breaks=True),
            Answer(status=503, body=_error("unavailable")),
            Answer(
                stream=_output(1, 3, "two") + _event("output", "1.7", '{"attempt":1,"stream":"stderr","base64":"/w=="}')
            ),
            Answer(stream=_event("end", "", '{"state": "succeeded"}')),
        ],
        "/tasks/t": [Answer(body={"id": "t", "state": "succeeded"})],
    }
    pieces: list[Piece] = []
    with ScriptedServer(script) as server, ApiClient(server.url) as client:
        assert follow(client, "t", pieces.append)["state"] == "succeeded"
    assert [(piece.stream, piece.data) for piece in pieces] == [
        ("stdout", b"one"),
        ("stdout", b"two"),
        ("stderr", b"\xff"),
    ]
    resumed = [asked.headers.get("Last-Event-ID") for asked in server.asked if "output" in asked.path]
    assert resumed == [None, "1.3", "1.3", "1.7"]


def test_a_stream_that_never_opened_fails_at_once_and_a_refused_one_says_why() -> None:
    """Following fails at once where nothing answers, and with the server's reason where it refuses."""
    with ApiClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable):
        next(client.stream("/tasks/t/output"))
    with ScriptedServer({}) as server, ApiClient(server.url) as client, pytest.raises(NotFound):
        next(client.stream("/tasks/t/output"))


def test_a_stream_is_given_up_when_it_stays_away_for_longer_than_the_patience() -> None:
    """A lost server is given up as Unavailable after the patience."""
    script = {"/s": [Answer(stream=_event("a", "1", "{}")), Answer(status=503, body=_error("unavailable"))]}
    with (
        ScriptedServer(script) as server,
        ApiClient(server.url, patience_s=0.1) as client,
        pytest.raises(Unavailable),
    ):
        list(itertools.islice(client.stream("/s"), 5))


def test_a_taken_port_is_named_with_one_that_is_free() -> None:
    """A busy port is an error that suggests --port with a free one."""
    with ScriptedServer({}) as server, pytest.raises(AddressInUse) as caught:
        check_port_free("127.0.0.1", int(server.url.rpartition(":")[2]))
    suggested = int(str(caught.value.hint).rpartition(" ")[2])
    check_port_free("127.0.0.1", suggested)


def test_a_data_directory_in_use_is_refused_with_its_url(tmp_path: Path) -> None:
    """A data directory is free until its lock is held; then the error says where that instance listens."""
    check_unused(tmp_path)
    (tmp_path / "url").write_text("http://127.0.0.1:8123")
    with (tmp_path / "lock").open("w") as lock:
        check_unused(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InstanceLocked, match=r"at http://127\.0\.0\.1:8123"):
            check_unused(tmp_path)
