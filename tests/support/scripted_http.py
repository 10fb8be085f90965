"""A real HTTP server on the loopback whose answers a test writes, and which keeps what it was asked."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; `breaks` closes the connection without any, or in the middle of a stream."""

    status: int = 200
    body: Any = None
    stream: str | None = None
    breaks: bool = False
    endless: bool = False
    """The stream is sent again and again until the client leaves."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class ScriptedServer:
    """Answers each path's requests with its answers in order, the last of them for ever."""

    def __init__(self, script: Mapping[str, list[Answer]]) -> None:
        self.asked: list[Asked] = []
        self._script = {path: list(answers) for path, answers in script.items()}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.close_connection = True
                super().handle_one_request()

            def do_GET(self) -> None:
                owner._handle(self)

            def do_POST(self) -> None:
                owner._handle(self)

            def do_PUT(self) -> None:
                owner._handle(self)

            def do_PATCH(self) -> None:
                owner._handle(self)

            def do_DELETE(self) -> None:
                owner._handle(self)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        content = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.removeprefix("/api/v1")
        carries_json = request.headers.get("Content-Type", "").startswith("application/json")
        body = json.loads(content) if carries_json else content or None
        self.asked.append(Asked(request.command, path, dict(request.headers.items()), body))
        answers = self._script.get(path.partition("?")[0], [Answer(status=404, body={"detail": "nothing here"})])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.breaks and answer.stream is None:
            return
        self._write(request, answer)

    def _write(self, request: BaseHTTPRequestHandler, answer: Answer) -> None:
        text = answer.stream if answer.stream is not None else json.dumps(answer.body)
        kind = "text/event-stream" if answer.stream is not None else "application/json"
        data = text.encode() if answer.status != 204 else b""
        request.send_response(answer.status)
        for name, value in {"Content-Type": kind, **answer.headers}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data) + (10**9 if answer.breaks or answer.endless else 0)))
        request.end_headers()
        with suppress(ConnectionError):
            request.wfile.write(data)
            while answer.endless:
                time.sleep(0.02)
                request.wfile.write(data)
