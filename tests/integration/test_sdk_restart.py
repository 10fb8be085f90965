"""The library while the control plane is killed and started again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until
from warren import Warren, forms

PATIENCE_S = 60.0
ACTIONS = "add=tests.support.worker_functions:add,wait_for_file=tests.support.worker_functions:wait_for_file"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane and a worker, to be killed."""
    with Cluster(tmp_path, FAST) as cluster:
        cluster.broker.start()
        cluster.start(cluster.worker("one", actions=ACTIONS))
        yield cluster


def test_who_waits_outlasts_a_killed_control_plane(cluster: Cluster, tmp_path: Path) -> None:
    """A wait, a stream and a wait for several go on after a restart; what is submitted meanwhile exists once."""
    broker = cluster.broker
    with Warren(broker.url, broker.key("admin"), retry_for_s=PATIENCE_S) as warren, ThreadPoolExecutor(4) as threads:
        task = warren.submit("wait_for_file", args=[str(tmp_path / "wanted"), str(tmp_path / "started")])
        wait_until("it runs", (tmp_path / "started").exists)
        result = threads.submit(task.result, PATIENCE_S)
        output = threads.submit(lambda: list(task.stream()))
        first = threads.submit(lambda: next(warren.as_completed([task], PATIENCE_S)).result())
        broker.kill()
        meanwhile = threads.submit(warren.submit, "add", args=[1, 2])
        many = threads.submit(warren.submit_many, [forms.call("add", args=[1, number]) for number in range(3)])
        (tmp_path / "wanted").touch()
        broker.start()
        assert result.result(PATIENCE_S) == "seen"
        assert output.result(PATIENCE_S) == []
        assert first.result(PATIENCE_S) == "seen"
        assert meanwhile.result(PATIENCE_S).result(PATIENCE_S) == 3
        assert [task.result(PATIENCE_S) for task in many.result(PATIENCE_S)] == [1, 2, 3]
        assert len(list(warren.tasks.list())) == 5
