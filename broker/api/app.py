"""The HTTP surface of a control plane."""

from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from broker.api import (
    agents,
    analytics,
    audit,
    commands,
    connections,
    dead_letters,
    events,
    files,
    health,
    keys,
    output,
    providers,
    reference,
    secrets,
    settings,
    task_history,
    tasks,
    workers,
    ws,
)
from broker.api.errors import add_error_handlers
from broker.api.middleware import BodyLimit, RequestContext, TrailingSlash
from broker.control import ControlPlane

BASE_PATH = "/api/v1"


def create_api(control: ControlPlane) -> FastAPI:
    """Return the application that serves this control plane."""
    api = FastAPI(
        title="Warren",
        version=version("warren"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.control = control
    add_error_handlers(api)
    # The last one added is the first to see a request.
    api.add_middleware(BodyLimit, keys=control.keys)
    api.add_middleware(TrailingSlash)
    api.add_middleware(RequestContext)
    api.include_router(_versioned(), prefix=BASE_PATH)
    api.include_router(health.router)
    api.include_router(health.router, prefix=BASE_PATH, include_in_schema=False)
    api.include_router(ws.router)
    api.include_router(reference.router)
    return api


def _versioned() -> APIRouter:
    router = APIRouter()
    nouns = (
        tasks,
        task_history,
        output,
        events,
        dead_letters,
        workers,
        agents,
        providers,
        connections,
        commands,
        secrets,
        files,
        keys,
        audit,
        settings,
        analytics,
        ws,
    )
    for noun in nouns:
        router.include_router(noun.router)
    return router
