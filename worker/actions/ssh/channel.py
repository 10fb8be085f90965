"""One command's channel: nothing here waits; who waits, waits for its bell."""

import threading
from collections.abc import Callable

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

READ_BYTES = 64 * 1024
WRITE_BYTES = 32 * 1024


class CommandChannel:
    """Runs one command. The transport's thread reports what it receives, one other thread drives it.

    The bell is set when output, a reply, an end, room for input or a loss has come.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        send: Callable[[paramiko.Message], None],
        forget: Callable[[paramiko.Channel], None],
    ) -> None:
        self._channel = channel
        self._send = send
        self._forget = forget
        self.bell = threading.Event()
        self.exit_status: int | None = None
        self.exit_signal: str | None = None
        """Without SIG: `KILL`."""
        self.refused = False
        """The host answered the request with a refusal."""
        channel.settimeout(0.0)
        channel.in_buffer.set_event(self.bell)
        channel.in_stderr_buffer.set_event(self.bell)

    @property
    def accepted(self) -> bool:
        """Whether the host has answered that it runs the command."""
        return self._channel.event_ready

    @property
    def ended(self) -> bool:
        """Whether the host has told how the command ended."""
        return self.exit_status is not None or self.exit_signal is not None

    @property
    def closed(self) -> bool:
        """Whether the channel or its connection is gone. Output that came before may still be read."""
        return self._channel.closed

    @property
    def at_eof(self) -> bool:
        """Whether no more output will come."""
        return bool(self._channel.eof_received) or self._channel.closed

    def request_exec(self, command_line: str) -> None:
        """Ask the host to run a command line; it answers with `accepted` or `refused`."""
        self._request("exec", command_line, want_reply=True)

    def request_signal(self, name: str) -> None:
        """Ask the host to send a signal to the command. Many hosts ignore that, without an answer."""
        self._request("signal", name, want_reply=False)

    def read_stdout(self) -> bytes:
        """Return what has come, b"" for nothing."""
        return self._channel.recv(READ_BYTES) if self._channel.recv_ready() else b""

    def read_stderr(self) -> bytes:
        """Return what has come, b"" for nothing."""
        return self._channel.recv_stderr(READ_BYTES) if self._channel.recv_stderr_ready() else b""

    def write(self, data: bytes) -> int:
        """Send a first part of `data` as standard input and return its length, 0 while there is no room.

        `data` is at most WRITE_BYTES long.
        """
        if self._channel.closed or not self._channel.send_ready():
            return 0
        try:
            return self._channel.send(data)
        except OSError:  # closed, or out of room again: the next look at it tells which
            return 0

    def end_input(self) -> None:
        """End standard input."""
        self._channel.shutdown_write()

    def close(self) -> None:
        """Give the channel back."""
        self._forget(self._channel)
        self._channel.close()

    def _request(self, kind: str, argument: str, *, want_reply: bool) -> None:
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self._channel.remote_chanid)
        message.add_string(kind)
        message.add_boolean(want_reply)
        message.add_string(argument)
        self._send(message)
