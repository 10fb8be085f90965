"""paramiko's Transport with what it lacks: safe algorithms, bounded waits, and how a command really ended."""

import logging
import socket
import threading
import time
from collections.abc import Callable

import paramiko
from paramiko.common import (
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    cMSG_GLOBAL_REQUEST,
)

from worker.actions.ssh.channel import CommandChannel
from worker.actions.ssh.failure import ChannelRefused, ConnectionUnusable

WINDOW_BYTES = 256 * 1024
"""Most bytes that a host may send ahead per command: bounds memory with hundreds of commands in flight."""

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)


class SshTransport(paramiko.Transport):
    """A connection to a host; its own thread reads from it. Commands share it, one channel each.

    `close()` may be called from any thread and wakes every waiter.
    """

    # paramiko's own, which its stubs leave out.
    remote_version: str
    _send_user_message: Callable[[paramiko.Message], None]

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, default_window_size=WINDOW_BYTES)
        security = self.get_security_options()
        security.ciphers = CIPHERS
        security.digests = MACS
        self._commands: dict[int, CommandChannel] = {}
        handlers = vars(paramiko.Transport)["_channel_handler_table"]
        self._channel_handler_table = {
            **handlers,
            MSG_CHANNEL_REQUEST: self._on_request,
            MSG_CHANNEL_FAILURE: self._on_refusal,
            MSG_CHANNEL_SUCCESS: self._ringing(handlers[MSG_CHANNEL_SUCCESS]),
            MSG_CHANNEL_WINDOW_ADJUST: self._ringing(handlers[MSG_CHANNEL_WINDOW_ADJUST]),
        }
        self._handle_request = handlers[MSG_CHANNEL_REQUEST]
        self._handle_refusal = handlers[MSG_CHANNEL_FAILURE]

    def negotiate(self, timeout: float) -> bool:
        """Exchange keys; return whether that was done in `timeout` seconds.

        `get_exception()` tells why not, if there was more than silence.
        """
        done = threading.Event()
        self.start_client(event=done)
        return done.wait(timeout) and self.is_active()

    def answers(self, timeout: float) -> bool:
        """Return whether the host answers within `timeout` seconds. One caller at a time."""
        self.completion_event = answered = threading.Event()
        ping = paramiko.Message()
        ping.add_byte(cMSG_GLOBAL_REQUEST)
        ping.add_string("keepalive@openssh.com")
        ping.add_boolean(True)
        try:
            self._send_user_message(ping)
        except (paramiko.SSHException, OSError, EOFError):
            return False
        return answered.wait(timeout) and self.is_active()

    def open_command(self, timeout: float) -> CommandChannel:
        """Open a channel for one command.

        Raises ChannelRefused while the connection lives on, ConnectionUnusable if it is dead or silent for
        `timeout` seconds.
        """
        begun = time.monotonic()
        try:
            channel = self.open_session(timeout=timeout)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not self.is_active():
                raise ConnectionUnusable("the connection was lost before the command was sent") from error
            if time.monotonic() - begun >= timeout:
                raise ConnectionUnusable(f"the host did not open a session within {timeout:g} s") from error
            raise ChannelRefused(f"the host refused to open a session ({error})") from error
        command = CommandChannel(channel, self._send_user_message, self._forget)
        self._commands[channel.chanid] = command
        return command

    def _forget(self, channel: paramiko.Channel) -> None:
        self._commands.pop(channel.chanid, None)

    def _on_request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        command = self._commands.get(channel.chanid)
        start = message.packet.tell()
        kind = message.get_text()
        message.get_boolean()
        if command is not None and kind == "exit-signal":
            command.exit_signal = message.get_text()
        elif command is not None and kind == "exit-status":
            command.exit_status = message.get_int()
        message.packet.seek(start)
        self._handle_request(channel, message)
        if command is not None:
            command.bell.set()

    def _on_refusal(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        command = self._commands.get(channel.chanid)
        if command is not None:
            command.refused = True
        self._handle_refusal(channel, message)

    def _ringing(
        self, handle: Callable[[paramiko.Channel, paramiko.Message], None]
    ) -> Callable[[paramiko.Channel, paramiko.Message], None]:
        def handle_and_ring(channel: paramiko.Channel, message: paramiko.Message) -> None:
            handle(channel, message)
            command = self._commands.get(channel.chanid)
            if command is not None:
                command.bell.set()

        return handle_and_ring

    def _log(self, _level: int, message: str | list[str], *args: object) -> None:
        # paramiko logs tracebacks as errors for what is told here as a result: a host that hangs up.
        for line in message if isinstance(message, list) else [message]:
            self.logger.log(logging.DEBUG, line, *args)
