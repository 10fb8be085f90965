"""What has become of a task, over HTTP: attempts, timeline, tree."""

from collections.abc import Iterator
from typing import Any

import pytest

from broker.history import MAX_DEPTH, MAX_NODES
from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "print=builtins:print,divide=operator:truediv"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker."""
    with Cluster(tmp_path_factory.mktemp("history"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("web-1", actions=ACTIONS).start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


@pytest.fixture(scope="module")
def dead(cluster: Cluster) -> dict[str, Any]:
    """A task that has failed twice."""
    task_id = cluster.api.submit("divide", 1, 0, max_attempts=2)
    wait_until("it is dead", lambda: cluster.api.task(task_id)["state"] == "dead")
    return cluster.api.task(task_id)


def later(**form: Any) -> dict[str, Any]:
    """Return the form of a task that waits."""
    return {"action": "print", "delay_s": 3600, **form}


def test_attempts_tell_what_workers_made_of_them(api: Api, dead: dict[str, Any]) -> None:
    """Each has its execution with worker, times and error."""
    page = api.call("GET", f"/tasks/{dead['id']}/attempts")
    assert (page["total"], page["has_more"]) == (2, False)
    for number, attempt in enumerate(page["data"], 1):
        assert (attempt["attempt"], attempt["lane"]) == (number, dead["lane"])
        (execution,) = attempt["executions"]
        assert (execution["worker"], execution["worker_id"]) == ("web-1", dead["worker_id"])
        assert (execution["outcome"], execution["late"], execution["isolated"]) == ("failed", False, False)
        assert execution["error"]["class"] == dead["error"]["class"]
        assert execution["error"]["message"] == dead["error"]["message"]
        assert attempt["published_at"] <= execution["claimed_at"] <= execution["ended_at"]
        assert execution["duration_s"] >= 0
    assert page["data"][1]["executions"][0]["id"] == dead["execution_id"]
    second = api.call("GET", f"/tasks/{dead['id']}/attempts?limit=1&cursor=1")["data"]
    assert second == page["data"][1:]


def test_a_task_that_never_ran_has_no_attempts(api: Api) -> None:
    """One that waits has none, one in its lane has one without executions."""
    task_id = api.submit("print", delay_s=3600)
    assert api.call("GET", f"/tasks/{task_id}/attempts")["data"] == []
    task_id = api.submit("print", pool="nobody")
    (attempt,) = api.call("GET", f"/tasks/{task_id}/attempts")["data"]
    assert (attempt["attempt"], attempt["executions"]) == (1, [])


def test_the_timeline_is_the_journal_in_sentences(api: Api, dead: dict[str, Any]) -> None:
    """Its entries are the task's events, each with a sentence and the seconds since the task was created."""
    timeline = api.call("GET", f"/tasks/{dead['id']}/timeline")["data"]
    events = api.call("GET", f"/tasks/{dead['id']}/events")["data"]
    assert [{name: entry[name] for name in event} for entry, event in zip(timeline, events, strict=True)] == events
    summaries = [entry["summary"] for entry in timeline]
    assert summaries[0] == f"created: divide in lane {dead['lane']}"
    assert summaries[2] == "worker web-1 began attempt 1"
    assert summaries[3].startswith("it failed: ")
    assert summaries[-1].endswith("given up: it has failed as often as it may")
    elapsed = [entry["elapsed_s"] for entry in timeline]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] == 0
    assert api.call("GET", f"/tasks/{dead['id']}/timeline?limit=1")["data"] == timeline[:1]


def test_every_task_of_a_tree_shows_the_whole_tree(api: Api) -> None:
    """Whichever task is asked about, the answer begins at the topmost ancestor, children in order."""
    (root,) = api.submit_all([later(title="root")])
    first, second = api.submit_all([later(title="first", parent_id=root), later(title="second", parent_id=root)])
    (grandchild,) = api.submit_all([later(title="grandchild", parent_id=second)])
    trees = [api.call("GET", f"/tasks/{task_id}/tree") for task_id in (root, first, second, grandchild)]
    assert all(tree == trees[0] for tree in trees)
    assert trees[0]["truncated"] is False
    node = trees[0]["root"]
    assert (node["id"], node["title"], node["action"], node["state"]) == (root, "root", "print", "scheduled")
    assert [child["title"] for child in node["children"]] == ["first", "second"]
    assert [child["title"] for child in node["children"][1]["children"]] == ["grandchild"]
    assert node["children"][0]["children"] == []


def test_a_wide_tree_is_cut_but_shows_the_task(api: Api) -> None:
    """Of more children than are shown, the oldest are there, and the one that was asked about."""
    (root,) = api.submit_all([later()])
    children = api.submit_all([later(parent_id=root)] * MAX_NODES)
    tree = api.call("GET", f"/tasks/{children[-1]}/tree")
    shown = [child["id"] for child in tree["root"]["children"]]
    assert tree["truncated"] is True
    assert len(shown) == MAX_NODES - 1
    assert shown == [*children[: MAX_NODES - 2], children[-1]]


def test_a_deep_tree_is_cut_but_shows_the_task(api: Api) -> None:
    """A task far below its topmost ancestor is at the deepest level that is shown, its line above it."""
    (parent,) = line = api.submit_all([later()])
    for _ in range(MAX_DEPTH + 5):
        (parent,) = api.submit_all([later(parent_id=parent)])
        line.append(parent)
    for index, top in ((len(line) - 1, len(line) - MAX_DEPTH), (3, 0)):
        tree = api.call("GET", f"/tasks/{line[index]}/tree")
        assert tree["truncated"] is True
        shown, node = [], tree["root"]
        while node:
            shown.append(node["id"])
            (node,) = node["children"] or [None]
        assert shown == line[top : top + MAX_DEPTH]


@pytest.mark.parametrize("part", ["attempts", "timeline", "tree"])
def test_an_unknown_task_is_not_found(api: Api, part: str) -> None:
    """404."""
    assert api.request("GET", f"/tasks/task_unknown/{part}").status_code == 404
