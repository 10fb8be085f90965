"""Control plane killed: what was answered is there, what runs goes on, and nothing is there twice."""

import itertools
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from protocols.states import Delivery, TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.killer import Trigger
from tests.support.processes import Worker, wait_until
from tests.support.supervisor import Supervisor

COMMIT = "broker.store.writer:Writer._commit"
POINTS = {
    "submit, before it is taken": "broker.submit:Submitter.submit:before",
    "submit, before the commit": f"{COMMIT}:before?Submitter._submit",
    "submit, committed, not published": "broker.dispatch:Dispatcher._hand_over:before",
    "submit, published": "broker.dispatch:Dispatcher._hand_over:after",
    "submit, before the answer": f"{COMMIT}:after?Submitter._submit",
    "claim, before the commit": f"{COMMIT}:before?Gate._decide",
    "claim, committed": f"{COMMIT}:after?Gate._decide",
    "claim, before the answer": "broker.sessions:Session._send:before?Answers",
    "outcome, before the commit": f"{COMMIT}:before?Intake._apply",
    "outcome, committed": f"{COMMIT}:after?Intake._apply",
    "outcome, before the answer": "broker.sessions:Session._send:before?OutcomesStored",
    "outcome, answered": "broker.sessions:Session._send:after?OutcomesStored",
}
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


@pytest.fixture
def watched(cluster: Cluster, trigger: Trigger) -> Iterator[None]:
    """Starts the control plane again whenever it has been killed, as systemd would."""
    with Supervisor(cluster.broker):
        yield
    trigger.disarm()
    if not cluster.broker.alive:
        cluster.broker.spawn()
    cluster.broker.answers()


def _submit_stubbornly(cluster: Cluster, key: str, delivery: str) -> str:
    """Submit with an Idempotency-Key, again and again until there is an answer; return the task's id."""
    headers = {"Idempotency-Key": key}
    form = cluster.effect(key, 0.05, delivery=delivery)

    def attempt() -> str | None:
        try:
            answer = cluster.api.request("POST", "/tasks", form, headers=headers)
        except httpx2.HTTPError:
            return None
        return str(answer.json()["id"]) if answer.is_success else None

    task_id = wait_until(f"{key} is answered", attempt)
    assert task_id is not None
    return task_id


@pytest.mark.parametrize("point", POINTS.values(), ids=[name.replace(" ", "-") for name in POINTS])
def test_a_killed_control_plane_loses_nothing_and_repeats_nothing(
    cluster: Cluster,
    trigger: Trigger,
    worker: Worker,
    watched: None,
    point: str,
    recovered: Callable[[float], None],
) -> None:
    """Killed anywhere, and started again: a repeated submission is one task, and each task runs and ends once."""
    name = f"killed{next(_names)}"
    running = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"{name}-running", 1, seconds=0.5))
    wait_until("they run", lambda: cluster.ledger.states(running) == {"running": 2})
    trigger.arm(point)
    keys = {f"{name}-{delivery.value}-{number}": delivery for number in range(2) for delivery in Delivery}
    submitted = {key: _submit_stubbornly(cluster, key, delivery.value) for key, delivery in keys.items()}
    wait_until("the control plane was killed", trigger.fired.exists)
    began = time.monotonic()
    ids = [*running, *submitted.values()]
    rows = cluster.ledger.wait_ended(ids)
    recovered(time.monotonic() - began)
    assert {row.state for row in rows} == {TaskState.SUCCEEDED.value}
    assert {row.tries for row in rows} == {0}
    assert {cluster.ledger.starts(row.id) for row in rows} == {1}
    assert {cluster.effects.count(row.title) for row in rows} == {1}
    titles = [row.title for row in cluster.ledger.rows() if row.title in keys]
    assert sorted(titles) == sorted(keys), "a submission became two tasks, or none"
    cluster.ledger.check(cluster.effects)


def test_while_the_control_plane_is_down_work_finishes_and_its_outcome_waits_on_disk(
    cluster: Cluster, trigger: Trigger, worker: Worker
) -> None:
    """What runs goes on to its end, outcomes lie in the spool, submissions fail at once, and all is well later."""
    name = f"down{next(_names)}"
    forms = tasks_of_both_kinds(cluster.effect, name, 2, seconds=2.0)
    ids = cluster.api.submit_all(forms)
    # Not their rows: a claim may be granted whose answer dies with the control plane, and that task never begins.
    wait_until("they run", lambda: all(cluster.effects.count(form["title"]) for form in forms))
    cluster.broker.kill()
    wait_until("each outcome is on disk", lambda: len(worker.spooled) == len(ids))
    began = time.monotonic()
    with pytest.raises(httpx2.HTTPError):
        cluster.api.submit("effect", str(cluster.effects.path), "refused")
    assert time.monotonic() - began < 2
    cluster.broker.start()
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    wait_until("the spool is empty", lambda: not worker.spooled)
    assert {cluster.effects.count(row.title) for row in cluster.ledger.rows(ids)} == {1}
    cluster.ledger.check(cluster.effects)
