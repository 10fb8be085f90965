"""Connections that executions share. Belongs to one event loop, whose turns make it safe without locks."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from worker.actions.ssh.connect import Target
from worker.actions.ssh.transport import SshTransport

CHANNELS_PER_CONNECTION = 8
"""OpenSSH allows 10; two are left to end commands."""
PROBE_AFTER_SECONDS = 10.0
PROBE_SECONDS = 3.0
IDLE_SECONDS = 60.0
MAX_AGE_SECONDS = 3600.0

Connect = Callable[[Target], Awaitable[SshTransport]]


@dataclass(eq=False, slots=True)
class Connection:
    """A transport and how much of it is in use."""

    transport: SshTransport
    host: "Host"
    opened_at: float
    last_used: float
    channels: int = 0
    retired: bool = False
    """Takes no more commands and is closed when its last one has ended."""


@dataclass(eq=False, slots=True)
class Host:
    """The connections to one target."""

    connections: list[Connection] = field(default_factory=list)
    opening: "asyncio.Task[None] | None" = None
    channel_limit: int = CHANNELS_PER_CONNECTION
    """Lowered when the host shows that it allows fewer."""


class ConnectionPool:
    """Hands out connections with a free channel and opens one at a time per target.

    Who waits for the same opening shares its success and its failure, so that a silent host costs a hundred
    waiting executions one timeout and not a hundred in a row.
    """

    def __init__(self, connect: Connect, threads: Executor) -> None:
        self._connect = connect
        self._threads = threads
        self._hosts: dict[tuple[object, ...], Host] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def acquire(self, target: Target) -> Connection:
        """Return a live connection with a channel reserved; raises NotStarted. To be released."""
        while True:
            host = self._hosts.setdefault(target.identity, Host())
            connection = self._free(host)
            if connection is None:
                if host.opening is None:
                    host.opening = asyncio.ensure_future(self._open(host, target))
                    host.opening.add_done_callback(_retrieve)
                await asyncio.shield(host.opening)
                continue
            connection.channels += 1
            if await self._alive(connection):
                return connection
            self.release(connection, reusable=False)

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Give a channel back; a connection that is not reusable ends with the last command on it."""
        connection.channels -= 1
        connection.last_used = time.monotonic()
        connection.retired = connection.retired or not reusable
        if connection.channels == 0 and (connection.retired or not connection.transport.is_active()):
            self._drop(connection)
        elif self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def refused(self, connection: Connection) -> None:
        """Note that the host allowed no further channel on this connection."""
        connection.host.channel_limit = max(1, min(connection.host.channel_limit, connection.channels - 1))
        if connection.channels == 1:
            connection.retired = True

    async def close(self) -> None:
        """Close every connection; commands that run on them are lost."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        opening = [host.opening for host in self._hosts.values() if host.opening is not None]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        transports = [connection.transport for host in self._hosts.values() for connection in host.connections]
        self._hosts.clear()
        for transport in transports:
            transport.close()
        for transport in transports:
            await asyncio.get_running_loop().run_in_executor(self._threads, transport.join, PROBE_SECONDS)

    async def _open(self, host: Host, target: Target) -> None:
        try:
            transport = await self._connect(target)
        finally:
            host.opening = None
        now = time.monotonic()
        host.connections.append(Connection(transport, host, opened_at=now, last_used=now))

    def _free(self, host: Host) -> Connection | None:
        for connection in list(host.connections):
            too_old = time.monotonic() - connection.opened_at > MAX_AGE_SECONDS
            connection.retired = connection.retired or too_old or not connection.transport.is_active()
            if connection.retired and connection.channels == 0:
                self._drop(connection)
            elif not connection.retired and connection.channels < host.channel_limit:
                return connection
        return None

    async def _alive(self, connection: Connection) -> bool:
        idle = connection.channels == 1 and time.monotonic() - connection.last_used > PROBE_AFTER_SECONDS
        if not idle:
            return True
        connection.last_used = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, connection.transport.answers, PROBE_SECONDS)
        except asyncio.CancelledError:
            self.release(connection, reusable=False)
            raise

    def _drop(self, connection: Connection) -> None:
        connection.transport.close()
        with contextlib.suppress(ValueError):
            connection.host.connections.remove(connection)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = time.monotonic()
        for identity, host in list(self._hosts.items()):
            for connection in list(host.connections):
                gone = connection.retired or not connection.transport.is_active()
                if connection.channels == 0 and (gone or now - connection.last_used >= IDLE_SECONDS):
                    self._drop(connection)
            if not host.connections and host.opening is None:
                del self._hosts[identity]
        if self._hosts:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS / 4, self._sweep)


def _retrieve(task: "asyncio.Task[None]") -> None:
    # All who waited for it may have been cancelled; its failure is nobody's then.
    if not task.cancelled():
        task.exception()
