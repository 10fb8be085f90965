"""Dead letters over HTTP: choosing, counting, retrying many, and making one by hand."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.api import BASE, Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "divide=operator:truediv,shout=builtins:print,effect=tests.support.actions:effect"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker."""
    with Cluster(tmp_path_factory.mktemp("dead-letters"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=ACTIONS).start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Api]:
    """An administrator; no dead letter is left over for the next test."""
    yield cluster.api
    for letter in cluster.api.call("GET", "/dead-letter?limit=500")["data"]:
        cluster.api.call("DELETE", f"/dead-letter/{letter['id']}")


def failed(api: Api, number: int) -> list[str]:
    """Return so many tasks that have failed for good."""
    form = {"action": "divide", "args": [1, 0], "max_attempts": 1}
    ids = api.submit_all([form] * number)
    wait_until("they are dead", lambda: all(api.task(task_id)["state"] == "dead" for task_id in ids))
    return ids


def given_up(api: Api, **form: Any) -> dict[str, Any]:
    """Return the dead letter of a task that never ran."""
    task_id = api.submit("shout", delay_s=3600, **form)
    letter: dict[str, Any] = api.call("POST", "/dead-letter", {"task_id": task_id, "reason": "not wanted"})
    return letter


def chosen(api: Api, **wanted: str) -> set[str]:
    """Return the ids of the tasks whose dead letters a filter chooses."""
    page = api.call("GET", f"/dead-letter?{urlencode(wanted)}")
    assert page["total"] == len(page["data"])
    return {letter["task_id"] for letter in page["data"]}


def test_a_task_can_be_given_up_by_hand(api: Api) -> None:
    """201 names the dead letter's place; the task is dead, and lives again when that is retried."""
    task_id = api.submit("shout", delay_s=3600)
    answer = api.request("POST", "/dead-letter", {"task_id": task_id, "reason": "not wanted"})
    letter = api.call("GET", answer.headers["Location"].removeprefix(BASE))
    assert (answer.status_code, answer.json()) == (201, letter)
    assert (letter["task_id"], letter["cause"], letter["task_state"]) == (task_id, "manual", "dead")
    assert (letter["error"]["code"], letter["error"]["message"]) == ("manual", "not wanted")
    assert api.call("GET", "/admin/audit?limit=1")["data"][0]["action"] == "dead_letter.create"
    assert api.request("POST", "/dead-letter", {"task_id": task_id}).status_code == 409
    api.call("POST", f"/dead-letter/{letter['id']}/retry")
    wait_until("it has run", lambda: api.task(task_id)["state"] == "succeeded")
    assert api.request("POST", "/dead-letter", {"task_id": task_id}).status_code == 409


def test_what_a_worker_runs_is_not_given_up(api: Api, cluster: Cluster) -> None:
    """It may be cancelled; an unknown task is not found."""
    task_id = api.submit("effect", str(cluster.effects.path), "long", 3.0)
    wait_until("it runs", lambda: api.task(task_id)["state"] == "running")
    answer = api.request("POST", "/dead-letter", {"task_id": task_id})
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "task_id")
    assert "cancel" in answer.json()["error"]["hint"]
    assert api.request("POST", "/dead-letter", {"task_id": "task_unknown"}).status_code == 404
    assert api.request("POST", "/dead-letter", {"task_id": task_id, "why": ""}).status_code == 422
    wait_until("it has run", lambda: api.task(task_id)["state"] == "succeeded")


def test_filters_choose_by_cause_action_lane_error_and_time(api: Api) -> None:
    """Alone and together; times with a zone, from the first on, up to the second."""
    (dead,) = failed(api, 1)
    manual = given_up(api)["task_id"]
    everything = api.call("GET", "/dead-letter")["data"]
    errors = {letter["task_id"]: letter["error"]["code"] for letter in everything}
    assert chosen(api) == {dead, manual}
    assert chosen(api, cause="manual") == {manual}
    assert chosen(api, action="divide") == {dead}
    assert chosen(api, lane="q.t.default.python") == {dead, manual}
    assert chosen(api, lane="q.t.default.ssh") == set()
    assert chosen(api, error_code=errors[dead]) == {dead}
    assert chosen(api, action="divide", cause="manual") == set()
    newest, oldest = (letter["dead_at"] for letter in everything)
    assert chosen(api, dead_before=newest) == {dead}
    assert chosen(api, dead_after=newest) == {manual}
    assert chosen(api, dead_after=oldest) == {dead, manual}
    before = (datetime.fromisoformat(oldest) - timedelta(hours=1)).isoformat()
    assert chosen(api, dead_after=before, dead_before=newest) == {dead}


@pytest.mark.parametrize(
    "wrong",
    [
        "cause=boredom",
        "dead_after=yesterday",
        "dead_after=2030-01-01T00:00:00",
        "dead_before=99999999999999999999",
        "action=" + "x" * 129,
        "lane=" + "x" * 201,
        "limit=0",
    ],
)
def test_filters_are_checked(api: Api, wrong: str) -> None:
    """A filter that cannot be meant is refused, for looking and for retrying."""
    assert api.request("GET", f"/dead-letter?{wrong}").status_code == 422
    assert api.request("POST", f"/dead-letter/retry-all?{wrong}").status_code == 422


def test_dead_letters_are_counted(api: Api) -> None:
    """By cause and by action, with the first and the last; none at all is no mistake."""
    empty = api.call("GET", "/dead-letter/stats")
    none: dict[str, Any] = {"total": 0, "by_cause": {}, "by_action": {}, "oldest_at": None, "newest_at": None}
    assert empty == {**none, "counts_are_exact": True}
    failed(api, 2)
    given_up(api)
    times = sorted(letter["dead_at"] for letter in api.call("GET", "/dead-letter")["data"])
    assert api.call("GET", "/dead-letter/stats") == {
        "total": 3,
        "by_cause": {"manual": 1, "max_attempts": 2},
        "by_action": {"divide": 2, "shout": 1},
        "oldest_at": times[0],
        "newest_at": times[-1],
        "counts_are_exact": True,
    }


@pytest.mark.parametrize("by_body", [False, True])
def test_all_that_a_filter_chooses_are_retried(api: Api, by_body: bool) -> None:
    """In the query or in the body; the rest stays, and each of them is dead anew with a new dead letter."""
    ids = failed(api, 3)
    kept = given_up(api)
    before = {letter["id"] for letter in api.call("GET", "/dead-letter")["data"]}
    wanted = {"action": "divide"}
    path = "/dead-letter/retry-all" + ("" if by_body else "?" + urlencode(wanted))
    assert api.call("POST", path, wanted if by_body else None) == {"retried": 3, "skipped": 0}
    wait_until("they are dead again", lambda: len(chosen(api)) == 4)
    after = {letter["id"] for letter in api.call("GET", "/dead-letter")["data"]}
    assert before & after == {kept["id"]}
    assert {api.task(task_id)["attempt"] for task_id in ids} == {2}
    entry = api.call("GET", "/admin/audit?limit=1")["data"][0]
    assert (entry["action"], entry["data"]["retried"]) == ("dead_letter.retry_all", 3)
    assert entry["data"]["filter"] == wanted


@pytest.mark.parametrize(("path", "body"), [("?acton=divide", None), ("?limit=1", None), ("", {"acton": "divide"})])
def test_a_filter_that_nobody_knows_does_not_mean_all(api: Api, path: str, body: dict[str, str] | None) -> None:
    """A slip of the finger retries nothing."""
    given_up(api)
    assert api.request("POST", f"/dead-letter/retry-all{path}", body).status_code == 422
    assert len(chosen(api)) == 1


def test_only_admins_deal_with_dead_letters(api: Api, cluster: Cluster) -> None:
    """An operator may do none of it."""
    key = api.call("POST", "/security/api-keys", {"name": "op", "role": "operator"})["key"]
    with Api(cluster.broker.url, key) as operator:
        for method, path in (("GET", "/stats"), ("POST", ""), ("POST", "/retry-all"), ("GET", "")):
            assert operator.request(method, f"/dead-letter{path}", None).status_code == 403
