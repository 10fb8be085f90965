"""Agents over HTTP: their profiles and versions, whether they take work, and what their tasks are made of."""

import itertools
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from tests.support.api import BASE, Api
from tests.support.cluster import Cluster
from tests.support.llm_server import Answer, End, LlmServer, completion
from tests.support.processes import FAST, wait_until

PROFILE = {
    "description": "Reads logs.",
    "role": "analyst",
    "llm_provider": "models",
    "llm_model": "tiny-1",
    "system_prompt": "You read logs.",
    "enabled_tools": ["search", "shell"],
}


@pytest.fixture(scope="module")
def provider() -> Iterator[LlmServer]:
    """An LLM provider."""
    with LlmServer() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, provider: LlmServer) -> Iterator[Cluster]:
    """A control plane with one worker, and a provider named `models`."""
    with Cluster(tmp_path_factory.mktemp("agents"), FAST) as cluster:
        cluster.broker.start()
        cluster.api.call("POST", "/providers", {"name": "models", "base_url": provider.base_url})
        cluster.worker("one").start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


@pytest.fixture
def agent(api: Api, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An agent that is called after its test."""
    name = f"Agent of {request.node.name}"[:100].rstrip().replace("/", "-")
    made = api.call("POST", "/agents", {"name": name, **PROFILE})
    yield made
    api.request("DELETE", f"/agents/{made['id']}")


def refusal(api: Api, method: str, path: str, body: object = None) -> tuple[int, str | None]:
    """Return status and field of a refused request, which always says what would be right or what was wrong."""
    answer = api.request(method, path, body)
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["field"]


def test_a_new_agent_is_idle_and_shown(api: Api, agent: dict[str, Any]) -> None:
    """Its fields come back by id and by name, in the list too, and it says who made it."""
    assert {field: agent[field] for field in PROFILE} == PROFILE
    assert (agent["status"], agent["version"], agent["pool"], agent["worker_id"]) == ("idle", 1, "default", None)
    assert agent["created_by"] == "admin"
    assert api.call("GET", f"/agents/{agent['id']}") == agent
    assert api.call("GET", f"/agents/{agent['name']}") == agent
    assert agent in api.call("GET", "/agents?role=analyst&status_filter=idle")["data"]
    assert agent not in api.call("GET", "/agents?status=offline")["data"]
    assert agent not in api.call("GET", "/agents?state=busy")["data"]
    assert agent not in api.call("GET", "/agents?role=other")["data"]


def test_a_new_agents_place_is_named(api: Api) -> None:
    """201 comes with a Location; an agent needs no more than a name."""
    answer = api.request("POST", "/agents", {"name": "plain"})
    assert answer.status_code == 201
    path = answer.headers["Location"].removeprefix(BASE)
    assert api.call("GET", path) == answer.json()
    assert api.request("DELETE", path).status_code == 204


@pytest.mark.parametrize(
    ("form", "status", "field"),
    [
        ({}, 422, "name"),
        ({"name": "tools"}, 422, "name"),
        ({"name": "a/b"}, 422, "name"),
        ({"name": " a"}, 422, "name"),
        ({"name": ".."}, 422, "name"),
        ({"name": "a", "enabled_tools": ["x"] * 101}, 422, "enabled_tools"),
        ({"name": "a", "pool": "Not A Pool"}, 422, "pool"),
        ({"name": "a", "llm_provider": "unknown"}, 404, "llm_provider"),
        ({"name": "a", "worker_id": "unknown"}, 404, "worker_id"),
        ({"name": "a", "unknown": 1}, 422, "unknown"),
    ],
)
def test_what_no_agent_can_be_is_refused(api: Api, form: dict[str, Any], status: int, field: str) -> None:
    """The refusal names the field that was wrong."""
    assert refusal(api, "POST", "/agents", form) == (status, field)


def test_a_name_is_taken_once_until_its_agent_is_deleted(api: Api) -> None:
    """Two agents never have one name; deleting the first frees it, and the new one is another agent."""
    first = api.call("POST", "/agents", {"name": "once"})
    other = api.call("POST", "/agents", {"name": "other"})
    assert refusal(api, "POST", "/agents", {"name": "once"}) == (409, "name")
    assert refusal(api, "PATCH", f"/agents/{other['id']}", {"name": "once"}) == (409, "name")
    assert api.request("DELETE", "/agents/once").status_code == 204
    assert api.request("GET", f"/agents/{first['id']}").status_code == 404
    assert api.request("GET", "/agents/once").status_code == 404
    second = api.call("POST", "/agents", {"name": "once"})
    assert second["id"] != first["id"]
    for name in ("once", "other"):
        api.request("DELETE", f"/agents/{name}")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_each_change_makes_a_version(api: Api, agent: dict[str, Any], method: str) -> None:
    """What is named changes, the rest stays; every version keeps the whole profile; no change makes none."""
    path = f"/agents/{agent['id']}"
    changed = api.call(method, path, {"llm_model": "tiny-2", "enabled_tools": ["shell", "shell"]})
    assert (changed["version"], changed["llm_model"], changed["enabled_tools"]) == (2, "tiny-2", ["shell"])
    assert changed["system_prompt"] == agent["system_prompt"]
    assert api.call(method, path, {"llm_model": "tiny-2"})["version"] == 2
    assert api.call(method, path, {"description": None})["description"] is None
    versions = api.call("GET", f"{path}/versions")["data"]
    assert [(version["version"], version["profile"]["llm_model"]) for version in versions] == [
        (3, "tiny-2"),
        (2, "tiny-2"),
        (1, "tiny-1"),
    ]
    first = api.call("GET", f"{path}/versions/1")
    assert first == versions[-1]
    assert {field: first["profile"][field] for field in PROFILE} == PROFILE
    assert first["actor"] == "admin"
    assert api.request("GET", f"{path}/versions/4").status_code == 404
    assert api.request("GET", f"{path}/versions/0").status_code == 422
    assert api.request("GET", "/agents/unknown/versions").status_code == 404


def test_a_stopped_agent_takes_no_new_work(api: Api, agent: dict[str, Any], cluster: Cluster) -> None:
    """Stopping it refuses new tasks and leaves the others; starting it takes them again; both may be repeated."""
    path = f"/agents/{agent['id']}"
    form = {"agent_id": agent["name"], "title": "waits", "delay_s": 3600}
    kept = api.call("POST", "/tasks", form)["id"]
    for _ in range(2):
        assert api.call("POST", f"{path}/stop")["status"] == "offline"
    assert refusal(api, "POST", "/tasks", form) == (409, "agent_id")
    assert api.task(kept)["state"] == "scheduled"
    for _ in range(2):
        assert api.call("POST", f"{path}/start")["status"] == "idle"
    assert api.request("POST", "/tasks", form).status_code == 201
    audited = [row["action"] for row in api.call("GET", "/admin/audit")["data"] if row["object"] == agent["id"]]
    assert audited == ["agent.start", "agent.stop", "agent.create"]
    with closing(journal_of(cluster, agent["id"])) as statuses:
        assert list(itertools.islice(statuses, 3)) == ["idle", "offline", "idle"]


def journal_of(cluster: Cluster, agent_id: str) -> Generator[str, None, None]:
    """Yield the statuses that the journal tells of an agent, oldest first, for as long as somebody asks."""
    headers = {"X-API-Key": cluster.broker.key("admin")}
    with httpx2.stream("GET", f"{cluster.broker.url}{BASE}/events", headers=headers, timeout=30) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                if event["type"] == "agent.status" and event["data"]["agent_id"] == agent_id:
                    yield event["data"]["status"]


def test_what_an_agent_uses_stays(api: Api, provider: LlmServer) -> None:
    """A provider cannot be deleted while an agent asks it, but renamed."""
    api.call("POST", "/providers", {"name": "needed", "base_url": provider.base_url})
    made = api.call("POST", "/agents", {"name": "asks", "llm_provider": "needed"})
    assert api.request("DELETE", "/providers/needed").status_code == 409
    api.call("PATCH", "/providers/needed", {"name": "renamed"})
    assert api.call("GET", f"/agents/{made['id']}")["llm_provider"] == "renamed"
    assert api.request("DELETE", f"/agents/{made['id']}").status_code == 204
    assert api.request("DELETE", "/providers/renamed").status_code == 204


def test_an_agents_task_is_carried_out(api: Api, agent: dict[str, Any], provider: LlmServer) -> None:
    """The worker asks the agent's provider for its model, with its system prompt and the task's instructions."""
    provider.requests.clear()
    form = {"agent_id": agent["name"], "title": "t", "description": "d", "instructions": "Count.", "priority": "high"}
    made = api.call("POST", "/tasks", form)
    assert (made["action"], made["agent_id"], made["agent"]) == ("llm.chat", agent["id"], agent["name"])
    assert (made["agent_version"], made["instructions"], made["provider"]) == (1, "Count.", "models")
    wait_until("it is done", lambda: api.task(made["id"])["state"] == "succeeded")
    (asked,) = [request.json() for request in provider.requests]
    assert asked["model"] == "tiny-1"
    assert [(message["role"], message["content"]) for message in asked["messages"]] == [
        ("system", "You read logs."),
        ("user", "Count."),
    ]
    for reference in (agent["id"], agent["name"]):
        listed = api.call("GET", f"/tasks?agent_id={reference}")["data"]
        assert [task["id"] for task in listed] == [made["id"]]
    assert "instructions" not in listed[0]
    assert api.call("GET", f"/workers/{api.task(made['id'])['worker_id']}")["name"] == "one"


def test_an_agent_with_a_running_task_is_busy(api: Api, agent: dict[str, Any], provider: LlmServer) -> None:
    """It is shown as busy while the provider answers, and found by that; stopped, it is offline all the same."""
    provider.answer_next(Answer(pieces=completion("Hi.").pieces[:1], end=End.STALL))
    made = api.call("POST", "/tasks", {"agent_id": agent["id"], "instructions": "Wait."})
    path = f"/agents/{agent['id']}"
    wait_until("it is busy", lambda: api.call("GET", path)["status"] == "busy")
    assert [row["id"] for row in api.call("GET", "/agents?status=busy")["data"]] == [agent["id"]]
    assert agent["id"] not in [row["id"] for row in api.call("GET", "/agents?status=idle")["data"]]
    assert api.call("POST", f"{path}/stop")["status"] == "offline"
    assert api.call("POST", f"{path}/start")["status"] == "busy"
    api.cancel(made["id"])
    wait_until("it is idle", lambda: api.call("GET", path)["status"] == "idle")


@pytest.mark.parametrize(
    ("form", "prompt", "shown"),
    [
        ({"instructions": "I", "description": "D", "title": "T"}, "I", "I"),
        ({"description": "D", "title": "T"}, "D", "D"),
        ({"title": "T", "instructions": ""}, "T", "T"),
        ({"title": "T", "input": {"prompt": "P"}}, "P", None),
    ],
)
def test_the_prompt_is_what_tells_most(
    api: Api, agent: dict[str, Any], form: dict[str, Any], prompt: str, shown: str | None
) -> None:
    """Instructions, else the description, else the title; unless the input has a prompt of its own."""
    made = api.call("POST", "/tasks", {"agent_id": agent["id"], "delay_s": 3600, **form})
    assert (made["input"]["prompt"], made["instructions"]) == (prompt, shown)


def test_what_the_form_says_itself_wins(api: Api, agent: dict[str, Any]) -> None:
    """Model, system prompt, pool and worker of the form are taken, and another action runs in the agent's name."""
    worker = api.worker("one") or {}
    api.call("PATCH", f"/agents/{agent['id']}", {"worker_id": "one", "pool": "lab"})
    later = {"agent_id": agent["id"], "title": "t", "delay_s": 3600}
    plain = api.call("POST", "/tasks", later)
    assert (plain["worker"], plain["pool"], plain["lane"]) == ("one", "lab", f"q.t.w.{worker['id']}")
    assert plain["agent_version"] == 2
    own = api.call("POST", "/tasks", {**later, "pool": "default", "input": {"model": "m", "system": "s"}})
    assert (own["worker"], own["lane"]) == (None, "q.t.default.models")
    assert {name: own["input"][name] for name in ("model", "system")} == {"model": "m", "system": "s"}
    other = api.call("POST", "/tasks", {**later, "action": "print", "args": [1], "instructions": "only a note"})
    assert (other["action"], other["agent"], other["args"]) == ("print", agent["name"], [1])
    assert (other["input"], other["instructions"], other["worker"]) == ({}, "only a note", "one")


@pytest.mark.parametrize(
    ("form", "status", "field"),
    [
        ({"agent_id": "unknown", "title": "t"}, 404, "agent_id"),
        ({"title": "nobody"}, 422, "agent_id"),
        ({"agent_id": "{agent}"}, 422, "instructions"),
        ({"agent_id": "{agent}", "title": "t", "required_tools": ["shell", "rm"]}, 422, "required_tools"),
        ({"action": "print", "required_tools": ["shell"]}, 422, "required_tools"),
        ({"agent_id": "{agent}", "title": "t", "parent_id": "task_unknown"}, 404, "parent_id"),
        ({"agent_id": "{agent}", "title": "t", "instructions": "i", "input": {"prompt": "p"}}, 422, None),
        ({"agent_id": "{agent}", "title": "t", "args": [1]}, 422, None),
        ({"agent_id": "{agent}", "title": "t", "connection": "c"}, 422, None),
    ],
)
def test_a_task_that_no_agent_can_do_is_refused(
    api: Api, agent: dict[str, Any], form: dict[str, Any], status: int, field: str | None
) -> None:
    """The refusal names the field, and nothing is made."""
    before = api.call("GET", "/tasks?limit=1")["total"]
    form = {name: agent["id"] if value == "{agent}" else value for name, value in form.items()}
    assert refusal(api, "POST", "/tasks", form) == (status, field)
    assert api.call("GET", "/tasks?limit=1")["total"] == before


def test_an_agent_without_provider_or_model_can_do_nothing(api: Api) -> None:
    """Its task is refused unless the form has what it lacks."""
    made = api.call("POST", "/agents", {"name": "empty"})
    form = {"agent_id": "empty", "title": "t", "delay_s": 3600}
    assert refusal(api, "POST", "/tasks", form) == (422, "agent_id")
    assert refusal(api, "POST", "/tasks", {**form, "provider": "models"}) == (422, "agent_id")
    full = {**form, "provider": "models", "input": {"model": "m"}}
    assert api.call("POST", "/tasks", full)["lane"] == "q.t.default.models"
    api.request("DELETE", f"/agents/{made['id']}")


def test_required_tools_are_kept(api: Api, agent: dict[str, Any]) -> None:
    """A task shows which of its agent's tools it needs."""
    form = {"agent_id": agent["id"], "title": "t", "required_tools": ["shell"], "delay_s": 3600}
    assert api.call("POST", "/tasks", form)["required_tools"] == ["shell"]
    assert api.call("POST", "/tasks", {"action": "print", "delay_s": 3600})["required_tools"] == []


def test_a_deleted_agents_tasks_keep_its_name(api: Api) -> None:
    """They stay, and are still found by its name; new ones are refused."""
    made = api.call("POST", "/agents", {"name": "gone", **PROFILE})
    task = api.call("POST", "/tasks", {"agent_id": "gone", "title": "t", "delay_s": 3600})
    assert api.request("DELETE", "/agents/gone").status_code == 204
    assert (api.task(task["id"])["agent"], api.task(task["id"])["agent_id"]) == ("gone", made["id"])
    assert [row["id"] for row in api.call("GET", "/tasks?agent_id=gone")["data"]] == [task["id"]]
    assert refusal(api, "POST", "/tasks", {"agent_id": "gone", "title": "t"}) == (404, "agent_id")


def test_a_repeated_request_is_known_whatever_became_of_its_agent(api: Api, agent: dict[str, Any]) -> None:
    """Under its Idempotency-Key it gives the task that it made, also when the agent has stopped since."""
    form = {"agent_id": agent["id"], "title": "t", "delay_s": 3600}
    headers = {"Idempotency-Key": "agents-once"}
    first = api.request("POST", "/tasks", form, headers=headers)
    api.call("POST", f"/agents/{agent['id']}/stop")
    again = api.request("POST", "/tasks", form, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]


def test_roles(api: Api, cluster: Cluster, agent: dict[str, Any]) -> None:
    """Viewers look at agents, operators change them."""
    for role, writes in (("viewer", 403), ("operator", 200)):
        key = api.call("POST", "/security/api-keys", {"name": f"agents-{role}", "role": role})
        with Api(cluster.broker.url, key["key"]) as other:
            assert other.request("GET", f"/agents/{agent['id']}/versions").status_code == 200
            for method, path in (("PATCH", ""), ("PUT", ""), ("POST", "/stop"), ("POST", "/start")):
                assert other.request(method, f"/agents/{agent['id']}{path}", {}).status_code == writes
        api.request("DELETE", f"/security/api-keys/{key['id']}")
