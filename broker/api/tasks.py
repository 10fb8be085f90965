"""`/tasks`: submit, look at, cancel."""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Control, Operator, Viewer
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.store.tables import connections, name_of, providers, tasks, workers
from broker.submit import Submission, TaskForm
from broker.views import Page, TaskSummary, TaskView, task_summary, task_view
from protocols.errors import NotFound
from protocols.states import Priority, TaskState

MAX_BULK = 1000
_HEAVY = ("input_blob", "result_blob", "then_blob")


def _tasks(*columns: sa.Column[Any]) -> Select[Any]:
    """Return a query for these columns of tasks, and the names of what they use (ids of what is gone)."""
    return sa.select(
        *columns,
        name_of(providers, tasks.c.provider_id).label("provider"),
        name_of(connections, tasks.c.connection_id).label("connection"),
        name_of(workers, tasks.c.pinned_worker_id).label("worker"),
    )


# Building a query of so many columns takes longer than running it.
_ONE = _tasks(*tasks.c).where(tasks.c.id == sa.bindparam("task_id"))
_SUMMARIES = _tasks(*(column for column in tasks.c if column.name not in _HEAVY))

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=StrictRoute)
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
PriorityName = Annotated[str, Query(pattern="^(low|normal|high|critical)$")]


class BulkForm(BaseModel):
    """Many tasks, which are submitted together or not at all."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tasks: list[TaskForm] = Field(min_length=1, max_length=MAX_BULK)


class TaskId(BaseModel):
    """A task that now exists."""

    id: str


class BulkAnswer(BaseModel):
    """The tasks of a bulk submission, in its order."""

    data: list[TaskId]


class CancelForm(BaseModel):
    """Why a task shall end."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: Annotated[str, Field(max_length=1000)] = ""


@router.post("", status_code=201, operation_id="submitTask")
async def submit(
    control: Control,
    operator: Operator,
    form: TaskForm,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> TaskView:
    """Submit a task. 201 means that it is durable; 200 that the same request made it before."""
    submission = Submission(forms=(form,), created_by=operator.name, idempotency_key=idempotency_key)
    (submitted,) = await asyncio.wrap_future(control.submitter.submit(submission))
    if not submitted.created:
        response.status_code = 200
    response.headers["Location"] = f"/api/v1/tasks/{submitted.task_id}"
    return await read_task(control, submitted.task_id)


@router.post("/bulk", status_code=201, operation_id="submitTasks")
async def submit_bulk(
    control: Control,
    operator: Operator,
    form: BulkForm,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BulkAnswer:
    """Submit many tasks in one transaction."""
    submission = Submission(forms=tuple(form.tasks), created_by=operator.name, idempotency_key=idempotency_key)
    submitted = await asyncio.wrap_future(control.submitter.submit(submission))
    if not any(one.created for one in submitted):
        response.status_code = 200
    return BulkAnswer(data=[TaskId(id=one.task_id) for one in submitted])


@router.get("", operation_id="listTasks")
async def list_tasks(
    control: Control,
    viewer: Viewer,
    window: Windowed,
    state: TaskState | None = None,
    status: TaskState | None = None,
    status_filter: TaskState | None = None,
    action: Annotated[str | None, Query(max_length=128)] = None,
    priority: PriorityName | None = None,
    idempotency_key: Annotated[str | None, Query(max_length=300)] = None,
) -> Page[TaskSummary]:
    """List tasks, newest first, without what went in and came out.

    `idempotency_key` finds what this API key submitted under it; `<key> 1` is the first step after that task.
    """
    query = _SUMMARIES
    chosen_state = state or status or status_filter
    if chosen_state is not None:
        query = query.where(tasks.c.state == chosen_state.value)
    if action is not None:
        query = query.where(tasks.c.action == action)
    if idempotency_key is not None:
        query = query.where(tasks.c.created_by == viewer.name, tasks.c.idempotency_key == idempotency_key)
    if priority is not None:
        query = query.where(tasks.c.priority == Priority[priority.upper()].value)
    page = read_page(query, tasks.c.id, window, task_summary, newest_first=True)
    return await asyncio.wrap_future(control.store.read(page))


@router.get("/{task_id}", operation_id="getTask")
async def show(control: Control, _: Viewer, task_id: str) -> TaskView:
    """Return one task with all that is known about it."""
    return await read_task(control, task_id)


@router.post("/{task_id}/cancel", operation_id="cancelTask")
async def cancel(control: Control, operator: Operator, task_id: str, form: CancelForm | None = None) -> TaskView:
    """Cancel a task: at once if no worker has begun it, otherwise its worker is asked to stop."""
    reason = form.reason if form else ""
    await asyncio.wrap_future(control.tasks.cancel(task_id, reason, operator.name))
    return await read_task(control, task_id)


async def read_task(control: ControlPlane, task_id: str) -> TaskView:
    """Return the task with this id; raises NotFound."""

    def find(connection: Connection) -> TaskView:
        row = connection.execute(_ONE, {"task_id": task_id}).first()
        if row is None:
            raise _no_task(task_id)
        return task_view(row)

    return await asyncio.wrap_future(control.store.read(find))


async def require_task(control: ControlPlane, task_id: str) -> None:
    """Raise NotFound unless there is a task with this id."""
    query = sa.select(tasks.c.id).where(tasks.c.id == task_id)
    if await asyncio.wrap_future(control.store.read(lambda connection: connection.execute(query).first())) is None:
        raise _no_task(task_id)


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id[:80]!r}")
