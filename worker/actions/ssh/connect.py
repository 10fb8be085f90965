"""From a connection's record to an authenticated transport, one bounded step after the other."""

import asyncio
import contextlib
import errno
import hashlib
import socket
import threading
from concurrent.futures import Executor
from dataclasses import dataclass, field

import paramiko

from protocols.states import FailureClass
from worker.actions.ssh.credentials import private_key
from worker.actions.ssh.failure import NotStarted, no_thread
from worker.actions.ssh.sockets import open_socket
from worker.actions.ssh.transport import SshTransport

HANDSHAKE_SECONDS = 15.0
AUTHENTICATION_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host, who to be there, and how to know that it is the right one."""

    hostname: str
    port: int
    username: str
    auth_method: str
    """`key` or `password`."""
    secret: str = field(repr=False)
    host_keys: frozenset[str]
    """Pinned fingerprints, `SHA256:…`."""

    @property
    def address(self) -> str:
        """The host as a person writes it."""
        return f"{self.hostname}:{self.port}"

    @property
    def identity(self) -> tuple[object, ...]:
        """What two executions must agree in to share a connection; does not contain the secret."""
        credential = hashlib.sha256(self.secret.encode(errors="replace")).digest()
        return (self.hostname, self.port, self.username, self.auth_method, credential, self.host_keys)


async def connect(target: Target, threads: Executor) -> SshTransport:
    """Return an authenticated transport to `target`; raises NotStarted.

    The host's key is compared before any credential is used.
    """
    sock = await open_socket(target.hostname, target.port, threads)
    try:
        job = threads.submit(_establish, sock, target)
    except RuntimeError as error:
        sock.close()
        raise no_thread(error) from error
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        if job.cancel():
            sock.close()
        else:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        raise


def _establish(sock: socket.socket, target: Target) -> SshTransport:
    transport: SshTransport | None = None
    try:
        key = private_key(target.secret) if target.auth_method == "key" else None
        transport = SshTransport(sock)
        _handshake(transport, target)
        _check_host_key(transport, target)
        _authenticate(transport, target, key)
    except BaseException as error:
        if transport is not None:
            transport.close()
        sock.close()
        if isinstance(error, (paramiko.SSHException, OSError, EOFError, RuntimeError)):
            raise _local_or_lost(error, target) from error
        raise
    return transport


def _handshake(transport: SshTransport, target: Target) -> None:
    if transport.negotiate(HANDSHAKE_SECONDS):
        return
    error = transport.get_exception()
    if not transport.remote_version:
        raise NotStarted(
            FailureClass.PROVIDER,
            "no_ssh_banner",
            f"{target.address} accepted the connection but did not answer as an SSH server; "
            "one that is at its limit of logins at once (MaxStartups) does the same",
        )
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        raise NotStarted(
            FailureClass.REQUEST, "incompatible_peer", f"{target.address} offers no safe algorithm: {error}"
        )
    if error is None:
        raise NotStarted(
            FailureClass.PROVIDER,
            "handshake_timeout",
            f"{target.address} did not finish the key exchange within {HANDSHAKE_SECONDS:g} s",
        )
    raise NotStarted(
        FailureClass.PROVIDER, "handshake_failed", f"{target.address} broke off the key exchange: {_words(error)}"
    )


def _check_host_key(transport: SshTransport, target: Target) -> None:
    seen = transport.get_remote_server_key().fingerprint
    if seen in target.host_keys:
        return
    advice = f'set host_keys of the connection to ["{seen}"] if you have verified it'
    if not target.host_keys:
        raise NotStarted(
            FailureClass.REQUEST,
            "host_key_unknown",
            f"no host key is pinned for {target.address}, which shows {seen}: {advice}",
        )
    raise NotStarted(
        FailureClass.REQUEST,
        "host_key_mismatch",
        f"{target.address} shows the host key {seen}, which is not one of the pinned ones; it was set up anew, or "
        f"somebody else answers in its place: {advice}",
    )


def _authenticate(transport: SshTransport, target: Target, key: paramiko.PKey | None) -> None:
    answered = threading.Event()
    if key is None:
        transport.auth_password(target.username, target.secret, event=answered, fallback=False)
    else:
        transport.auth_publickey(target.username, key, event=answered)
    in_time = answered.wait(AUTHENTICATION_SECONDS)
    if transport.is_authenticated():
        return
    if not in_time:
        raise NotStarted(
            FailureClass.PROVIDER,
            "authentication_timeout",
            f"{target.address} did not answer the login within {AUTHENTICATION_SECONDS:g} s",
        )
    error = transport.get_exception()
    handler = transport.auth_handler
    refused = handler is not None and handler.username is None  # paramiko forgets it at a refusal only
    if not refused and not isinstance(error, paramiko.AuthenticationException):
        raise error or EOFError
    accepted = getattr(error, "allowed_types", None)
    hint = f"; it accepts {', '.join(accepted)}" if accepted else ""
    raise NotStarted(
        FailureClass.CREDENTIAL,
        "authentication_failed",
        f"{target.address} refused the {target.auth_method} of user {target.username!r}{hint}",
    )


def _local_or_lost(error: Exception, target: Target) -> NotStarted:
    if isinstance(error, RuntimeError) or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return NotStarted(
            FailureClass.LOCAL, "local_resources", f"this machine has no room for a connection: {_words(error)}"
        )
    return NotStarted(
        FailureClass.PROVIDER,
        "handshake_failed",
        f"{target.address} closed the connection before the login was done: {_words(error)}",
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
