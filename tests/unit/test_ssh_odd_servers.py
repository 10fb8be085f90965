"""`ssh.exec` against servers that OpenSSH cannot play: passwords, refusals, closes without a word."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from protocols.claim import ConnectionAccess
from protocols.outcome import Outcome
from protocols.states import Delivery, Effect, FailureClass, OutcomeKind
from worker.actions.seam import Invocation
from worker.actions.ssh import SshExec

Behaviour = Callable[[paramiko.Channel], None]
PASSWORD = "correct horse"


class Silence:
    """Takes output and forgets it."""

    def write(self, stream: str, data: bytes) -> None: ...


class OddServer(paramiko.ServerInterface):
    """Accepts one password; answers a command with a behaviour, or refuses it."""

    def __init__(self, behaviour: Behaviour | None) -> None:
        self._behaviour = behaviour

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if password == PASSWORD else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if self._behaviour is None:
            return False
        threading.Thread(target=self._behaviour, args=(channel,)).start()
        return True


@contextlib.contextmanager
def serving(behaviour: Behaviour | None) -> Iterator[ConnectionAccess]:
    """Serve connections one after the other, and yield how to reach them."""
    key = paramiko.ECDSAKey.generate()
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                while True:
                    transport = paramiko.Transport(listener.accept()[0])
                    transports.append(transport)
                    transport.add_server_key(key)
                    transport.start_server(server=OddServer(behaviour))

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield ConnectionAccess(
            name="odd",
            hostname="127.0.0.1",
            port=listener.getsockname()[1],
            username="anyone",
            auth_method="password",
            host_keys=(key.fingerprint,),
            secret="login",
        )
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)
    for transport in transports:
        transport.close()
        transport.join(10)


@pytest.fixture
async def action() -> AsyncIterator[SshExec]:
    ssh = SshExec()
    yield ssh
    await ssh.close()


async def run(action: SshExec, connection: ConnectionAccess, password: str = PASSWORD) -> Outcome:
    return await action(
        Invocation(
            task_id="task",
            attempt=1,
            execution_id="execution",
            action="ssh.exec",
            args=(),
            kwargs={"command": "true"},
            delivery=Delivery.AT_MOST_ONCE,
            timeout_s=60.0,
            sink=Silence(),
            connection=connection,
            secrets={"login": password},
        )
    )


def exit_with(status: int) -> Behaviour:
    def behave(channel: paramiko.Channel) -> None:
        channel.send_exit_status(status)
        channel.close()

    return behave


def close_without_status(channel: paramiko.Channel) -> None:
    channel.close()


def drop_the_connection(channel: paramiko.Channel) -> None:
    channel.get_transport().close()


async def test_a_right_password_logs_in(action: SshExec) -> None:
    with serving(exit_with(0)) as connection:
        assert (await run(action, connection)).kind is OutcomeKind.SUCCEEDED


async def test_a_wrong_password_is_a_credential_failure(action: SshExec) -> None:
    with serving(exit_with(0)) as connection:
        outcome = await run(action, connection, password="wrong horse")
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.CREDENTIAL, "authentication_failed")
    assert outcome.effect is Effect.NONE
    assert "horse" not in outcome.failure.message


@pytest.mark.parametrize("behaviour", [close_without_status, drop_the_connection])
async def test_an_end_without_a_status_is_unknown_and_never_a_status(action: SshExec, behaviour: Behaviour) -> None:
    with serving(behaviour) as connection:
        outcome = await run(action, connection)
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.PROVIDER, "connection_lost")
    assert outcome.effect is Effect.MAYBE
    assert outcome.result is not None
    assert outcome.result["outcome"] == "lost_unknown"
    assert "exit_status" not in outcome.result


async def test_a_refused_request_has_no_effect(action: SshExec) -> None:
    with serving(None) as connection:
        outcome = await run(action, connection)
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (FailureClass.PROVIDER, "exec_refused")
    assert outcome.effect is Effect.NONE
