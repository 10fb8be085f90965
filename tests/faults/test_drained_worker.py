"""Worker drained under load: it finishes what it has, takes nothing more, and nothing is lost or run twice."""

import itertools
import time
from collections.abc import Callable

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.invariant import Row
from tests.support.processes import Worker, wait_until

TASKS = 120
_names = itertools.count()


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> tuple[Worker, Worker]:
    """Two workers of one pool."""
    workers = cluster.worker("drained"), cluster.worker("other")
    cluster.start(*workers)
    return workers


def _load(cluster: Cluster, **more: str) -> list[str]:
    forms = tasks_of_both_kinds(cluster.effect, f"drain{next(_names)}", TASKS // 2, seconds=0.05, **more)
    return cluster.api.submit_all(forms)


def _executions(cluster: Cluster, worker: Worker) -> int:
    return cluster.ledger.executions_of(worker.id)


def _assert_once(cluster: Cluster, ids: list[str]) -> None:
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    rows: list[Row] = cluster.ledger.rows(ids)
    assert {(row.tries, row.losses) for row in rows} == {(0, 0)}
    assert {cluster.ledger.starts(row.id) for row in rows} == {1}
    assert {cluster.effects.count(row.title) for row in rows} == {1}


def test_a_worker_is_drained_restarted_and_resumed_under_load(
    cluster: Cluster, pair: tuple[Worker, Worker], recovered: Callable[[float], None]
) -> None:
    """From the answer on nothing starts there, also not after its restart; resumed, it takes work at once."""
    drained, other = pair
    api = cluster.api
    ids = _load(cluster)
    wait_until("both work", lambda: _executions(cluster, drained) and _executions(cluster, other))
    session = drained.sessions_opened()
    shown = api.call("POST", f"/workers/{drained.id}/drain", {"reason": "a new kernel"})
    begun = _executions(cluster, drained)
    assert (shown["presence"], shown["status"], shown["drained_by"]) == ("draining", "draining", "admin")
    pinned = api.submit_all([cluster.effect(f"pinned{next(_names)}", worker=drained.id)])
    _assert_once(cluster, ids)
    assert _executions(cluster, drained) == begun
    assert drained.sessions_opened() == session, "its session was cut"

    drained.stop()
    drained.start()
    wait_until("it is back", lambda: (api.worker(drained.id) or {})["presence"] == "draining")
    _assert_once(cluster, _load(cluster))
    assert _executions(cluster, drained) == begun
    assert cluster.ledger.starts(pinned[0]) == 0

    other.stop()
    ids = _load(cluster)
    began = time.monotonic()
    assert api.call("POST", f"/workers/{drained.id}/resume")["presence"] == "online"
    wait_until("it works again", lambda: _executions(cluster, drained) > begun)
    recovered(time.monotonic() - began)
    _assert_once(cluster, [*ids, *pinned])
    cluster.ledger.check(cluster.effects)
    other.start()


def test_draining_and_resuming_again_and_again_costs_nothing(cluster: Cluster, pair: tuple[Worker, Worker]) -> None:
    """Whatever is on its way at that moment: no session is cut, and every task runs once."""
    sessions = [worker.sessions_opened() for worker in pair]
    ids = _load(cluster)
    turns = itertools.cycle([(pair[0], "drain"), (pair[0], "resume"), (pair[1], "drain"), (pair[1], "resume")])
    for (worker, verb), _ in zip(turns, range(40), strict=False):
        cluster.api.call("POST", f"/workers/{worker.id}/{verb}")
    _assert_once(cluster, ids)
    cluster.ledger.check(cluster.effects)
    assert [worker.sessions_opened() for worker in pair] == sessions
