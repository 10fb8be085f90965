"""Analytics over HTTP: what a control plane with a worker tells of what it did."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "print=builtins:print,divide=operator:truediv"
PATHS = ("/overview", "/agents", "/tasks/timeline", "/workers/utilization")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker, which has run two tasks; a third waits."""
    with Cluster(tmp_path_factory.mktemp("analytics"), {**FAST, "WARREN_HEARTBEAT_S": "0.2"}) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=ACTIONS).start()
        cluster.api.submit("print", "x")
        cluster.api.submit("divide", 1, 0, max_attempts=1)
        cluster.api.submit("print", delay_s=3600)
        wait_until("both have finished", lambda: finished(cluster.api) == 2)
        yield cluster


@pytest.fixture(scope="module")
def viewer(cluster: Cluster) -> Iterator[Api]:
    """Somebody who may only look."""
    key = cluster.api.call("POST", "/security/api-keys", {"name": "viewer", "role": "viewer"})["key"]
    with Api(cluster.broker.url, key) as api:
        yield api


def finished(api: Api) -> int:
    """Return how many tasks succeeded or died."""
    tasks = api.call("GET", "/analytics/overview")["tasks"]
    return int(tasks["succeeded"] + tasks["dead"])


def test_the_overview(viewer: Api) -> None:
    """Counts, rates, and of how many tasks they are."""
    found = viewer.call("GET", "/analytics/overview")
    tasks = found["tasks"]
    assert (found["days"], tasks["created"], tasks["succeeded"], tasks["dead"], tasks["scheduled"]) == (7, 3, 1, 1, 1)
    assert (found["success_rate"], found["sample"]["tasks"]) == (0.5, 2)
    assert found["average_duration_s"] >= 0
    assert found["tokens"]["input_tokens"] == 0
    assert found["workers"] == {"total": 1, "by_presence": {"online": 1}}
    assert found["dead_letters"] == {"open": 1}


def test_the_timeline(viewer: Api) -> None:
    """All that happened is in the newest hours; the others are there and empty."""
    found = viewer.call("GET", "/analytics/tasks/timeline?days=1")
    assert (found["bucket"], len(found["data"])) == ("hour", 24)
    newest = found["data"][-2:]
    assert [sum(one[name] for one in newest) for name in ("created", "succeeded", "dead", "cancelled")] == [3, 1, 1, 0]
    assert newest[-1]["at"].endswith(":00:00.000Z")
    assert len(viewer.call("GET", "/analytics/tasks/timeline?days=30")["data"]) == 30


def test_how_busy_the_worker_is(viewer: Api) -> None:
    """The row tells of its machine, its slots and its part in what was done."""

    def listed() -> Any:
        (row,) = viewer.call("GET", "/analytics/workers/utilization")["data"]
        return row

    # The first heartbeat may tell of the work of the tests before.
    wait_until("a heartbeat of rest has come", lambda: listed()["reported_at"] and listed()["busy"] == 0)
    row = listed()
    assert (row["name"], row["presence"], row["busy"]) == ("one", "online", 0)
    assert row["slots"]["python"] == {"busy": 0, "total": 4}
    assert row["memory_percent"] > 0
    assert (row["sample"]["tasks"], row["sample"]["succeeded"], row["sample"]["dead"]) == (2, 1, 1)


def test_agents_are_listed(viewer: Api) -> None:
    """An empty list is a list."""
    found = viewer.call("GET", "/analytics/agents")
    assert (found["data"], found["total"], found["has_more"]) == ([], 0, False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("days", ["0", "366", "-1", "x", "1.5", ""])
def test_days_outside_of_a_year_are_refused(viewer: Api, path: str, days: str) -> None:
    """The refusal names the parameter."""
    answer = viewer.request("GET", f"/analytics{path}?days={days}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "days")


@pytest.mark.parametrize("path", PATHS)
def test_workers_and_strangers_see_nothing(cluster: Cluster, path: str) -> None:
    """Figures are for people with a key."""
    for key, status in ((cluster.broker.key("worker"), 403), (None, 401)):
        with Api(cluster.broker.url, key) as other:
            assert other.request("GET", f"/analytics{path}").status_code == status
