"""`/events` and `/tasks/{id}/events`: the journal, as a list or as it is written."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from broker.api.auth import Control, Viewer
from broker.api.paging import Windowed, read_page
from broker.api.sse import STREAM, event_bytes, stream, wants_stream
from broker.api.tasks import require_task
from broker.control import ControlPlane
from broker.store.tables import events
from broker.views import EventView, Page

router = APIRouter(tags=["events"])
EventId = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only events after the one with this id.")]
LastEventId = Annotated[
    int | None, Header(ge=0, le=2**63 - 1, description="The same, as browsers send it when they connect again.")
]


@router.get("/events", operation_id="followEvents", response_class=Response, responses={200: {"content": STREAM}})
async def follow_all(control: Control, _: Viewer, after: EventId = 0, last_event_id: LastEventId = None) -> Response:
    """Stream the whole journal from an event on, as server-sent events."""
    return stream(_lines(control, None, last_event_id or after), control.stopping)


@router.get(
    "/tasks/{task_id}/events",
    operation_id="listTaskEvents",
    response_model=Page[EventView],
    responses={200: {"content": STREAM}},
)
async def of_task(
    control: Control,
    _: Viewer,
    request: Request,
    task_id: str,
    window: Windowed,
    after: EventId = 0,
    last_event_id: LastEventId = None,
) -> Response | Page[EventView]:
    """List a task's events, oldest first, or stream them until it has finished."""
    await require_task(control, task_id)
    if wants_stream(request):
        return stream(_lines(control, task_id, last_event_id or after), control.stopping)
    query = sa.select(events).where(events.c.task_id == task_id, events.c.id > after)
    page = read_page(query, events.c.id, window, EventView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


async def _lines(control: ControlPlane, task_id: str | None, after: int) -> AsyncGenerator[bytes, None]:
    async for event in control.journal.follow(task_id, after):
        view = EventView.model_validate(event)
        yield event_bytes(event=view.type, data=view.model_dump_json(), event_id=str(view.id))
