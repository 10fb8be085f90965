"""An execution's output: live chunks as it arises, and what is kept of it for good."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from protocols.frames import Kept
from protocols.outcome import KeptOutput, OutputChunk
from worker.outbox import Outbox
from worker.redact import Redactor

LIVE_DELAY_S = 0.05
LIVE_BYTES = 32 * 1024
"""Live output leaves after this delay or at this size, whichever comes first."""
SEGMENT_BYTES = 32 * 1024
"""Neighbouring writes to one stream become one segment up to this size."""
HEAD_BYTES = 768 * 1024
TAIL_BYTES = 256 * 1024
PART_BYTES = 256 * 1024
SEGMENT_COST = 256
"""What a segment counts beyond its bytes, about what it takes encoded: endless tiny writes stay bounded too."""


@dataclass(slots=True)
class _Segment:
    offset: int
    stream: str
    data: bytearray

    @property
    def cost(self) -> int:
        return len(self.data) + SEGMENT_COST


@dataclass(slots=True)
class _Segments:
    items: deque[_Segment] = field(default_factory=deque)
    cost: int = 0

    def append(self, offset: int, stream: str, data: bytes) -> None:
        last = self.items[-1] if self.items else None
        if last is not None and last.stream == stream and len(last.data) + len(data) <= SEGMENT_BYTES:
            last.data += data
            self.cost += len(data)
        else:
            self.items.append(_Segment(offset, stream, bytearray(data)))
            self.cost += self.items[-1].cost

    def shrink(self, limit: int) -> None:
        """Leave out the oldest segments until the rest costs no more than `limit`."""
        while self.cost > limit:
            self.cost -= self.items.popleft().cost


class Output:
    """The sink of one execution. Counts everything, keeps head and tail, sends live what it can."""

    def __init__(
        self, task_id: str, attempt: int, execution_id: str, live: "LiveOutput", secrets: Iterable[str]
    ) -> None:
        self._ids = {"task_id": task_id, "execution_id": execution_id}
        self._attempt = attempt
        self._live = live
        self._secrets = tuple(secrets)
        self._redactors: dict[str, Redactor] = {}
        self._lock = threading.Lock()
        self._head = _Segments()
        self._tail = _Segments()
        self._waiting = _Segments()
        self._total = 0
        self._closed = False

    def write(self, stream: str, data: bytes) -> None:
        """Append `data` to `stream`. Never blocks, never raises; ignored once the execution has ended."""
        with self._lock:
            if self._closed:
                return
            redactor = self._redactors.get(stream)
            if redactor is None:
                redactor = self._redactors[stream] = Redactor(self._secrets)
            self._append(stream, redactor.feed(data))
            full = self._waiting.cost >= LIVE_BYTES
        self._live.touch(self, now=full)

    def finish(self) -> tuple[Kept, ...]:
        """End the output and return what is kept, in parts that fit a frame; none if there was no output."""
        with self._lock:
            self._closed = True
            for stream, redactor in self._redactors.items():
                self._append(stream, redactor.finish())
        self._live.touch(self, now=True)
        return self._parts() if self._total else ()

    def take_live(self) -> tuple[OutputChunk, ...]:
        """Return what has not gone up live yet."""
        with self._lock:
            waiting, self._waiting = self._waiting, _Segments()
        return tuple(self._chunk(segment) for segment in waiting.items)

    def _append(self, stream: str, data: bytes) -> None:
        for start in range(0, len(data), SEGMENT_BYTES):
            piece = data[start : start + SEGMENT_BYTES]
            self._waiting.append(self._total, stream, piece)
            if self._head.cost + len(piece) + SEGMENT_COST <= HEAD_BYTES and not self._tail.items:
                self._head.append(self._total, stream, piece)
            else:
                self._tail.append(self._total, stream, piece)
                self._tail.shrink(TAIL_BYTES)
            self._total += len(piece)

    def _chunk(self, segment: _Segment) -> OutputChunk:
        return OutputChunk(
            **self._ids,
            attempt=self._attempt,
            offset=segment.offset,
            stream=segment.stream,
            data=bytes(segment.data),
        )

    def _parts(self) -> tuple[Kept, ...]:
        groups = list(_groups([*self._head.items, *self._tail.items]))
        return tuple(
            Kept(
                output=KeptOutput(
                    **self._ids,
                    attempt=self._attempt,
                    part=number,
                    last=number == len(groups) - 1,
                    total_bytes=self._total,
                    chunks=tuple(self._chunk(segment) for segment in group),
                )
            )
            for number, group in enumerate(groups)
        )


def _groups(segments: list[_Segment]) -> Iterator[list[_Segment]]:
    group: list[_Segment] = []
    cost = 0
    for segment in segments:
        if group and cost + segment.cost > PART_BYTES:
            yield group
            group, cost = [], 0
        group.append(segment)
        cost += segment.cost
    if group:
        yield group


class LiveOutput:
    """Sends the live output of all executions, gathered: one timer for everything that arose meanwhile."""

    def __init__(self, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox = outbox
        self._loop = loop
        self._lock = threading.Lock()
        self._touched: dict[Output, None] = {}

    def touch(self, output: Output, *, now: bool) -> None:
        """Remember that `output` has something to send; `now` if it is enough for a frame. From any thread."""
        if now:
            self._outbox.offer_output(output.take_live())
            return
        with self._lock:
            first = not self._touched
            self._touched[output] = None
        if first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, LIVE_DELAY_S, self._flush)

    def _flush(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, {}
        for output in touched:
            self._outbox.offer_output(output.take_live())
