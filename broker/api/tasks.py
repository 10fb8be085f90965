"""`/tasks`: submit, look at, change, cancel, retry."""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Control, Operator, Viewer
from broker.api.fields import ReasonForm, change_schema
from broker.api.filters import Filters, one_state
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.fields import Moment
from broker.store.database import dicts
from broker.store.tables import agents, connections, in_period, name_of, providers, tasks, workers
from broker.submit import MAX_INSTRUCTIONS, Description, PriorityName, Submission, TaskForm, Title
from broker.tasks import count_tasks
from broker.views import EXACTNESS, Page, TaskSummary, TaskView, task_summary, task_view
from protocols import ids
from protocols.errors import NotFound
from protocols.states import Priority, TaskState

MAX_BULK = 1000
_KNOWN = {"description": "An earlier request with this Idempotency-Key made it."}
_LISTED = TaskSummary.model_fields.keys() | {
    *("deadline_at", "usage_blob"),
    *("error_class", "error_code", "error_message", "cause"),
}
"""Columns that make the entry of a list: without what went in and came out, which may be large."""


def _tasks(*columns: sa.Column[Any]) -> Select[Any]:
    """Return a query for these columns of tasks, and the names of what they use (ids of what is gone)."""
    return sa.select(
        *columns,
        name_of(providers, tasks.c.provider_id).label("provider"),
        name_of(connections, tasks.c.connection_id).label("connection"),
        name_of(workers, tasks.c.pinned_worker_id).label("worker"),
        name_of(agents, tasks.c.agent_id).label("agent"),
    )


# Building a query of so many columns takes longer than running it.
_ONE = _tasks(*tasks.c).where(tasks.c.id == sa.bindparam("task_id"))
_SUMMARIES = _tasks(*(column for column in tasks.c if column.name in _LISTED))

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=StrictRoute)
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes it safe to send the same request again: it is carried out once.",
    ),
]
InState = Annotated[TaskState | None, Depends(one_state(TaskState))]


def _word(description: str) -> Any:
    return Query(max_length=200, description=description)


def _moment(description: str) -> Any:
    return Query(description=description)


async def chosen(
    viewer: Viewer,
    state: InState,
    action: Annotated[str | None, _word("Only those with this action.")] = None,
    priority: Annotated[PriorityName | None, Query(description="Only those with this priority.")] = None,
    agent_id: Annotated[str | None, _word("Only those of this agent, by its id or name.")] = None,
    lane: Annotated[str | None, _word("Only those of this queue.")] = None,
    pool: Annotated[str | None, _word("Only those for this pool.")] = None,
    worker_id: Annotated[str | None, _word("Only those that this worker ran last, by its id or name.")] = None,
    parent_id: Annotated[str | None, _word("Only those that name this task as their parent.")] = None,
    created_after: Annotated[Moment | None, _moment("Only those created at this moment or later.")] = None,
    created_before: Annotated[Moment | None, _moment("Only those created before this moment.")] = None,
    idempotency_key: Annotated[
        str | None,
        Query(
            max_length=300,
            description="Only what this API key submitted under it; `<key> 1` is the first step after that task.",
        ),
    ] = None,
) -> Filters:
    """Return which tasks the query asks for."""
    equal = {
        tasks.c.state: None if state is None else state.value,
        tasks.c.action: action,
        tasks.c.priority: None if priority is None else Priority[priority.upper()].value,
        tasks.c.agent_id: None if agent_id is None else _id_of(agents, agent_id),
        tasks.c.lane: lane,
        tasks.c.pool: pool,
        tasks.c.worker_id: None if worker_id is None else _id_of(workers, worker_id),
        tasks.c.parent_id: parent_id,
    }
    others = in_period(tasks.c.created_at, tasks.c.id, ids.TASK, created_after, created_before)
    if idempotency_key is not None:
        others += [tasks.c.created_by == viewer.name, tasks.c.idempotency_key == idempotency_key]
    return Filters({column: value for column, value in equal.items() if value is not None}, others)


def _id_of(table: sa.Table, reference: str) -> sa.ColumnElement[str]:
    """Return the id of the newest row with this name, or else the reference itself, which may be an id.

    As a scalar, so that an index with the id as its second column gives the rows in order.
    """
    newest = sa.select(table.c.id).where(table.c.name == reference).order_by(table.c.id.desc()).limit(1)
    return sa.func.coalesce(newest.scalar_subquery(), reference)


Chosen = Annotated[Filters, Depends(chosen)]


class BulkForm(BaseModel):
    """Many tasks, which are submitted together or not at all."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {"tasks": [{"action": "resize", "args": ["a.png", 640]}, {"action": "resize", "args": ["b.png", 640]}]}
            ]
        },
    )

    tasks: list[TaskForm] = Field(min_length=1, max_length=MAX_BULK)


class TaskId(BaseModel):
    """A task that now exists."""

    id: str


class BulkAnswer(BaseModel):
    """The tasks of a bulk submission, in its order."""

    data: list[TaskId]


class TaskChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra=change_schema({"title": "Three rivers", "priority": "high"}),
    )

    title: Title | None = None
    description: Description | None = None
    priority: PriorityName = "normal"
    deadline: Moment | None = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None


class TaskStats(BaseModel):
    """How many tasks there are."""

    total: int
    by_state: dict[str, int]
    by_status: dict[str, int]
    by_priority: dict[str, int]
    counts_are_exact: bool = Field(description=EXACTNESS)


@router.post("", status_code=201, operation_id="submitTask", responses={200: {"model": TaskView, **_KNOWN}})
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


@router.post("/bulk", status_code=201, operation_id="submitTasks", responses={200: {"model": BulkAnswer, **_KNOWN}})
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
    response.headers["Location"] = "/api/v1/tasks"
    return BulkAnswer(data=[TaskId(id=one.task_id) for one in submitted])


@router.get("", operation_id="listTasks")
async def list_tasks(control: Control, _: Viewer, window: Windowed, filters: Chosen) -> Page[TaskSummary]:
    """List tasks, newest first, without what went in and came out."""

    def read(connection: Connection) -> Page[TaskSummary]:
        query = filters.narrow(connection, _SUMMARIES)
        return read_page(query, tasks.c.id, window, task_summary, newest_first=True)(connection)

    return await asyncio.wrap_future(control.store.read(read))


@router.get("/stats", operation_id="getTaskStats")
async def stats(control: Control, _: Viewer) -> TaskStats:
    """Count all tasks by state and by priority."""
    counted = await asyncio.wrap_future(control.store.read(count_tasks))
    states = {state.value: counted.by_state.numbers.get(state.value, 0) for state in TaskState}
    return TaskStats(
        total=counted.total,
        by_state=states,
        by_status=states,
        by_priority={level.name.lower(): counted.by_priority.numbers.get(level.value, 0) for level in Priority},
        counts_are_exact=counted.by_state.are_exact and counted.by_priority.are_exact,
    )


@router.get("/{task_id}", operation_id="getTask")
async def show(control: Control, _: Viewer, task_id: str) -> TaskView:
    """Return one task with all that is known about it."""
    return await read_task(control, task_id)


@router.put("/{task_id}", operation_id="replaceTask")
@router.patch("/{task_id}", operation_id="changeTask")
async def change(control: Control, operator: Operator, task_id: str, form: TaskChange) -> TaskView:
    """Change a task: title and description at any time, the rest until a worker has begun it."""
    fields = form.model_dump(exclude_unset=True)
    await asyncio.wrap_future(control.tasks.change(task_id, fields, operator.name))
    return await read_task(control, task_id)


@router.post("/{task_id}/retry", operation_id="retryTask")
async def retry(control: Control, operator: Operator, task_id: str) -> TaskView:
    """Run a dead task again, with all of its tries."""
    await asyncio.wrap_future(control.tasks.retry(task_id, operator.name))
    return await read_task(control, task_id)


@router.post("/{task_id}/cancel", operation_id="cancelTask")
async def cancel(control: Control, operator: Operator, task_id: str, form: ReasonForm | None = None) -> TaskView:
    """Cancel a task: at once if no worker has begun it, otherwise its worker is asked to stop."""
    reason = form.reason if form else ""
    await asyncio.wrap_future(control.tasks.cancel(task_id, reason, operator.name))
    return await read_task(control, task_id)


async def read_task(control: ControlPlane, task_id: str) -> TaskView:
    """Return the task with this id; raises NotFound."""

    def find(connection: Connection) -> TaskView:
        found = dicts(connection.execute(_ONE, {"task_id": task_id}))
        if not found:
            raise no_task(task_id)
        return task_view(found[0])

    return await asyncio.wrap_future(control.store.read(find))


def summaries() -> Select[Any]:
    """Return the query of tasks as lists show them (see `task_summary`)."""
    return _SUMMARIES


async def require_task(control: ControlPlane, task_id: str) -> None:
    """Raise NotFound unless there is a task with this id."""
    query = sa.select(tasks.c.id).where(tasks.c.id == task_id)
    if await asyncio.wrap_future(control.store.read(lambda connection: connection.execute(query).first())) is None:
        raise no_task(task_id)


def no_task(task_id: str) -> NotFound:
    """Return what to raise for an id that no task has."""
    return NotFound(f"there is no task {task_id[:80]!r}")
