"""What waits to go up the session, gathered into frames."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from protocols.claim import Claim
from protocols.codec import FrameCodec
from protocols.errors import TooLarge
from protocols.frames import MAX_BATCH, Claims, Kept, Outcomes, Output, Settle, UpFrame
from protocols.outcome import OutcomeReport, OutputChunk

T = TypeVar("T")

MAX_OUTPUT_BYTES = 4 * 1024 * 1024
"""Live output that may wait; more is dropped, since the kept output fills the gaps later."""
MAX_OUTPUT_FRAME_BYTES = 512 * 1024
MAX_OUTPUT_CHUNKS = 1000
MAX_SETTLED = 1000


class Outbox:
    """Takes frames from any thread while a session is open, and gives them to its writer.

    While none is open, everything is dropped: who needs an answer sends again after the next welcome. Within
    one session an execution's kept output leaves before its outcome, and claims leave before outcomes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._signalled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = asyncio.Event()
        self._urgent: deque[UpFrame] = deque()
        self._claims: deque[Claim] = deque()
        self._kept: deque[Kept] = deque()
        self._outcomes: deque[OutcomeReport] = deque()
        self._acks: deque[int] = deque()
        self._rejects: deque[int] = deque()
        self._output: deque[OutputChunk] = deque()
        self._output_bytes = 0

    def open(self) -> None:
        """A session begins on the running event loop."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._open = True

    def close(self) -> None:
        """The session is over: what was not sent is forgotten."""
        with self._lock:
            self._open = self._signalled = False
            for waiting in (self._urgent, self._claims, self._kept, self._outcomes, self._acks, self._rejects):
                waiting.clear()
            self._output.clear()
            self._output_bytes = 0
            self._ready.clear()

    def send(self, frame: UpFrame) -> None:
        """Send a frame; never blocks."""
        with self._lock:
            if not self._open:
                return
            if isinstance(frame, Settle):
                self._acks.extend(frame.acks)
                self._rejects.extend(frame.rejects)
            elif isinstance(frame, Kept):
                self._kept.append(frame)
            elif isinstance(frame, Outcomes):
                self._outcomes.extend(frame.items)
            elif isinstance(frame, Claims):
                self._claims.extend(frame.items)
            else:
                self._urgent.append(frame)
            self._signal()

    def offer_output(self, chunks: Sequence[OutputChunk]) -> None:
        """Send live output if there is room."""
        size = sum(len(chunk.data) for chunk in chunks)
        with self._lock:
            if self._open and self._output_bytes + size <= MAX_OUTPUT_BYTES:
                self._output.extend(chunks)
                self._output_bytes += size
                self._signal()

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        await self._ready.wait()

    def take(self) -> UpFrame | None:
        """Return the next frame, or None when nothing waits."""
        with self._lock:
            frame = self._next()
            if frame is None:
                self._ready.clear()
                self._signalled = False
            return frame

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        with self._lock:
            return not (self._urgent or self._claims or self._kept or self._outcomes or self._acks or self._rejects)

    def _signal(self) -> None:
        if not self._signalled and self._loop is not None:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            if self._signalled:
                self._ready.set()

    def _next(self) -> UpFrame | None:
        if self._urgent:
            return self._urgent.popleft()
        if self._claims:
            return Claims(items=tuple(_some(self._claims, MAX_BATCH)))
        if self._kept:
            return self._kept.popleft()
        if self._outcomes:
            return Outcomes(items=tuple(_some(self._outcomes, MAX_BATCH)))
        if self._acks or self._rejects:
            return Settle(
                acks=tuple(_some(self._acks, MAX_SETTLED)),
                rejects=tuple(_some(self._rejects, MAX_SETTLED)),
            )
        return self._next_output() if self._output else None

    def _next_output(self) -> Output:
        chunks: list[OutputChunk] = []
        size = 0
        while self._output and size < MAX_OUTPUT_FRAME_BYTES and len(chunks) < MAX_OUTPUT_CHUNKS:
            chunks.append(self._output.popleft())
            size += len(chunks[-1].data)
        self._output_bytes -= size
        return Output(chunks=tuple(chunks))


def _some(waiting: deque[T], most: int) -> Iterator[T]:
    for _ in range(min(most, len(waiting))):
        yield waiting.popleft()


def encode(codec: FrameCodec[UpFrame], frame: UpFrame) -> Iterator[bytes]:
    """Yield the bytes of `frame`, as several frames if a batch of outcomes is too large for one."""
    try:
        yield codec.encode(frame)
    except TooLarge:
        if not isinstance(frame, Outcomes) or len(frame.items) == 1:
            raise
        middle = len(frame.items) // 2
        yield from encode(codec, Outcomes(items=frame.items[:middle]))
        yield from encode(codec, Outcomes(items=frame.items[middle:]))
