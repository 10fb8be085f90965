"""JSON as every later reader can carry it: finite numbers, 64-bit integers, real text, bounded nesting."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from protocols.codec import MAX_ELEMENTS
from protocols.errors import InvalidInput

MAX_DEPTH = 24
"""Below the codec's limit by what an envelope puts around a task's input."""
_MAX_INTEGER = 2**63 - 1


class StrictRequest(Request):
    """A request whose body is JSON that `parse` has accepted."""

    async def json(self) -> Any:
        """Return the body's value; raises InvalidInput."""
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that looks at the body before FastAPI does, which would answer 500 or hide what was wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of this route."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if self.body_field is not None and await strict.body():
                _check_content_type(strict)
                await strict.json()
            return await handle(strict)

        return handle_strictly


def parse(body: bytes) -> Any:
    """Return the JSON value in `body`; raises InvalidInput with what is wrong about it."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is no valid JSON{_where(error)}") from error
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _contents(outer)]
        if not layer:
            return value
    raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_content_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidInput("the body must be JSON", hint="send the header Content-Type: application/json")


def _contents(value: Any) -> list[Any]:
    """Return what a container holds; raises InvalidInput for a scalar that cannot be carried."""
    if isinstance(value, (dict, list)):
        if len(value) > MAX_ELEMENTS:
            raise InvalidInput(f"a list or object has more than {MAX_ELEMENTS:,} items")
        return [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(value, str) and not _is_text(value):
        raise InvalidInput("a text contains NUL or half of a surrogate pair")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("a number is beyond the range of a double")
    if isinstance(value, int) and not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        raise InvalidInput("an integer is beyond 64 bits")
    return []


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _where(error: Exception) -> str:
    return f": {error.msg}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
