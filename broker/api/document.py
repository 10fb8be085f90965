"""The OpenAPI document: what FastAPI finds in the handlers, and what holds for all of them.

A handler declares its form, its answer and what is special about it. Which key an operation needs, which refusals it
can give and what its headers mean is the same everywhere, so it is added here and nobody can forget it.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from broker.api.auth import Require
from broker.api.errors import Refusal

TAGS: list[dict[str, Any]] = [
    {"name": "tasks", "description": "Units of work: submit, look at, follow, cancel."},
    {"name": "events", "description": "The journal of all that happened, as lists and as streams."},
    {"name": "dead letters", "description": "Tasks that failed for good, and their second chance."},
    {"name": "queues", "description": "What waits where, and the pausing of it."},
    {"name": "workers", "description": "The machines that run tasks, and whether they may."},
    {"name": "agents", "description": "In whose name LLMs are asked: profiles, with their versions."},
    {"name": "providers", "description": "Where LLM calls go."},
    {"name": "SSH connections", "description": "Hosts that commands run on."},
    {"name": "secrets", "description": "API keys, private keys and passwords that tasks use."},
    {"name": "files", "description": "What people and tasks leave with Warren."},
    {"name": "settings", "description": "What an administrator changes while Warren runs."},
    {"name": "analytics", "description": "Figures over some days, for people and for charts."},
    {"name": "API keys", "description": "Who may come in, and as what."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "administration", "description": "Looking after the control plane itself."},
    {"name": "health", "description": "How the control plane is, for people, probes and Prometheus."},
]

_READS = frozenset({"GET", "HEAD"})
_JSON = "application/json"
_SCHEMA_PREFIX = "#/components/schemas/"
_RESPONSE_PREFIX = "#/components/responses/"
_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. This header wins over the other.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key; `X-MAO-API-Key` is read if neither this nor `Authorization: Bearer` is there.",
    },
}
_LOCATION = {
    "description": "The path of what was made.",
    "required": True,
    "schema": {"type": "string", "format": "uri-reference"},
}
_PATH_PARAMETERS = {
    "reference": "An id or a name.",
    "lane": "The name of the queue.",
    "category": "What comes before the dot in the setting's name.",
    "key": "What comes after the dot in the setting's name.",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    """A refusal that many operations share."""

    name: str
    description: str
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> dict[str, Any]:
        """Return it as a component of the document."""
        headers = {name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in self.headers}
        content = {_JSON: {"schema": {"$ref": _SCHEMA_PREFIX + Refusal.__name__}}}
        return {"description": self.description, "content": content, **({"headers": headers} if headers else {})}


_RETRY_AFTER = ("Retry-After", "Seconds until it is worth trying again.")
_FAILURES = {
    401: _Failure("Unauthenticated", "No valid API key came with the request.", (("WWW-Authenticate", "Bearer."),)),
    403: _Failure("Forbidden", "The key's role may not do this."),
    404: _Failure("NotFound", "Something that the request names does not exist."),
    409: _Failure("Conflict", "The thing is in a state that does not allow this."),
    413: _Failure("TooLarge", "The body is larger than its limit."),
    422: _Failure("InvalidInput", "The request cannot be understood; `error.field` says where."),
    429: _Failure("RateLimited", "Too many requests came from this address.", (_RETRY_AFTER,)),
    503: _Failure("Unavailable", "Warren cannot do this right now; try again.", (_RETRY_AFTER,)),
    507: _Failure("StorageFull", "The disk is full.", (_RETRY_AFTER,)),
}


class DocumentedApi(FastAPI):
    """An application whose document is complete."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._completing = threading.Lock()

    def openapi(self) -> dict[str, Any]:
        """Return the document; the first time this takes a while, and is not for the event loop."""
        with self._completing:
            known = self.openapi_schema
            document = super().openapi()
            return document if document is known else complete(document, self.routes)


def complete(document: dict[str, Any], routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Add to FastAPI's document what all operations have in common, and return it."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["responses"] = {failure.name: failure.response() for failure in _FAILURES.values()}
    refusal = Refusal.model_json_schema(ref_template=_SCHEMA_PREFIX + "{model}", mode="serialization")
    schemas = components.setdefault("schemas", {})
    schemas.update(refusal.pop("$defs"))
    schemas[Refusal.__name__] = refusal
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for route in _documented(routes):
        for method in route.methods or ():
            _complete(document["paths"][route.path_format][method.lower()], method, _requirement(route.dependant))
    return document


def _documented(routes: Sequence[BaseRoute]) -> Iterator[RouteContext]:
    for route in iter_route_contexts(routes):
        if isinstance(route.original_route, APIRoute) and route.include_in_schema:
            yield route


def _requirement(dependant: Dependant) -> Require | None:
    """Return what the operation asks of whoever calls it."""
    if isinstance(dependant.call, Require):
        return dependant.call
    return next(filter(None, map(_requirement, dependant.dependencies)), None)


def _complete(operation: dict[str, Any], method: str, requirement: Require | None) -> None:
    # The first sentence of a handler's docstring says what it does; its name is for programmers.
    operation["summary"] = operation.get("description", "").partition("\n\n")[0].partition(". ")[0].rstrip(".")
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter.setdefault("description", _meaning_of(parameter["name"]))
    if requirement is not None:
        operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
        if requirement.optional:
            operation["security"].insert(0, {})
        operation["x-roles"] = [role.value for role in requirement.roles]
    responses = operation["responses"]
    if "201" in responses:
        responses["201"].setdefault("headers", {})["Location"] = _LOCATION
    for status in _failures(operation, method):
        # FastAPI's own 422 describes another body.
        if status == 422 or str(status) not in responses:
            responses[str(status)] = {"$ref": _RESPONSE_PREFIX + _FAILURES[status].name}


def _failures(operation: dict[str, Any], method: str) -> Iterable[int]:
    """Return the statuses with which an operation can refuse."""
    has_body = "requestBody" in operation
    parameters = operation.get("parameters", ())
    if "security" in operation:
        yield from (401, 403, 429, 503)
    if any(parameter["in"] == "path" for parameter in parameters) or has_body:
        yield 404
    if parameters or has_body:
        yield 422
    if has_body:
        yield 413
    if method not in _READS:
        yield from (409, 507)


def _meaning_of(parameter: str) -> str:
    return _PATH_PARAMETERS.get(parameter) or f"The id of the {parameter.removesuffix('_id').replace('_', ' ')}."
