"""The HTTP surface of a control plane."""

from importlib.metadata import version

from fastapi import APIRouter
from fastapi.middleware.cors import CORSMiddleware

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
    invariant,
    keys,
    output,
    providers,
    queues,
    reference,
    secrets,
    settings,
    task_history,
    tasks,
    whoami,
    workers,
    ws,
)
from broker.api.auth import KEY_HEADERS, Doorkeeper
from broker.api.document import TAGS, DocumentedApi
from broker.api.errors import add_error_handlers
from broker.api.middleware import BodyLimit, RequestContext
from broker.api.mounts import BASE_PATH, BASE_PATHS, TenantPrefix, TrailingSlash
from broker.api.rates import FailureLimit, RateLimit
from broker.control import ControlPlane

_DESCRIPTION = """Runs LLM calls and SSH commands on approved worker machines, from queues.

Send an API key as `Authorization: Bearer <key>`, or else as `X-API-Key` (also `X-MAO-API-Key`). The roles viewer <
operator < admin contain each other; worker is apart. Times are RFC 3339, UTC. A slash at a path's end means nothing.
Every refusal has the same body: `error.code` tells programs what happened, `error.hint` tells people what to do."""
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Accept",
    "Idempotency-Key",
    "Last-Event-ID",
    *KEY_HEADERS,
    "X-MAO-Signature",
    "X-MAO-Timestamp",
    "X-MAO-Nonce",
)
_ANSWER_HEADERS = (
    "Location",
    "Retry-After",
    "X-Request-ID",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
_CORS_MAX_AGE_S = 3600


def create_api(control: ControlPlane) -> DocumentedApi:
    """Return the application that serves this control plane."""
    api = DocumentedApi(
        title="Warren",
        version=version("warren"),
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "This control plane."}],
        openapi_tags=TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    doorkeeper = Doorkeeper(control.keys, FailureLimit(control.settings.auth_failures_per_minute))
    api.state.control = control
    api.state.doorkeeper = doorkeeper
    add_error_handlers(api)
    # The last one added is the first to see a request.
    api.add_middleware(BodyLimit, doorkeeper=doorkeeper)
    api.add_middleware(RateLimit, control=control)
    api.add_middleware(TenantPrefix)
    api.add_middleware(TrailingSlash)
    if control.settings.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=control.settings.cors_origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            allow_credentials=True,
            expose_headers=_ANSWER_HEADERS,
            max_age=_CORS_MAX_AGE_S,
        )
    api.add_middleware(RequestContext)
    _mount(api)
    return api


def _mount(api: DocumentedApi) -> None:
    router = _versioned()
    # Before the rest: where the two contracts differ, this base is the other one's.
    api.include_router(files.v1_router, prefix="/v1", include_in_schema=False)
    for base in BASE_PATHS:
        api.include_router(router, prefix=base, include_in_schema=base == BASE_PATH)
        api.include_router(health.router, prefix=base, include_in_schema=False)
    api.include_router(keys.router, prefix="/v1/api_keys", include_in_schema=False)
    api.include_router(health.router)
    api.include_router(ws.router)
    api.include_router(reference.router)


def _versioned() -> APIRouter:
    router = APIRouter()
    nouns = (
        tasks,
        task_history,
        output,
        events,
        dead_letters,
        queues,
        workers,
        agents,
        providers,
        connections,
        commands,
        secrets,
        files,
        audit,
        settings,
        analytics,
        ws,
    )
    for noun in nouns:
        router.include_router(noun.router)
    router.include_router(keys.router, prefix="/security/api-keys")
    router.include_router(keys.router, prefix="/auth/api-keys", include_in_schema=False)
    router.include_router(whoami.router)
    router.include_router(invariant.router)
    return router
