"""SIGTERM to a worker: it finishes within its grace, and hands the rest back without charging anyone."""

import itertools
import signal
import time
from collections.abc import Iterator

import pytest

from protocols.states import Delivery, TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Worker, wait_until

GRACE_S = 1.0
_names = itertools.count()


@pytest.fixture(scope="module")
def other(cluster: Cluster) -> Worker:
    return cluster.worker("other")


@pytest.fixture
def leaving(cluster: Cluster, other: Worker) -> Iterator[Worker]:
    """The only worker that is up, with a short grace."""
    if other.alive:
        other.kill()
    worker = next((process for process in cluster.processes if process.name == "leaving"), None)
    worker = worker if isinstance(worker, Worker) else cluster.worker("leaving", grace_s=str(GRACE_S))
    worker.start()
    yield worker
    worker.kill()


def test_a_drained_worker_finishes_what_runs_and_leaves_the_rest_uncounted(
    cluster: Cluster, leaving: Worker, other: Worker
) -> None:
    """What can finish within the grace does; what had not begun runs elsewhere, without a try or a loss."""
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"short{next(_names)}", 12, seconds=0.2))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] > 0)
    assert leaving.stop() == 0
    assert cluster.ledger.states(ids)["running"] == 0
    assert not leaving.spooled
    other.start()
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    rows = cluster.ledger.rows(ids)
    assert {(row.tries, row.losses) for row in rows} == {(0, 0)}
    assert {cluster.effects.count(row.title) for row in rows} == {1}
    cluster.ledger.check(cluster.effects)


def test_what_cannot_finish_within_the_grace_is_handed_back(cluster: Cluster, leaving: Worker, other: Worker) -> None:
    """at_least_once work runs again elsewhere uncounted; begun at_most_once work is lost_unknown and not repeated."""
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"long{next(_names)}", 2, seconds=3.0))
    wait_until("all run", lambda: all(cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)))
    began = time.monotonic()
    assert leaving.stop() == 0
    assert time.monotonic() - began < GRACE_S + 10
    other.start()
    for row in cluster.ledger.wait_ended(ids):
        assert (row.tries, row.losses) == (0, 0)
        if row.delivery == Delivery.AT_LEAST_ONCE.value:
            assert (row.state, cluster.effects.count(row.title)) == ("succeeded", 2)
        else:
            assert (row.state, row.cause, cluster.effects.count(row.title)) == ("dead", "lost_unknown", 1)
    cluster.ledger.check(cluster.effects)


def test_a_second_sigterm_ends_it_at_once(cluster: Cluster, leaving: Worker, other: Worker) -> None:
    """It does not wait for the grace, takes its children along, and loses nothing that may run again."""
    key = f"twice{next(_names)}"
    (task_id,) = cluster.api.submit_all([cluster.effect(key, 1.0)])
    wait_until("it runs", lambda: cluster.effects.count(key))
    drained = leaving.output.count("draining")
    leaving.signal(signal.SIGTERM)
    wait_until("it drains", lambda: leaving.output.count("draining") > drained)
    leaving.signal(signal.SIGTERM)
    began = time.monotonic()
    assert leaving.ended() == 128 + signal.SIGTERM
    assert time.monotonic() - began < GRACE_S / 2
    other.start()
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)
    cluster.ledger.check(cluster.effects)
