"""Output for readers: live chunks as they arrive, gaps filled from what the worker keeps and stores at the end.

Chunks are best effort on their way up; the stored output is complete. A reader who comes to a gap in the live
chunks waits for the stored output, so that everyone reads the same bytes in the same order.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.events import Doorbell, wait_until
from broker.store.store import Store
from broker.store.tables import executions, outputs, tasks
from protocols.codec import unpack
from protocols.outcome import OutputChunk
from protocols.states import FINISHED_STATES, TaskState

MAX_BUFFER_BYTES = 1024 * 1024
MAX_TOTAL_BYTES = 256 * 1024 * 1024
"""Of all buffers; the oldest goes first, since it may be that of an execution which was lost."""
_PIECE_BYTES = 200
"""What a piece takes besides its data."""
_MAX_BLOB = 4 * 1024 * 1024
_GLANCE_S = 1.0


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """Some bytes of an execution's output, at their offset over all of its streams."""

    attempt: int
    execution_id: str
    stream: str
    offset: int
    data: bytes

    def after(self, offset: int) -> "OutputPiece | None":
        """Return what of this piece lies at or beyond `offset`, if anything."""
        if offset <= self.offset:
            return self
        if offset >= self.offset + len(self.data):
            return None
        return OutputPiece(self.attempt, self.execution_id, self.stream, offset, self.data[offset - self.offset :])


@dataclass(frozen=True, slots=True)
class OutputEnd:
    """The task has finished, and all of its output was given."""

    state: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """One execution of a task, with its stored output if it is complete."""

    execution_id: str
    attempt: int
    pieces: Sequence[OutputPiece] | None


@dataclass(frozen=True, slots=True)
class _View:
    state: str
    executions: Sequence[_Stored]


class _Buffer:
    """The newest live chunks of one running execution."""

    def __init__(self) -> None:
        self._pieces: list[OutputPiece] = []
        self._offsets: list[int] = []
        self.size = 0

    def add(self, piece: OutputPiece) -> None:
        self._pieces.append(piece)
        self._offsets.append(piece.offset)
        self.size += len(piece.data) + _PIECE_BYTES
        while self.size > MAX_BUFFER_BYTES:
            self.size -= len(self._pieces.pop(0).data) + _PIECE_BYTES
            del self._offsets[0]

    def contiguous(self, offset: int) -> Iterator[OutputPiece]:
        """Yield pieces from exactly `offset` on, up to the first gap."""
        start = max(0, bisect_right(self._offsets, offset) - 1)
        for piece in self._pieces[start:]:
            rest = piece.after(offset)
            if rest is None:
                continue
            if rest.offset != offset:
                return
            offset += len(rest.data)
            yield rest


class LiveOutput:
    """Holds live output and serves readers. Belongs to the event loop."""

    def __init__(self, store: Store, stopping: asyncio.Event, doorbell: Doorbell) -> None:
        self._store = store
        self._stopping = stopping
        self._doorbell = doorbell
        self._buffers: dict[str, _Buffer] = {}
        self._size = 0
        self._readers: dict[str, set[asyncio.Event]] = {}

    def arrive(self, chunks: Sequence[OutputChunk]) -> None:
        """Take live chunks from a worker's session."""
        for chunk in chunks:
            piece = OutputPiece(chunk.attempt, chunk.execution_id, chunk.stream, chunk.offset, chunk.data)
            self._add(chunk.execution_id, piece)
            for reader in self._readers.get(chunk.task_id, ()):
                reader.set()

    def forget(self, execution_id: str) -> None:
        """The execution's output is stored now, or will never come."""
        buffer = self._buffers.pop(execution_id, None)
        if buffer is not None:
            self._size -= buffer.size

    def _add(self, execution_id: str, piece: OutputPiece) -> None:
        buffer = self._buffers.setdefault(execution_id, _Buffer())
        before = buffer.size
        buffer.add(piece)
        self._size += buffer.size - before
        while self._size > MAX_TOTAL_BYTES:
            self.forget(next(iter(self._buffers)))

    async def kept(self, task_id: str) -> list[OutputPiece]:
        """Return the stored output of the task's last execution that has one."""
        view = await asyncio.wrap_future(self._store.read(_view(task_id, 0)))
        stored = [execution.pieces for execution in view.executions if execution.pieces]
        return list(stored[-1]) if stored else []

    async def follow(self, task_id: str, attempt: int, offset: int) -> AsyncIterator[OutputPiece | OutputEnd]:
        """Yield output from this place on, as it arises, through all attempts, then the end."""
        with self._doorbell.listen() as changed, self._reading(task_id) as arrived:
            while not self._stopping.is_set():
                changed.clear()
                arrived.clear()
                view = await asyncio.wrap_future(self._store.read(_view(task_id, attempt)))
                for piece in self._available(view, attempt, offset):
                    attempt, offset = piece.attempt, piece.offset + len(piece.data)
                    yield piece
                if TaskState(view.state) in FINISHED_STATES:
                    yield OutputEnd(view.state)
                    return
                await self._wait(changed, arrived)

    def _available(self, view: _View, attempt: int, offset: int) -> Iterator[OutputPiece]:
        for execution in view.executions:
            start = offset if execution.attempt == attempt else 0
            if execution.pieces is not None:
                yield from (rest for piece in execution.pieces if (rest := piece.after(start)) is not None)
            elif execution.execution_id in self._buffers:
                yield from self._buffers[execution.execution_id].contiguous(start)

    async def _wait(self, changed: asyncio.Event, arrived: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, arrived)]
        done = asyncio.Event()
        for wait in waits:
            wait.add_done_callback(lambda _: done.set())
        try:
            await wait_until(done, _GLANCE_S)
        finally:
            for wait in waits:
                wait.cancel()

    @contextmanager
    def _reading(self, task_id: str) -> Iterator[asyncio.Event]:
        arrived = asyncio.Event()
        readers = self._readers.setdefault(task_id, set())
        readers.add(arrived)
        try:
            yield arrived
        finally:
            readers.discard(arrived)
            if not readers:
                self._readers.pop(task_id, None)


def _view(task_id: str, attempt: int) -> Any:
    def query(connection: Connection) -> _View:
        state = connection.execute(sa.select(tasks.c.state).where(tasks.c.id == task_id)).scalar_one()
        rows = connection.execute(
            sa.select(executions.c.id, executions.c.attempt)
            .where(executions.c.task_id == task_id, executions.c.attempt >= attempt)
            .order_by(executions.c.attempt, executions.c.claimed_at)
        ).all()
        return _View(state, [_Stored(row.id, row.attempt, _pieces(connection, row.id)) for row in rows])

    return query


def _pieces(connection: Connection, execution_id: str) -> list[OutputPiece] | None:
    parts = connection.execute(
        sa.select(outputs).where(outputs.c.execution_id == execution_id).order_by(outputs.c.part)
    ).all()
    if not parts or not parts[-1].last:
        return None
    return [
        OutputPiece(part.attempt, execution_id, stream, offset, data)
        for part in parts
        for offset, stream, data in unpack(part.chunks_blob, _MAX_BLOB)
    ]
