"""Pipelines over HTTP, with a real worker: from the form to the last result."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

FUNCTIONS = ("add", "add_actor", "fail", "large", "pid_of_child")
LATER = {"action": "add", "delay_s": 3600}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker."""
    actions = {name: f"tests.support.worker_functions:{name}" for name in FUNCTIONS}
    actions |= {"fail_first": "tests.support.actions:fail_first", "shout": "builtins:str"}
    with Cluster(tmp_path_factory.mktemp("pipeline"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=",".join(f"{name}={source}" for name, source in actions.items())).start()
        yield cluster
        wait_until("the invariant holds", lambda: not cluster.ledger.violations())


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


def under(api: Api, key: str) -> dict[str, Any] | None:
    """Return the task with an Idempotency-Key, None if there is none."""
    found = api.call("GET", f"/tasks?idempotency_key={key.replace(' ', '%20')}")
    assert found["total"] == len(found["data"]) <= 1
    return api.task(found["data"][0]["id"]) if found["data"] else None


def submit(api: Api, key: str, form: dict[str, Any]) -> dict[str, Any]:
    """Submit a task under an Idempotency-Key and return it."""
    answer = api.request("POST", "/tasks", form, headers={"Idempotency-Key": key})
    assert answer.is_success, answer.text
    task: dict[str, Any] = answer.json()
    return task


def finished(api: Api, key: str) -> dict[str, Any]:
    """Wait until the task with a key exists and has finished."""
    wait_until(f"{key} has finished", lambda: (task := under(api, key)) is not None and task["finished_at"])
    task = under(api, key)
    assert task is not None
    return task


def test_a_pipeline_runs_to_its_end(api: Api) -> None:
    """Results go from step to step, and each step is found under its pipeline's key."""
    plan = [{"action": "add_actor", "args": [10], "title": "more"}, {"action": "add", "args": [100]}]
    submit(api, "sum", {"action": "add", "args": [1, 2], "then": plan})
    last = finished(api, "sum 2")
    assert (last["result"], last["args"], last["then"]) == ({"value": 113}, [100, 13], [])
    middle = finished(api, "sum 1")
    assert (middle["title"], middle["args"], middle["result"]) == ("more", [10, 3], {"value": 13})
    assert under(api, "sum 3") is None


def test_a_failed_step_that_is_redriven_goes_on(cluster: Cluster, api: Api) -> None:
    """What has succeeded before it does not run again."""
    path = str(cluster.directory / "redriven.txt")
    plan = [
        {"action": "fail_first", "args": [path, "key", 1], "pass_result": False, "max_attempts": 1},
        {"action": "shout"},
    ]
    submit(api, "redriven", {"action": "add", "args": [1, 2], "then": plan})
    failed = finished(api, "redriven 1")
    assert (failed["state"], failed["error"]["cause"]) == ("dead", "max_attempts")
    assert under(api, "redriven 2") is None
    (letter,) = [one for one in api.call("GET", "/dead-letter")["data"] if one["task_id"] == failed["id"]]
    api.call("POST", f"/dead-letter/{letter['id']}/retry")
    last = finished(api, "redriven 2")
    assert (last["result"], last["args"]) == ({"value": "key"}, ["key"])
    first = finished(api, "redriven")
    assert first["attempt"] == 1


def test_a_plan_is_shown_with_its_task(api: Api) -> None:
    """Before it happens one can see what will; lists leave it out like everything that went in."""
    plan = [{"action": "shout", "title": "loud", "args": [1], "priority": "low", "delay_s": 5, "pass_result": False}]
    task = submit(api, "shown", {**LATER, "then": plan})
    (step,) = task["then"]
    assert step == {
        **plan[0],
        "input": {},
        "pool": None,
        "worker": None,
        "delivery": "at_least_once",
        "max_attempts": None,
        "timeout_s": None,
    }
    (row,) = api.call("GET", "/tasks?idempotency_key=shown")["data"]
    assert "then" not in row


def test_the_same_key_with_another_plan_is_refused(api: Api) -> None:
    """A plan is part of the request."""
    form = {**LATER, "then": [{"action": "shout"}]}
    headers = {"Idempotency-Key": "same"}
    first = api.request("POST", "/tasks", form, headers=headers)
    again = api.request("POST", "/tasks", form, headers=headers)
    assert (first.status_code, again.status_code, again.json()["id"]) == (201, 200, first.json()["id"])
    other = api.request("POST", "/tasks", {**LATER, "then": [{"action": "add"}]}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_mismatch")


def test_a_key_finds_only_ones_own_task(cluster: Cluster, api: Api) -> None:
    """Keys belong to who used them."""
    made = api.call("POST", "/security/api-keys", {"name": "someone else", "role": "operator"})
    submit(api, "mine", LATER)
    with Api(cluster.broker.url, made["key"]) as other:
        assert under(other, "mine") is None
        theirs = submit(other, "mine", LATER)
        assert under(other, "mine") == theirs
    mine = under(api, "mine")
    assert mine is not None
    assert mine["id"] != theirs["id"]


@pytest.mark.parametrize(
    ("step", "field", "words"),
    [
        ({"action": "llm.chat"}, "then.0.action", "can only come first"),
        ({"action": "add", "then": [{"action": "add"}]}, "then.0.then", ""),
        ({"action": "add", "provider": "openai"}, "then.0.provider", ""),
        ({"action": "add", "pool": "No Pool"}, "then.0.pool", "lower case"),
        ({"action": "add", "worker": "nobody"}, "then.0.worker", "there is no worker 'nobody'"),
        ({"action": "add", "delay_s": -1}, "then.0.delay_s", ""),
        ({}, "then.0.action", ""),
    ],
)
def test_a_wrong_step_is_refused_where_it_is(api: Api, step: dict[str, Any], field: str, words: str) -> None:
    """The answer names the step and what is wrong with it."""
    answer = api.request("POST", "/tasks", {**LATER, "then": [step]})
    error = answer.json()["error"]
    assert answer.status_code in (404, 422)
    assert field in str(error["field"])
    assert words in error["message"]


def test_a_plan_is_limited(api: Api) -> None:
    """Twenty steps are enough for everybody; nothing is unbounded."""
    assert api.request("POST", "/tasks", {**LATER, "then": [{"action": "add"}] * 20}).status_code == 201
    answer = api.request("POST", "/tasks", {**LATER, "then": [{"action": "add"}] * 21})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "then")


def test_plans_in_bulk_have_keys_of_their_own(api: Api) -> None:
    """Every task of a bulk submission may be a pipeline."""
    form = {"action": "add", "args": [1, 1], "then": [{"action": "shout"}]}
    answer = api.request("POST", "/tasks/bulk", {"tasks": [form, form]}, headers={"Idempotency-Key": "bulk"})
    assert answer.status_code == 201
    assert [finished(api, f"bulk:{number} 1")["result"] for number in (0, 1)] == [{"value": "2"}] * 2
