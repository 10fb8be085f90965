"""`/queues`: what waits where, and the pausing of it."""

import asyncio

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.engine import Connection

from broker.api.auth import Control, Operator, Viewer
from broker.api.fields import ReasonForm
from broker.api.paging import Windowed, page_of
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.queues import queue_names, require_queue
from broker.views import EXACTNESS, Page, Time, View

router = APIRouter(prefix="/queues", tags=["queues"], route_class=StrictRoute)


class QueueView(View):
    """A queue (see `broker.queues.Queue`)."""

    name: str
    kind: str
    pool: str | None
    provider: str | None
    worker_id: str | None
    waiting: int
    delayed: int
    counts_are_exact: bool = Field(description=EXACTNESS)
    queued: int
    running: int
    oldest_waiting_at: Time | None
    starts_per_s: float
    consumers: int
    paused: bool
    paused_at: Time | None
    paused_by: str | None
    reason: str | None


@router.get("", operation_id="listQueues")
async def list_queues(control: Control, _: Viewer, window: Windowed) -> Page[QueueView]:
    """List the queues that workers serve or tasks wait in, by name."""

    def read(connection: Connection) -> Page[QueueView]:
        return page_of(
            queue_names(connection),
            window,
            lambda names: [QueueView.model_validate(queue) for queue in control.queues.describe(connection, names)],
        )

    return await asyncio.wrap_future(control.store.read(read))


@router.get("/{lane}", operation_id="getQueue")
async def show(control: Control, _: Viewer, lane: str) -> QueueView:
    """Return one queue."""
    return await _read(control, lane)


@router.post("/{lane}/pause", operation_id="pauseQueue")
async def pause(control: Control, operator: Operator, lane: str, form: ReasonForm | None = None) -> QueueView:
    """Pause a queue. With the answer, nothing more of it starts; what runs goes on."""
    await control.queues.pause(lane, form.reason if form else "", operator.name)
    return await _read(control, lane)


@router.post("/{lane}/resume", operation_id="resumeQueue")
async def resume(control: Control, operator: Operator, lane: str, form: ReasonForm | None = None) -> QueueView:
    """Let a paused queue go on where it was."""
    await asyncio.wrap_future(control.queues.resume(lane, form.reason if form else "", operator.name))
    return await _read(control, lane)


async def _read(control: ControlPlane, lane: str) -> QueueView:
    def read(connection: Connection) -> QueueView:
        require_queue(connection, lane)
        (queue,) = control.queues.describe(connection, [lane])
        return QueueView.model_validate(queue)

    return await asyncio.wrap_future(control.store.read(read))
