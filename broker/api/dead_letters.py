"""`/dead-letter`: tasks that failed for good, and their second chance."""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Response
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.api.tasks import read_task
from broker.store.tables import dead_letters, tasks
from broker.views import DeadLetterView, Page, TaskView, dead_letter_view
from protocols.errors import NotFound
from protocols.states import CauseOfDeath

router = APIRouter(prefix="/dead-letter", tags=["dead letters"], route_class=StrictRoute)
Cause = Annotated[CauseOfDeath | None, Query(description="Only those that died of this.")]


@router.get("", operation_id="listDeadLetters")
async def list_dead_letters(control: Control, _: Admin, window: Windowed, cause: Cause = None) -> Page[DeadLetterView]:
    """List the dead letters that nobody has dealt with, newest first."""
    query = _dead_letters().where(dead_letters.c.resolved_at.is_(None))
    if cause is not None:
        query = query.where(dead_letters.c.cause == cause.value)
    page = read_page(query, dead_letters.c.id, window, dead_letter_view, newest_first=True)
    return await asyncio.wrap_future(control.store.read(page))


@router.get("/{dead_letter_id}", operation_id="getDeadLetter")
async def show(control: Control, _: Admin, dead_letter_id: str) -> DeadLetterView:
    """Return one dead letter, also when it was dealt with."""

    def find(connection: Connection) -> DeadLetterView:
        row = connection.execute(_dead_letters().where(dead_letters.c.id == dead_letter_id)).first()
        if row is None:
            raise NotFound(f"there is no dead letter {dead_letter_id[:80]!r}")
        return dead_letter_view(row)

    return await asyncio.wrap_future(control.store.read(find))


@router.post("/{dead_letter_id}/retry", operation_id="retryDeadLetter")
async def retry(control: Control, admin: Admin, dead_letter_id: str) -> TaskView:
    """Run the task again, with all of its tries."""
    task_id = await asyncio.wrap_future(control.tasks.redrive(dead_letter_id, admin.name))
    return await read_task(control, task_id)


@router.delete("/{dead_letter_id}", status_code=204, operation_id="deleteDeadLetter")
async def delete(control: Control, admin: Admin, dead_letter_id: str) -> Response:
    """Take the dead letter off the list; its task stays dead."""
    await asyncio.wrap_future(control.tasks.discard(dead_letter_id, admin.name))
    return Response(status_code=204)


def _dead_letters() -> Select[Any]:
    return sa.select(
        dead_letters,
        _of_task(tasks.c.action).label("action"),
        _of_task(tasks.c.lane).label("lane"),
        _of_task(tasks.c.state).label("task_state"),
    )


def _of_task(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    # No join: the list's total is counted without looking at any task.
    return sa.select(column).where(tasks.c.id == dead_letters.c.task_id).scalar_subquery()
