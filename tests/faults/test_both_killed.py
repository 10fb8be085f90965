"""Everything killed at once: after a power failure each task is where the database says, and goes on from there."""

import itertools
import time
from collections.abc import Callable

import pytest

from protocols.states import Delivery
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Process, Worker, wait_until

TASKS = 100
_names = itertools.count()


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Worker:
    started = cluster.worker("worker")
    started.start()
    return started


@pytest.mark.parametrize("done", [0, 15, 50, 85])
def test_a_power_failure_under_load(
    cluster: Cluster, worker: Worker, done: int, round_number: int, recovered: Callable[[float], None]
) -> None:
    """Of 100 tasks, killed with everything and started again, each one that may run again succeeds, and no other
    runs twice."""
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"power{next(_names)}", TASKS // 2, seconds=0.02))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] >= done)
    order: list[Process] = [cluster.broker, worker]
    for process in order if (done + round_number) % 2 else reversed(order):
        process.kill()
    began = time.monotonic()
    cluster.broker.start()
    worker.start()
    rows = cluster.ledger.wait_ended(ids)
    recovered(time.monotonic() - began)
    assert {row.tries for row in rows} == {0}
    for row in rows:
        if row.delivery == Delivery.AT_LEAST_ONCE.value:
            assert row.state == "succeeded", row
        else:
            assert (row.state, row.cause) in {("succeeded", None), ("dead", "lost_unknown")}, row
            assert cluster.ledger.starts(row.id) == 1
    assert sum(row.state == "dead" for row in rows) <= 4, "more is lost than ran"
    cluster.ledger.check(cluster.effects)
