"""Tasks over HTTP: submitting, listing, cancelling, following, and the dead."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.support.api import BASE, Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "print=builtins:print,divide=operator:truediv,shell=os:system"
LATER = {"action": "print", "delay_s": 3600}


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream."""

    id: str | None
    event: str
    data: dict[str, Any]


def events_in(text: str) -> list[ServerSentEvent]:
    """Return the events of a whole stream; comments are none."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append(ServerSentEvent(fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker."""
    with Cluster(tmp_path_factory.mktemp("tasks"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=ACTIONS).start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


def stream(api: Api, path: str, **headers: str) -> list[ServerSentEvent]:
    """Return all events of a stream that ends by itself."""
    answer = api.request("GET", path, headers={"Accept": "text/event-stream", **headers})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return events_in(answer.text)


def finished(api: Api, action: str, *args: object, **form: Any) -> dict[str, Any]:
    """Submit a task and return it when it has finished."""
    task_id = api.submit(action, *args, **form)
    wait_until(f"{action} has finished", lambda: api.task(task_id)["finished_at"])
    return api.task(task_id)


def test_a_submitted_task_is_there(api: Api) -> None:
    """201 names the task's place, where everything that was asked for is shown."""
    form = {
        "action": "print",
        "args": ["a", {"b": None}],
        "input": {"sep": "é"},
        "delay_s": 3600,
        "priority": "high",
        "title": "a title",
        "deadline": "2100-01-01T00:00:00Z",
        "concurrency_key": "k",
    }
    answer = api.request("POST", "/tasks", form)
    task = api.call("GET", answer.headers["Location"].removeprefix(BASE))
    assert (answer.status_code, answer.json()) == (201, task)
    assert {name: task[name] for name in form if name not in ("delay_s", "deadline")} == {
        name: value for name, value in form.items() if name not in ("delay_s", "deadline")
    }
    assert (task["state"], task["status"], task["deadline"]) == ("scheduled", "scheduled", "2100-01-01T00:00:00.000Z")
    assert (task["created_by"], task["tries"], task["result"], task["error"]) == ("admin", 0, None, None)


@pytest.mark.parametrize(
    ("path", "wrap"),
    [("/tasks", lambda *forms: forms[0]), ("/tasks/bulk", lambda *forms: {"tasks": [*forms, *forms]})],
)
def test_an_idempotency_key_submits_once(api: Api, path: str, wrap: Any) -> None:
    """The same request gives the same tasks with 200; another request with the key is refused."""
    headers = {"Idempotency-Key": f"once-{path}"}
    first = api.request("POST", path, wrap(LATER), headers=headers)
    again = api.request("POST", path, wrap(LATER), headers=headers)
    other = api.request("POST", path, wrap({**LATER, "title": "other"}), headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert other.json()["error"]["code"] == "idempotency_mismatch"


@pytest.mark.parametrize(("key", "status"), [("x" * 255, 201), ("x" * 256, 422), ("a b", 422)])
def test_an_idempotency_key_has_its_limits(api: Api, key: str, status: int) -> None:
    """Up to 255 visible characters are taken."""
    assert api.request("POST", "/tasks", LATER, headers={"Idempotency-Key": key}).status_code == status


def test_bulk_is_all_or_nothing(api: Api) -> None:
    """One form that cannot be accepted refuses all of them, and says which one it was."""
    before = api.call("GET", "/tasks?limit=1")["total"]
    for wrong, status in (({"action": "llm.chat", "provider": "none"}, 404), ({"action": ""}, 422)):
        assert api.request("POST", "/tasks/bulk", {"tasks": [LATER, wrong]}).status_code == status
    assert api.request("POST", "/tasks/bulk", {"tasks": []}).status_code == 422
    assert api.request("POST", "/tasks/bulk", {"tasks": [LATER] * 1001}).status_code == 422
    assert api.call("GET", "/tasks?limit=1")["total"] == before


def test_a_list_is_walked_by_cursor_while_it_grows(api: Api) -> None:
    """Pages by cursor show each task once, newest first, although new ones come meanwhile."""
    made = api.submit_all([{**LATER, "action": "walked"}] * 7)
    seen: list[str] = []
    page = api.call("GET", "/tasks?action=walked&limit=3")
    assert (page["total"], page["has_more"]) == (7, True)
    while True:
        seen += [task["id"] for task in page["data"]]
        api.submit("walked", delay_s=3600)
        if not page["has_more"]:
            break
        page = api.call("GET", f"/tasks?action=walked&limit=3&cursor={page['next_cursor']}")
    assert seen == sorted(made, reverse=True)
    assert page["next_cursor"] is None
    assert [task["id"] for task in api.call("GET", "/tasks?action=walked&offset=9")["data"]] == [min(made)]


def test_a_list_is_filtered(api: Api) -> None:
    """`state`, its aliases, `action` and `priority` choose, and entries carry no inputs or results."""
    chosen = api.submit("filtered", delay_s=3600, priority="low")
    cancelled = api.submit("filtered", delay_s=3600)
    api.cancel(cancelled)
    for query, expected in (
        ("state=cancelled", [cancelled]),
        ("status=scheduled", [chosen]),
        ("status_filter=scheduled", [chosen]),
        ("priority=low", [chosen]),
        ("priority=critical", []),
    ):
        listed = api.call("GET", f"/tasks?action=filtered&{query}")["data"]
        assert [task["id"] for task in listed] == expected
        assert not any({"input", "args", "result"} & set(task) for task in listed)


def test_a_waiting_task_is_cancelled_at_once(api: Api) -> None:
    """It is cancelled in the answer; a second cancel is a conflict, an unknown task not found."""
    task_id = api.submit("print", delay_s=3600)
    assert api.call("POST", f"/tasks/{task_id}/cancel", {"reason": "no need"})["state"] == "cancelled"
    assert api.request("POST", f"/tasks/{task_id}/cancel").status_code == 409
    assert api.request("POST", "/tasks/task_unknown/cancel").status_code == 404
    (*_, last) = api.call("GET", f"/tasks/{task_id}/events")["data"]
    assert (last["type"], last["data"]) == ("task.cancelled", {"reason": "no need", "by": "admin"})


def test_a_tasks_events_are_listed_and_streamed_alike(api: Api) -> None:
    """The stream gives what the list gives, ends when the task has finished, and resumes after any event."""
    task = finished(api, "print", "hello")
    listed = api.call("GET", f"/tasks/{task['id']}/events")["data"]
    assert [event["type"] for event in listed] == ["task.created", "task.queued", "task.started", "task.succeeded"]
    path = f"/tasks/{task['id']}/events"
    streamed = stream(api, path)
    assert [event.data for event in streamed] == listed
    assert [(event.id, event.event) for event in streamed] == [(str(event["id"]), event["type"]) for event in listed]
    after = listed[1]["id"]
    assert [event.data for event in stream(api, f"{path}?after={after}")] == listed[2:]
    assert [event.data for event in stream(api, path, **{"Last-Event-ID": str(after)})] == listed[2:]
    assert [event["id"] for event in api.call("GET", f"{path}?after={after}")["data"]] == [
        event["id"] for event in listed[2:]
    ]


def test_output_is_the_same_bytes_in_every_form(api: Api) -> None:
    """The document, the stream and a stream resumed half-way give the same bytes, also where they are no text."""
    task = finished(api, "shell", r"printf 'one\ntwo \303\251\n'; printf '\377' >&2")
    path = f"/tasks/{task['id']}/output"
    document = api.request("GET", path).content
    assert sorted(document) == sorted("one\ntwo é\n".encode() + b"\xff")
    *pieces, end = stream(api, path)
    assert (end.event, end.data) == ("end", {"state": "succeeded"})
    assert b"".join(bytes_of(piece) for piece in pieces) == document
    assert {piece.data["stream"] for piece in pieces} == {"stdout", "stderr"}
    resumed = stream(api, path, **{"Last-Event-ID": str(pieces[0].id)})
    assert bytes_of(pieces[0]) + b"".join(bytes_of(piece) for piece in resumed[:-1]) == document
    attempt = pieces[0].data["attempt"]
    assert b"".join(bytes_of(piece) for piece in stream(api, f"{path}?after={attempt}.3")[:-1]) == document[3:]


def bytes_of(piece: ServerSentEvent) -> bytes:
    """Return the bytes that a piece of output carries."""
    if "base64" in piece.data:
        return base64.b64decode(piece.data["base64"])
    return str(piece.data["text"]).encode()


@pytest.mark.parametrize("position", ["1", "x.y", "-1.0", "1.-1", "1." + "9" * 30])
def test_an_impossible_position_is_refused(api: Api, position: str) -> None:
    """Output is resumed after `<attempt>.<offset>` and nothing else."""
    task_id = api.submit("print", delay_s=3600)
    answer = api.request("GET", f"/tasks/{task_id}/output?after={position}", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 422


def test_a_dead_task_gets_a_second_chance(api: Api) -> None:
    """A dead letter is listed with its cause, shown, retried once, and its task runs again with all its tries."""
    task = finished(api, "divide", 1, 0, max_attempts=1)
    assert (task["state"], task["error"]["cause"]) == ("dead", "max_attempts")
    (letter,) = [row for row in api.call("GET", "/dead-letter")["data"] if row["task_id"] == task["id"]]
    assert (letter["action"], letter["cause"], letter["task_state"]) == ("divide", "max_attempts", "dead")
    assert letter["error"]["class"] == task["error"]["class"]
    assert letter == api.call("GET", f"/dead-letter/{letter['id']}")
    assert letter in api.call("GET", "/dead-letter?cause=max_attempts")["data"]
    assert letter not in api.call("GET", "/dead-letter?cause=quarantined")["data"]
    again = api.call("POST", f"/dead-letter/{letter['id']}/retry")
    assert (again["id"], again["tries"]) == (task["id"], 0)
    assert api.request("POST", f"/dead-letter/{letter['id']}/retry").status_code == 409
    wait_until("it is dead again", lambda: api.task(task["id"])["state"] == "dead")
    assert api.task(task["id"])["attempt"] == 2


def test_a_discarded_dead_letter_leaves_the_list(api: Api) -> None:
    """Deleting it is answered 204; its task stays dead; doing it again is a conflict, an unknown one not found."""
    task = finished(api, "divide", 1, 0, max_attempts=1)
    (letter,) = [row for row in api.call("GET", "/dead-letter")["data"] if row["task_id"] == task["id"]]
    assert api.request("DELETE", f"/dead-letter/{letter['id']}").status_code == 204
    assert all(row["id"] != letter["id"] for row in api.call("GET", "/dead-letter?limit=500")["data"])
    assert api.task(task["id"])["state"] == "dead"
    assert api.request("DELETE", f"/dead-letter/{letter['id']}").status_code == 409
    assert api.request("DELETE", "/dead-letter/dead_unknown").status_code == 404


def test_a_result_that_json_lacks_is_still_shown(api: Api) -> None:
    """A function that returns infinity leaves a task that can be looked at."""
    assert finished(api, "divide", 1, 4)["result"] == {"value": 0.25}
    assert finished(api, "divide", 1e308, 1e-308)["result"] == {"value": None}


def test_open_streams_end_when_the_control_plane_stops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Readers of the journal and of output get a proper end, and the control plane does not wait for them."""
    with Cluster(tmp_path_factory.mktemp("stopping"), FAST) as cluster:
        cluster.broker.start()
        task_id = cluster.api.submit("print", delay_s=3600)
        headers = {"X-API-Key": cluster.broker.key("admin"), "Accept": "text/event-stream"}
        base = f"{cluster.broker.url}/api/v1"
        with (
            httpx2.stream("GET", f"{base}/events", headers=headers, timeout=30) as journal,
            httpx2.stream("GET", f"{base}/tasks/{task_id}/output", headers=headers, timeout=30) as output,
        ):
            followed, written = journal.iter_lines(), output.iter_lines()
            assert next(followed).startswith(":")
            assert next(written).startswith(":")
            assert cluster.broker.stop() == 0
            assert "task.created" in "".join(followed)
            assert "event: end" not in "".join(written)
