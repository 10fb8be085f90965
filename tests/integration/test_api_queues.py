"""Queues over HTTP, with a real worker behind them."""

from collections.abc import Iterator

import pytest

from protocols.states import TaskState
from tests.support.api import Api
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import FAST, Worker, wait_until

LANE = "q.t.default.python"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane, to which a worker belongs."""
    with Cluster(tmp_path_factory.mktemp("queues"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Worker:
    worker = cluster.worker("one")
    worker.start()
    return worker


@pytest.fixture
def api(cluster: Cluster, worker: Worker) -> Api:
    """An administrator."""
    return cluster.api


def test_queues_are_listed_with_who_serves_them(api: Api, worker: Worker) -> None:
    """Each lane of an approved worker is a queue, also while nothing waits in it."""
    names = [LANE, "q.t.default.ssh", f"q.t.w.{worker.id}"]
    wait_until("it consumes", lambda: all(api.call("GET", f"/queues/{name}")["consumers"] == 1 for name in names))
    page = api.call("GET", "/queues")
    assert [queue["name"] for queue in page["data"]] == names
    assert (page["total"], page["has_more"], page["next_cursor"]) == (3, False, None)
    python, _, pinned = page["data"]
    assert python == api.call("GET", f"/queues/{LANE}")
    assert python == {
        "name": LANE,
        "kind": "python",
        "pool": "default",
        "provider": None,
        "worker_id": None,
        **dict.fromkeys(("waiting", "delayed", "queued", "running"), 0),
        "counts_are_exact": True,
        "oldest_waiting_at": None,
        "starts_per_s": 0.0,
        "consumers": 1,
        "paused": False,
        "paused_at": None,
        "paused_by": None,
        "reason": None,
    }
    assert (pinned["kind"], pinned["worker_id"], pinned["pool"]) == ("pinned", worker.id, None)


def test_a_page_of_queues_leads_to_the_next(api: Api) -> None:
    """By cursor and by offset."""
    whole = [queue["name"] for queue in api.call("GET", "/queues")["data"]]
    first = api.call("GET", "/queues?limit=2")
    second = api.call("GET", f"/queues?limit=2&cursor={first['next_cursor']}")
    assert [queue["name"] for page in (first, second) for queue in page["data"]] == whole
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)
    assert [queue["name"] for queue in api.call("GET", "/queues?offset=1")["data"]] == whole[1:]


@pytest.mark.parametrize("path", ["/queues/q.t.default.nothing", "/queues/nonsense", "/queues/q.t.w.", "/queues/%00"])
@pytest.mark.parametrize("verb", ["", "/pause", "/resume"])
def test_an_unknown_queue_is_not_found(api: Api, path: str, verb: str) -> None:
    """The hint says how queues are called."""
    answer = api.request("POST" if verb else "GET", path + verb)
    assert answer.status_code == 404
    assert "GET /queues" in answer.json()["error"]["hint"]


def test_only_operators_pause(api: Api, cluster: Cluster) -> None:
    """A viewer looks; an operator pauses and resumes, with a reason of bounded length."""
    for role, status in (("viewer", 403), ("operator", 200)):
        key = api.call("POST", "/security/api-keys", {"name": role, "role": role})["key"]
        with Api(cluster.broker.url, key) as person:
            assert person.request("GET", f"/queues/{LANE}").status_code == 200
            for verb in ("pause", "resume"):
                assert person.request("POST", f"/queues/{LANE}/{verb}", {"reason": "r"}).status_code == status
    assert api.request("POST", f"/queues/{LANE}/pause", {"reason": "x" * 1001}).status_code == 422
    assert api.request("POST", f"/queues/{LANE}/pause", {"raeson": "x"}).status_code == 422
    assert not api.call("GET", f"/queues/{LANE}")["paused"]


def test_a_pause_is_shown_and_told(api: Api, cluster: Cluster) -> None:
    """The queue says who paused it, when and why; so do audit log and journal, once."""
    before = cluster.ledger.count_events("queue.paused")
    paused = [api.call("POST", f"/queues/{LANE}/pause", {"reason": "provider is down"}) for _ in range(2)]
    assert paused[0] == paused[1] == api.call("GET", f"/queues/{LANE}")
    assert (paused[0]["paused_by"], paused[0]["reason"]) == ("admin", "provider is down")
    assert paused[0]["paused_at"]
    resumed = api.call("POST", f"/queues/{LANE}/resume")
    assert (resumed["paused"], resumed["paused_at"], resumed["paused_by"], resumed["reason"]) == (
        False,
        None,
        None,
        None,
    )
    assert cluster.ledger.count_events("queue.paused") == before + 1
    newest, older = api.call("GET", "/admin/audit?limit=2")["data"]
    assert (newest["action"], older["action"], older["object"]) == ("queue.resumed", "queue.paused", LANE)
    assert older["data"] == {"reason": "provider is down"}


def test_a_pause_over_a_restart_loses_and_repeats_nothing(api: Api, cluster: Cluster, worker: Worker) -> None:
    """Paused under load, restarted, resumed: what ran has finished, what waited starts once, and not before."""
    ids = api.submit_all(tasks_of_both_kinds(cluster.effect, "paused", 20, seconds=0.1))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"])
    api.call("POST", f"/queues/{LANE}/pause")
    begun = {task_id for task_id in ids if cluster.ledger.starts(task_id)}
    assert len(begun) < len(ids)
    assert cluster.ledger.states(ids)["queued"] == 0
    cluster.broker.stop()
    cluster.broker.start()
    # The worker is back and well when it has done something else.
    cluster.ledger.wait_for([api.submit("effect", str(cluster.effects.path), "x", worker=worker.id)], _DONE)
    cluster.ledger.wait_for(begun, _DONE)
    assert {task_id for task_id in ids if cluster.ledger.starts(task_id)} == begun
    queue = api.call("GET", f"/queues/{LANE}")
    assert (queue["paused"], queue["waiting"], queue["queued"]) == (True, len(ids) - len(begun), 0)
    assert queue["oldest_waiting_at"]
    api.call("POST", f"/queues/{LANE}/resume")
    cluster.ledger.wait_for(ids, _DONE)
    assert {cluster.ledger.starts(task_id) for task_id in ids} == {1}
    assert {row.tries for row in cluster.ledger.rows(ids)} == {0}
    assert {cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)} == {1}
    cluster.ledger.check(cluster.effects)


_DONE = TaskState.SUCCEEDED
