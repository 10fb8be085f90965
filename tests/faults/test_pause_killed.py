"""Control plane killed while a queue is paused: the pause holds as soon as it is answered, and costs nothing."""

import itertools
import time
from collections.abc import Callable

import httpx2
import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.killer import Trigger
from tests.support.processes import Worker, wait_until
from tests.support.supervisor import Supervisor

LANE = "q.t.default.python"
COMMIT = "broker.store.writer:Writer._commit"
POINTS = {
    "to be paused": f"{COMMIT}:before?Queues.pause",
    "paused": f"{COMMIT}:after?Queues.pause",
    "to be resumed": f"{COMMIT}:before?Queues.resume",
    "resumed": f"{COMMIT}:after?Queues.resume",
}
"""`paused`: before anything of the window is put back; `resumed`: perhaps answered already."""
_names = itertools.count()


@pytest.fixture(scope="module")
def trigger(cluster: Cluster) -> Trigger:
    """Arms the control plane's points; it is started again to run under the killer."""
    armed = cluster.lethal(cluster.broker, list(POINTS.values()))
    cluster.broker.stop()
    cluster.broker.start()
    return armed


@pytest.fixture(scope="module")
def worker(cluster: Cluster, trigger: Trigger) -> Worker:
    started = cluster.worker("worker")
    started.start()
    return started


@pytest.mark.parametrize(
    ("pausing", "resuming"), [("paused", "resumed"), ("to be paused", "to be resumed")], ids=["after", "before"]
)
def test_a_pause_that_is_cut_short_loses_and_repeats_nothing(
    cluster: Cluster,
    trigger: Trigger,
    worker: Worker,
    pausing: str,
    resuming: str,
    recovered: Callable[[float], None],
) -> None:
    """Killed before or after each commit, and started again: nothing starts while it is paused, each task once."""
    forms = tasks_of_both_kinds(cluster.effect, f"paused{next(_names)}", 10, seconds=0.05)
    ids = cluster.api.submit_all(forms)
    wait_until("work goes on", lambda: cluster.ledger.states(ids)["succeeded"])
    with Supervisor(cluster.broker):
        _cut_short(cluster, trigger, POINTS[pausing], "pause")
        begun = {task_id for task_id in ids if cluster.ledger.starts(task_id)}
        # The worker is back and well when it has done something else.
        pinned = cluster.api.submit_all([cluster.effect(f"else{next(_names)}", worker=worker.id)])
        cluster.ledger.wait_for(pinned, TaskState.SUCCEEDED)
        assert {task_id for task_id in ids if cluster.ledger.starts(task_id)} == begun
        began = time.monotonic()
        _cut_short(cluster, trigger, POINTS[resuming], "resume")
        cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
        recovered(time.monotonic() - began)
    assert {cluster.ledger.starts(task_id) for task_id in ids} == {1}
    assert {cluster.effects.count(form["title"]) for form in forms} == {1}
    cluster.ledger.check(cluster.effects)


def _cut_short(cluster: Cluster, trigger: Trigger, point: str, verb: str) -> None:
    """Pause or resume again and again until there is an answer; the first time kills the control plane."""

    def attempt() -> bool:
        try:
            return cluster.api.request("POST", f"/queues/{LANE}/{verb}").is_success
        except httpx2.HTTPError:
            return False

    trigger.arm(point)
    wait_until(f"{verb} is answered", attempt)
    wait_until("the control plane was killed", trigger.fired.exists)
    wait_until("the control plane is back", cluster.api.healthy)
