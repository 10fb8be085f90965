"""`/tasks/{id}/attempts`, `/timeline` and `/tree`: what has become of a task."""

import asyncio
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.engine import Connection

from broker.api.auth import Control, Viewer
from broker.api.paging import Windowed, read_page
from broker.api.tasks import no_task, require_task
from broker.history import Node, executions_of, summary, tree_of
from broker.store.tables import attempts, events, name_of, tasks, workers
from broker.views import EventView, Page, TaskErrorView, Time, View

router = APIRouter(prefix="/tasks/{task_id}", tags=["tasks"])


class ExecutionView(View):
    """A worker's try at an attempt."""

    id: str
    worker_id: str
    worker: str | None
    isolated: bool
    claimed_at: Time
    ended_at: Time | None
    lease_ended_at: Time | None
    """When its worker was taken for lost."""
    late: bool
    """Whether its outcome came when it was not the task's current execution any more."""
    outcome: str | None = Field(validation_alias="outcome_kind")
    effect: str | None
    duration_s: float | None
    usage: dict[str, Any] | None
    error: TaskErrorView | None


class AttemptView(View):
    """A time that a task was put into its lane. It has more executions than one if the lane gave it out again."""

    attempt: int
    lane: str
    published_at: Time
    executions: list[ExecutionView]


class TimelineEntry(EventView):
    """An event of a task, told to people."""

    worker: str | None
    summary: str
    elapsed_s: float
    """Since the task was created."""


class TaskNode(View):
    """A task in its tree."""

    id: str
    title: str | None
    action: str
    state: str
    attempt: int
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    children: list["TaskNode"]


class TaskTree(View):
    """A task's tree, from its topmost ancestor; `truncated` if there is more of it than is shown."""

    root: TaskNode
    truncated: bool


@router.get("/attempts", operation_id="listTaskAttempts")
async def list_attempts(control: Control, _: Viewer, task_id: str, window: Windowed) -> Page[AttemptView]:
    """List a task's attempts, oldest first, with what workers made of them."""
    await require_task(control, task_id)
    query = sa.select(attempts).where(attempts.c.task_id == task_id)

    def read(connection: Connection) -> Page[AttemptView]:
        page = read_page(query, attempts.c.attempt, window, dict[str, Any])(connection)
        numbers = [row["attempt"] for row in page.data]
        found = executions_of(connection, task_id, numbers[0], numbers[-1]) if numbers else {}
        data = [{**row, "executions": found.get(row["attempt"], [])} for row in page.data]
        return Page[AttemptView].model_validate({**dict(page), "data": data})

    return await asyncio.wrap_future(control.store.read(read))


@router.get("/timeline", operation_id="listTaskTimeline")
async def list_timeline(control: Control, _: Viewer, task_id: str, window: Windowed) -> Page[TimelineEntry]:
    """List a task's events, oldest first, each with a sentence that says what happened."""
    await require_task(control, task_id)
    query = (
        sa.select(events, name_of(workers, events.c.worker_id).label("worker"), tasks.c.created_at)
        .join(tasks, tasks.c.id == events.c.task_id)
        .where(events.c.task_id == task_id)
    )
    return await asyncio.wrap_future(control.store.read(read_page(query, events.c.id, window, _entry)))


@router.get("/tree", operation_id="getTaskTree")
async def show_tree(control: Control, _: Viewer, task_id: str) -> TaskTree:
    """Return the tree that a task is in: its ancestors, and what came of them, up to 1,000 tasks."""

    def read(connection: Connection) -> TaskTree:
        tree = tree_of(connection, task_id)
        if tree is None:
            raise no_task(task_id)
        return TaskTree(root=_node(tree.root), truncated=tree.truncated)

    return await asyncio.wrap_future(control.store.read(read))


def _entry(row: dict[str, Any]) -> TimelineEntry:
    elapsed_s = max(0, row["at"] - row["created_at"]) / 1000
    return TimelineEntry.model_validate({**row, "summary": summary(row), "elapsed_s": elapsed_s})


def _node(node: Node) -> TaskNode:
    children = [_node(child) for child in node.children]
    return TaskNode.model_validate({**node.task._mapping, "children": children})
