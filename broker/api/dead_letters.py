"""`/dead-letter`: tasks that failed for good, and their second chance."""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control
from broker.api.fields import Reason, Reference
from broker.api.filters import Filters
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.api.tasks import read_task
from broker.control import ControlPlane
from broker.dead_letters import OPEN, LetterFilter, stats
from broker.fields import Moment
from broker.store.tables import dead_letters, tasks
from broker.views import EXACTNESS, DeadLetterView, Page, TaskView, Time, View, dead_letter_view
from protocols.errors import InvalidInput, NotFound
from protocols.states import CauseOfDeath

router = APIRouter(prefix="/dead-letter", tags=["dead letters"], route_class=StrictRoute)


async def _filter(
    cause: Annotated[CauseOfDeath | None, Query(description="Only those that died of this.")] = None,
    action: Annotated[str | None, Query(max_length=128, description="Only those with this action.")] = None,
    lane: Annotated[str | None, Query(max_length=200, description="Only those of this queue.")] = None,
    error_code: Annotated[str | None, Query(max_length=128, description="Only those with this error code.")] = None,
    dead_after: Annotated[Moment | None, Query(description="Only those that died then or later.")] = None,
    dead_before: Annotated[Moment | None, Query(description="Only those that died before.")] = None,
) -> LetterFilter:
    """Return which dead letters the query asks for."""
    return LetterFilter(
        cause=cause,
        action=action,
        lane=lane,
        error_code=error_code,
        dead_after=dead_after,
        dead_before=dead_before,
    )


Chosen = Annotated[LetterFilter, Depends(_filter)]


class DeadLetterForm(BaseModel):
    """A task that shall be given up."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [{"task_id": "task_01973cf0a6b07c3d8f0e2a4b6c8d9e1f", "reason": "of no use any more"}]
        },
    )

    task_id: Reference
    reason: Reason = ""


class RetriedView(View):
    """How many tasks run again, and how many dead letters were dealt with before their turn came."""

    retried: int
    skipped: int


class LetterStatsView(View):
    """The dead letters that nobody has dealt with."""

    total: int
    by_cause: dict[str, int]
    by_action: dict[str, int]
    oldest_at: Time | None
    newest_at: Time | None
    counts_are_exact: bool = Field(description=EXACTNESS)


@router.get("", operation_id="listDeadLetters")
async def list_dead_letters(control: Control, _: Admin, window: Windowed, chosen: Chosen) -> Page[DeadLetterView]:
    """List the dead letters that nobody has dealt with, newest first."""
    filters = Filters(chosen.equal(), chosen.others(), OPEN)

    def read(connection: Connection) -> Page[DeadLetterView]:
        query = filters.narrow(connection, _dead_letters())
        return read_page(query, dead_letters.c.id, window, dead_letter_view, newest_first=True)(connection)

    return await asyncio.wrap_future(control.store.read(read))


@router.post("", status_code=201, operation_id="createDeadLetter")
async def create(control: Control, admin: Admin, form: DeadLetterForm, response: Response) -> DeadLetterView:
    """Give up an unfinished task that nobody runs."""
    given_up = control.dead_letters.give_up(form.task_id, form.reason, admin.name)
    dead_letter_id = await asyncio.wrap_future(given_up)
    response.headers["Location"] = f"/api/v1/dead-letter/{dead_letter_id}"
    return await _read(control, dead_letter_id)


@router.get("/stats", operation_id="getDeadLetterStats")
async def show_stats(control: Control, _: Admin) -> LetterStatsView:
    """Count the dead letters that nobody has dealt with."""
    return LetterStatsView.model_validate(await asyncio.wrap_future(control.store.read(stats)))


@router.post("/retry-all", operation_id="retryDeadLetters")
async def retry_all(
    control: Control, admin: Admin, request: Request, chosen: Chosen, form: LetterFilter | None = None
) -> RetriedView:
    """Run again what the dead letters stand for, all of them or those that the query and the body choose."""
    known = LetterFilter.model_fields.keys()
    for name in request.query_params.keys() - known:
        # A filter that nobody understands must not mean all of them.
        raise InvalidInput("there is no such filter", field=name[:80], hint=f"there are: {', '.join(known)}")
    if form is not None:
        chosen = chosen.model_copy(update={name: getattr(form, name) for name in form.model_fields_set})
    return RetriedView.model_validate(await control.dead_letters.retry_all(chosen, admin.name))


@router.get("/{dead_letter_id}", operation_id="getDeadLetter")
async def show(control: Control, _: Admin, dead_letter_id: str) -> DeadLetterView:
    """Return one dead letter, also when it was dealt with."""
    return await _read(control, dead_letter_id)


@router.post("/{dead_letter_id}/retry", operation_id="retryDeadLetter")
async def retry(control: Control, admin: Admin, dead_letter_id: str) -> TaskView:
    """Run the task again, with all of its tries."""
    task_id = await asyncio.wrap_future(control.dead_letters.redrive(dead_letter_id, admin.name))
    return await read_task(control, task_id)


@router.delete("/{dead_letter_id}", status_code=204, operation_id="deleteDeadLetter")
async def delete(control: Control, admin: Admin, dead_letter_id: str) -> Response:
    """Take the dead letter off the list; its task stays dead."""
    await asyncio.wrap_future(control.dead_letters.discard(dead_letter_id, admin.name))
    return Response(status_code=204)


async def _read(control: ControlPlane, dead_letter_id: str) -> DeadLetterView:
    def find(connection: Connection) -> DeadLetterView:
        row = connection.execute(_dead_letters().where(dead_letters.c.id == dead_letter_id)).first()
        if row is None:
            raise NotFound(f"there is no dead letter {dead_letter_id[:80]!r}")
        return dead_letter_view(row._asdict())

    return await asyncio.wrap_future(control.store.read(find))


def _dead_letters() -> Select[Any]:
    # No join: the list's total is counted without looking at any task.
    state = sa.select(tasks.c.state).where(tasks.c.id == dead_letters.c.task_id).scalar_subquery()
    return sa.select(dead_letters, state.label("task_state"))
