"""Health and metrics, which answer while the database does not."""

import asyncio
from ipaddress import ip_address
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from broker.api.auth import Control, Require
from broker.control import ControlPlane
from broker.keys import Principal
from broker.metrics import CONTENT_TYPE, Family, Snapshot, count, exposition, families
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
    redis: Literal["not_configured"] = "not_configured"
    """Warren needs none; others' probes ask for it."""
    started_at: Time
    uptime_s: float


class Alive(BaseModel):
    """The process runs."""

    ok: Literal[True] = True


class Metrics(BaseModel):
    """All metrics, as Prometheus' text has them."""

    metrics: list[Family]


def _is_local(connection: HTTPConnection) -> bool:
    """Return whether a program of this machine asks, for itself and not for somebody behind it."""
    if connection.client is None or not {"x-forwarded-for", "forwarded"}.isdisjoint(connection.headers):
        return False
    try:
        return ip_address(connection.client.host).is_loopback
    except ValueError:
        return False


Scraper = Annotated[Principal | None, Depends(Require(Role.VIEWER, unless=_is_local))]


@router.get("/healthz", operation_id="healthz")
async def healthz() -> Alive:
    """Tell that the process is alive."""
    return Alive()


@router.get("/health", operation_id="health")
async def health(control: Control, request: Request) -> Health:
    """Tell how the control plane is."""
    return _health(control, request)


@router.get("/livez", operation_id="livez")
async def livez(control: Control, request: Request) -> Health:
    """Tell how the control plane is."""
    return _health(control, request)


@router.get(
    "/readyz",
    operation_id="readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "It takes no tasks now."}},
)
async def readyz(control: Control, request: Request) -> Response:
    """Tell whether it can take tasks: 503 while the database cannot be written, or when it is stopping."""
    found = _health(control, request)
    ready = found.status == "healthy" and not control.stopping.is_set()
    return JSONResponse(found.model_dump(), status_code=200 if ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(control: Control, _: Scraper) -> Response:
    """Return metrics for Prometheus. From another machine this needs a key."""
    return Response(exposition(await _snapshot(control)), media_type=CONTENT_TYPE)


@router.get("/metrics/json", operation_id="metricsAsJson")
async def metrics_as_json(control: Control, _: Scraper) -> Metrics:
    """Return the same metrics as JSON. From another machine this needs a key."""
    return Metrics(metrics=families(await _snapshot(control)))


async def _snapshot(control: ControlPlane) -> Snapshot:
    try:
        counts = await asyncio.wrap_future(control.store.read(count))
    except StorageUnavailable:
        counts = None
    return Snapshot(counts, writer_failing_s=control.store.writer.failing_for(), uptime_s=_uptime_s(control))


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
