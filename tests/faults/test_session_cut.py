"""Session cut or half-open: what runs goes on, and nothing runs twice."""

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import FAST, Worker, wait_until
from tests.support.proxy import Direction, Proxy

TASKS = 200
FEW = 40
CUTS = 7
_names = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with the real grace for a session that was cut."""
    with Cluster(tmp_path_factory.mktemp("cluster"), {**FAST, "WARREN_RESUME_S": "3"}) as started:
        started.broker.start()
        yield started


@pytest.fixture(scope="module")
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(cluster.broker.port) as started:
        yield started


@pytest.fixture(scope="module")
def worker(cluster: Cluster, proxy: Proxy) -> Worker:
    """A worker that reaches the control plane through the proxy."""
    started = cluster.worker("behind-proxy", url=proxy.url, slots_python="8")
    started.start()
    return started


@pytest.fixture(scope="module")
def helper(cluster: Cluster) -> Worker:
    """A worker beside the proxy, not started yet."""
    return cluster.worker("direct")


def _load(cluster: Cluster, tasks: int) -> list[str]:
    forms = tasks_of_both_kinds(cluster.effect, f"load{next(_names)}", tasks // 2, seconds=0.05)
    return cluster.api.submit_all(forms)


def _wait_for_progress(cluster: Cluster, ids: list[str], done: int) -> None:
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] >= done)


def _cut(proxy: Proxy, harm: Callable[[Proxy], None]) -> float:
    """Return after how many seconds the worker comes back."""
    accepted = proxy.accepted
    began = time.monotonic()
    harm(proxy)
    wait_until("the worker comes back", lambda: proxy.accepted > accepted)
    return time.monotonic() - began


@pytest.mark.parametrize("harm", [Proxy.reset, Proxy.finish], ids=["rst", "fin"])
def test_repeated_short_cuts_under_load_cost_no_attempt(
    cluster: Cluster,
    proxy: Proxy,
    worker: Worker,
    harm: Callable[[Proxy], None],
    recovered: Callable[[float], None],
) -> None:
    """A session that is cut again and again among 200 tasks is resumed each time: each needs one attempt and run."""
    ids = _load(cluster, TASKS)
    lost = cluster.ledger.count_events("worker.lost")
    for number in range(CUTS):
        _wait_for_progress(cluster, ids, number * (TASKS - 50) // CUTS)
        recovered(_cut(proxy, harm))
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    rows = cluster.ledger.rows(ids)
    assert {row.attempt for row in rows} == {1}
    assert {cluster.ledger.starts(row.id) for row in rows} == {1}
    assert {cluster.effects.count(row.title) for row in rows} == {1}
    assert cluster.ledger.count_events("worker.lost") == lost
    cluster.ledger.check(cluster.effects)


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")], ids=["up", "down", "both"])
def test_a_short_half_open_connection_costs_nothing(
    cluster: Cluster,
    proxy: Proxy,
    worker: Worker,
    directions: tuple[Direction, ...],
    recovered: Callable[[float], None],
) -> None:
    """Silence that is shorter than the limit ends no lease, whichever direction it is in: one attempt each."""
    ids = _load(cluster, FEW)
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] > 0)
    lost = cluster.ledger.count_events("worker.lost")
    proxy.hold(*directions)
    held = proxy.bytes["up"] + proxy.bytes["down"]
    wait_until("a second passes", _Elapsed(1.0))
    began = time.monotonic()
    proxy.restore()
    wait_until("data flows again", lambda: proxy.bytes["up"] + proxy.bytes["down"] > held)
    recovered(time.monotonic() - began)
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    assert {row.attempt for row in cluster.ledger.rows(ids)} == {1}
    assert cluster.ledger.count_events("worker.lost") == lost
    cluster.ledger.check(cluster.effects)


@pytest.mark.parametrize("directions", [("down",), ("up", "down")], ids=["down", "both"])
def test_a_long_half_open_connection_ends_the_lease_and_fences_what_comes_late(
    cluster: Cluster,
    proxy: Proxy,
    worker: Worker,
    helper: Worker,
    directions: tuple[Direction, ...],
    recovered: Callable[[float], None],
) -> None:
    """A silent session is ended, work runs elsewhere, and after the network heals no effect has happened twice
    that must not, and nobody waits."""
    forms = tasks_of_both_kinds(cluster.effect, f"half-open{next(_names)}", 10, seconds=0.5)
    ids = cluster.api.submit_all(forms)
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["running"] > 0)
    lost = cluster.ledger.count_events("worker.lost")
    proxy.hold(*directions)
    began = time.monotonic()
    helper.start()
    wait_until("the lease ends", lambda: cluster.ledger.count_events("worker.lost") > lost)
    recovered(time.monotonic() - began)
    proxy.restore()
    cluster.ledger.check(cluster.effects)
    helper.stop()


def test_an_outcome_that_was_stored_but_not_answered_is_settled_once(
    cluster: Cluster, proxy: Proxy, worker: Worker
) -> None:
    """A worker that is killed before the answer to its outcome arrives repeats it at its next start, and no more."""
    key = f"unanswered{next(_names)}"
    (task_id,) = cluster.api.submit_all([cluster.effect(key, 0.5, delivery="at_most_once")])
    wait_until("it runs", lambda: cluster.effects.count(key))
    proxy.hold("down")
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)
    worker.kill()
    proxy.restore()
    worker.start()
    wait_until("the spool is empty", lambda: not worker.spooled)
    assert cluster.effects.count(key) == 1
    assert cluster.ledger.starts(task_id) == 1
    cluster.ledger.check(cluster.effects)


class _Elapsed:
    """True once some seconds have passed: the length of a fault, not a wait for something to happen."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def __call__(self) -> bool:
        return time.monotonic() >= self._until
