"""Workers' sessions: one authenticated WebSocket each, and everything that arrives over it."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from broker.gate import ClaimBatch, Gate
from broker.intake import Intake, Reported, ReportedOutput
from broker.live import LiveOutput
from broker.roll import Opened, Roll
from broker.settings import Settings
from broker.store.store import Store
from broker.store.tables import workers
from protocols.claim import Verdict
from protocols.clock import Clock
from protocols.errors import (
    InvalidFrame,
    NotFound,
    StorageUnavailable,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WarrenError,
    WorkerPending,
    WorkerRefused,
)
from protocols.frames import (
    Answers,
    Cancel,
    Challenge,
    Claims,
    Consume,
    DownFrame,
    Heartbeat,
    Hello,
    Kept,
    Lanes,
    Outcomes,
    OutcomesStored,
    Output,
    Ping,
    Pong,
    Refused,
    Settle,
    StopConsuming,
    UpFrame,
    Welcome,
    down_codec,
    up_codec,
)
from protocols.identity import verify_session
from protocols.lanes.direct import DirectBroker, DirectChannel
from protocols.outcome import OutcomeReport
from protocols.states import Approval

HELLO_S = 10.0
"""A connection that does not introduce itself by then is closed."""
PENDING_RETRY_S = 1.0
STORAGE_RETRY_S = 0.5
MAX_WAITING_FRAMES = 10_000
"""A worker that reads so slowly is cut off; it resumes with a fresh queue."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Keeper(Protocol):
    """Watches sessions (see `broker.keeper`)."""

    def opened(self, session: "Session") -> None:
        """A session is live."""
        ...

    def closed(self, session: "Session", *, clean: bool) -> None:
        """A session's connection is gone; `clean` if the worker said goodbye."""
        ...


class Sessions:
    """Accepts workers' connections and holds the live sessions, one per worker."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        store: Store,
        gate: Gate,
        intake: Intake,
        roll: Roll,
        live: LiveOutput,
        lanes: DirectBroker,
        keeper: Keeper,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.gate = gate
        self.intake = intake
        self.roll = roll
        self.live = live
        self.lanes = lanes
        self._store = store
        self._keeper = keeper
        self._up = up_codec()
        self._down = down_codec()
        self._sessions: dict[str, Session] = {}
        self._refreshing = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def serve(self, socket: WebSocket) -> None:
        """Carry one worker's connection from its challenge to its end. The caller has checked the API key."""
        await socket.accept()
        try:
            hello, worker = await self._introduce(socket)
            opened = await asyncio.wrap_future(self.roll.open(hello))
        except WarrenError as error:
            await self._refuse(socket, error)
            return
        except (WebSocketDisconnect, TimeoutError):
            return
        await self._run(Session(self, socket, worker, hello), opened)

    def online(self) -> list["Session"]:
        """Return the live sessions."""
        return list(self._sessions.values())

    def cancel(self, worker_id: str, execution_id: str, reason: str) -> None:
        """Tell a worker to end an execution; from any thread. A worker that is away hears it when it resumes."""
        self._from_any_thread(worker_id, lambda session: session.cancel(execution_id, reason))

    def close_worker(self, worker_id: str) -> None:
        """End a worker's session, since it may not have one any more; from any thread."""
        self._from_any_thread(worker_id, lambda session: session.end(WorkerRefused()))

    def close_all(self, error: WarrenError) -> None:
        """End every session, with the reason; workers come back by themselves."""
        for session in self.online():
            session.end(error)

    async def refresh_lanes(self) -> None:
        """Tell each worker the lanes that are its own now, if they have changed."""
        # One at a time, so that what was read first is not told last.
        async with self._refreshing:
            lanes = await asyncio.wrap_future(self._store.read(self.roll.lanes))
            for worker_id, session in self._sessions.items():
                session.assign(lanes.get(worker_id, ()))

    def decode(self, data: bytes) -> UpFrame:
        """Return a frame from a worker; raises InvalidFrame or TooLarge."""
        return self._up.decode(data)

    def encode(self, frame: DownFrame) -> bytes:
        """Return the bytes of a frame for a worker."""
        return self._down.encode(frame)

    def _from_any_thread(self, worker_id: str, act: Callable[["Session"], None]) -> None:
        def find() -> None:
            session = self._sessions.get(worker_id)
            if session is not None:
                act(session)

        self._loop.call_soon_threadsafe(find)

    async def _introduce(self, socket: WebSocket) -> tuple[Hello, Row[Any]]:
        nonce = os.urandom(32)
        await socket.send_bytes(self.encode(Challenge(nonce=nonce)))
        async with asyncio.timeout(HELLO_S):
            frame = self.decode(await _receive(socket))
        if not isinstance(frame, Hello):
            raise InvalidFrame("a session begins with hello")
        worker = await asyncio.wrap_future(self._store.read(_find_worker(frame.worker_id)))
        if worker is None or worker.identity_key is None:
            raise NotFound("this worker is not registered", hint="register it first")
        verify_session(worker.identity_key, frame.signature, nonce=nonce, worker=frame.worker_id, boot_id=frame.boot_id)
        if worker.approval == Approval.PENDING.value:
            raise WorkerPending(hint=f"approve it: warren worker approve {worker.id}")
        if worker.approval != Approval.APPROVED.value:
            raise WorkerRefused(f"this worker was {worker.approval}")
        return frame, worker

    async def _refuse(self, socket: WebSocket, error: WarrenError) -> None:
        waits = isinstance(error, (WorkerPending, Unavailable, NotFound))
        frame = Refused(
            code=error.code,
            message=error.message if error.hint is None else f"{error.message.rstrip('.')}; {error.hint}",
            retry_after_s=PENDING_RETRY_S if waits else None,
        )
        await _quietly(socket.send_bytes(self.encode(frame)))
        await _quietly(socket.close(1008))

    async def _run(self, session: "Session", opened: Opened) -> None:
        previous = self._sessions.get(session.worker_id)
        if previous is not None:
            previous.end(Unavailable("the worker opened another session"))
        self._sessions[session.worker_id] = session
        session.welcome(opened)
        self._keeper.opened(session)
        clean = False
        try:
            clean = await session.run()
        finally:
            if self._sessions.get(session.worker_id) is session:
                del self._sessions[session.worker_id]
                self._keeper.closed(session, clean=clean)


class Session:
    """One worker's open connection."""

    def __init__(self, sessions: Sessions, socket: WebSocket, worker: Row[Any], hello: Hello) -> None:
        self._sessions = sessions
        self._socket = socket
        self._sealing_key: bytes = worker.sealing_key
        self.worker_id: str = worker.id
        self.pools = frozenset(worker.pools)
        self.epoch = 0
        self.boot_id = hello.boot_id
        self.heard_at = sessions.clock.monotonic()
        """Monotonic time of the last frame."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[DownFrame] = deque()
        self._to_send = asyncio.Event()
        self._ending: WarrenError | None = None
        self._lanes: tuple[str, ...] = ()
        self._lanes_before: set[str] = set()
        """Taken away again; the worker may not have heard of it yet."""
        self._running: set[str] = set()
        """The executions that this worker may report about."""
        self._work: set[asyncio.Task[None]] = set()
        self._receiver: asyncio.Task[bool] | None = None
        self._channel = DirectChannel(sessions.lanes, self._wake_sender)

    def welcome(self, opened: Opened) -> None:
        """Make the opening the first thing that the worker hears."""
        self.epoch = opened.epoch
        self._lanes = opened.lanes
        self._running = set(opened.running)
        self._send(
            Welcome(
                epoch=opened.epoch,
                ended=opened.ended,
                lanes=opened.lanes,
                heartbeat_s=self._sessions.settings.heartbeat_s,
                server_time=self._sessions.clock.now(),
            )
        )
        for execution_id in opened.cancelled:
            self.cancel(execution_id, "the task was cancelled")

    async def run(self) -> bool:
        """Send and receive until one side ends it; returns whether the worker said goodbye."""
        sender = asyncio.create_task(self._send_all())
        self._receiver = asyncio.create_task(self._receive_all())
        try:
            await asyncio.wait({sender, self._receiver}, return_when=asyncio.FIRST_COMPLETED)
            if not self._receiver.done():
                return False
            return not self._receiver.cancelled() and self._receiver.result()
        except (InvalidFrame, TooLarge, Unauthenticated) as error:
            _log.warning("session_frame_refused", worker=self.worker_id, error=error.message)
            await self._sessions._refuse(self._socket, Unavailable(f"frame refused: {error.message}"))
            return False
        finally:
            self._channel.close()
            for task in (sender, self._receiver, *self._work):
                task.cancel()
            await asyncio.gather(sender, self._receiver, *self._work, return_exceptions=True)
            if self._socket.client_state is WebSocketState.CONNECTED:
                await _quietly(self._socket.close(1011))

    def ping(self, number: int) -> None:
        """Ask for a sign of life."""
        self._send(Ping(number=number))

    def cancel(self, execution_id: str, reason: str) -> None:
        """Tell the worker to end an execution."""
        self._send(Cancel(execution_id=execution_id, reason=reason))

    def assign(self, lanes: tuple[str, ...]) -> None:
        """Tell the worker its lanes, if they are others than before; nothing more comes from those taken away."""
        if lanes != self._lanes:
            self._lanes_before = (self._lanes_before | set(self._lanes)) - set(lanes)
            self._lanes = lanes
            self._channel.limit_to(lanes)
            self._send(Lanes(lanes=lanes))

    def end(self, error: WarrenError) -> None:
        """End the session, telling the worker why."""
        self._ending = error
        self._to_send.set()

    def cut(self) -> None:
        """End the session at once, without a word to a worker that may not be listening."""
        if self._receiver is not None:
            self._receiver.cancel()

    def _send(self, frame: DownFrame) -> None:
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            self.end(Unavailable("the worker reads too slowly"))
            return
        self._waiting.append(frame)
        self._to_send.set()

    async def _send_all(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._waiting:
                await self._socket.send_bytes(self._sessions.encode(self._waiting.popleft()))
            while (deliveries := self._channel.take()) is not None:
                await self._socket.send_bytes(self._sessions.encode(deliveries))
            if self._ending is not None:
                await self._sessions._refuse(self._socket, self._ending)
                return

    async def _receive_all(self) -> bool:
        while True:
            try:
                data = await _receive(self._socket)
            except WebSocketDisconnect as gone:
                return gone.code == 1000 and self._ending is None
            self.heard_at = self._sessions.clock.monotonic()
            self._handle(self._sessions.decode(data))

    def _handle(self, frame: UpFrame) -> None:
        match frame:
            case Claims():
                self._start(self._claim(frame))
            case Outcomes():
                self._start(self._outcomes(frame))
            case Output():
                self._sessions.live.arrive([chunk for chunk in frame.chunks if chunk.execution_id in self._running])
            case Kept():
                kept = ReportedOutput(self.worker_id, frame.output)
                self._start(self._persist(lambda: self._sessions.intake.keep(kept)))
            case Heartbeat():
                self._start(self._heartbeat(frame))
            case Consume():
                self._consume(frame)
            case StopConsuming() | Settle():
                self._channel.on_frame(frame)
            case Pong():
                pass
            case Hello():
                raise InvalidFrame("the session is open already")

    def _consume(self, frame: Consume) -> None:
        if frame.lane in self._lanes:
            self._channel.on_frame(frame)
        elif frame.lane not in self._lanes_before:
            raise InvalidFrame(f"lane {frame.lane} is not this worker's")

    def _wake_sender(self) -> None:
        self._loop.call_soon_threadsafe(self._to_send.set)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("session_work_failed", worker=self.worker_id, error=repr(task.exception()))
            self.end(Unavailable("the control plane failed to handle a frame"))

    async def _claim(self, frame: Claims) -> None:
        batch = ClaimBatch(self.worker_id, self.epoch, frame.items)
        granted = await self._persist(lambda: self._sessions.gate.claim(batch))
        if granted is None:
            self.end(Unavailable("this session's lease has ended"))
            return
        self._running |= {one.answer.execution_id for one in granted if one.answer.verdict is not Verdict.DROP}
        answers = tuple(
            self._sessions.gate.seal(answer, worker_id=self.worker_id, sealing_key=self._sealing_key)
            for answer in granted
        )
        self._send(Answers(items=answers))

    async def _outcomes(self, frame: Outcomes) -> None:
        await asyncio.gather(*(self._outcome(item) for item in frame.items))
        stored = tuple(item.execution_id for item in frame.items)
        for execution_id in self._running.intersection(stored):
            self._running.discard(execution_id)
            self._sessions.live.forget(execution_id)
        self._send(OutcomesStored(execution_ids=stored))

    async def _outcome(self, report: OutcomeReport) -> None:
        reported = Reported(self.worker_id, report)
        await self._persist(lambda: self._sessions.intake.outcome(reported))

    async def _heartbeat(self, frame: Heartbeat) -> None:
        await self._persist(lambda: self._sessions.roll.heartbeat(self.worker_id, frame))

    async def _persist(self, write: Callable[[], Future[T]]) -> T:
        """Write, again and again while the database fails; the worker has kept what it sent."""
        while True:
            try:
                return await asyncio.wrap_future(write())
            except StorageUnavailable as error:
                _log.error("write_failed", worker=self.worker_id, error=error.message)
                await asyncio.sleep(STORAGE_RETRY_S)


async def _receive(socket: WebSocket) -> bytes:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    data = message.get("bytes")
    if data is None:
        raise InvalidFrame("frames are binary")
    return bytes(data)


async def _quietly(act: Awaitable[None]) -> None:
    """Do something to a connection that may be gone already."""
    try:
        await act
    except (RuntimeError, WebSocketDisconnect, OSError):
        _log.debug("connection_was_gone")


def _find_worker(worker_id: str) -> Callable[[Connection], Row[Any] | None]:
    return lambda connection: connection.execute(sa.select(workers).where(workers.c.id == worker_id)).first()
