"""Health and metrics, which answer while the database does not."""

import asyncio
from ipaddress import ip_address
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from broker.api.auth import Control, authorize
from broker.control import ControlPlane
from broker.metrics import CONTENT_TYPE, Counts, count, exposition
from broker.views import Time
from protocols.errors import StorageUnavailable
from protocols.states import Role

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """How the control plane is."""

    status: Literal["healthy", "degraded"]
    service: str = "warren"
    version: str
    database: Literal["ok", "failing"]
    started_at: Time
    uptime_s: float


@router.get("/healthz", operation_id="healthz")
async def healthz() -> dict[str, bool]:
    """Tell that the process is alive."""
    return {"ok": True}


@router.get("/health", operation_id="health")
async def health(control: Control, request: Request) -> Health:
    """Tell how the control plane is."""
    return _health(control, request)


@router.get("/livez", operation_id="livez")
async def livez(control: Control, request: Request) -> Health:
    """Tell how the control plane is."""
    return _health(control, request)


@router.get("/readyz", operation_id="readyz", response_model=Health)
async def readyz(control: Control, request: Request) -> Response:
    """Tell whether it can take tasks: 503 while the database cannot be written, or when it is stopping."""
    found = _health(control, request)
    ready = found.status == "healthy" and not control.stopping.is_set()
    return JSONResponse(found.model_dump(), status_code=200 if ready else 503)


@router.get("/metrics", operation_id="metrics", response_class=Response)
async def metrics(control: Control, request: Request) -> Response:
    """Return metrics for Prometheus; from another machine this needs a viewer's key."""
    if not _is_local(request):
        authorize(request, Role.VIEWER)
    counts: Counts | None
    try:
        counts = await asyncio.wrap_future(control.store.read(count))
    except StorageUnavailable:
        counts = None
    text = exposition(
        counts,
        writer_failing_s=control.store.writer.failing_for(),
        uptime_s=_uptime_s(control),
    )
    return Response(text, media_type=CONTENT_TYPE)


def _health(control: ControlPlane, request: Request) -> Health:
    failing = control.store.writer.failing_for() > 0
    return Health(
        status="degraded" if failing else "healthy",
        version=request.app.version,
        database="failing" if failing else "ok",
        started_at=control.started_at,
        uptime_s=_uptime_s(control),
    )


def _uptime_s(control: ControlPlane) -> float:
    return (control.clock.now() - control.started_at) / 1000


def _is_local(request: Request) -> bool:
    """Return whether a program of this machine asks, for itself and not for somebody behind it."""
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
