"""Connections: the hosts that commands run on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, Unpack

from client.http import ApiClient
from client.sdk.noun import Noun, said
from client.sdk.record import Record
from client.sdk.task import TaskInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection(Record):
    """A host, and how to log in there; `secret` is the name of the secret that has the key or password."""

    id: str
    name: str
    hostname: str
    port: int
    username: str
    auth_method: str
    created_at: datetime
    updated_at: datetime
    secret: str | None = None
    host_keys: tuple[str, ...] = ()


LONGEST_TEST_S = 30.0
"""How long a worker tries to log in unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Record):
    """Why nobody could log in, and what to do about it."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginTest(Record):
    """What came of an attempt to log in."""

    ok: bool
    task_id: str
    state: str
    duration_ms: float | None = None
    error: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed(Record):
    """A command that was run; its task goes on if `exit_status` is None."""

    task: TaskInfo
    exit_status: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False


class ConnectionChange(TypedDict, total=False):
    """What can be said of a connection."""

    hostname: str
    port: int
    username: str
    auth_method: str
    secret: str | None
    host_keys: Sequence[str]


class Connections(Noun[Connection]):
    """The connections of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "ssh-connections", Connection)

    def create(self, name: str, **fields: Unpack[ConnectionChange]) -> Connection:
        """Add a host; raises Conflict if the name is taken."""
        return self._create({"name": name, **fields})

    def update(self, connection: str, **changes: Unpack[ConnectionChange]) -> Connection:
        """Change what is named."""
        return self._change(connection, changes)

    def delete(self, connection: str) -> None:
        """Delete it; raises Conflict while unfinished tasks use it."""
        self._delete(connection)

    def test(
        self,
        connection: str,
        *,
        timeout_s: float = LONGEST_TEST_S,
        pool: str | None = None,
        worker: str | None = None,
    ) -> LoginTest:
        """Have a worker log in there and tell what came of it."""
        form = said({"timeout_s": timeout_s, "pool": pool, "worker": worker})
        return LoginTest.of(self._client.post(self._path(connection, "test"), form, takes_s=timeout_s))

    def execute(
        self,
        connection: str,
        command: str,
        *,
        timeout_s: float | None = None,
        wait_s: float = 60.0,
        pool: str | None = None,
        worker: str | None = None,
    ) -> Executed:
        """Run a command there and wait for its end, but not for longer than `wait_s`."""
        form = said({"command": command, "timeout_s": timeout_s, "wait_s": wait_s, "pool": pool, "worker": worker})
        return Executed.of(self._client.post(self._path(connection, "execute"), form, takes_s=wait_s))
