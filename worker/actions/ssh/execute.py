"""Carries one command through its channel, on a thread of its own, from the request to its end."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import paramiko

from protocols.states import FailureClass
from worker.actions.seam import OutputSink
from worker.actions.ssh import remote
from worker.actions.ssh.channel import WRITE_BYTES, CommandChannel
from worker.actions.ssh.command import Command
from worker.actions.ssh.failure import NotStarted
from worker.actions.ssh.transport import SshTransport

OPEN_SECONDS = 5.0
REPLY_SECONDS = 15.0
EOF_SECONDS = 1.0
"""How long output may still come after the exit status: something in the background may hold the streams."""
KILL_GRACE_SECONDS = remote.KILL_AFTER_SECONDS + 0.8
LAST_GRACE_SECONDS = 1.2
ASIDE_SECONDS = 1.0
TAIL_BYTES = 8 * 1024


@dataclass(slots=True)
class Stream:
    """What came on one stream: all of it to the sink, its end and its length kept."""

    name: str
    sink: OutputSink = field(repr=False)
    length: int = 0
    tail: bytes = b""

    def take(self, data: bytes) -> None:
        """Pass output on."""
        if data:
            self.sink.write(self.name, data)
            self.length += len(data)
            self.tail = (self.tail + data)[-TAIL_BYTES:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command that may have started ended, as far as the host has told."""

    exit_status: int | None
    exit_signal: str | None
    stdout: Stream
    stderr: Stream
    duration_s: float
    stopped: bool
    """Whether it was ended on request; otherwise it ended by itself."""

    @property
    def known(self) -> bool:
        """Whether the host has told; otherwise the command may still run."""
        return self.exit_status is not None or self.exit_signal is not None


class Execution:
    """One command on one connection."""

    def __init__(self, transport: SshTransport, command: Command, sink: OutputSink) -> None:
        self._transport = transport
        self._watched = command.stdin is None
        self._marker = secrets.token_hex(8)
        self._input = remote.script_input(command, self._marker) + (command.stdin or "").encode()
        self._filter = remote.MarkerFilter(self._marker)
        self._stdout = Stream("stdout", sink)
        self._stderr = Stream("stderr", sink)
        self._channel: CommandChannel | None = None
        self._stopping = threading.Event()
        self._stopped = False

    def stop(self) -> None:
        """Make `run` end the command and return within a few seconds. From any thread."""
        self._stopping.set()
        if self._channel is not None:
            self._channel.bell.set()

    def run(self) -> Ending:
        """Run the command to its end.

        Raises NotStarted if nothing has been asked of the host, or if it refused.
        """
        begun = time.monotonic()
        with contextlib.closing(self._transport.open_command(OPEN_SECONDS)) as channel:
            self._channel = channel
            if self._stopping.is_set():
                raise NotStarted(FailureClass.LOCAL, "cancelled", "cancelled before the command was sent")
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):  # lost: the missing end tells it
                self._converse(channel)
            while channel.at_eof and self._drain(channel):
                pass
            self._stderr.take(self._filter.flush())
        if channel.refused:
            raise NotStarted(FailureClass.PROVIDER, "exec_refused", "the host refused to run a command")
        return Ending(
            exit_status=channel.exit_status,
            exit_signal=channel.exit_signal,
            stdout=self._stdout,
            stderr=self._stderr,
            duration_s=time.monotonic() - begun,
            stopped=self._stopped,
        )

    def _converse(self, channel: CommandChannel) -> None:
        def over() -> bool:
            return channel.ended or channel.closed

        channel.request_exec(remote.exec_request(self._marker, watched=self._watched))
        answered = self._pump(
            channel, lambda: channel.accepted or over() or self._stopping.is_set(), within=REPLY_SECONDS
        )
        if answered:
            self._pump(channel, lambda: over() or self._stopping.is_set())
        if self._stopping.is_set() and not over():
            self._end(channel, over)
        if channel.ended:
            self._pump(channel, lambda: channel.at_eof, within=EOF_SECONDS)

    def _pump(self, channel: CommandChannel, until: Callable[[], bool], within: float | None = None) -> bool:
        """Move input and output until `until` holds or `within` seconds have passed; return whether it holds."""
        deadline = None if within is None else time.monotonic() + within
        while True:
            channel.bell.clear()  # before looking, so that nothing that comes later is missed
            busy = self._drain(channel)
            self._feed(channel)
            if until():
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if not busy:
                channel.bell.wait(left)

    def _drain(self, channel: CommandChannel) -> bool:
        stdout, stderr = channel.read_stdout(), channel.read_stderr()
        self._stdout.take(stdout)
        self._stderr.take(self._filter.take(stderr) if stderr else b"")
        return bool(stdout or stderr)

    def _feed(self, channel: CommandChannel) -> None:
        if not self._input:
            return
        unsent = memoryview(self._input)
        while unsent and (sent := channel.write(bytes(unsent[:WRITE_BYTES]))):
            unsent = unsent[sent:]
        self._input = bytes(unsent)
        if not self._input and not self._watched:
            channel.end_input()

    def _end(self, channel: CommandChannel, over: Callable[[], bool]) -> None:
        """End the command and what it has started: ask first, then kill."""
        self._stopped = True
        deadline = time.monotonic() + KILL_GRACE_SECONDS
        if self._watched:
            channel.end_input()
        else:
            self._signal_group("TERM")
        self._pump(channel, over, within=deadline - time.monotonic())
        if channel.ended:
            # Its children may outlive it by the watcher's grace; those that still hold the streams are awaited.
            self._pump(channel, lambda: channel.at_eof, within=deadline - time.monotonic())
            if self._watched or channel.at_eof:
                return
        channel.request_signal("KILL")
        self._signal_group("KILL")
        self._pump(channel, over, within=LAST_GRACE_SECONDS)

    def _signal_group(self, name: str) -> None:
        """Send a signal to the command's process group through a channel beside it, for a bounded time."""
        group = self._filter.process_group
        if group is None:
            return
        try:
            with contextlib.closing(self._transport.open_command(ASIDE_SECONDS)) as aside:
                aside.request_exec(remote.end_group(name, group))
                deadline = time.monotonic() + ASIDE_SECONDS
                while not (aside.ended or aside.closed) and (left := deadline - time.monotonic()) > 0:
                    aside.bell.wait(left)
                    aside.bell.clear()
        except NotStarted:
            return
