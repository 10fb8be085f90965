"""Pipeline interrupted: a worker or the control plane is killed in the middle, and each step runs exactly once."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from protocols.states import TaskState
from tests.support.cluster import Cluster
from tests.support.invariant import Row
from tests.support.processes import wait_until

PIPELINES = 6
STEPS = 4
_names = itertools.count()


def _pipeline(cluster: Cluster, key: str, second: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the form of an effect that further effects follow; `second` may be something else."""
    first, *rest = (cluster.effect(f"{key}-{number}", 0.05, pass_result=False) for number in range(STEPS))
    del first["pass_result"]
    return {**first, "then": [second or rest[0], *rest[1:]]}


def _rows(cluster: Cluster, prefix: str) -> dict[str, Row]:
    """Return the tasks whose title begins with `prefix`, by title; AssertionError if two have the same."""
    rows = [row for row in cluster.ledger.rows() if row.title.startswith(prefix)]
    found = {row.title: row for row in rows}
    assert len(found) == len(rows), "a step was made twice"
    return found


def _wait_for_all(cluster: Cluster, prefix: str, tasks: int) -> None:
    """Wait until so many tasks have succeeded, and no other ones are there."""

    def all_have() -> bool:
        return [row.state for row in _rows(cluster, prefix).values()] == [TaskState.SUCCEEDED.value] * tasks

    wait_until(f"{tasks} tasks have succeeded", all_have)


def _wait_for_effects(cluster: Cluster, prefix: str, least: int) -> None:
    def are_there() -> bool:
        return sum(key.startswith(prefix) for key in cluster.effects.counts()) >= least

    wait_until(f"{least} effects", are_there)


def test_a_worker_that_is_killed_in_a_step(cluster: Cluster, recovered: Callable[[float], None]) -> None:
    """The step runs again elsewhere; what was before it does not, and what comes after it comes once."""
    key = f"killed{next(_names)}"
    victim, survivor = cluster.worker(f"victim-{key}"), cluster.worker(f"survivor-{key}")
    cluster.start(victim, survivor)
    once = str(cluster.directory / f"{key}.once")
    fatal = {
        "action": "effect_then_kill_worker",
        "args": [str(cluster.effects.path), f"{key}-1", victim.name, once],
        "title": f"{key}-1",
        "worker": victim.id,
        "pass_result": False,
    }
    cluster.api.submit_all([_pipeline(cluster, key, fatal)])
    assert victim.ended() == -9
    began = time.monotonic()
    victim.start()
    _wait_for_all(cluster, key, STEPS)
    recovered(time.monotonic() - began)
    assert {title: cluster.ledger.starts(row.id) for title, row in _rows(cluster, key).items()} == {
        f"{key}-0": 1,
        f"{key}-1": 2,
        f"{key}-2": 1,
        f"{key}-3": 1,
    }
    cluster.ledger.check(cluster.effects)
    victim.stop()
    survivor.stop()


@pytest.mark.parametrize("victim", ["worker", "broker"])
def test_pipelines_whose_processes_are_killed_again_and_again(
    cluster: Cluster, victim: str, recovered: Callable[[float], None]
) -> None:
    """Whatever was in the air, every step is one row, and no pipeline stops."""
    key = f"storm{next(_names)}"
    worker = cluster.worker(f"worker-{key}")
    worker.start()
    forms = [_pipeline(cluster, f"{key}-{number}") for number in range(PIPELINES)]
    cluster.api.submit_all(forms)
    process = worker if victim == "worker" else cluster.broker
    for effects in (3, 9):
        _wait_for_effects(cluster, key, effects)
        process.kill()
        process.start()
    began = time.monotonic()
    _wait_for_all(cluster, key, PIPELINES * STEPS)
    recovered(time.monotonic() - began)
    cluster.ledger.check(cluster.effects)
    worker.stop()
