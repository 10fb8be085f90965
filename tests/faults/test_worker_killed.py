"""Worker killed: what may be repeated runs again, what may not never does, and finished work is not lost."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from protocols.states import Delivery, TaskState
from tests.support.cluster import Cluster
from tests.support.invariant import Row
from tests.support.killer import Trigger
from tests.support.processes import FAST, Worker, wait_until

IN_ACTION = "in the action"
POINTS = {
    "a delivery arrives": "worker.intake:Intake._accept:before",
    "before the claim is sent": "worker.claims:ClaimGate.ask:before",
    "granted, the answer unread": "worker.claims:ClaimGate.received:before?Answers",
    "granted, not begun": "worker.execute:Executor.execute:before",
    "the action begins": "worker.children:Child.perform:before",
    "in the action, after its effect": IN_ACTION,
    "ended, not handed over": "worker.execute:Executor.execute:after",
    "before the spool": "worker.spool:Spool.write:before",
    "after the spool": "worker.spool:Spool.write:after",
    "the outcome leaves": "websockets.asyncio.client:ClientConnection.send:after?outcomes",
    "stored, not acknowledged": "worker.settle:Settler._forget:before",
}
_names = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane whose leases end almost at once."""
    settings = {**FAST, "WARREN_RESUME_S": "0.5", "WARREN_AT_MOST_ONCE_S": "0.5"}
    with Cluster(tmp_path_factory.mktemp("cluster"), settings) as started:
        started.broker.start()
        yield started


@pytest.fixture(scope="module")
def victim(cluster: Cluster) -> Worker:
    """A worker that can be killed at any of the points."""
    return cluster.worker("victim")


@pytest.fixture(scope="module")
def trigger(cluster: Cluster, victim: Worker) -> Trigger:
    return cluster.lethal(victim, [point for point in POINTS.values() if point != IN_ACTION])


@pytest.fixture(scope="module")
def survivor(cluster: Cluster) -> Worker:
    return cluster.worker("survivor")


@pytest.fixture
def alone(cluster: Cluster, victim: Worker, survivor: Worker, trigger: Trigger) -> Iterator[None]:
    """Only the victim is there."""
    if survivor.alive:
        survivor.stop()
    if not victim.alive:
        victim.start()
    yield
    trigger.disarm()


def _kill_at(point: str, cluster: Cluster, victim: Worker, trigger: Trigger, first: Delivery) -> list[str]:
    """Submit tasks of both kinds, have one that comes to the point kill the victim, and return their ids."""
    prefix = f"task{next(_names)}"
    # In pairs, so that two workers which take turns get tasks of both kinds each.
    forms = [
        _form(cluster, victim, point, f"{prefix}-{delivery.value}-{number}", delivery)
        for delivery in (first, *(other for other in Delivery if other is not first)) * 2
        for number in itertools.islice(_names, 2)
    ]
    if point != IN_ACTION:
        trigger.arm(point)
    ids = cluster.api.submit_all(forms)
    assert victim.ended() == -9
    assert point == IN_ACTION or trigger.fired.exists()
    return ids


def _form(cluster: Cluster, victim: Worker, point: str, key: str, delivery: Delivery) -> dict[str, Any]:
    if point != IN_ACTION:
        return cluster.effect(key, 0.1, delivery=delivery.value)
    once = str(cluster.directory / f"killed-{key.split('-', maxsplit=1)[0]}")
    args = [str(cluster.effects.path), key, victim.name, once]
    return {"action": "effect_then_kill_worker", "args": args, "title": key, "delivery": delivery.value}


def _check(cluster: Cluster, ids: list[str]) -> None:
    """Assert what is promised of tasks whose worker was killed."""
    for row in cluster.ledger.wait_ended(ids):
        assert row.tries == 0, f"a loss was charged: {row}"
        if row.delivery == Delivery.AT_LEAST_ONCE.value:
            assert row.state == TaskState.SUCCEEDED.value, row
        else:
            _check_at_most_once(cluster, row)
    cluster.ledger.check(cluster.effects)


def _check_at_most_once(cluster: Cluster, row: Row) -> None:
    assert cluster.ledger.starts(row.id) <= 1, f"it was run twice: {row}"
    assert (row.state, row.cause) in {("succeeded", None), ("dead", "lost_unknown")}, row


@pytest.mark.parametrize("point", POINTS.values(), ids=[name.replace(" ", "-") for name in POINTS])
def test_a_killed_worker_that_restarts(
    cluster: Cluster,
    victim: Worker,
    trigger: Trigger,
    alone: None,
    point: str,
    round_number: int,
    recovered: Callable[[float], None],
) -> None:
    """Wherever it was killed, its next start brings every task to a lawful end."""
    ids = _kill_at(point, cluster, victim, trigger, list(Delivery)[round_number % 2])
    began = time.monotonic()
    victim.start()
    _check(cluster, ids)
    recovered(time.monotonic() - began)


@pytest.mark.parametrize("point", POINTS.values(), ids=[name.replace(" ", "-") for name in POINTS])
def test_a_killed_worker_that_stays_away(
    cluster: Cluster,
    victim: Worker,
    trigger: Trigger,
    survivor: Worker,
    point: str,
    round_number: int,
    recovered: Callable[[float], None],
) -> None:
    """Wherever it was killed, another worker and the control plane alone bring every task to a lawful end."""
    cluster.start(*(worker for worker in (survivor, victim) if not worker.alive))
    ids = _kill_at(point, cluster, victim, trigger, list(Delivery)[1 - round_number % 2])
    began = time.monotonic()
    _check(cluster, ids)
    recovered(time.monotonic() - began)


def test_a_spooled_outcome_of_a_task_that_was_given_up_is_delivered_at_the_next_start(
    cluster: Cluster, victim: Worker, trigger: Trigger, alone: None
) -> None:
    """An at_most_once task that died as lost_unknown succeeds after all when its outcome comes from the spool."""
    trigger.arm(POINTS["after the spool"])
    (task_id,) = cluster.api.submit_all([cluster.effect(f"spooled{next(_names)}", delivery="at_most_once")])
    assert victim.ended() == -9
    assert len(victim.spooled) == 1
    (row,) = cluster.ledger.wait_ended([task_id])
    assert (row.state, row.cause) == ("dead", "lost_unknown")
    victim.start()
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)
    wait_until("the spool is empty", lambda: not victim.spooled)
    cluster.ledger.check(cluster.effects)
