"""Name resolution and TCP, each with its own deadline and without a thread that waits for a connection."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from protocols.states import FailureClass
from worker.actions.ssh.failure import NotStarted

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
"""For all addresses of a name together."""
PEER_DEAD_SECONDS = 30
"""A host that acknowledges nothing for so long is gone."""

OF_THIS_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]


async def open_socket(hostname: str, port: int, threads: Executor) -> socket.socket:
    """Return a connected socket; raises NotStarted, which tells a silent host from a refusing one."""
    addresses = await _resolve(hostname, port, threads)
    where = f"{hostname}:{port}"
    error: OSError = OSError("no address")
    for family, kind, protocol, _, peer in addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS / len(addresses)):
                return await _connect(socket.socket(family, kind, protocol), peer)
        except OSError as failure:  # TimeoutError is one
            error = failure
    if isinstance(error, TimeoutError):
        raise NotStarted(
            FailureClass.PROVIDER, "connect_timeout", f"{where} did not answer within {CONNECT_SECONDS:g} s"
        )
    if isinstance(error, ConnectionRefusedError):
        raise NotStarted(
            FailureClass.PROVIDER, "connection_refused", f"{where} refused the connection: no SSH server listens there"
        )
    if error.errno in OF_THIS_MACHINE:
        raise NotStarted(FailureClass.LOCAL, "local_resources", f"this machine cannot open a connection: {error}")
    raise NotStarted(FailureClass.PROVIDER, "host_unreachable", f"{where} cannot be reached: {error}")


async def _resolve(hostname: str, port: int, threads: Executor) -> Addresses:
    try:
        return socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name, for which the resolver may take its time
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            return await loop.run_in_executor(threads, _look_up, hostname, port)
    except TimeoutError:
        why = f"no answer within {RESOLVE_SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        why = str(error)
    raise NotStarted(
        FailureClass.LOCAL, "name_resolution", f"the name {hostname!r} could not be resolved on this machine: {why}"
    )


def _look_up(hostname: str, port: int) -> Addresses:
    return socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)


async def _connect(sock: socket.socket, peer: Any) -> socket.socket:
    try:
        sock.setblocking(False)
        _configure(sock)
        await asyncio.get_running_loop().sock_connect(sock, peer)
    except BaseException:
        sock.close()
        raise
    return sock


def _configure(sock: socket.socket) -> None:
    # Without it each command waits for a delayed acknowledgement: 45 ms, measured.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PEER_DEAD_SECONDS // 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PEER_DEAD_SECONDS // 6)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_DEAD_SECONDS * 1000)
