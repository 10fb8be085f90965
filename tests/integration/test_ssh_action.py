"""`ssh.exec` against a real OpenSSH server: what it promises about commands, hosts, cancels and losses."""

import asyncio
import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.claim import ConnectionAccess
from protocols.outcome import Outcome
from protocols.states import Delivery, Effect, FailureClass, OutcomeKind
from tests.support.ports import free_port
from tests.support.sshd import PrivateSshd, private_key_text
from worker.actions.seam import Invocation, Stopped
from worker.actions.ssh import SshExec, execute, pool, sockets
from worker.actions.ssh import action as ssh_action

PATIENCE_SECONDS = 30.0
_tags = itertools.count()


class Recorder:
    """Keeps an action's output."""

    def __init__(self) -> None:
        self.streams = {"stdout": bytearray(), "stderr": bytearray()}

    def write(self, stream: str, data: bytes) -> None:
        self.streams[stream] += data

    @property
    def stdout(self) -> bytes:
        return bytes(self.streams["stdout"])

    @property
    def stderr(self) -> bytes:
        return bytes(self.streams["stderr"])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    with PrivateSshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
async def action() -> AsyncIterator[SshExec]:
    ssh = SshExec()
    yield ssh
    await ssh.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def tag() -> Iterator[str]:
    """A duration for `sleep` by which one test's processes are told from all others."""
    value = f"7{os.getpid()}.{time.monotonic_ns() % 10**6:06}{next(_tags)}"
    yield value
    for process in tagged(value):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def tagged(tag: str) -> list[psutil.Process]:
    """Return the living processes with `tag` on their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(tag in word for word in process.info["cmdline"] or ())
    ]


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds`, or fail."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what}"
        await asyncio.sleep(0.02)


def invocation(
    server: PrivateSshd,
    *,
    recorder: Recorder | None = None,
    connection: dict[str, Any] | None = None,
    secret: str | None = None,
    **kwargs: Any,
) -> Invocation:
    access: dict[str, Any] = {
        "name": "host",
        "hostname": server.hostname,
        "port": server.port,
        "username": server.username,
        "auth_method": "key",
        "host_keys": server.host_keys,
        "secret": "login",
    }
    return Invocation(
        task_id="task",
        attempt=1,
        execution_id="execution",
        action="ssh.exec",
        args=(),
        kwargs=kwargs,
        delivery=Delivery.AT_MOST_ONCE,
        timeout_s=60.0,
        sink=recorder or Recorder(),
        connection=ConnectionAccess(**{**access, **(connection or {})}),
        secrets={"login": server.private_key if secret is None else secret},
    )


def result_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is not None
    return outcome.result


def assert_failed(outcome: Outcome, failure_class: FailureClass, code: str, effect: Effect) -> str:
    """Check a failure and return its message."""
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.failure is not None
    assert (outcome.failure.failure_class, outcome.failure.code) == (failure_class, code), outcome.failure.message
    assert outcome.effect is effect
    return outcome.failure.message


@contextlib.contextmanager
def frozen(server: PrivateSshd) -> Iterator[None]:
    """Hold the server's sessions still."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


async def stopped(running: "asyncio.Task[Outcome]") -> Outcome:
    """Cancel a running invocation and return the outcome that it ends with."""
    running.cancel()
    with pytest.raises(Stopped) as caught:
        await asyncio.wait_for(asyncio.shield(running), PATIENCE_SECONDS)
    return caught.value.outcome


# What a command does


async def test_success_tells_status_sizes_and_the_end_of_the_output(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder
) -> None:
    outcome = await action(invocation(sshd, recorder=recorder, command="echo out; echo err >&2"))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert outcome.effect is Effect.DONE
    result = result_of(outcome)
    assert result.pop("duration_s") > 0
    assert result == {
        "outcome": "exited",
        "exit_status": 0,
        "stdout_tail": "out\n",
        "stderr_tail": "err\n",
        "stdout_bytes": 4,
        "stderr_bytes": 4,
    }
    assert (recorder.stdout, recorder.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("status", [1, 3, 137, 255])
async def test_a_non_zero_status_is_an_exit_failure_with_that_status(
    sshd: PrivateSshd, action: SshExec, status: int
) -> None:
    outcome = await action(invocation(sshd, command=f"echo why >&2; exit {status}"))
    message = assert_failed(outcome, FailureClass.EXIT, "exit_status", Effect.DONE)
    assert message == f"exit status {status}: why"
    assert result_of(outcome)["exit_status"] == status


async def test_a_command_killed_by_a_signal_is_told_apart_from_an_exit(sshd: PrivateSshd, action: SshExec) -> None:
    outcome = await action(invocation(sshd, command="kill -KILL $$"))
    assert_failed(outcome, FailureClass.EXIT, "signalled", Effect.DONE)
    assert result_of(outcome)["outcome"] == "signalled"
    assert result_of(outcome)["signal"] == "KILL"
    assert "exit_status" not in result_of(outcome)


async def test_megabytes_on_both_streams_at_once_arrive_complete(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder
) -> None:
    size = 3_000_000
    command = f"head -c {size} /dev/zero | tr '\\0' o & head -c {size} /dev/zero | tr '\\0' e >&2; wait"
    outcome = await action(invocation(sshd, recorder=recorder, command=command))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert recorder.stdout == b"o" * size
    assert recorder.stderr == b"e" * size
    assert result_of(outcome)["stdout_bytes"] == size
    assert result_of(outcome)["stdout_tail"] == "o" * 8192


async def test_output_arrives_byte_for_byte(sshd: PrivateSshd, action: SshExec, recorder: Recorder) -> None:
    every_byte = bytes(range(256))
    octal = "".join(f"\\{byte:03o}" for byte in every_byte)
    await action(invocation(sshd, recorder=recorder, command=f"printf '{octal}'; printf '{octal}' >&2"))
    assert recorder.stdout == every_byte
    assert recorder.stderr == every_byte


async def test_output_arrives_while_the_command_runs(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, tag: str
) -> None:
    running = asyncio.ensure_future(
        action(invocation(sshd, recorder=recorder, command=f"echo o; echo e >&2; sleep {tag}"))
    )
    await eventually(lambda: (recorder.stdout, recorder.stderr) == (b"o\n", b"e\n"), "output of a running command")
    assert not running.done()
    await stopped(running)


async def test_without_stdin_a_command_reads_end_of_file(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder
) -> None:
    outcome = await action(invocation(sshd, recorder=recorder, command="cat; echo end"))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert recorder.stdout == b"end\n"


@pytest.mark.parametrize("text", ["", "one line", "grün\n'q' \"qq\" $x `y` \\n\n", "0123456789abcdef\n" * 40_000])
async def test_stdin_reaches_the_command_as_it_is_and_ends(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, text: str
) -> None:
    outcome = await action(invocation(sshd, recorder=recorder, command="cat", stdin=text))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert recorder.stdout == text.encode()


async def test_a_command_that_reads_none_of_its_stdin_still_ends(sshd: PrivateSshd, action: SshExec) -> None:
    outcome = await action(invocation(sshd, command="exit 4", stdin="x" * 900_000))
    assert result_of(outcome)["exit_status"] == 4


async def test_environment_and_directory_take_any_text_literally(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, tmp_path: Path
) -> None:
    directory = tmp_path / 'it\'s a "dir" $HOME\n!'
    directory.mkdir()
    values = {"QUOTES": "'\"`$(exit 9)\\", "LINES": "a\n\nb\n", "GR": "ü", "command": "echo no", "EMPTY": ""}
    command = 'printf \'%s|\' "$QUOTES" "$LINES" "$GR" "$command" "${EMPTY-unset}"; pwd -P'
    await action(invocation(sshd, recorder=recorder, command=command, env=values, cwd=str(directory)))
    expected = "|".join([*values.values(), str(directory.resolve())])
    assert recorder.stdout.decode() == expected + "\n"


async def test_values_of_the_environment_show_in_no_process_list(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, tag: str
) -> None:
    value = f"hidden-{tag}"
    running = asyncio.ensure_future(
        action(invocation(sshd, recorder=recorder, command=f"echo up; sleep {tag[:-1]}", env={"TOKEN": value}))
    )
    await eventually(lambda: recorder.stdout == b"up\n", "the command runs")
    assert not tagged(value)
    assert tagged(tag[:-1])
    await stopped(running)


async def test_a_missing_directory_runs_nothing_and_is_named(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder
) -> None:
    outcome = await action(invocation(sshd, recorder=recorder, command="echo ran", cwd="/no/such/place"))
    assert "/no/such/place" in assert_failed(outcome, FailureClass.EXIT, "exit_status", Effect.DONE)
    assert result_of(outcome)["exit_status"] == 125
    assert recorder.stdout == b""


async def test_what_is_left_in_the_background_neither_delays_the_end_nor_dies_of_it(
    sshd: PrivateSshd, action: SshExec, tag: str
) -> None:
    outcome = await asyncio.wait_for(action(invocation(sshd, command=f"sleep {tag} & exit 0")), PATIENCE_SECONDS)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    await action.close()
    await eventually(lambda: not sshd.sessions(), "the connection is gone")
    assert len(tagged(tag)) == 1


async def test_what_keeps_writing_in_the_background_does_not_delay_the_end_either(
    sshd: PrivateSshd, action: SshExec, tag: str
) -> None:
    running = action(invocation(sshd, command=f"yes {tag} & exit 0"))
    outcome = await asyncio.wait_for(running, PATIENCE_SECONDS)
    assert outcome.kind is OutcomeKind.SUCCEEDED


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "x" * 65_537}, "limit"),
        ({"command": "true", "env": {"A-B": "c"}}, "env"),
        ({"command": "true", "env": {"A": 1}}, "env"),
        ({"command": "true", "env": {"A": "x" * 40_000, "B": "x" * 40_000}}, "env"),
        ({"command": "true", "cwd": ""}, "cwd"),
        ({"command": "true", "stdin": b"x"}, "stdin"),
        ({"command": "true", "shell": "sh"}, "shell"),
    ],
)
async def test_wrong_arguments_are_refused_before_the_host_is_contacted(
    sshd: PrivateSshd, action: SshExec, kwargs: dict[str, Any], said: str
) -> None:
    outcome = await action(invocation(sshd, connection={"port": free_port()}, **kwargs))
    assert said in assert_failed(outcome, FailureClass.REQUEST, "invalid_arguments", Effect.NONE)


async def test_the_longest_allowed_command_runs(sshd: PrivateSshd, action: SshExec) -> None:
    command = "exit 6 #" + "'" * (64 * 1024 - 8)
    outcome = await action(invocation(sshd, command=command))
    assert result_of(outcome)["exit_status"] == 6


# Who is talked to


async def test_an_unknown_host_key_is_refused_before_any_credential_is_sent(tmp_path: Path, action: SshExec) -> None:
    with PrivateSshd(tmp_path) as server:
        outcome = await action(invocation(server, connection={"host_keys": ()}, command="true"))
        message = assert_failed(outcome, FailureClass.REQUEST, "host_key_unknown", Effect.NONE)
        assert f'set host_keys of the connection to ["{server.host_keys[0]}"]' in message
        await eventually(lambda: "[preauth]" in server.log, "the server logs the end")
        assert "authenticating user" not in server.log
        assert "publickey" not in server.log

        # The same words are there once a login has been tried.
        await action(invocation(server, command="true"))
        await eventually(lambda: "publickey" in server.log, "the server logs a login")


async def test_a_changed_host_key_is_refused_before_any_credential_is_sent(tmp_path: Path, action: SshExec) -> None:
    server = PrivateSshd(tmp_path)
    pinned = server.host_keys
    server.renew_host_key()
    with server:
        outcome = await action(invocation(server, connection={"host_keys": pinned}, command="true"))
        message = assert_failed(outcome, FailureClass.REQUEST, "host_key_mismatch", Effect.NONE)
        assert server.host_keys[0] in message
        await eventually(lambda: "[preauth]" in server.log, "the server logs the end")
        assert "publickey" not in server.log

        both = await action(invocation(server, connection={"host_keys": pinned + server.host_keys}, command="true"))
        assert both.kind is OutcomeKind.SUCCEEDED


async def test_a_key_that_the_host_does_not_accept_is_a_credential_failure(sshd: PrivateSshd, action: SshExec) -> None:
    stranger = private_key_text(Ed25519PrivateKey.generate())
    outcome = await action(invocation(sshd, secret=stranger, command="true"))
    message = assert_failed(outcome, FailureClass.CREDENTIAL, "authentication_failed", Effect.NONE)
    assert stranger not in message


async def test_a_password_where_only_keys_are_accepted_is_a_credential_failure(
    sshd: PrivateSshd, action: SshExec
) -> None:
    outcome = await action(invocation(sshd, secret="hunter2", connection={"auth_method": "password"}, command="true"))
    message = assert_failed(outcome, FailureClass.CREDENTIAL, "authentication_failed", Effect.NONE)
    assert "it accepts publickey" in message
    assert "hunter2" not in message


async def test_another_credential_does_not_use_an_open_connection(sshd: PrivateSshd, action: SshExec) -> None:
    assert (await action(invocation(sshd, command="true"))).kind is OutcomeKind.SUCCEEDED
    stranger = private_key_text(Ed25519PrivateKey.generate())
    outcome = await action(invocation(sshd, secret=stranger, command="true"))
    assert_failed(outcome, FailureClass.CREDENTIAL, "authentication_failed", Effect.NONE)


async def test_text_that_is_no_key_is_a_credential_failure_that_does_not_quote_it(
    sshd: PrivateSshd, action: SshExec
) -> None:
    outcome = await action(invocation(sshd, secret="s3cr3t-not-a-key", command="true"))
    assert "s3cr3t" not in assert_failed(outcome, FailureClass.CREDENTIAL, "unusable_key", Effect.NONE)


async def test_a_secret_that_did_not_come_is_a_credential_failure(sshd: PrivateSshd, action: SshExec) -> None:
    outcome = await action(invocation(sshd, connection={"secret": "other"}, command="true"))
    assert "other" in assert_failed(outcome, FailureClass.CREDENTIAL, "missing_secret", Effect.NONE)


# Hosts that do not answer


async def test_a_port_where_nobody_listens_is_connection_refused(sshd: PrivateSshd, action: SshExec) -> None:
    outcome = await action(invocation(sshd, connection={"port": free_port()}, command="true"))
    assert_failed(outcome, FailureClass.PROVIDER, "connection_refused", Effect.NONE)


async def test_a_name_that_does_not_resolve_is_a_fault_of_this_machine(sshd: PrivateSshd, action: SshExec) -> None:
    outcome = await action(invocation(sshd, connection={"hostname": "no-such-host.invalid"}, command="true"))
    assert_failed(outcome, FailureClass.LOCAL, "name_resolution", Effect.NONE)


async def test_a_host_that_drops_the_packets_is_a_connect_timeout_for_all_who_wait(
    sshd: PrivateSshd, action: SshExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "CONNECT_SECONDS", 0.5)
    with socket.socket() as full, contextlib.ExitStack() as clients:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        begun = time.monotonic()
        port = full.getsockname()[1]
        outcomes = await asyncio.gather(
            *(action(invocation(sshd, connection={"port": port}, command="true")) for _ in range(20))
        )
        assert time.monotonic() - begun < 20 * 0.5
    for outcome in outcomes:
        assert_failed(outcome, FailureClass.PROVIDER, "connect_timeout", Effect.NONE)


async def test_a_server_that_speaks_no_ssh_is_told_so(sshd: PrivateSshd, action: SshExec) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await action(invocation(sshd, connection={"port": port}, command="true"))
    assert_failed(outcome, FailureClass.PROVIDER, "no_ssh_banner", Effect.NONE)


async def test_a_cancel_while_connecting_has_no_effect_and_is_immediate(sshd: PrivateSshd, action: SshExec) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        running = asyncio.ensure_future(
            action(invocation(sshd, connection={"port": silent.getsockname()[1]}, command="true"))
        )
        peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), PATIENCE_SECONDS)
        with peer:
            begun = time.monotonic()
            outcome = await stopped(running)
            assert time.monotonic() - begun < 5
    assert outcome.kind is OutcomeKind.CANCELLED
    assert outcome.effect is Effect.NONE
    assert result_of(outcome) == {"outcome": "not_started"}


# Cancels


@pytest.mark.parametrize("stdin", [None, "some input"])
@pytest.mark.parametrize(
    "shape",
    [
        "exec sleep {tag}",
        "sleep {tag} & echo up; wait",
        "trap '' HUP; sleep {tag} & echo up; wait",
        "trap '' HUP TERM INT; sleep {tag} & sleep {tag}",
        "(trap '' HUP TERM; sleep {tag}) & sleep {tag}",
        "while :; do echo y; sleep 0; done # {tag}",
    ],
)
async def test_a_cancel_ends_the_command_and_all_that_it_started(
    sshd: PrivateSshd, action: SshExec, tag: str, shape: str, stdin: str | None
) -> None:
    kwargs: dict[str, Any] = {"command": shape.format(tag=tag)}
    if stdin is not None:
        kwargs["stdin"] = stdin
    running = asyncio.ensure_future(action(invocation(sshd, **kwargs)))
    await eventually(lambda: bool(tagged(tag)), "the command runs")
    begun = time.monotonic()
    outcome = await stopped(running)
    assert time.monotonic() - begun < 15
    assert outcome.kind is OutcomeKind.CANCELLED
    assert outcome.effect is Effect.DONE
    assert result_of(outcome)["outcome"] == "cancelled_killed"
    await eventually(lambda: not tagged(tag), "nothing of the command is left")


async def test_a_cancel_ends_the_tree_also_where_the_command_does_not_lead_its_process_group(
    tmp_path: Path, action: SshExec, tag: str
) -> None:
    forced = tmp_path / "forced"
    forced.write_text('#!/bin/sh\nsh -c "$SSH_ORIGINAL_COMMAND"\nexit $?\n')
    forced.chmod(0o755)
    with PrivateSshd(tmp_path / "sshd", options=[f"ForceCommand {forced}"]) as server:
        ended = await action(invocation(server, command="exit 3"))
        assert result_of(ended)["exit_status"] == 3
        running = asyncio.ensure_future(action(invocation(server, command=f"trap '' TERM; sleep {tag} & wait; wait")))
        await eventually(lambda: bool(tagged(tag)), "the command runs")
        outcome = await stopped(running)
        assert result_of(outcome)["outcome"] == "cancelled_killed"
        await eventually(lambda: not tagged(tag), "nothing of the command is left")


async def test_a_command_may_clean_up_before_it_ends(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, tag: str
) -> None:
    command = f"trap 'echo cleaned; exit 9' TERM; echo up; sleep {tag} & wait"
    running = asyncio.ensure_future(action(invocation(sshd, recorder=recorder, command=command)))
    await eventually(lambda: recorder.stdout == b"up\n", "the command runs")
    outcome = await stopped(running)
    assert recorder.stdout == b"up\ncleaned\n"
    assert result_of(outcome)["exit_status"] == 9


async def test_a_cancel_leaves_the_other_commands_of_the_connection_alone(
    sshd: PrivateSshd, action: SshExec, tag: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    neighbour = asyncio.ensure_future(
        action(invocation(sshd, command=f"until [ -e '{go}' ]; do sleep 0.05; done; exit 5"))
    )
    running = asyncio.ensure_future(action(invocation(sshd, command=f"sleep {tag}")))
    await eventually(lambda: bool(tagged(tag)), "the command runs")
    await stopped(running)
    go.touch()
    assert result_of(await asyncio.wait_for(neighbour, PATIENCE_SECONDS))["exit_status"] == 5


@pytest.mark.parametrize("stdin", [None, "x" * 900_000])
async def test_a_frozen_host_does_not_hold_up_a_cancel(
    sshd: PrivateSshd, action: SshExec, tag: str, stdin: str | None
) -> None:
    running = asyncio.ensure_future(action(invocation(sshd, command=f"sleep {tag} & wait", stdin=stdin)))
    await eventually(lambda: bool(tagged(tag)), "the command runs")
    with frozen(sshd):
        begun = time.monotonic()
        outcome = await stopped(running)
        assert time.monotonic() - begun < 12
    assert outcome.kind is OutcomeKind.CANCELLED
    assert outcome.effect is Effect.MAYBE
    assert result_of(outcome)["outcome"] == "kill_unconfirmed"
    if stdin is None:
        await eventually(lambda: not tagged(tag), "the thawed host learns of the cancel")


async def test_a_thread_that_does_not_come_back_is_woken_by_closing_the_connection(
    sshd: PrivateSshd, action: SshExec, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_action, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(execute, "KILL_GRACE_SECONDS", 60.0)
    running = asyncio.ensure_future(action(invocation(sshd, command=f"sleep {tag}")))
    await eventually(lambda: bool(tagged(tag)), "the command runs")
    with frozen(sshd):
        outcome = await stopped(running)
    assert outcome.effect is Effect.MAYBE
    assert result_of(outcome)["stdout_bytes"] == 0  # the thread has reported


# Losses


async def test_a_lost_connection_is_unknown_and_its_command_does_not_go_on_alone(
    sshd: PrivateSshd, action: SshExec, recorder: Recorder, tag: str
) -> None:
    running = asyncio.ensure_future(
        action(invocation(sshd, recorder=recorder, command=f"echo up; trap '' HUP TERM; sleep {tag} & wait; wait"))
    )
    await eventually(lambda: recorder.stdout == b"up\n" and bool(tagged(tag)), "the command runs")
    sshd.kill_sessions()
    outcome = await asyncio.wait_for(running, PATIENCE_SECONDS)
    assert_failed(outcome, FailureClass.PROVIDER, "connection_lost", Effect.MAYBE)
    result = result_of(outcome)
    assert result["outcome"] == "lost_unknown"
    assert result["stdout_tail"] == "up\n"
    assert "exit_status" not in result
    await eventually(lambda: not tagged(tag), "the watcher ends the command")


async def test_an_idle_connection_that_died_costs_nothing(sshd: PrivateSshd, action: SshExec) -> None:
    assert (await action(invocation(sshd, command="true"))).kind is OutcomeKind.SUCCEEDED
    sshd.kill_sessions()
    assert (await action(invocation(sshd, command="true"))).kind is OutcomeKind.SUCCEEDED


async def test_an_idle_connection_that_fell_silent_is_replaced(
    sshd: PrivateSshd, action: SshExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "OPEN_SECONDS", 1.0)
    assert (await action(invocation(sshd, command="true"))).kind is OutcomeKind.SUCCEEDED
    with frozen(sshd):
        outcome = await asyncio.wait_for(action(invocation(sshd, command="exit 8")), PATIENCE_SECONDS)
    assert result_of(outcome)["exit_status"] == 8


async def test_a_connection_that_was_idle_for_long_is_probed_before_use(
    tmp_path: Path, action: SshExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PROBE_AFTER_SECONDS", 0.0)
    with PrivateSshd(tmp_path) as server:
        for status in (1, 2, 3):
            outcome = await action(invocation(server, command=f"exit {status}"))
            assert result_of(outcome)["exit_status"] == status
        assert server.log.count("Accepted publickey") == 1

        monkeypatch.setattr(pool, "PROBE_SECONDS", 0.5)
        monkeypatch.setattr(execute, "OPEN_SECONDS", 2 * PATIENCE_SECONDS)  # only the probe can notice
        with frozen(server):
            outcome = await asyncio.wait_for(action(invocation(server, command="exit 4")), PATIENCE_SECONDS)
        assert result_of(outcome)["exit_status"] == 4


# Connections and threads


async def test_commands_share_a_connection(tmp_path: Path, action: SshExec) -> None:
    with PrivateSshd(tmp_path) as server:
        for _ in range(3):
            await asyncio.gather(*(action(invocation(server, command="true")) for _ in range(4)))
        assert server.log.count("Accepted publickey") == 1


async def test_an_idle_connection_is_closed_after_a_while(
    tmp_path: Path, action: SshExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.2)
    with PrivateSshd(tmp_path) as server:
        await action(invocation(server, command="true"))
        await eventually(lambda: not server.sessions(), "the connection is closed")
        assert (await action(invocation(server, command="true"))).kind is OutcomeKind.SUCCEEDED


async def test_an_old_connection_takes_no_more_commands(
    tmp_path: Path, action: SshExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_AGE_SECONDS", 0.05)
    with PrivateSshd(tmp_path) as server:
        await action(invocation(server, command="sleep 0.1"))
        of_one_connection = len(server.sessions())
        await action(invocation(server, command="true"))
        assert server.log.count("Accepted publickey") == 2
        await eventually(lambda: len(server.sessions()) <= of_one_connection, "the old connection is closed")


async def test_a_host_that_allows_fewer_sessions_gets_more_connections(tmp_path: Path, action: SshExec) -> None:
    with PrivateSshd(tmp_path, options=["MaxSessions 2"]) as server:
        outcomes = await asyncio.gather(
            *(action(invocation(server, command=f"sleep 0.3; exit {number}")) for number in range(1, 13))
        )
    assert [result_of(outcome).get("exit_status") for outcome in outcomes] == list(range(1, 13))


async def test_no_thread_is_left_after_many_executions_and_failures(sshd: PrivateSshd, tag: str) -> None:
    before = set(threading.enumerate())
    action = SshExec()
    for number in range(10):
        await asyncio.gather(
            action(invocation(sshd, command=f"exit {number}")),
            action(invocation(sshd, command="kill -KILL $$")),
            action(invocation(sshd, secret="no key", command="true")),
            action(invocation(sshd, connection={"host_keys": ()}, command="true")),
            action(invocation(sshd, connection={"port": free_port()}, command="true")),
        )
    running = asyncio.ensure_future(action(invocation(sshd, command=f"sleep {tag}")))
    await eventually(lambda: bool(tagged(tag)), "the command runs")
    await stopped(running)
    await action.close()
    await eventually(lambda: set(threading.enumerate()) <= before, "all threads have ended")
