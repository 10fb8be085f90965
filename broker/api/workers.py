"""`/workers` and `/admin/workers`: the fleet, its approval, and the workers' sessions."""

import asyncio
from typing import Any

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Response, WebSocket
from sqlalchemy import Select
from starlette.requests import Request

from broker.api.auth import Admin, Control, Machine, Viewer, authorize
from broker.api.paging import Window, Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.fleet import HttpHeartbeat, Registration, Verdict, find_worker
from broker.store.tables import executions, workers
from broker.views import Page, WorkerView, worker_view
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


@router.get("/workers", operation_id="listWorkers")
async def list_workers(control: Control, _: Viewer, window: Windowed) -> Page[WorkerView]:
    """List the fleet."""
    return await _read_workers(control, window)


@router.get("/workers/{reference}", operation_id="getWorker")
async def show(control: Control, _: Viewer, reference: str) -> WorkerView:
    """Return one worker, by id or name."""
    return await _read_worker(control, reference)


@router.get("/admin/workers", operation_id="listWorkersAsAdmin")
async def list_as_admin(control: Control, _: Admin, window: Windowed) -> Page[WorkerView]:
    """List the fleet."""
    return await _read_workers(control, window)


@router.patch("/admin/workers/{reference}/approve", operation_id="decideAboutWorker")
async def decide(control: Control, admin: Admin, reference: str, form: Verdict) -> WorkerView:
    """Approve a worker, reject it, or revoke its approval."""
    worker_id = await asyncio.wrap_future(control.fleet.decide(reference, form, admin.name))
    return await _read_worker(control, worker_id)


async def _read_worker(control: ControlPlane, reference: str) -> WorkerView:
    now = control.clock.now()

    def find(connection: sa.Connection) -> WorkerView:
        worker_id = find_worker(connection, reference).id
        row = connection.execute(_workers().where(workers.c.id == worker_id)).one()
        return worker_view(row, now)

    return await asyncio.wrap_future(control.store.read(find))


async def _read_workers(control: ControlPlane, window: Window) -> Page[WorkerView]:
    now = control.clock.now()
    page = read_page(_workers(), workers.c.id, window, lambda row: worker_view(row, now))
    return await asyncio.wrap_future(control.store.read(page))


def _workers() -> Select[Any]:
    running = (
        sa.select(sa.func.count())
        .where(
            executions.c.worker_id == workers.c.id,
            executions.c.ended_at.is_(None),
            executions.c.lease_ended_at.is_(None),
        )
        .scalar_subquery()
    )
    return sa.select(workers, running.label("running"))
