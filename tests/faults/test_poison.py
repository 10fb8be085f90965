"""Tasks that kill what runs them: they are isolated, then quarantined, and no innocent task pays."""

import itertools
import time
from collections.abc import Callable

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Worker, wait_until
from tests.support.supervisor import Supervisor

GOOD = 100
MOST_WORKER_DEATHS = 4
MOST_CHILD_DEATHS = 3
_names = itertools.count()


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> tuple[Worker, Worker]:
    workers = cluster.worker("first"), cluster.worker("second")
    cluster.start(*workers)
    return workers


def _good(cluster: Cluster, seconds: float) -> list[dict[str, object]]:
    prefix = f"good{next(_names)}"
    return [cluster.effect(f"{prefix}-{number}", seconds) for number in range(GOOD)]


@pytest.mark.parametrize("seconds", [0.02, 0.2], ids=["short", "long"])
def test_a_task_that_kills_its_worker_is_quarantined_and_the_others_succeed(
    cluster: Cluster, pair: tuple[Worker, Worker], seconds: float, recovered: Callable[[float], None]
) -> None:
    """One of 101 tasks kills its worker each time: at most four deaths, then it is quarantined; 100 succeed, none
    of them with a try spent."""
    forms = _good(cluster, seconds)
    poison = {"action": "kill_worker", "args": [str(cluster.effects.path)]}
    began = time.monotonic()
    with Supervisor(*pair) as supervisor:
        poison_id, *good_ids = cluster.api.submit_all([poison, *forms])
        (poisoned,) = cluster.ledger.wait_ended([poison_id])
        good = cluster.ledger.wait_ended(good_ids)
        wait_until("both workers live", lambda: all(worker.alive for worker in pair))
    recovered(time.monotonic() - began)
    assert (poisoned.state, poisoned.cause) == ("dead", "quarantined")
    assert {row.state for row in good} == {TaskState.SUCCEEDED.value}, [row for row in good if row.state == "dead"]
    assert {row.tries for row in good} == {0}
    assert supervisor.deaths.total() <= MOST_WORKER_DEATHS
    cluster.ledger.check(cluster.effects)


def test_a_task_that_kills_only_its_own_process_never_harms_a_worker(
    cluster: Cluster, pair: tuple[Worker, Worker]
) -> None:
    """It dies at most three times and is quarantined; no worker dies, and those beside it succeed."""
    before = cluster.effects.count("kill_self")
    pids = [worker.pid for worker in pair]
    forms = tasks_of_both_kinds(cluster.effect, f"beside{next(_names)}", 10, seconds=0.02)
    poison = {"action": "kill_self", "args": [str(cluster.effects.path)]}
    poison_id, *good_ids = cluster.api.submit_all([poison, *forms])
    (poisoned,) = cluster.ledger.wait_ended([poison_id])
    cluster.ledger.wait_for(good_ids, TaskState.SUCCEEDED)
    assert (poisoned.state, poisoned.cause) == ("dead", "quarantined")
    assert cluster.effects.count("kill_self") - before <= MOST_CHILD_DEATHS
    assert [worker.pid for worker in pair] == pids
    assert all(worker.alive for worker in pair)
    cluster.ledger.check(cluster.effects)


def test_an_at_most_once_task_that_kills_its_process_runs_once(cluster: Cluster, pair: tuple[Worker, Worker]) -> None:
    """It is dead as lost_unknown after the first death, whoever died."""
    for action in ("kill_self", "kill_worker"):
        before = cluster.effects.count(action)
        form = {"action": action, "args": [str(cluster.effects.path)], "delivery": "at_most_once"}
        with Supervisor(*pair):
            (task_id,) = cluster.api.submit_all([form])
            (row,) = cluster.ledger.wait_ended([task_id])
        assert (row.state, row.cause) == ("dead", "lost_unknown")
        assert cluster.effects.count(action) - before == 1
        assert cluster.ledger.starts(task_id) == 1
    cluster.ledger.check(cluster.effects)
