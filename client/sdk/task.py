"""One task: what is known about it, and the handle to follow it with."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from client.follow import Piece, pieces, wait
from client.http import ApiClient, path_to
from client.sdk.errors import TaskCancelled, TaskDead, WaitTimeout
from client.sdk.record import Record, sent
from protocols.names import BuiltinAction
from protocols.states import FINISHED_STATES, LEGAL_TRANSITIONS, TaskState

T = TypeVar("T")
_FINAL = frozenset(state for state, following in LEGAL_TRANSITIONS.items() if not following)
"""States that nothing follows; a dead task may be retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure(Record):
    """Why a task's last execution failed, and (`cause`) why the task is dead."""

    failure_class: str | None = field(default=None, metadata={"name": "class"})
    code: str | None = None
    message: str | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult(Record):
    """A model's answer; if `truncated`, its head, and the output has all of it."""

    text: str
    finish_reason: str | None = None
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult(Record):
    """How a command ended, and the ends of what it wrote; the output has all of it."""

    outcome: str
    exit_status: int | None = None
    signal: str | None = None
    stdout_tail: str = ""
    stderr_tail: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo(Record):
    """A task as it was at one moment. From a list it comes without `input`, `args` and `result`."""

    id: str
    state: str
    action: str
    lane: str
    pool: str
    priority: str
    delivery: str
    max_attempts: int
    timeout_s: float
    attempt: int
    tries: int
    cancel_requested: bool
    created_at: datetime
    created_by: str
    title: str | None = None
    description: str | None = None
    provider: str | None = None
    connection: str | None = None
    worker: str | None = None
    agent_id: str | None = None
    agent: str | None = None
    agent_version: int | None = None
    parent_id: str | None = None
    instructions: str | None = None
    concurrency_key: str | None = None
    due_at: datetime | None = None
    deadline: datetime | None = None
    wait_reason: str | None = None
    execution_id: str | None = None
    worker_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    usage: Mapping[str, Any] | None = None
    error: TaskFailure | None = None
    input: Mapping[str, Any] | None = None
    args: tuple[Any, ...] | None = None
    result: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether it has succeeded, is dead or was cancelled."""
        return self.state in FINISHED_STATES

    @property
    def complete(self) -> bool:
        """Whether this is all of it, and not an entry of a list."""
        return "result" in self.raw

    @property
    def value(self) -> Any:
        """The result in its own form: ChatResult, CommandResult, or what the Python function returned."""
        if self.result is None:
            return None
        if self.action == BuiltinAction.LLM_CHAT:
            return ChatResult.of(self.result)
        if self.action == BuiltinAction.SSH_EXEC:
            return CommandResult.of(self.result)
        return self.result.get("value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """An entry of the journal; `id` rises over all of it."""

    id: int
    type: str
    at: datetime
    data: Mapping[str, Any]
    task_id: str | None = None
    attempt: int | None = None
    execution_id: str | None = None
    worker_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution(Record):
    """A worker's try at an attempt; `late` if its outcome came when it was not the task's current one any more."""

    id: str
    worker_id: str
    worker: str | None = None
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str | None = None
    effect: str | None = None
    duration_s: float | None = None
    late: bool = False
    error: TaskFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Record):
    """One handing over of a task to its lane, and what workers made of it."""

    attempt: int
    lane: str | None = None
    published_at: datetime | None = None
    executions: tuple[Execution, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment(Record):
    """An event of a task's timeline, with a sentence for people and the seconds since the task was created."""

    type: str
    at: datetime
    summary: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTask(Record):
    """A task in the tree of those that came of one another."""

    id: str
    action: str
    state: str
    title: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    children: "tuple[TreeTask, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree(Record):
    """The tree that a task is in, from its topmost ancestor; `truncated` if there was more of it than is told."""

    root: TreeTask
    truncated: bool = False


class TaskChange(TypedDict, total=False):
    """What may change of a task: the first two at any time, the rest until a worker has begun."""

    title: str | None
    description: str | None
    priority: str
    deadline: datetime | None
    instructions: str | None


class Task(Generic[T]):
    """A task of the control plane. What it says of itself is as of the last look; `refresh` takes another."""

    def __init__(self, client: ApiClient, task_id: str, info: TaskInfo | None = None) -> None:
        self.id = task_id
        self._client = client
        self._info = info

    def __repr__(self) -> str:
        return f"Task({self.id!r}, state={self._info.state if self._info else None!r})"

    @property
    def info(self) -> TaskInfo:
        """What was known at the last look; the first one is taken now."""
        return self._info or self.refresh()

    @property
    def state(self) -> str:
        """Where it was in its life at the last look."""
        return self.info.state

    def refresh(self) -> TaskInfo:
        """Ask the control plane and return what it says."""
        return self._learn(self._client.get(path_to("tasks", self.id)))

    def wait(self, timeout_s: float | None = None) -> TaskInfo:
        """Return the task when it has finished, however it ended; nothing is asked while nothing happens.

        Restarts of the control plane are waited out. Raises WaitTimeout after `timeout_s`, Unreachable when the
        control plane stays away for longer than this client's patience.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        info = self._info
        if info is None or not info.complete or info.state not in _FINAL:
            info = self.refresh()
        while not info.finished:
            if not wait(self._client, self.id, until):
                raise WaitTimeout(f"task {self.id} was {info.state} and had not finished after {timeout_s:g} s")
            info = self.refresh()
        return info

    def result(self, timeout_s: float | None = None) -> T:
        """Wait until the task has finished, and return what came of it.

        That is a ChatResult for a model's answer, a CommandResult for a command, else what the function returned.
        Raises TaskDead, TaskCancelled, and what `wait` raises.
        """
        info = self.wait(timeout_s)
        if info.state != TaskState.SUCCEEDED:
            raise (TaskCancelled if info.state == TaskState.CANCELLED else TaskDead)(info)
        value: T = info.value
        return value

    def stream(self) -> Iterator[Piece]:
        """Yield the task's output as it arises, from its beginning, until the task has finished.

        When another attempt begins its output begins anew: `attempt` tells.
        """
        return pieces(self._client, self.id)

    def output(self) -> bytes:
        """Return the kept output of the last execution that has one."""
        return self._client.request("GET", path_to("tasks", self.id, "output")).content

    def events(self) -> Iterator[Event]:
        """Yield what has happened to the task so far."""
        return map(Event.of, self._client.rows(path_to("tasks", self.id, "events")))

    def attempts(self) -> Iterator[Attempt]:
        """Yield its attempts so far."""
        return map(Attempt.of, self._client.rows(path_to("tasks", self.id, "attempts")))

    def timeline(self) -> Iterator[Moment]:
        """Yield what has happened to the task so far, told for people."""
        return map(Moment.of, self._client.rows(path_to("tasks", self.id, "timeline")))

    def tree(self) -> Tree:
        """Return the tree of tasks that it belongs to."""
        return Tree.of(self._client.get(path_to("tasks", self.id, "tree")))

    def update(self, **changes: Unpack[TaskChange]) -> TaskInfo:
        """Change what is named; raises Conflict for what cannot change once a worker has begun."""
        return self._learn(self._client.patch(path_to("tasks", self.id), sent(changes)))

    def cancel(self, reason: str | None = None) -> TaskInfo:
        """Cancel it: at once while it waits; if it runs its worker is asked to stop. Raises Conflict if finished."""
        return self._learn(self._client.post(path_to("tasks", self.id, "cancel"), {"reason": reason or ""}))

    def retry(self) -> TaskInfo:
        """Run a dead task again, with all of its tries; raises Conflict if it is not dead."""
        return self._learn(self._client.post(path_to("tasks", self.id, "retry")))

    def _learn(self, told: Mapping[str, Any]) -> TaskInfo:
        self._info = info = TaskInfo.of(told)
        return info


def task_of(client: ApiClient) -> Callable[[Mapping[str, Any]], Task[Any]]:
    """Return what makes a handle of a task that the control plane tells of."""

    def make(told: Mapping[str, Any]) -> Task[Any]:
        info = TaskInfo.of(told)
        return Task(client, info.id, info)

    return make
