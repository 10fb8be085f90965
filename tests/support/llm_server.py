"""A provider on a real socket that answers as it is told: well, late, broken, in pieces or not at all."""

import asyncio
import contextlib
import json
import queue
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self


class End(Enum):
    """What happens to the connection after an answer's last piece."""

    COMPLETE = "complete"
    """The body is ended as HTTP wants it."""
    FIN = "fin"
    """Closed in the middle of the body."""
    RESET = "reset"
    """Reset in the middle of the body."""
    STALL = "stall"
    """Nothing more until the client goes away."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer to one request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    pieces: Sequence[bytes] = ()
    """Each is written by itself."""
    pause_s: float = 0.0
    """Between two pieces."""
    end: End = End.COMPLETE
    framed: bool = True
    """Whether the body is chunked; otherwise the connection's end is its end."""
    silent: bool = False
    """Not even a status line comes before `end`."""


@dataclass(frozen=True)
class Received:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Counts connections from 1."""

    def json(self) -> Any:
        """Return the body's document."""
        return json.loads(self.body)


class LlmServer:
    """Serves in a thread of its own; a context manager.

    Requests take the answers given to `answer_next` in order, and `usual` when there are none left.
    """

    def __init__(self, usual: Answer | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.usual = usual or completion("Hello.")
        self._tls = tls
        self.requests: list[Received] = []
        self.asked = threading.Event()
        """Set when the first request has come."""
        self.departures: queue.Queue[int] = queue.Queue()
        """The numbers of connections that the client left while an answer stalled or was being written."""
        self._next: queue.Queue[Answer] = queue.Queue()
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm-server", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """What a provider's settings would say."""
        if self._server is None:
            raise RuntimeError("the server has not been started")
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def answer_next(self, *answers: Answer) -> None:
        """Give `answers` to the next requests, one each."""
        for answer in answers:
            self._next.put(answer)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024, ssl=self._tls)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._connections += 1
        number = self._connections
        try:
            while True:
                self.requests.append(await _read_request(reader, number))
                self.asked.set()
                answer = self._next.get_nowait() if not self._next.empty() else self.usual
                if not await self._give(answer, reader, writer, number):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except ConnectionError:
            self.departures.put(number)
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _give(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        """Write `answer`; return whether the connection may carry another one."""
        if not answer.silent:
            writer.write(_head(answer))
            for piece in answer.pieces:
                writer.write(_framed(piece) if answer.framed else piece)
                await writer.drain()
                await asyncio.sleep(answer.pause_s)
        if answer.end is End.STALL:
            await reader.read()
            self.departures.put(number)
        elif answer.end is End.RESET:
            _reset(writer)
        elif answer.end is End.COMPLETE and answer.framed and not answer.silent:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        return False


def completion(
    *texts: str, finish_reason: str | None = "stop", usage: dict[str, Any] | None = None, **options: Any
) -> Answer:
    """Return a streamed completion that says `texts`, one event each; `options` are fields of Answer."""
    events = [event(chunk(text)) for text in texts]
    if finish_reason is not None:
        events.append(event(chunk("", finish_reason=finish_reason)))
        counted = usage or {"prompt_tokens": 7, "completion_tokens": len(texts)}
        events += [event({**chunk(""), "choices": [], "usage": counted}), b"data: [DONE]\n\n"]
    return Answer(pieces=events, **options)


def failure(status: int, error: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a refusal whose body is `error`, as JSON unless it is bytes."""
    body = error if isinstance(error, bytes) else json.dumps(error).encode()
    return Answer(status=status, headers={"Content-Type": "application/json"} | dict(headers or {}), pieces=[body])


def document(value: object) -> Answer:
    """Return an answer of status 200 that came in one piece, as JSON unless it is bytes."""
    return failure(200, value)


def chunk(text: str, *, finish_reason: str | None = None) -> dict[str, Any]:
    """Return a chunk of a streamed completion."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "model": "tiny-1", "choices": [choice], "usage": None}


def event(value: object) -> bytes:
    """Return `value` as a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def byte_by_byte(pieces: Iterable[bytes]) -> list[bytes]:
    """Return the bytes of `pieces`, each a piece of its own."""
    return [bytes([byte]) for piece in pieces for byte in piece]


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.strip().split("\r\n")
    method, path, _version = request_line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, connection)


def _head(answer: Answer) -> bytes:
    framing = {"Transfer-Encoding": "chunked"} if answer.framed else {"Connection": "close"}
    fields = "".join(f"{name}: {value}\r\n" for name, value in {**answer.headers, **framing}.items())
    return f"HTTP/1.1 {answer.status} Scripted\r\n{fields}\r\n".encode()


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _reset(writer: asyncio.StreamWriter) -> None:
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
