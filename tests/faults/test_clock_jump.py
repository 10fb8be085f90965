"""Clock jump: a control plane whose wall clock jumps ends no lease, loses nothing and keeps nobody waiting."""

import itertools
import sys
from collections.abc import Iterator

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import FAST, Worker, wait_until

HOUR_S = 3600
_names = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane whose wall clock the tests set."""
    with Cluster(tmp_path_factory.mktemp("cluster"), FAST) as started:
        clock = str(started.directory / "clock")
        started.broker.command = [sys.executable, "-m", "tests.support.clock_jump", "broker", clock]
        started.broker.start()
        yield started


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Worker:
    started = cluster.worker("worker")
    started.start()
    return started


@pytest.mark.parametrize(("before", "after"), [(0, HOUR_S), (HOUR_S, 0), (0, -HOUR_S)], ids=["on", "back", "behind"])
def test_a_jump_under_load(cluster: Cluster, worker: Worker, before: int, after: int) -> None:
    """While 40 tasks run and wait the clock jumps an hour: each has one attempt, and new ones run at once."""
    clock = cluster.directory / "clock"
    clock.write_text(str(before))
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"jump{next(_names)}", 20, seconds=0.1))
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"] > 0)
    lost = cluster.ledger.count_events("worker.lost")
    clock.write_text(str(after))
    ids += cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"jumped{next(_names)}", 5, seconds=0.1))
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED, 30)
    assert {row.attempt for row in cluster.ledger.rows(ids)} == {1}
    assert cluster.ledger.count_events("worker.lost") == lost
    cluster.ledger.check(cluster.effects)
