"""The stand-in's HTTP server: requests in, JSON or server-sent events out."""

import hmac
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from client.http import BASE_PATH, Json
from protocols.errors import InvalidInput, TooLarge, Unauthenticated, WarrenError

MAX_BODY_BYTES = 16 * 1024 * 1024
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, read."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any

    @property
    def wants_stream(self) -> bool:
        """Whether it asks for events in place of a document."""
        return EVENTS in self.headers.get("accept", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What it is answered: JSON, bytes as they are, or a stream of events."""

    body: Json | bytes | Iterator[bytes] | None
    status: int = 200


class Server:
    """Listens on a free port of the loopback from `start` to `stop`."""

    def __init__(self, key: str, answer: Callable[[Request], Reply]) -> None:
        self._key = key
        self._answer = answer
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One segment for an answer: a head that waits for its acknowledgement would cost 40 ms each time.
            wbufsize = -1
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with owner._lock:
                    owner._open.add(self.connection)

            def finish(self) -> None:
                with owner._lock:
                    owner._open.discard(self.connection)
                super().finish()

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        def serve(request: BaseHTTPRequestHandler) -> None:
            owner._serve(request)

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", serve)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Cut all connections; returns when every thread has ended."""
        self._server.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
        self._server.server_close()

    def _serve(self, http: BaseHTTPRequestHandler) -> None:
        try:
            reply = self._answer(self._read(http))
        except WarrenError as error:
            reply = Reply(_error_body(error), error.status)
        if isinstance(reply.body, Iterator):
            _send_stream(http, reply.body)
        else:
            _send(http, reply)

    def _read(self, http: BaseHTTPRequestHandler) -> Request:
        length = int(http.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            http.close_connection = True
            raise TooLarge(f"the body may have {MAX_BODY_BYTES:,} bytes")
        content = http.rfile.read(length)
        headers = {name.lower(): value for name, value in http.headers.items()}
        given = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise Unauthenticated
        try:
            body = json.loads(content) if content else None
        except ValueError as error:
            raise InvalidInput("the body is no JSON") from error
        parts = urlsplit(http.path)
        path = parts.path.removeprefix(BASE_PATH)
        return Request(method=http.command, path=path, query=dict(parse_qsl(parts.query)), headers=headers, body=body)


def _error_body(error: WarrenError) -> Json:
    told = {"code": error.code, "message": error.message, "field": error.field, "hint": error.hint}
    return {"error": {**told, "request_id": "fake"}, "detail": error.message}


def _send(http: BaseHTTPRequestHandler, reply: Reply) -> None:
    raw = isinstance(reply.body, bytes)
    data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    if reply.status == 204:
        data = b""
    http.send_response(reply.status)
    http.send_header("Content-Type", "application/octet-stream" if raw else "application/json")
    http.send_header("Content-Length", str(len(data)))
    http.end_headers()
    http.wfile.write(data)


def _send_stream(http: BaseHTTPRequestHandler, events: Iterator[bytes]) -> None:
    http.close_connection = True
    http.send_response(200)
    http.send_header("Content-Type", EVENTS)
    http.send_header("Connection", "close")
    http.end_headers()
    http.wfile.write(b": open\n\n")
    http.wfile.flush()
    for event in events:
        http.wfile.write(event)
        http.wfile.flush()


def event_bytes(event: str, data: Json, event_id: str | None = None) -> bytes:
    """Return a server-sent event as it travels."""
    lines = [f"event: {event}", *([f"id: {event_id}"] if event_id else []), f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()
