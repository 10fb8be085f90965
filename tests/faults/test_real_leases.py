"""Leases as shipped: the promised times, measured with the settings that users have."""

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Worker, wait_until

ELSEWHERE_S = 5.0
DETECTED_S = 20.0
_names = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without any setting of its own."""
    with Cluster(tmp_path_factory.mktemp("cluster"), {}) as started:
        started.broker.start()
        yield started


@pytest.fixture
def pair(cluster: Cluster) -> dict[str, Worker]:
    """Two workers, by id."""
    workers = [process for process in cluster.processes if isinstance(process, Worker)]
    workers = workers or [cluster.worker("first"), cluster.worker("second")]
    cluster.start(*(worker for worker in workers if not worker.alive))
    return {worker.id: worker for worker in workers}


def test_work_of_a_killed_worker_runs_elsewhere_within_five_seconds(
    cluster: Cluster, pair: dict[str, Worker], recovered: Callable[[float], None]
) -> None:
    """From the SIGKILL of its worker to its next start an at_least_once task takes less than 5 s."""
    key = f"killed{next(_names)}"
    task_id = cluster.api.submit("effect", str(cluster.effects.path), key, 1.0, title=key)
    wait_until("it runs", lambda: cluster.effects.count(key))
    victim = pair[cluster.api.task(task_id)["worker_id"]]
    began = time.monotonic()
    victim.kill()
    wait_until("it runs again", lambda: cluster.effects.count(key) == 2)
    took = time.monotonic() - began
    recovered(took)
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)
    assert cluster.ledger.row(task_id).tries == 0
    assert took < ELSEWHERE_S


def test_a_frozen_worker_is_detected_within_twenty_seconds(
    cluster: Cluster, pair: dict[str, Worker], recovered: Callable[[float], None]
) -> None:
    """A machine that stands still loses what may run elsewhere within 20 s, and keeps what must not run twice."""
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"frozen{next(_names)}", 4, seconds=3.0))
    wait_until("all run", lambda: cluster.ledger.states(ids) == {"running": len(ids)})
    frozen = next(iter(pair.values()))
    mine = [task_id for task_id in ids if cluster.api.task(task_id)["worker_id"] == frozen.id]
    wait_until("all have begun", lambda: all(cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)))
    began = time.monotonic()
    frozen.freeze(children=True)
    repeatable = [row.id for row in cluster.ledger.rows(mine) if row.delivery == "at_least_once"]
    assert repeatable, "the frozen worker has nothing that can run elsewhere"
    wait_until("its work runs elsewhere", lambda: all(cluster.ledger.starts(one) == 2 for one in repeatable))
    took = time.monotonic() - began
    recovered(took)
    frozen.thaw(children=True)
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    assert {row.tries for row in cluster.ledger.rows(ids)} == {0}
    cluster.ledger.check(cluster.effects)
    assert took < DETECTED_S
