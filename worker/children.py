"""Child processes that carry out work which must be endable, whatever it does."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from protocols.codec import unpack
from protocols.errors import InvalidFrame
from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass
from worker.actions.seam import OutputSink, Stopped
from worker.child_channel import HEADER, MAX_MESSAGE_BYTES, OUTCOME, frame
from worker.service import Service

START_S = 30.0
KILL_S = 5.0
MOST_JOBS = 10_000
MOST_GROWTH_BYTES = 256 * 1024 * 1024
"""A child that has grown by so much since its start is not used again."""
PIPE_BYTES = 64 * 1024
PIPE_READS = 16


class ChildDied(Exception):
    """The process ended before it answered."""


@dataclass(frozen=True, slots=True)
class Job:
    """One message for a child, and where its output goes."""

    message: dict[str, Any] = field(repr=False)
    sink: OutputSink
    stop_s: float
    """How long the child may take to end after SIGTERM."""


class Child:
    """One child process and its channel; does one job at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self._pipes: dict[int, str] = {}
        self._sink: OutputSink | None = None
        self._jobs = 0
        self._first_size = 0

    async def start(self) -> None:
        """Start the process and wait until it is ready; raises ChildDied or OSError."""
        try:
            channel = await self._spawn()
            self._reader, self._writer = await asyncio.open_connection(sock=channel)
            async with asyncio.timeout(START_S):
                await self._receive()
            self._first_size = self._size()
        except BaseException:
            await self.kill()
            raise

    async def perform(self, job: Job) -> Outcome:
        """Return the outcome of a job; raises ChildDied, or Stopped if that is what the child says."""
        self._sink = job.sink
        self._jobs += 1
        try:
            await self._send(job.message)
            while True:
                answer = await self._receive()
                if answer["k"] == "output":
                    job.sink.write(str(answer["stream"]), bytes(answer["data"]))
                    continue
                outcome = OUTCOME.validate_python(answer["outcome"])
                if answer["k"] == "stopped":
                    raise Stopped(outcome)
                return outcome
        except (KeyError, TypeError, ValueError, InvalidFrame) as error:
            raise ChildDied("the process answered nonsense") from error
        finally:
            for pipe in self._pipes:
                self._read_pipe(pipe)
            self._sink = None

    def terminate(self) -> None:
        """Ask the process and everything that it started to end."""
        self._signal(signal.SIGTERM)

    async def kill(self) -> bool:
        """End the process and its group for good; return whether it is gone."""
        gone = True
        if self._process is not None:
            self._signal(signal.SIGKILL)
            try:
                async with asyncio.timeout(KILL_S):
                    await self._process.wait()
            except TimeoutError:
                gone = False
        if self._writer is not None:
            self._writer.close()
        for pipe in list(self._pipes):
            self._read_pipe(pipe)
            self._close_pipe(pipe)
        return gone

    def kill_now(self) -> None:
        """Send SIGKILL without waiting: the worker itself is about to end."""
        self._signal(signal.SIGKILL)

    @property
    def is_reusable(self) -> bool:
        """Whether another job may be given to it."""
        alive = self._process is not None and self._process.returncode is None
        return alive and self._jobs < MOST_JOBS and self._size() - self._first_size < MOST_GROWTH_BYTES

    async def how_it_ended(self) -> str:
        """Return exit status or signal of the process that has just closed its channel."""
        if self._process is None:
            return "it was not started"
        try:
            async with asyncio.timeout(1.0):
                status = await self._process.wait()
        except TimeoutError:
            return "it closed its channel"
        return f"signal {_signal_name(-status)}" if status < 0 else f"exit status {status}"

    async def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        writable = {stream: self._open_pipe(stream) for stream in ("stdout", "stderr")}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "worker.child",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writable["stdout"],
                stderr=writable["stderr"],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=_environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for descriptor in writable.values():
                os.close(descriptor)
        return ours

    def _open_pipe(self, stream: str) -> int:
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        self._pipes[readable] = stream
        asyncio.get_running_loop().add_reader(readable, self._read_pipe, readable)
        return writable

    def _read_pipe(self, pipe: int) -> None:
        """Take what is in the pipe now, at most what it can hold, so that one loud child starves nobody."""
        for _ in range(PIPE_READS):
            try:
                data = os.read(pipe, PIPE_BYTES)
            except BlockingIOError:
                return
            if not data:
                # A reader that stays on a closed pipe would wake the loop for ever.
                asyncio.get_running_loop().remove_reader(pipe)
                return
            if self._sink is not None:
                self._sink.write(self._pipes[pipe], data)

    def _close_pipe(self, pipe: int) -> None:
        asyncio.get_running_loop().remove_reader(pipe)
        del self._pipes[pipe]
        os.close(pipe)

    async def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None:
            raise ChildDied("not started")
        try:
            self._writer.write(frame(message))
            await self._writer.drain()
        except OSError as error:
            raise ChildDied("its channel is closed") from error

    async def _receive(self) -> dict[str, Any]:
        try:
            size = HEADER.unpack(await self._reader.readexactly(HEADER.size))[0]
            if size > MAX_MESSAGE_BYTES:
                raise ChildDied("the process answered nonsense")
            message: dict[str, Any] = unpack(await self._reader.readexactly(size), MAX_MESSAGE_BYTES)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChildDied("its channel is closed") from error
        return message

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _size(self) -> int:
        if self._process is None:
            return 0
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0


class Children(Service):
    """Child processes, started when they are needed and used again. There are as many as jobs at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._idle: list[Child] = []
        self._all: set[Child] = set()

    async def run(self) -> None:
        """Nothing to do between jobs."""

    async def close(self) -> None:
        """End every child."""
        children, self._all = self._all, set()
        self._idle.clear()
        await asyncio.gather(*(child.kill() for child in children))

    def kill_now(self) -> None:
        """End every child at once, without waiting."""
        for child in self._all:
            child.kill_now()

    async def perform(self, job: Job, *, fresh: bool = False) -> Outcome:
        """Return the outcome of a job; `fresh` gives it a process of its own. Raises Stopped when cancelled."""
        try:
            child = await self._take(fresh)
        except asyncio.CancelledError:
            raise Stopped(Outcome.cancelled("not begun", effect=Effect.NONE)) from None
        except (OSError, ChildDied) as error:
            message = f"no process for it could be started: {str(error) or 'not ready in time'}"
            return Outcome.failed(FailureClass.LOCAL, "process_not_started", message, effect=Effect.NONE)
        work = asyncio.create_task(child.perform(job))
        try:
            await asyncio.wait({work})
            outcome = await _told(work) or await _lost(child)
            self._put_back(child, fresh)
        except asyncio.CancelledError:
            return await _end(child, work, job.stop_s)
        else:
            return outcome
        finally:
            if child not in self._idle:
                self._all.discard(child)
                await child.kill()

    async def _take(self, fresh: bool) -> Child:
        while self._idle and not fresh:
            child = self._idle.pop()
            if child.is_reusable:
                return child
            self._all.discard(child)
            await child.kill()
        child = Child()
        self._all.add(child)
        try:
            await child.start()
        except BaseException:
            self._all.discard(child)
            raise
        return child

    def _put_back(self, child: Child, fresh: bool) -> None:
        if self.running and not fresh and child.is_reusable:
            self._idle.append(child)


async def _told(work: "asyncio.Task[Outcome]") -> Outcome | None:
    """Return what the process answered, None if it died before that."""
    try:
        return await work
    except ChildDied:
        return None


async def _lost(child: Child) -> Outcome:
    message = f"the process that ran it died: {await child.how_it_ended()}"
    return Outcome.failed(FailureClass.LOST, "process_died", message, effect=Effect.MAYBE)


async def _end(child: Child, work: "asyncio.Task[Outcome]", stop_s: float) -> Outcome:
    """End the job's process; raise Stopped unless it turns out to have finished before."""
    child.terminate()
    await asyncio.wait({work}, timeout=stop_s)
    gone = await child.kill()
    if not work.done():
        await asyncio.wait({work}, timeout=1.0)
    outcome = await _told(work) if work.done() else None
    if outcome is not None:
        return outcome
    if gone:
        raise Stopped(Outcome.cancelled("the process was ended", effect=Effect.MAYBE))
    told = {"outcome": "kill_unconfirmed"}
    raise Stopped(Outcome.cancelled("the process could not be ended", effect=Effect.MAYBE, result=told))


def _environment() -> dict[str, str]:
    """Return a child's environment: ours, without what belongs to the daemon alone."""
    private = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in os.environ.items() if name not in private}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
