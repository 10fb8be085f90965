"""A small control plane over a real WebSocket, which does exactly what a test tells it to."""

import asyncio
import base64
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from protocols.claim import Answer, Claim, Verdict
from protocols.clock import SystemClock
from protocols.envelope import Envelope, envelope_sha256
from protocols.frames import (
    Answers,
    Challenge,
    Claims,
    Consume,
    DownFrame,
    Heartbeat,
    Hello,
    Kept,
    Outcomes,
    OutcomesStored,
    Output,
    Ping,
    Refused,
    Settle,
    StopConsuming,
    UpFrame,
    Welcome,
    down_codec,
    up_codec,
)
from protocols.identity import verify_registration, verify_session, worker_id
from protocols.ids import TASK, new_id
from protocols.lanes.direct import DirectBroker, DirectChannel
from protocols.outcome import KeptOutput, OutcomeReport, OutputChunk
from protocols.states import Delivery

API_KEY = "test-worker-key"
PYTHON_LANE = "q.t.default.python"


class ControlPlane:
    """Registers, welcomes, answers and stores, and remembers everything that a worker said."""

    def __init__(self) -> None:
        self.lanes = DirectBroker(on_rejected=lambda lane, body: self.rejected.append(body))
        self.consumed: tuple[str, ...] = (PYTHON_LANE,)
        self.approval = "approved"
        self.refusal: Refused | None = None
        self.registration_error: tuple[int, str] | None = None
        self.answer: Callable[[Claim], Answer | None] = self.grant
        self.ended: tuple[str, ...] = ()
        self.nonsense: list[bytes] = []
        """Sent in the place of a challenge, one at each attempt."""
        self.stores = True
        self.pings = True
        self.timeout_s = 60.0
        self.registrations: list[dict[str, Any]] = []
        self.hellos: list[Hello] = []
        self.claims: list[Claim] = []
        self.outcomes: list[OutcomeReport] = []
        self.kept: list[KeptOutput] = []
        self.chunks: list[OutputChunk] = []
        self.heartbeats: list[Heartbeat] = []
        self.rejected: list[bytes] = []
        self.settled = Settle()
        self.sessions: list[_Session] = []
        self.digests: dict[tuple[str, int], bytes] = {}
        self.granted: dict[tuple[str, int], str] = {}
        self.public_keys: dict[str, tuple[bytes, bytes]] = {}
        self._answers: dict[str, Answer] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port each time."""
        app = Starlette(
            routes=[
                Route("/api/v1/workers/register", self._register, methods=["POST"]),
                WebSocketRoute("/api/v1/workers/session", self._serve),
            ]
        )
        listening = self._socket if self._socket.fileno() >= 0 else socket.create_server(("127.0.0.1", self.port))
        self._socket = listening
        config = uvicorn.Config(
            app, ws="websockets-sansio", log_level="critical", lifespan="off", ws_ping_interval=None, ws_max_size=2**23
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        await self.until(lambda: self._server is not None and self._server.started)

    async def stop(self) -> None:
        """End every session and stop listening."""
        if self._server is None or self._serving is None:
            return
        await self.cut()
        self._server.should_exit = True
        await self._serving
        self._server = None
        self._socket.close()

    async def cut(self) -> None:
        """End every session from this side."""
        for session in self.sessions:
            await session.close()

    @property
    def connected(self) -> bool:
        """Whether a session is open."""
        return any(session.open for session in self.sessions)

    def submit(
        self,
        action: str,
        *args: Any,
        lane: str = PYTHON_LANE,
        delivery: Delivery = Delivery.AT_LEAST_ONCE,
        attempt: int = 1,
        **kwargs: Any,
    ) -> str:
        """Publish a task's envelope and return the task's id."""
        task_id = new_id(TASK)
        body = self.envelope(action, args, kwargs, task_id=task_id, lane=lane, delivery=delivery, attempt=attempt)
        self.digests[task_id, attempt] = envelope_sha256(body)
        self.lanes.publish(lane, [body])
        return task_id

    def envelope(self, action: str, args: Any, kwargs: Any, *, task_id: str, **rest: Any) -> bytes:
        """Return the bytes of an envelope."""
        rest = {"lane": PYTHON_LANE, "delivery": Delivery.AT_LEAST_ONCE, "attempt": 1, **rest}
        envelope = Envelope(
            action=action, args=tuple(args), kwargs=kwargs, task_id=task_id, published_at=SystemClock().now(), **rest
        )
        return envelope.encode()

    def grant(self, claim: Claim, **more: Any) -> Answer:
        """Answer that the claim may run; like the real gate, only one execution of each attempt."""
        if self.granted.setdefault((claim.task_id, claim.attempt), claim.execution_id) != claim.execution_id:
            return self.drop(claim)
        return Answer(
            task_id=claim.task_id,
            execution_id=claim.execution_id,
            verdict=more.pop("verdict", Verdict.RUN),
            envelope_sha256=self.digests.get((claim.task_id, claim.attempt), bytes(32)),
            timeout_s=more.pop("timeout_s", self.timeout_s),
            **more,
        )

    def drop(self, claim: Claim) -> Answer:
        """Answer that the claim is void."""
        return Answer(task_id=claim.task_id, execution_id=claim.execution_id, verdict=Verdict.DROP)

    def send(self, frame: DownFrame) -> None:
        """Send a frame to the worker of the newest session."""
        self.sessions[-1].send(frame)

    def send_bytes(self, data: bytes | str) -> None:
        """Send what is no frame."""
        self.sessions[-1].outgoing.put_nowait(data)

    def outcome(self, task_id: str) -> OutcomeReport | None:
        """Return what was reported of a task first."""
        return next((report for report in self.outcomes if report.task_id == task_id), None)

    async def outcome_of(self, task_id: str, within_s: float = 60.0) -> OutcomeReport:
        """Wait for a task's outcome."""
        await self.until(lambda: self.outcome(task_id) is not None, within_s)
        report = self.outcome(task_id)
        assert report is not None
        return report

    async def until(self, holds: Callable[[], bool], within_s: float = 40.0) -> None:
        """Wait until something holds; fail after the deadline."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"the deadline passed; outcomes: {self.outcomes}"
            await asyncio.sleep(0.005)

    def kept_bytes(self, task_id: str, stream: str) -> bytes:
        """Return what was kept of a task's output."""
        parts = sorted((part for part in self.kept if part.task_id == task_id), key=lambda part: part.part)
        return b"".join(chunk.data for part in parts for chunk in part.chunks if chunk.stream == stream)

    async def _register(self, request: Request) -> JSONResponse:
        form = await request.json()
        if request.headers.get("authorization") != f"Bearer {API_KEY}":
            return JSONResponse({"error": {"code": "unauthenticated", "message": "no such key"}}, 401)
        if self.registration_error is not None:
            status, code = self.registration_error
            return JSONResponse({"error": {"code": code, "message": "no"}}, status)
        identity_key, sealing_key, signature = (
            base64.b64decode(form[name]) for name in ("identity_key", "sealing_key", "signature")
        )
        verify_registration(identity_key, signature, sealing_key=sealing_key, hostname=form["hostname"])
        self.registrations.append(form)
        worker = worker_id(identity_key)
        self.public_keys[worker] = (identity_key, sealing_key)
        return JSONResponse({"id": worker, "approval": self.approval}, 201)

    async def _serve(self, websocket: WebSocket) -> None:
        session = _Session(self, websocket)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await session.run()

    def _received(self, session: "_Session", frame: UpFrame) -> None:
        if isinstance(frame, Claims):
            self._claimed(session, frame)
        elif isinstance(frame, Outcomes):
            self.outcomes.extend(frame.items)
            if self.stores:
                session.send(OutcomesStored(execution_ids=tuple(report.execution_id for report in frame.items)))
        elif isinstance(frame, Kept):
            self.kept.append(frame.output)
        elif isinstance(frame, Output):
            self.chunks.extend(frame.chunks)
        elif isinstance(frame, Heartbeat):
            self.heartbeats.append(frame)
        elif isinstance(frame, (Consume, StopConsuming, Settle)):
            session.channel.on_frame(frame)
            if isinstance(frame, Settle):
                self.settled = Settle(
                    acks=(*self.settled.acks, *frame.acks), rejects=(*self.settled.rejects, *frame.rejects)
                )

    def _claimed(self, session: "_Session", frame: Claims) -> None:
        for claim in frame.items:
            self.claims.append(claim)
            answer = self._answers.get(claim.execution_id) or self.answer(claim)
            if answer is not None:
                self._answers[claim.execution_id] = answer
                session.send(Answers(items=(answer,)))


class _Session:
    def __init__(self, plane: ControlPlane, websocket: WebSocket) -> None:
        self._plane = plane
        self._websocket = websocket
        self._down = down_codec()
        self._up = up_codec()
        self.outgoing: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.channel = DirectChannel(plane.lanes, self._flush)
        self.open = False

    def send(self, frame: DownFrame) -> None:
        self.outgoing.put_nowait(self._down.encode(frame))

    async def close(self) -> None:
        if self.open:
            self.open = False
            with contextlib.suppress(RuntimeError):
                await self._websocket.close()

    async def run(self) -> None:
        await self._websocket.accept()
        if not await self._greet():
            return
        self._plane.sessions.append(self)
        self.open = True
        helpers = [asyncio.create_task(self._write()), asyncio.create_task(self._ping())]
        try:
            while True:
                self._plane._received(self, self._up.decode(await self._websocket.receive_bytes()))
        finally:
            self.open = False
            self.channel.close()
            for helper in helpers:
                helper.cancel()

    async def _greet(self) -> bool:
        plane = self._plane
        nonce = os.urandom(32)
        if self._plane.nonsense:
            await self._websocket.send_bytes(self._plane.nonsense.pop())
            return False
        await self._websocket.send_bytes(self._down.encode(Challenge(nonce=nonce)))
        hello = self._up.decode(await self._websocket.receive_bytes())
        assert isinstance(hello, Hello)
        identity_key, _ = plane.public_keys[hello.worker_id]
        verify_session(identity_key, hello.signature, nonce=nonce, worker=hello.worker_id, boot_id=hello.boot_id)
        plane.hellos.append(hello)
        if plane.refusal is not None:
            await self._websocket.send_bytes(self._down.encode(plane.refusal))
            return False
        welcome = Welcome(
            epoch=len(plane.hellos),
            ended=plane.ended,
            lanes=plane.consumed,
            heartbeat_s=1.0,
            server_time=SystemClock().now(),
        )
        await self._websocket.send_bytes(self._down.encode(welcome))
        return True

    async def _write(self) -> None:
        while True:
            data = await self.outgoing.get()
            if isinstance(data, str):
                await self._websocket.send_text(data)
            elif data is not None:
                await self._websocket.send_bytes(data)
            while (deliver := self.channel.take()) is not None:
                await self._websocket.send_bytes(self._down.encode(deliver))

    async def _ping(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(1.0)
            if self._plane.pings:
                number += 1
                self.send(Ping(number=number))

    def _flush(self) -> None:
        self.outgoing.put_nowait(None)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test's signal handlers alone."""
        yield
