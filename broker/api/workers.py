"""`/workers` and `/admin/workers`: the fleet, its approval, and the workers' sessions."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, Response, WebSocket
from sqlalchemy.engine import Connection
from starlette.requests import Request

from broker.api.auth import Admin, Anyone, Control, Machine, Viewer, authorize
from broker.api.fields import ReasonForm
from broker.api.filters import one_state
from broker.api.paging import Window, Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.api.tasks import summaries
from broker.control import ControlPlane
from broker.fields import PoolName
from broker.fleet import HttpHeartbeat, Registration, Verdict, find_worker
from broker.fleet_view import WorkerStatus, overview, serves, status_of, unfinished_of, worker_rows
from broker.store.tables import tasks, workers
from broker.views import Page, TaskSummary, View, WorkerView, task_summary, worker_view
from protocols.errors import WarrenError
from protocols.states import Role

router = APIRouter(tags=["workers"], route_class=StrictRoute)

_log = structlog.get_logger(__name__)


@router.post(
    "/workers/register",
    status_code=201,
    operation_id="registerWorker",
    responses={200: {"model": WorkerView, "description": "It was known by its identity key."}},
)
async def register(
    control: Control, _: Machine, form: Registration, request: Request, response: Response
) -> WorkerView:
    """Make a worker known; an admin has to approve it. 200 if it was known by its identity key."""
    address = request.client.host if request.client else None
    worker_id, created = await asyncio.wrap_future(control.fleet.register(form, address))
    if not created:
        response.status_code = 200
    response.headers["Location"] = f"/api/v1/workers/{worker_id}"
    return await _read_worker(control, worker_id)


@router.post("/workers/{reference}/heartbeat", operation_id="heartbeat")
async def heartbeat(control: Control, _: Machine, reference: str, form: HttpHeartbeat) -> WorkerView:
    """Report the state of a worker that has no session."""
    worker_id = await asyncio.wrap_future(control.fleet.heartbeat(reference, form))
    return await _read_worker(control, worker_id)


@router.websocket("/workers/session")
async def session(websocket: WebSocket) -> None:
    """Carry a worker's session (see `protocols/frames.py`)."""
    try:
        authorize(websocket, Role.WORKER)
    except WarrenError as error:
        _log.warning("session_denied", code=error.code, client=websocket.client and websocket.client.host)
        # Before the handshake this is answered with HTTP status 403.
        await websocket.close()
        return
    control: ControlPlane = websocket.app.state.control
    await control.sessions.serve(websocket)


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which workers were asked for; None: all of them."""

    status: WorkerStatus | None
    pool: str | None
    group: str | None


async def _filter(
    status: Annotated[WorkerStatus | None, Depends(one_state(WorkerStatus))],
    pool: Annotated[PoolName | None, Query(description="Only those that serve this pool.")] = None,
    group: Annotated[str | None, Query(max_length=128, description="Only those of this group.")] = None,
) -> _Filter:
    return _Filter(status, pool, group)


Filtered = Annotated[_Filter, Depends(_filter)]


class SlotCountView(View):
    """Slots of one kind."""

    busy: int
    total: int


class OverviewView(View):
    """The fleet at a glance (see `broker.fleet_view.Overview`)."""

    total: int
    by_status: dict[str, int]
    by_presence: dict[str, int]
    by_approval: dict[str, int]
    running: int
    slots: dict[str, SlotCountView]
    pools: dict[str, int]
    cpu_percent: float | None
    memory_percent: float | None


@router.get("/workers", operation_id="listWorkers")
async def list_workers(control: Control, _: Viewer, window: Windowed, chosen: Filtered) -> Page[WorkerView]:
    """List the fleet."""
    return await _read_workers(control, window, chosen)


@router.get("/workers/overview", operation_id="getFleetOverview")
async def show_overview(control: Control, _: Viewer) -> OverviewView:
    """Return the fleet at a glance."""
    now = control.clock.now()
    counted = await asyncio.wrap_future(control.store.read(lambda connection: overview(connection, now)))
    return OverviewView.model_validate(counted)


@router.get("/workers/{reference}", operation_id="getWorker")
async def show(control: Control, _: Viewer, reference: str) -> WorkerView:
    """Return one worker, by id or name."""
    return await _read_worker(control, reference)


@router.get("/workers/{reference}/tasks", operation_id="listWorkerTasks")
async def list_tasks(control: Control, _: Anyone, reference: str, window: Windowed) -> Page[TaskSummary]:
    """List the unfinished tasks that are pinned to a worker or belong to its agents, newest first."""

    def read(connection: Connection) -> Page[TaskSummary]:
        worker_id = find_worker(connection, reference).id
        query = summaries().where(tasks.c.id.in_(unfinished_of(worker_id)))
        return read_page(query, tasks.c.id, window, task_summary, newest_first=True)(connection)

    return await asyncio.wrap_future(control.store.read(read))


@router.post("/workers/{reference}/drain", operation_id="drainWorker")
async def drain(control: Control, admin: Admin, reference: str, form: ReasonForm | None = None) -> WorkerView:
    """Have a worker take no more work. With the answer, nothing more starts there; what runs goes on."""
    worker_id = await asyncio.wrap_future(control.fleet.drain(reference, form.reason if form else "", admin.name))
    return await _with_lanes(control, worker_id)


@router.post("/workers/{reference}/resume", operation_id="resumeWorker")
async def resume(control: Control, admin: Admin, reference: str, form: ReasonForm | None = None) -> WorkerView:
    """Have a drained worker take work again."""
    worker_id = await asyncio.wrap_future(control.fleet.resume(reference, form.reason if form else "", admin.name))
    return await _with_lanes(control, worker_id)


@router.get("/admin/workers", operation_id="listWorkersAsAdmin")
async def list_as_admin(control: Control, _: Admin, window: Windowed, chosen: Filtered) -> Page[WorkerView]:
    """List the fleet."""
    return await _read_workers(control, window, chosen)


@router.patch("/admin/workers/{reference}/approve", operation_id="decideAboutWorker")
async def decide(control: Control, admin: Admin, reference: str, form: Verdict) -> WorkerView:
    """Approve a worker, reject it, or revoke its approval."""
    worker_id = await asyncio.wrap_future(control.fleet.decide(reference, form, admin.name))
    return await _read_worker(control, worker_id)


async def _with_lanes(control: ControlPlane, worker_id: str) -> WorkerView:
    """Return a worker once it has been told its lanes, so that nobody waits for the next round of that."""
    await control.sessions.refresh_lanes()
    return await _read_worker(control, worker_id)


async def _read_worker(control: ControlPlane, reference: str) -> WorkerView:
    query = worker_rows(control.clock.now())

    def find(connection: Connection) -> WorkerView:
        worker_id = find_worker(connection, reference).id
        return worker_view(connection.execute(query.where(workers.c.id == worker_id)).one()._asdict())

    return await asyncio.wrap_future(control.store.read(find))


async def _read_workers(control: ControlPlane, window: Window, chosen: _Filter) -> Page[WorkerView]:
    now = control.clock.now()
    query = worker_rows(now)
    if chosen.status is not None:
        query = query.where(status_of(now) == chosen.status.value)
    if chosen.pool is not None:
        query = query.where(serves(chosen.pool))
    if chosen.group is not None:
        query = query.where(workers.c.group == chosen.group)
    page = read_page(query, workers.c.id, window, worker_view)
    return await asyncio.wrap_future(control.store.read(page))
