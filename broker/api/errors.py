"""Errors as answers: one body for all of them, and never a traceback, nor what the client sent."""

from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from protocols.errors import (
    InvalidInput,
    InvalidName,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
    WarrenError,
)

RETRY_AFTER_S = 1
_PLACES = frozenset({"body", "query", "path", "header"})

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
}

_log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """What went wrong."""

    code: str = Field(description="Which error this is; stable.")
    type: str = Field(
        description="Its kind: invalid_request, unauthorized, forbidden, not_found, conflict, rate_limited or "
        "internal_error."
    )
    message: str = Field(description="What was wrong, for people. Never quotes a secret.")
    field: str | None = Field(description="Where in the request it was.")
    hint: str | None = Field(description="What would be right.")
    request_id: str = Field(description="Under which the server's log tells more; as in the header X-Request-ID.")


class Refusal(BaseModel):
    """The body of every answer whose status is 400 or more."""

    error: Problem
    detail: str = Field(description="The message again.")


def error_response(error: WarrenError, request_id: str) -> JSONResponse:
    """Return the answer that `error` becomes."""
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="warren"'
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.retry_after_s)
    problem = Problem(
        code=error.code,
        type=_type_of(error.status),
        message=error.message,
        field=error.field,
        hint=error.hint,
        request_id=request_id,
    )
    body = Refusal(error=problem, detail=error.message).model_dump()
    return JSONResponse(body, status_code=error.status, headers=headers)


def _type_of(status: int) -> str:
    unlisted = "internal_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"
    return _TYPES.get(HTTPStatus(status), unlisted)


def add_error_handlers(api: FastAPI) -> None:
    """Have every error of a handler answered by `error_response`; unforeseen ones reach the middleware."""
    api.add_exception_handler(WarrenError, _on_warren_error)
    api.add_exception_handler(RequestValidationError, _on_invalid_request)
    api.add_exception_handler(HTTPException, _on_http_error)


def request_id(connection: HTTPConnection) -> str:
    """Return the id that this request's answer and log lines carry."""
    return str(connection.scope["request_id"])


async def _on_warren_error(request: Request, error: Exception) -> JSONResponse:
    known = error if isinstance(error, WarrenError) else WarrenError()
    if known.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("request_failed", code=known.code, error=known.message)
    return error_response(known, request_id(request))


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    where = [str(part) for part in problems[0]["loc"]] if problems else []
    if where and where[0] in _PLACES:
        where = where[1:]
    field = ".".join(where)[:200] or None
    # Only the message: pydantic's `input` and `ctx` may hold a secret.
    message = str(problems[0]["msg"]).removeprefix("Value error, ") if problems else "the request cannot be understood"
    if problems and problems[0]["type"] == InvalidName.code:
        return error_response(InvalidName(message, field=field), request_id(request))
    known = InvalidInput(f"{field}: {message}" if field else message, field=field)
    return error_response(known, request_id(request))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    known: WarrenError
    if status == HTTPStatus.NOT_FOUND:
        known = NotFound(f"there is nothing at {request.url.path[:200]!r}", hint="the API begins at /api/v1")
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        known = MethodNotAllowed(f"{request.url.path[:200]!r} does not take {request.method}")
    else:
        known = InvalidInput("the request cannot be understood")
    response = error_response(known, request_id(request))
    if isinstance(known, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return response


def _methods_at(request: Request) -> set[str]:
    """Return the methods that the request's path takes: each of them is a route of its own."""
    path = request.scope["path"]
    matching = [
        route
        for route in iter_route_contexts(request.app.routes)
        if isinstance(route.original_route, Route) and route.path_regex.match(path)
    ]
    return {method for route in matching if route.path == matching[0].path for method in route.methods or ()}
