"""The action itself: from an invocation to a connection, a thread, and an outcome."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from protocols.errors import InvalidInput
from protocols.outcome import Outcome
from protocols.states import FailureClass
from worker.actions.seam import Invocation, Stopped
from worker.actions.ssh.command import Command, parse_command
from worker.actions.ssh.connect import Target, connect
from worker.actions.ssh.execute import Ending, Execution
from worker.actions.ssh.failure import ChannelRefused, ConnectionUnusable, NotStarted, no_thread
from worker.actions.ssh.outcome import not_started, outcome_of, outcome_of_stopped
from worker.actions.ssh.pool import Connection, ConnectionPool
from worker.actions.ssh.transport import SshTransport

MAX_COMMANDS = 512
MAX_HANDSHAKES = 8
"""At once; more of our own would look to a host like an attack and to us like a sick host."""
CONNECTIONS_TRIED = 3
STOP_SECONDS = 8.0
"""A bit more than ending a command on a silent host takes at most."""

AUTH_METHODS = ("key", "password")


class SshExec:
    """Runs commands on hosts over SSH, sharing connections; one thread per running command.

    Belongs to one event loop, and is closed with `close()`.
    """

    def __init__(self, *, max_commands: int = MAX_COMMANDS) -> None:
        self._commands = ThreadPoolExecutor(max_commands, thread_name_prefix="ssh-command")
        self._handshakes = ThreadPoolExecutor(MAX_HANDSHAKES, thread_name_prefix="ssh-connect")
        self._pool = ConnectionPool(self._connect, self._handshakes)

    async def __call__(self, invocation: Invocation) -> Outcome:
        """Run the invocation's command; see the seam for what is returned and raised."""
        try:
            command = parse_command(invocation.args, invocation.kwargs)
            target = _target(invocation)
            ending = await self._run(target, command, invocation)
        except NotStarted as failure:
            return failure.outcome()
        return outcome_of(ending, target.address)

    async def close(self) -> None:
        """Close the connections and end the threads. Commands that still run are lost: end them first."""
        await self._pool.close()
        self._commands.shutdown(wait=True)
        self._handshakes.shutdown(wait=False, cancel_futures=True)  # the resolver cannot be interrupted

    async def _connect(self, target: Target) -> SshTransport:
        return await connect(target, self._handshakes)

    async def _run(self, target: Target, command: Command, invocation: Invocation) -> Ending:
        for _ in range(CONNECTIONS_TRIED - 1):
            try:
                return await self._run_once(target, command, invocation)
            except (ChannelRefused, ConnectionUnusable):
                continue
        return await self._run_once(target, command, invocation)

    async def _run_once(self, target: Target, command: Command, invocation: Invocation) -> Ending:
        try:
            connection = await self._pool.acquire(target)
        except asyncio.CancelledError:
            raise Stopped(not_started()) from None
        execution = Execution(connection.transport, command, invocation.sink)
        try:
            job = self._commands.submit(execution.run)
        except RuntimeError as error:
            self._pool.release(connection, reusable=True)
            raise no_thread(error) from error
        done = asyncio.wrap_future(job)
        done.add_done_callback(lambda ended: self._give_back(connection, ended))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            raise Stopped(await self._stop(target, connection, execution, job, done)) from None

    async def _stop(
        self,
        target: Target,
        connection: Connection,
        execution: Execution,
        job: "Future[Ending]",
        done: "asyncio.Future[Ending]",
    ) -> Outcome:
        if job.cancel():
            return not_started()
        execution.stop()
        await asyncio.wait({done}, timeout=STOP_SECONDS)
        if not done.done():
            connection.transport.close()  # wakes a thread that is stuck in sending
            await asyncio.wait({done}, timeout=1.0)
        if not done.done():
            return outcome_of_stopped(None, target.address)
        if isinstance(done.exception(), NotStarted):
            return not_started()
        return outcome_of_stopped(done.result(), target.address)

    def _give_back(self, connection: Connection, done: "asyncio.Future[Ending]") -> None:
        failure = None if done.cancelled() else done.exception()
        if isinstance(failure, ChannelRefused):
            self._pool.refused(connection)
        lost = not done.cancelled() and failure is None and not done.result().known
        broken = failure is not None and not isinstance(failure, ChannelRefused)
        self._pool.release(connection, reusable=not lost and not broken)


def _target(invocation: Invocation) -> Target:
    connection = invocation.connection
    if connection is None:
        raise NotStarted(FailureClass.REQUEST, "no_connection", "ssh.exec needs a connection: name one in the task")
    if connection.auth_method not in AUTH_METHODS:
        raise NotStarted(
            FailureClass.REQUEST,
            "unsupported_auth_method",
            f"connection {connection.name!r} has auth_method {connection.auth_method!r}; key and password are known",
        )
    try:
        secret = invocation.secret(connection.secret)
    except InvalidInput as error:
        raise NotStarted(FailureClass.CREDENTIAL, "missing_secret", error.message) from None
    if not secret:
        raise NotStarted(
            FailureClass.CREDENTIAL, "missing_secret", f"connection {connection.name!r} names no secret to log in with"
        )
    return Target(
        hostname=connection.hostname,
        port=connection.port,
        username=connection.username,
        auth_method=connection.auth_method,
        secret=secret,
        host_keys=frozenset(connection.host_keys),
    )
