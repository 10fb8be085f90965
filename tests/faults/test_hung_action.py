"""Hung actions: a deadline and a cancel end them, whatever they do, and their slot is free again."""

import itertools
import time
from collections.abc import Callable

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster
from tests.support.processes import Worker, wait_until

ENDED_S = 5.0
TIMEOUT_S = 0.5
HANGING = ["hang", "busy_loop", "hang_in_c", "ignore_sigterm"]
_names = itertools.count()


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Worker:
    """A worker with a single slot, which a hung action would keep for ever."""
    started = cluster.worker("single", slots_python="1")
    started.start()
    return started


def _is_free(cluster: Cluster) -> None:
    after = cluster.api.submit_all([cluster.effect(f"after{next(_names)}")])
    cluster.ledger.wait_for(after, TaskState.SUCCEEDED, ENDED_S)


@pytest.mark.parametrize("action", HANGING)
def test_a_deadline_ends_it_within_five_seconds(
    cluster: Cluster, worker: Worker, action: str, recovered: Callable[[float], None]
) -> None:
    """Its time is up: it is dead with a timeout 5 s later at most, and the only slot takes the next task."""
    before = cluster.effects.count(action)
    form = {"action": action, "args": [str(cluster.effects.path)], "timeout_s": TIMEOUT_S, "max_attempts": 1}
    (task_id,) = cluster.api.submit_all([form])
    wait_until("it runs", lambda: cluster.effects.count(action) > before)
    began = time.monotonic()
    (row,) = cluster.ledger.wait_ended([task_id])
    took = time.monotonic() - began
    recovered(took)
    assert (row.state, row.cause) == ("dead", "max_attempts")
    assert cluster.api.task(task_id)["error"]["class"] == "timeout"
    assert took < TIMEOUT_S + ENDED_S
    _is_free(cluster)


@pytest.mark.parametrize("action", HANGING)
def test_a_cancel_ends_it_within_five_seconds(
    cluster: Cluster, worker: Worker, action: str, recovered: Callable[[float], None]
) -> None:
    """Asked to stop, it is cancelled 5 s later at most, and the only slot takes the next task."""
    before = cluster.effects.count(action)
    (task_id,) = cluster.api.submit_all([{"action": action, "args": [str(cluster.effects.path)]}])
    wait_until("it runs", lambda: cluster.effects.count(action) > before)
    began = time.monotonic()
    cluster.api.cancel(task_id)
    (row,) = cluster.ledger.wait_ended([task_id])
    took = time.monotonic() - began
    recovered(took)
    assert row.state == "cancelled"
    assert took < ENDED_S
    _is_free(cluster)


def test_failures_are_tried_again_and_counted(cluster: Cluster, worker: Worker) -> None:
    """An action that fails twice and then succeeds has spent two tries, and its effects say three runs."""
    key = f"flaky{next(_names)}"
    task_id = cluster.api.submit("fail_first", str(cluster.effects.path), key, 2, title=key)
    (row,) = cluster.ledger.wait_ended([task_id])
    assert (row.state, row.tries, cluster.effects.count(key)) == ("succeeded", 2, 3)
    cluster.ledger.check(cluster.effects)
