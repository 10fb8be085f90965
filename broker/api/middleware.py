"""What surrounds every request: its id, the last net under errors, the body's limit."""

from collections.abc import MutableMapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.api.auth import Doorkeeper
from broker.api.errors import error_response
from broker.api.mounts import within_base
from protocols import ids
from protocols.errors import InvalidInput, TooLarge, WarrenError

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_BULK_BYTES = 16 * 1024 * 1024
BULK_PATH = "/tasks/bulk"
UPLOAD_PATHS = frozenset({"/files/upload", "/files"})
"""Bodies that their handler reads as they arrive, with a limit of its own."""
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_log = structlog.get_logger(__name__)


class RequestContext:
    """Gives each request an id, each answer its headers, and an unforeseen error an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        request_id = ids.new_id("req")
        scope["request_id"] = request_id
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                started = True
                _add_headers(message, request_id)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                _log.exception("request_crashed", path=scope.get("path"))
                if started or scope["type"] != "http":
                    raise
                await error_response(WarrenError(_sorry(request_id)), request_id)(scope, receive, send_with_headers)


class BodyLimit:
    """Reads bodies up to their limit, and none at all from those who have no key. Uploads are left to their handler."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        try:
            self._doorkeeper.identify(HTTPConnection(scope))
            announced = _announced(headers)
            if scope["method"] != "POST" or within_base(scope["path"]) not in UPLOAD_PATHS:
                receive = _replay(await _read(receive, announced, _limit(scope)), receive)
        except WarrenError as error:
            await error_response(error, scope["request_id"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _limit(scope: Scope) -> int:
    return MAX_BULK_BYTES if within_base(scope["path"]) == BULK_PATH else MAX_BODY_BYTES


def _announced(headers: Headers) -> int:
    announced = headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise InvalidInput("Content-Length is no number")
    return int(announced)


async def _read(receive: Receive, announced: int, limit: int) -> bytes:
    """Return the whole body; raises TooLarge beyond `limit` bytes, before reading what is announced as larger."""
    body = bytearray()
    more = True
    while more and len(body) <= limit and announced <= limit:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    if len(body) > limit or announced > limit:
        raise TooLarge(f"the body is larger than {limit:,} bytes", hint="send less at once, or in several requests")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _add_headers(message: MutableMapping[str, object], request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-ID"] = request_id
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)


def _sorry(request_id: str) -> str:
    return f"something went wrong inside Warren; its log tells more under {request_id}"
