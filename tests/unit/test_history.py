"""Sentences about a task's events."""

from typing import Any

import pytest

from broker.history import summary


def event(kind: str, worker: str | None = "web-1", **data: Any) -> dict[str, Any]:
    """Return an event of attempt 2, at the epoch."""
    return {"type": kind, "attempt": 2, "at": 0, "worker": worker, "data": data}


FAILED = {"class": "throttled", "code": "rate_limited"}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (event("task.created", action="noop", lane="q.t.x.python"), "created: noop in lane q.t.x.python"),
        (event("task.queued"), "attempt 2 was put in its lane"),
        (event("task.started", isolated=False), "worker web-1 began attempt 2"),
        (event("task.started", isolated=True), "worker web-1 began attempt 2, on its own"),
        (event("task.started", worker=None), "a worker began attempt 2"),
        (
            event("task.retrying", error=FAILED, due_at=1000),
            "it failed: rate limited (throttled); waits until 1970-01-01T00:00:01.000Z",
        ),
        (event("task.interrupted", due_at=0), "worker web-1 handed attempt 2 back"),
        (event("task.lost", reason="silent"), "worker web-1 was lost with attempt 2: silent"),
        (event("task.succeeded"), "worker web-1 carried it out"),
        (event("task.dead", cause="deadline"), "given up: its deadline has passed"),
        (
            event("task.dead", cause="max_attempts", error=FAILED),
            "it failed: rate limited (throttled); given up: it has failed as often as it may",
        ),
        (event("task.dead", cause="manual", by="ann", reason="no use"), "given up by ann: no use"),
        (event("task.dead", cause="of_another_version"), "given up: of another version"),
        (event("task.cancelled", by="ann", reason="no need"), "cancelled by ann: no need"),
        (event("task.cancelled"), "cancelled"),
        (event("task.cancel_requested", by="ann", reason=""), "worker web-1 was asked to stop it by ann"),
        (event("task.redriven", by="ann"), "was given another chance by ann"),
        (event("task.requeued", reason="its lane lost it"), "was taken out of its lane: its lane lost it"),
        (event("task.updated", by="ann", fields=["priority", "title"]), "priority, title changed by ann"),
        (event("task.late_outcome", outcome="failed"), "worker web-1 reported a failure of attempt 2 too late"),
        (event("task.of_another_version"), "of another version"),
    ],
)
def test_an_event_is_told(told: dict[str, Any], sentence: str) -> None:
    """Each type has its sentence, and one that this version does not know its name."""
    assert summary(told) == sentence
