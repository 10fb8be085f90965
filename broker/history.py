"""What has become of a task, for people: its attempts, its timeline in sentences, and the tree that it is in."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.store.tables import executions, name_of, tasks, workers
from broker.views import rfc3339
from protocols.codec import unpack

MAX_NODES = 1000
MAX_DEPTH = 100
"""Levels of a tree, whose JSON is nested twice as deep. No task is farther from its root, so each is in its tree."""
_MAX_OUTCOME = 4 * 1024 * 1024
_AT_ONCE = 20
"""Outcomes in memory at a time: each may hold a result of a megabyte."""

_EXECUTIONS = (
    sa.select(executions, name_of(workers, executions.c.worker_id).label("worker"))
    .where(
        executions.c.task_id == sa.bindparam("task_id"),
        executions.c.attempt.between(sa.bindparam("first"), sa.bindparam("last")),
    )
    .order_by(executions.c.attempt, executions.c.claimed_at, executions.c.id)
    .execution_options(yield_per=_AT_ONCE)
)
_ANCESTORS = sa.text(
    """
    WITH RECURSIVE above(id, parent_id) AS (
        SELECT id, parent_id FROM tasks WHERE id = :task_id
        UNION
        SELECT tasks.id, tasks.parent_id FROM above JOIN tasks ON tasks.id = above.parent_id
    )
    SELECT id, parent_id FROM above LIMIT :limit
    """
)
_DESCENDANTS = sa.text(
    """
    WITH RECURSIVE below(id) AS (
        SELECT id FROM tasks WHERE id = :root
        UNION
        SELECT tasks.id FROM below JOIN tasks ON tasks.id IN (
            SELECT child.id FROM tasks AS child WHERE child.parent_id = below.id ORDER BY child.id LIMIT :limit
        )
    )
    SELECT id FROM below LIMIT :limit
    """
)
"""Level by level, and no more of a task's children than can be shown: there may be a million.

UNION, since it ends where a task has been before, were there ever a ring of them.
"""
_NODES: sa.Select[Any] = sa.select(
    tasks.c.id,
    tasks.c.parent_id,
    tasks.c.title,
    tasks.c.action,
    tasks.c.state,
    tasks.c.attempt,
    tasks.c.created_at,
    tasks.c.started_at,
    tasks.c.finished_at,
).where(tasks.c.id.in_(sa.bindparam("ids", expanding=True)))


@dataclass(slots=True)
class Node:
    """A task in its tree."""

    task: Row[Any]
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tree:
    """A task's tree; `truncated` if there is more of it, above or below."""

    root: Node
    truncated: bool


def executions_of(connection: Connection, task_id: str, first: int, last: int) -> dict[int, list[dict[str, Any]]]:
    """Return the executions of a task's attempts `first` to `last`, by attempt, oldest first, without their results."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in connection.execute(_EXECUTIONS, {"task_id": task_id, "first": first, "last": last}):
        found[row.attempt].append({**row._mapping, **_outcome(row.outcome_blob)})
    return found


def _outcome(blob: bytes | None) -> dict[str, Any]:
    """Return what an execution's outcome tells beside its kind and its result."""
    outcome = {} if blob is None else unpack(blob, _MAX_OUTCOME)
    failure = outcome.get("failure")
    return {
        "effect": outcome.get("effect"),
        "duration_s": outcome.get("duration_s"),
        "usage": outcome.get("usage"),
        "error": failure
        and {"class": failure["failure_class"], "code": failure["code"], "message": failure["message"]},
    }


def tree_of(connection: Connection, task_id: str) -> Tree | None:
    """Return the tree that a task is in, from its topmost ancestor; None if there is no such task.

    It holds the task and its ancestors, and others level by level, the oldest first, as far as its limits go.
    """
    path = _path(connection, task_id)
    if not path:
        return None
    below = connection.execute(_DESCENDANTS, {"root": path[0], "limit": MAX_NODES + 1}).scalars()
    chosen = list(dict.fromkeys([*path, *below]))
    rows = connection.execute(_NODES, {"ids": chosen[:MAX_NODES]}).all()
    top = next(row for row in rows if row.id == path[0])
    root, count = _grown(top, rows)
    higher = top.parent_id is not None and len(path) == MAX_DEPTH
    return Tree(root, truncated=higher or count < len(chosen))


def _path(connection: Connection, task_id: str) -> list[str]:
    """Return the ids from the topmost ancestor within reach down to the task itself."""
    rows = connection.execute(_ANCESTORS, {"task_id": task_id, "limit": MAX_DEPTH})
    return [row.id for row in rows][::-1]


def _grown(top: Row[Any], rows: Iterable[Row[Any]]) -> tuple[Node, int]:
    """Return the tree of these rows under `top`, and how many of them are in it."""
    children: dict[str | None, list[Row[Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        if row is not top:
            children[row.parent_id].append(row)
    root = Node(top)
    level, count = [root], 1
    for _ in range(MAX_DEPTH - 1):
        for node in level:
            node.children = [Node(child) for child in children.pop(node.task.id, ())]
        level = [child for node in level for child in node.children]
        count += len(level)
    return root, count


def summary(event: Mapping[str, Any]) -> str:
    """Return a sentence about a task's event, a row of the journal with its `worker`'s name."""
    sentence = _SENTENCES.get(event["type"])
    if sentence is None:
        return str(event["type"]).removeprefix("task.").replace("_", " ")
    return sentence(_Told(event))


class _Told:
    """What an event tells, in words."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self._at = event["at"]
        self.data: Mapping[str, Any] = event["data"]
        self.attempt = event["attempt"]
        self.worker = "a worker" if event["worker"] is None else f"worker {event['worker']}"

    @property
    def by(self) -> str:
        return f" by {self.data['by']}" if self.data.get("by") else ""

    @property
    def reason(self) -> str:
        return f": {self.data['reason']}" if self.data.get("reason") else ""

    @property
    def failure(self) -> str:
        error = self.data.get("error")
        return f": {_words(error['code'])} ({error['class']})" if error else ""

    @property
    def wait(self) -> str:
        due_at = self.data.get("due_at")
        return f"; waits until {rfc3339(due_at)}" if due_at is not None and due_at > self._at else ""

    @property
    def cause(self) -> str:
        cause = self.data.get("cause", "")
        return str(self.data.get("reason") or _CAUSES.get(cause, _words(cause)))


def _words(code: str) -> str:
    return code.replace("_", " ")


_CAUSES = {
    "max_attempts": "it has failed as often as it may",
    "not_retryable": "another try would only fail again",
    "effect_possible": "it may have changed something, and shall do so at most once",
    "lost_unknown": "nobody knows what it did, and it shall do it at most once",
    "quarantined": "it kept ending the processes that ran it",
    "deadline": "its deadline has passed",
    "unavailable": "its provider was unavailable for too long",
    "manual": "somebody asked for it",
}
_OUTCOMES = {
    "succeeded": "success",
    "failed": "a failure",
    "cancelled": "a cancellation",
    "rejected": "a refusal",
    "interrupted": "an interruption",
}
_SENTENCES: Mapping[str, Callable[[_Told], str]] = {
    "task.created": lambda told: f"created: {told.data.get('action')} in lane {told.data.get('lane')}",
    "task.queued": lambda told: f"attempt {told.attempt} was put in its lane",
    "task.requeued": lambda told: f"was taken out of its lane{told.reason}",
    "task.started": lambda told: f"{told.worker} began attempt {told.attempt}{_alone(told)}",
    "task.retrying": lambda told: f"it failed{told.failure}{told.wait}",
    "task.interrupted": lambda told: f"{told.worker} handed attempt {told.attempt} back{told.failure}{told.wait}",
    "task.lost": lambda told: f"{told.worker} was lost with attempt {told.attempt}{told.reason}{told.wait}",
    "task.succeeded": lambda told: f"{told.worker} carried it out",
    "task.dead": lambda told: f"{_failed(told)}given up{told.by}: {told.cause}",
    "task.cancel_requested": lambda told: f"{told.worker} was asked to stop it{told.by}{told.reason}",
    "task.cancelled": lambda told: f"cancelled{told.by}{told.reason}",
    "task.redriven": lambda told: f"was given another chance{told.by}",
    "task.updated": lambda told: f"{', '.join(told.data.get('fields', ['it']))} changed{told.by}",
    "task.late_outcome": lambda told: (
        f"{told.worker} reported {_OUTCOMES.get(told.data.get('outcome', ''), 'an outcome')} of attempt {told.attempt}"
        " too late"
    ),
}


def _failed(told: _Told) -> str:
    return f"it failed{told.failure}; " if told.failure else ""


def _alone(told: _Told) -> str:
    return ", on its own" if told.data.get("isolated") else ""
