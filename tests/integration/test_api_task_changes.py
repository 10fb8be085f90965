"""Tasks over HTTP: changing them, retrying the dead, the list's filters, and counts."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "print=builtins:print,divide=operator:truediv,shell=os:system"
NOBODY = {"action": "print", "pool": "nobody"}
"""Of a pool without workers: its lane's window takes the first, where they stay queued."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker."""
    with Cluster(tmp_path_factory.mktemp("changes"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=ACTIONS).start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


def made(api: Api, **form: Any) -> dict[str, Any]:
    """Submit a task and return it."""
    task: dict[str, Any] = api.call("POST", "/tasks", form)
    return task


def finished(api: Api, **form: Any) -> dict[str, Any]:
    """Submit a task and return it when it has finished."""
    task_id = made(api, **form)["id"]
    wait_until("it has finished", lambda: api.task(task_id)["finished_at"])
    return api.task(task_id)


def types(api: Api, task_id: str) -> list[str]:
    """Return what happened to a task, in order."""
    return [event["type"] for event in api.call("GET", f"/tasks/{task_id}/events")["data"]]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_waiting_task_is_changed_in_place(api: Api, method: str) -> None:
    """What is named changes, the rest stays; the journal tells who changed what; the same again changes nothing."""
    task = made(api, action="print", delay_s=3600, title="old", deadline="2100-01-01T00:00:00Z")
    form = {"title": "new", "priority": "critical", "deadline": None, "instructions": "a note"}
    for _ in range(2):
        changed = api.call(method, f"/tasks/{task['id']}", form)
        assert {name: changed[name] for name in form} == form
        assert (changed["state"], changed["due_at"]) == ("scheduled", task["due_at"])
    (*_, last) = api.call("GET", f"/tasks/{task['id']}/events")["data"]
    assert types(api, task["id"]) == ["task.created", "task.updated"]
    assert last["data"] == {"by": "admin", "fields": ["deadline", "instructions", "priority", "title"]}


def test_a_queued_task_is_put_in_line_anew(api: Api) -> None:
    """A change of priority takes it out of its lane; it is published again as a new attempt with the same due time."""
    task = made(api, **NOBODY)
    assert (task["state"], task["attempt"]) == ("queued", 1)
    changed = api.call("PATCH", f"/tasks/{task['id']}", {"priority": "high"})
    assert (changed["state"], changed["attempt"], changed["priority"]) == ("queued", 2, "high")
    assert changed["due_at"] == task["due_at"]
    assert types(api, task["id"]) == ["task.created", "task.queued", "task.updated", "task.queued"]


def test_a_more_urgent_task_takes_the_place_of_another(api: Api) -> None:
    """In a full window, a waiting task that becomes critical comes before one that becomes low."""
    queued = [made(api, action="print", pool="crowd") for _ in range(4)]
    waiting = made(api, action="print", pool="crowd")
    assert [task["state"] for task in (*queued, waiting)] == ["queued"] * 4 + ["scheduled"]
    assert api.call("PATCH", f"/tasks/{waiting['id']}", {"priority": "critical"})["state"] == "scheduled"
    api.call("PATCH", f"/tasks/{queued[0]['id']}", {"priority": "low"})
    assert [api.task(task["id"])["state"] for task in (queued[0], waiting)] == ["scheduled", "queued"]


def test_changed_instructions_are_the_prompt_that_is_sent(api: Api) -> None:
    """The input of a queued llm.chat changes with them; one with messages of its own has none to change."""
    provider = {"name": "never", "base_url": "http://127.0.0.1:9/v1"}
    api.call("POST", "/providers", provider)
    chat = {"action": "llm.chat", "provider": "never", "pool": "nobody"}
    task = made(api, **chat, input={"model": "m"}, instructions="first")
    assert task["input"] == {"model": "m", "prompt": "first"}
    path = f"/tasks/{task['id']}"
    changed = api.call("PATCH", path, {"instructions": "second"})
    assert (changed["input"], changed["instructions"]) == ({"model": "m", "prompt": "second"}, "second")
    assert changed["attempt"] == 2
    assert api.request("PATCH", path, {"instructions": ""}).status_code == 422
    own = made(api, **chat, input={"model": "m", "messages": [{"role": "user", "content": "x"}]})
    assert api.request("PATCH", f"/tasks/{own['id']}", {"instructions": "second"}).status_code == 409
    assert api.call("PATCH", f"/tasks/{own['id']}", {"instructions": None})["attempt"] == 1


def test_a_task_that_was_begun_keeps_all_but_its_words(api: Api, cluster: Cluster) -> None:
    """Running and finished tasks take a new title; a new priority, deadline or instructions are a conflict."""
    running = made(api, action="shell", args=["sleep 60"])
    wait_until("it runs", lambda: api.task(running["id"])["state"] == "running")
    done = finished(api, action="print", args=["x"])
    for task_id in (running["id"], done["id"]):
        path = f"/tasks/{task_id}"
        for form in ({"priority": "low"}, {"deadline": "2100-01-01T00:00:00Z"}, {"instructions": "i"}):
            assert api.request("PATCH", path, {**form, "title": "not taken"}).status_code == 409
        assert api.call("PATCH", path, {"title": "t", "description": "d", "priority": "normal"})["title"] == "t"
        assert types(api, task_id)[-1] == "task.updated"
    api.cancel(running["id"])


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"priority": None}, "priority"),
        ({"priority": "urgent"}, "priority"),
        ({"deadline": "2001-01-01T00:00:00Z"}, "deadline"),
        ({"deadline": "2100-01-01T00:00:00"}, "deadline"),
        ({"deadline": "9999-12-31T23:59:59-01:00"}, "deadline"),
        ({"title": "x" * 501}, "title"),
        ({"state": "succeeded"}, "state"),
    ],
)
def test_a_wrong_change_is_refused(api: Api, form: dict[str, Any], field: str) -> None:
    """422 names the field, and nothing changes."""
    task = made(api, action="print", delay_s=3600, title="as it was")
    answer = api.request("PATCH", f"/tasks/{task['id']}", {"description": "new", **form})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert api.task(task["id"]) == task
    assert api.request("PATCH", "/tasks/task_unknown", {"title": "t"}).status_code == 404


def test_a_deadline_that_cannot_be_shown_is_refused(api: Api) -> None:
    """One whose year has five digits in UTC makes no task, and breaks no list."""
    answer = api.request("POST", "/tasks", {"action": "print", "deadline": "9999-12-31T23:59:59-14:00"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "deadline")
    assert api.request("GET", "/tasks").status_code == 200


def test_a_deadline_that_has_passed_may_be_said_again(api: Api) -> None:
    """A client that sends a task back as it got it, with another title, is not refused for its deadline."""
    task = made(api, **NOBODY, deadline="2100-01-01T00:00:00.5Z")
    api.cancel(task["id"])
    form = {"deadline": task["deadline"], "priority": "normal", "title": "t"}
    assert api.call("PUT", f"/tasks/{task['id']}", form)["deadline"] == "2100-01-01T00:00:00.500Z"


def test_a_dead_task_is_retried_with_all_of_its_tries(api: Api) -> None:
    """It is scheduled again at once and its dead letter dealt with; a task that is not dead is a conflict."""
    task = finished(api, action="divide", args=[1, 0], max_attempts=1)
    path = f"/tasks/{task['id']}"
    again = api.call("POST", f"{path}/retry")
    assert (task["state"], again["tries"], again["finished_at"]) == ("dead", 0, None)
    assert task["id"] not in [letter["task_id"] for letter in api.call("GET", "/dead-letter")["data"]]
    wait_until("it is dead again", lambda: api.task(task["id"])["state"] == "dead")
    assert api.task(task["id"])["attempt"] == 2
    assert "task.redriven" in types(api, task["id"])
    (entry, *_) = [row for row in api.call("GET", "/admin/audit")["data"] if row["object"] == task["id"]]
    assert (entry["action"], entry["actor"]) == ("task.retry", "admin")
    done = finished(api, action="print", args=["x"])
    assert api.request("POST", f"/tasks/{done['id']}/retry").status_code == 409
    assert api.request("POST", "/tasks/task_unknown/retry").status_code == 404


def test_the_list_is_filtered_by_where_and_when(api: Api) -> None:
    """Lane, pool, worker, parent and time of creation choose, alone and together."""
    parent = finished(api, action="print", args=["parent"])
    child = made(api, action="print", pool="nursery", parent_id=parent["id"], delay_s=3600)
    worker = parent["worker_id"]

    def found(query: str) -> list[str]:
        page = api.call("GET", f"/tasks?{query}")
        assert page["total"] == len(page["data"])
        return [task["id"] for task in page["data"]]

    assert child["parent_id"] == parent["id"]
    assert found(f"parent_id={parent['id']}") == [child["id"]]
    assert found("pool=nursery") == found("lane=q.t.nursery.python") == [child["id"]]
    assert found("lane=q.t.nursery.python&state=scheduled&priority=normal") == [child["id"]]
    assert found("lane=q.t.nursery.python&state=cancelled") == []
    assert parent["id"] in found(f"worker_id={worker}")
    assert found("worker_id=one&state=succeeded") == found(f"worker_id={worker}&state=succeeded")
    assert found("worker_id=one&state=dead&action=print") == []
    assert found("worker_id=unknown") == found("agent_id=unknown") == found("parent_id=unknown") == []
    since, until = parent["created_at"], child["created_at"]
    between = found(f"created_after={since}&created_before={until}")
    assert parent["id"] in between
    assert child["id"] not in between
    assert child["id"] in found(f"created_after={until}&action=print&state=scheduled")
    assert found("created_before=2001-01-01T00:00:00Z") == found("created_after=2100-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    "query", ["created_after=yesterday", "created_before=2026-01-01T00:00:00", "priority=1", "lane=" + "x" * 201]
)
def test_a_wrong_filter_is_refused(api: Api, query: str) -> None:
    """422, and not a list of everything."""
    assert api.request("GET", f"/tasks?{query}").status_code == 422


def test_tasks_are_counted(api: Api) -> None:
    """By state and by priority, with those that there are none of; both sum up to the total."""
    before = api.call("GET", "/tasks/stats")
    made(api, action="print", delay_s=3600, priority="critical")
    after = api.call("GET", "/tasks/stats")
    assert after["total"] == before["total"] + 1
    assert after["by_state"]["scheduled"] == before["by_state"]["scheduled"] + 1
    assert after["by_priority"]["critical"] == before["by_priority"]["critical"] + 1
    assert after["by_status"] == after["by_state"]
    assert sum(after["by_state"].values()) == sum(after["by_priority"].values()) == after["total"]
    assert {"awaiting_approval", "queued", "running", "dead"} <= after["by_state"].keys()
    assert after["by_priority"].keys() == {"low", "normal", "high", "critical"}


def test_roles(api: Api, cluster: Cluster) -> None:
    """A viewer counts and reads, an operator changes."""
    task = made(api, action="print", delay_s=3600)
    for role, writes in (("viewer", 403), ("operator", 200)):
        key = api.call("POST", "/security/api-keys", {"name": f"changes-{role}", "role": role})
        with Api(cluster.broker.url, key["key"]) as other:
            assert other.request("GET", "/tasks/stats").status_code == 200
            assert other.request("PATCH", f"/tasks/{task['id']}", {"title": role}).status_code == writes
            retried = other.request("POST", f"/tasks/{task['id']}/retry").status_code
            assert retried == (403 if role == "viewer" else 409)
        api.request("DELETE", f"/security/api-keys/{key['id']}")
