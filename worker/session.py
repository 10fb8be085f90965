"""The worker's session with its control plane: one WebSocket, opened again for as long as the worker lives."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from protocols.errors import (
    Forbidden,
    InvalidFrame,
    InvalidInput,
    TooLarge,
    Unauthenticated,
    Unreachable,
    WarrenError,
    WorkerPending,
    WorkerRefused,
)
from protocols.frames import (
    MAX_FRAME_BYTES,
    Challenge,
    DownFrame,
    Hello,
    Ping,
    Pong,
    Refused,
    Welcome,
    down_codec,
    up_codec,
)
from worker.outbox import Outbox, encode
from worker.service import Service
from worker.settings import Settings
from worker.watchdog import Heart

log = structlog.get_logger(__name__)

SILENCE_S = 15.0
"""Without a frame for so long (the control plane pings every 3 s), it is gone."""
OPEN_TIMEOUT_S = 10.0
SHORTEST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
LONGEST_DELAY_AFTER_BREAK_S = 1.0
"""A session that was open can be resumed for 3 s; later its leases have ended."""
STABLE_S = 5.0
"""A session that lasted so long makes the next reconnect quick again."""


class SessionListener:
    """Hears of the session's life, on the event loop; must not block."""

    def connected(self, welcome: Welcome) -> None:
        """A session is open; what still needs an answer is sent now."""

    def disconnected(self) -> None:
        """The session is gone."""

    def received(self, frame: DownFrame) -> None:
        """A frame came."""


class SessionRefused(WarrenError):
    """The control plane opens no session."""

    code = "session_refused"

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


class Session(Service):
    """Keeps a session open: registers, connects, resumes, and passes frames both ways.

    Crashes with WorkerRefused when the control plane wants this worker no more, and, before the first welcome,
    with what is wrong with the API key or the registration. Everything else is tried again, for ever.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        heart: Heart,
        *,
        register: Callable[[], Awaitable[None]],
        hello: Callable[[bytes, int], Hello],
        attempted: Callable[[str], None],
    ) -> None:
        """`hello` makes the greeting from nonce and epoch; `attempted` hears how each attempt went."""
        super().__init__()
        self._settings = settings
        self._outbox = outbox
        self._heart = heart
        self._register = register
        self._hello = hello
        self._attempted = attempted
        self._listeners: Sequence[SessionListener] = ()
        self._up = up_codec()
        self._down = down_codec()
        self._epoch = 0
        self._registered = False
        self._welcomed = False
        self._failures = 0
        self._broken = False
        self._complained = ""

    def listen(self, listeners: Sequence[SessionListener]) -> None:
        """Tell `listeners`, in this order, about every session from now on."""
        self._listeners = listeners

    async def run(self) -> None:
        """Keep a session open until stopped."""
        while True:
            self._heart.beat()
            try:
                await self._once()
            except WarrenError as error:
                if self._is_final(error):
                    raise
                delay = self._delay(error)
                self._attempted(error.message)
                # A worker may wait for hours; what is told every second is read by nobody.
                told = log.debug if error.message == self._complained else log.warning
                told("no session", reason=error.message, code=error.code, retry_in_s=round(delay, 1))
                self._complained = error.message
                await self._rest(delay)

    async def close(self) -> None:
        """End the heartbeat that a stopped session cannot give."""
        self._heart.stop()

    async def _once(self) -> None:
        if not self._registered:
            await self._register()
            self._registered = True
        try:
            async with connect(
                self._settings.session_url,
                additional_headers={"Authorization": f"Bearer {self._settings.api_key()}"},
                compression=None,
                max_size=MAX_FRAME_BYTES,
                ping_interval=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=2.0,
                proxy=None if self._settings.is_local else True,
            ) as socket:
                try:
                    await self._talk(socket)
                except asyncio.CancelledError:
                    # Goodbye: the library itself would close as after an error, and the worker would count as lost.
                    await socket.close()
                    raise
        except InvalidStatus as error:
            if error.response.status_code in {Unauthenticated.status, Forbidden.status}:
                raise Unauthenticated("the control plane does not accept the API key for a session") from error
            raise Unreachable(f"the control plane answered with status {error.response.status_code}") from error
        except (OSError, WebSocketException) as error:
            # TimeoutError is an OSError: silence ends here too.
            raise Unreachable(f"the session ended: {str(error)[:300] or type(error).__name__}") from error

    async def _talk(self, socket: ClientConnection) -> None:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            welcome = await self._greet(socket)
        self._epoch = welcome.epoch
        self._welcomed = True
        self._broken = True
        self._complained = ""
        opened_at = time.monotonic()
        log.info("session open", epoch=welcome.epoch, lanes=welcome.lanes, ended=len(welcome.ended))
        self._outbox.open()
        writer = asyncio.create_task(self._write(socket), name="session writer")
        try:
            for listener in self._listeners:
                listener.connected(welcome)
            self._attempted("connected")
            await self._read(socket, writer)
        finally:
            writer.cancel()
            self._outbox.close()
            for listener in self._listeners:
                listener.disconnected()
            if time.monotonic() - opened_at > STABLE_S:
                self._failures = 0

    async def _greet(self, socket: ClientConnection) -> Welcome:
        challenge = await self._receive(socket)
        if isinstance(challenge, Challenge):
            await socket.send(self._up.encode(self._hello(challenge.nonce, self._epoch)))
            reply = await self._receive(socket)
            if isinstance(reply, Welcome):
                return reply
            challenge = reply
        if isinstance(challenge, Refused):
            raise SessionRefused(challenge)
        raise InvalidFrame(f"the session began with {challenge.k!r}")

    async def _receive(self, socket: ClientConnection) -> DownFrame:
        data = await socket.recv()
        if isinstance(data, str):
            raise InvalidFrame("a text message where a frame was expected")
        return self._down.decode(data)

    async def _read(self, socket: ClientConnection, writer: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        # A writer that fails closes the socket, which ends the reading below.
        writer.add_done_callback(lambda _: loop.create_task(socket.close()))
        async with asyncio.timeout(SILENCE_S) as silence:
            while True:
                frame = await self._receive(socket)
                silence.reschedule(loop.time() + SILENCE_S)
                self._heart.beat()
                if isinstance(frame, Ping):
                    self._outbox.send(Pong(number=frame.number))
                elif isinstance(frame, Refused):
                    raise SessionRefused(frame)
                else:
                    for listener in self._listeners:
                        listener.received(frame)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            frame = self._outbox.take()
            if frame is None:
                await self._outbox.wait()
                continue
            for data in encode(self._up, frame):
                await socket.send(data)

    def _is_final(self, error: WarrenError) -> bool:
        if isinstance(error, SessionRefused):
            return error.refused.code != WorkerPending.code and error.refused.retry_after_s is None
        if isinstance(error, WorkerRefused):
            return True
        if self._welcomed or isinstance(error, (InvalidFrame, TooLarge)):
            return False
        return isinstance(error, (Unauthenticated, Forbidden, InvalidInput))

    def _delay(self, error: WarrenError) -> float:
        if isinstance(error, SessionRefused):
            self._registered = False
            return error.refused.retry_after_s or LONGEST_DELAY_S
        longest = LONGEST_DELAY_AFTER_BREAK_S if self._broken else LONGEST_DELAY_S
        ceiling = min(longest, SHORTEST_DELAY_S * 2 ** min(self._failures, 10))
        self._broken = False
        self._failures += 1
        return random.uniform(0, ceiling)

    async def _rest(self, seconds: float) -> None:
        while seconds > 0:
            self._heart.beat()
            await asyncio.sleep(min(seconds, LONGEST_DELAY_S))
            seconds -= LONGEST_DELAY_S
