"""Frozen processes: leases end on silence of the worker alone, and what comes late is fenced."""

import itertools
import time
from collections.abc import Callable

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Worker, wait_until

CONTROL_PLANE_FROZEN_S = 10.0
_names = itertools.count()


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> tuple[Worker, Worker]:
    workers = cluster.worker("sleeper"), cluster.worker("helper")
    cluster.start(*workers)
    return workers


@pytest.mark.parametrize("children", [False, True], ids=["worker", "machine"])
def test_a_worker_that_comes_back_after_its_lease_changes_nothing_that_was_decided(
    cluster: Cluster, pair: tuple[Worker, Worker], children: bool, recovered: Callable[[float], None]
) -> None:
    """Frozen beyond its lease and thawed: its late outcomes are fenced or settle by the rules, and all ends well."""
    sleeper, _ = pair
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"late{next(_names)}", 4, seconds=0.7))
    wait_until("all run", lambda: cluster.ledger.states(ids) == {"running": len(ids)})
    lost = cluster.ledger.count_events("worker.lost")
    began = time.monotonic()
    sleeper.freeze(children=children)
    wait_until("its lease ends", lambda: cluster.ledger.count_events("worker.lost") > lost)
    recovered(time.monotonic() - began)
    cluster.ledger.wait_ended(ids)
    sessions = sleeper.sessions_opened()
    sleeper.thaw(children=children)
    wait_until("it is back", lambda: sleeper.sessions_opened() > sessions)
    rows = cluster.ledger.wait_ended(ids)
    for row in rows:
        assert row.tries == 0
        assert row.state == "succeeded" or (row.delivery, row.cause) == ("at_most_once", "lost_unknown")
    cluster.ledger.check(cluster.effects)
    again = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"after{next(_names)}", 8, seconds=0.05))
    cluster.ledger.wait_for(again, TaskState.SUCCEEDED)


def test_a_frozen_control_plane_ends_no_lease(cluster: Cluster, pair: tuple[Worker, Worker]) -> None:
    """After ten seconds in which the control plane stood still, everything goes on and nothing has run twice."""
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"stopped{next(_names)}", 20, seconds=0.3))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] > 0)
    lost = cluster.ledger.count_events("worker.lost")
    cluster.broker.freeze()
    until = time.monotonic() + CONTROL_PLANE_FROZEN_S
    wait_until("the freeze is over", lambda: time.monotonic() >= until)
    cluster.broker.thaw()
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    assert cluster.ledger.count_events("worker.lost") == lost
    assert {row.attempt for row in cluster.ledger.rows(ids)} == {1}
    assert {cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)} == {1}
    cluster.ledger.check(cluster.effects)
