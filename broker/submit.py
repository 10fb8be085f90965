"""Submission: a form becomes a task, in the same transaction that may queue it."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Row, Table
from sqlalchemy.engine import Connection

from broker.agents import AgentStatus, find_agent
from broker.events import task_event
from broker.fields import A_NUMBER, Moment, PoolName
from broker.pipeline import MAX_STEPS, StepForm, pack_plan
from broker.preferences import PreferenceStore, TaskPreferences
from broker.store.tables import connections, providers, tasks, workers
from broker.store.writer import Transaction, Writer
from protocols import ids
from protocols.envelope import pack_input
from protocols.errors import Conflict, IdempotencyMismatch, InvalidInput, NotFound
from protocols.names import DEFAULT_POOL, BuiltinAction, LaneKind, lane_name, pinned_lane_name
from protocols.states import Delivery, Priority, TaskState

_LAST_MS = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
"""The last second that can be shown; west of Greenwich some hours more can be written."""
MAX_INSTRUCTIONS = 100_000
_CONVERSATION = frozenset({"prompt", "messages"})
"""What `llm.chat` takes as its input's conversation, of which `instructions` are another spelling."""

Word = Annotated[str, Field(min_length=1, max_length=128)]
Title = Annotated[str, Field(max_length=500)]
Description = Annotated[str, Field(max_length=10_000)]
PriorityName = Literal["low", "normal", "high", "critical"]


class TaskForm(BaseModel):
    """What a client asks for. What is None is left to the agent, or else to the preferences."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "action": "llm.chat",
                    "provider": "openai",
                    "input": {"model": "gpt-5-mini", "prompt": "Name three rivers."},
                },
                {"action": "ssh.exec", "connection": "web-1", "input": {"command": "uptime"}, "timeout_s": 60},
                {"action": "resize", "args": ["cat.png", 640], "priority": "low", "max_attempts": 5},
            ]
        },
    )

    action: Word | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    provider: Word | None = None
    connection: Word | None = None
    pool: PoolName | None = None
    worker: Word | None = None
    agent_id: Word | None = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    required_tools: Annotated[list[Word], Field(max_length=100)] = Field(default_factory=list)
    parent_id: Word | None = None
    priority: PriorityName | None = None
    delivery: Delivery | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100), A_NUMBER] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False), A_NUMBER] | None = None
    deadline: Moment | None = None
    delay_s: Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False), A_NUMBER] = 0.0
    concurrency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    concurrency_limit: Annotated[int, Field(ge=1, le=10_000), A_NUMBER] = 1
    title: Title | None = None
    description: Description | None = None
    then: list[StepForm] = Field(default_factory=list, max_length=MAX_STEPS)

    @model_validator(mode="after")
    def _fits_its_action(self) -> "TaskForm":
        # Without an action it is an agent's llm.chat.
        action = self.action or BuiltinAction.LLM_CHAT.value
        if self.action == BuiltinAction.LLM_CHAT and self.provider is None and self.agent_id is None:
            raise ValueError("llm.chat needs `provider`: the name of one from /providers")
        if action == BuiltinAction.SSH_EXEC and self.connection is None:
            raise ValueError("ssh.exec needs `connection`: the name of one from /ssh-connections")
        if self.args and action in tuple(BuiltinAction):
            raise ValueError(f"{action} takes `input`, not `args`")
        if self.provider is not None and action != BuiltinAction.LLM_CHAT:
            raise ValueError("`provider` belongs to llm.chat")
        if self.connection is not None and action != BuiltinAction.SSH_EXEC:
            raise ValueError("`connection` belongs to ssh.exec")
        return self

    @model_validator(mode="after")
    def _says_once_what_to_do(self) -> "TaskForm":
        chats = self.action in (None, BuiltinAction.LLM_CHAT)
        if chats and self.instructions and _CONVERSATION & self.input.keys():
            raise ValueError("`instructions` are the prompt: leave out `prompt` and `messages` in `input`")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Forms that become tasks together, or not at all."""

    forms: tuple[TaskForm, ...]
    created_by: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that exists now; `created` is False if an earlier request with the same key made it."""

    task_id: str
    created: bool


class Submitter:
    """Takes submissions from many requests and commits them together."""

    def __init__(self, writer: Writer, preferences: PreferenceStore) -> None:
        self._writer = writer
        self._preferences = preferences

    def submit(self, submission: Submission) -> Future[tuple[Submitted, ...]]:
        """Store the tasks; the future is done when they are durable.

        It fails with NotFound for an unknown agent, provider, connection, worker or parent, Conflict for a stopped
        agent, InvalidInput for what an agent cannot do, TooLarge, IdempotencyMismatch, or StorageUnavailable.
        """
        return self._writer.gather(self._submit, submission)

    def _submit(self, transaction: Transaction, items: Sequence[Submission]) -> Sequence[tuple[Submitted, ...]]:
        references = _References(transaction, self._preferences.current.tasks)
        known = _KnownRequests(transaction)
        rows: list[dict[str, Any]] = []
        answers = []
        for submission in items:
            answer = []
            for number, form in enumerate(submission.forms):
                request = _request(submission, number)
                task_id = known.task_of(request)
                if task_id is not None:
                    answer.append(Submitted(task_id, created=False))
                    continue
                row = {**_row(transaction, references, form, submission.created_by), **request}
                known.add(row)
                rows.append(row)
                answer.append(Submitted(row["id"], created=True))
            answers.append(tuple(answer))
        if rows:
            transaction.connection.execute(tasks.insert(), rows)
        for row in rows:
            transaction.events.append(task_event("task.created", row, {"action": row["action"], "lane": row["lane"]}))
            transaction.wake(row["lane"], row["due_at"])
        return answers


class _References:
    """What the forms of one transaction refer to; each name is looked up once."""

    def __init__(self, transaction: Transaction, preferences: TaskPreferences) -> None:
        self.preferences = preferences
        self._connection = transaction.connection
        self._found: dict[tuple[str, str], tuple[str, str]] = {}
        self._agents: dict[str, Row[Any]] = {}
        self._parents: set[str] = set()

    def resolve(self, table: Table, reference: str, field: str) -> tuple[str, str]:
        """Return (id, name) of the row with this id or name."""
        key = (table.name, reference)
        if key not in self._found:
            query = sa.select(table.c.id, table.c.name).where(
                sa.or_(table.c.id == reference, table.c.name == reference)
            )
            found = self._connection.execute(query.limit(1)).first()
            if found is None:
                raise NotFound(f"there is no {field} {reference[:128]!r}", field=field)
            self._found[key] = (found.id, found.name)
        return self._found[key]

    def agent(self, form: TaskForm) -> Row[Any] | None:
        """Return the agent that shall do what the form asks for; None if it names an action and no agent."""
        reference = form.agent_id
        if reference is None and form.action is None:
            reference = self.preferences.default_agent
            if reference is None:
                raise InvalidInput(
                    "nobody is told to do this",
                    field="agent_id",
                    hint="name an agent or an action, or have an admin set tasks.default_agent",
                )
        if reference is None:
            return None
        if reference not in self._agents:
            self._agents[reference] = _working_agent(self._connection, reference)
        return self._agents[reference]

    def parent(self, task_id: str | None) -> str | None:
        """Return the id of a task that exists."""
        if task_id is not None and task_id not in self._parents:
            if self._connection.execute(sa.select(tasks.c.id).where(tasks.c.id == task_id)).first() is None:
                raise NotFound(f"there is no task {task_id[:80]!r}", field="parent_id")
            self._parents.add(task_id)
        return task_id


def _working_agent(connection: Connection, reference: str) -> Row[Any]:
    try:
        agent = find_agent(connection, reference)
    except NotFound as error:
        raise NotFound(error.message, field="agent_id", hint="GET /agents lists those that exist") from error
    if agent.status == AgentStatus.OFFLINE.value:
        raise Conflict(
            f"agent {agent.name!r} is stopped and takes no work",
            field="agent_id",
            hint=f"start it: POST /agents/{agent.id}/start",
        )
    return agent


def _row(transaction: Transaction, references: _References, form: TaskForm, created_by: str) -> dict[str, Any]:
    """Return the row of the task that the form asks for.

    Raises what `Submitter.submit` fails with.
    """
    agent = references.agent(form)
    form = _completed(form, agent)
    preferences = references.preferences
    action = str(form.action)
    provider_id, provider_name = (
        references.resolve(providers, form.provider, "provider") if form.provider else (None, None)
    )
    connection_id = references.resolve(connections, form.connection, "connection")[0] if form.connection else None
    worker_id = references.resolve(workers, form.worker, "worker")[0] if form.worker else None
    pool = form.pool or DEFAULT_POOL
    return {
        "id": ids.new_id(ids.TASK),
        "state": TaskState.SCHEDULED.value,
        "action": action,
        "lane": pinned_lane_name(worker_id) if worker_id else _lane(action, pool, provider_name),
        "pool": pool,
        "provider_id": provider_id,
        "connection_id": connection_id,
        "pinned_worker_id": worker_id,
        "agent_id": agent.id if agent else None,
        "agent_version": agent.version if agent else None,
        "parent_id": references.parent(form.parent_id),
        "input_blob": pack_input(form.args, form.input),
        "then_blob": pack_plan(form.then, lambda worker: references.resolve(workers, worker, "worker")[0]),
        "title": form.title,
        "description": form.description,
        "instructions": form.instructions,
        "required_tools": form.required_tools or None,
        "priority": Priority[(form.priority or preferences.default_priority).upper()].value,
        "delivery": (form.delivery or _default_delivery(action)).value,
        "max_attempts": form.max_attempts or preferences.default_max_attempts,
        "timeout_s": form.timeout_s or preferences.default_timeout_s,
        "deadline_at": None if form.deadline is None else deadline_at(form.deadline, transaction.now),
        "due_at": transaction.now + int(form.delay_s * 1000),
        "eligible_at": transaction.now + int(form.delay_s * 1000),
        "wait_reason": None,
        "concurrency_key": form.concurrency_key,
        "concurrency_limit": form.concurrency_limit,
        "attempt": 0,
        "tries": 0,
        "losses": 0,
        "cancel_requested": False,
        "idempotency_key": None,
        "request_sha256": None,
        "created_by": created_by,
        "created_at": transaction.now,
    }


def _completed(form: TaskForm, agent: Row[Any] | None) -> TaskForm:
    """Return the form with what its agent says where it says nothing, and with its instructions as the prompt.

    Raises InvalidInput if the agent lacks something that the task needs.
    """
    said: dict[str, Any] = {}
    chats = form.action in (None, BuiltinAction.LLM_CHAT)
    if agent is not None:
        said |= _of_agent(form, agent)
        if chats:
            said |= _chat_of_agent(form, agent)
    elif form.required_tools:
        raise InvalidInput("`required_tools` are an agent's", field="required_tools", hint="name an agent_id")
    instructions = said.get("instructions", form.instructions)
    if chats and instructions:
        said["input"] = {**said.get("input", form.input), "prompt": instructions}
    return form.model_copy(update=said) if said else form


def _of_agent(form: TaskForm, agent: Row[Any]) -> dict[str, Any]:
    """Return where the agent's task runs; a form that names a pool and no worker means any worker of that pool."""
    missing = [tool for tool in form.required_tools if tool not in agent.enabled_tools]
    if missing:
        raise InvalidInput(
            f"agent {agent.name!r} may not use {', '.join(missing)[:500]}",
            field="required_tools",
            hint="enable them: PATCH /agents/{id} with enabled_tools",
        )
    if form.worker is None and form.pool is None:
        return {"pool": agent.pool, "worker": agent.worker_id}
    return {"pool": form.pool or agent.pool}


def _chat_of_agent(form: TaskForm, agent: Row[Any]) -> dict[str, Any]:
    """Return what an agent's `llm.chat` is made of. Without instructions, its description or title tells the task."""
    instructions = form.instructions
    if not instructions and not _CONVERSATION & form.input.keys():
        instructions = form.description or form.title
        if not instructions:
            raise InvalidInput(
                "the task tells its agent nothing to do", field="instructions", hint="write instructions"
            )
    provider = form.provider or agent.provider_id
    chat = {"model": agent.model, "system": agent.system_prompt}
    known = {**{name: value for name, value in chat.items() if value}, **form.input}
    for name, found in (("llm_provider", provider), ("llm_model", known.get("model"))):
        if not found:
            raise InvalidInput(
                f"agent {agent.name!r} has no {name}", field="agent_id", hint=f"PATCH /agents/{agent.id} with {name}"
            )
    return {
        "action": BuiltinAction.LLM_CHAT.value,
        "provider": provider,
        "instructions": instructions,
        "input": known,
    }


def _lane(action: str, pool: str, provider_name: str | None) -> str:
    kinds = {BuiltinAction.LLM_CHAT.value: LaneKind.LLM, BuiltinAction.SSH_EXEC.value: LaneKind.SSH}
    return lane_name(pool, kinds.get(action, LaneKind.PYTHON), provider_name)


def _default_delivery(action: str) -> Delivery:
    return Delivery.AT_MOST_ONCE if action == BuiltinAction.SSH_EXEC else Delivery.AT_LEAST_ONCE


def deadline_at(deadline: datetime, now: int, *, known: int | None = None) -> int:
    """Return a deadline in milliseconds; raises InvalidInput if it has passed, unless it is the one that is `known`."""
    milliseconds = int(deadline.timestamp() * 1000)
    if milliseconds > _LAST_MS:
        raise InvalidInput("the deadline is after the year 9999", field="deadline", hint="leave it out")
    if milliseconds <= now and milliseconds != known:
        raise InvalidInput("the deadline has passed", field="deadline", hint="write a time in the future")
    return milliseconds


def _request(submission: Submission, number: int) -> dict[str, Any]:
    """Return the columns by which a repeated request is known. What the preferences say is no part of them."""
    key = submission.idempotency_key
    if key is None:
        return {}
    form = submission.forms[number].model_dump_json(exclude_defaults=True)
    return {
        "created_by": submission.created_by,
        "idempotency_key": key if len(submission.forms) == 1 else f"{key}:{number}",
        "request_sha256": hashlib.sha256(form.encode()).digest(),
    }


class _KnownRequests:
    """The tasks that earlier requests with the same Idempotency-Key have made, before this transaction and in it."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._new: dict[tuple[str, str], Mapping[str, Any]] = {}

    def task_of(self, request: Mapping[str, Any]) -> str | None:
        """Return the id of the task that this request made before; raises IdempotencyMismatch."""
        if not request:
            return None
        earlier = self._earlier(request["created_by"], request["idempotency_key"])
        if earlier is not None and earlier["request_sha256"] != request["request_sha256"]:
            raise IdempotencyMismatch(hint="use a new Idempotency-Key for another request")
        return None if earlier is None else str(earlier["id"])

    def add(self, row: Mapping[str, Any]) -> None:
        """Note a task that this transaction makes."""
        if row["idempotency_key"] is not None:
            self._new[row["created_by"], row["idempotency_key"]] = row

    def _earlier(self, created_by: str, key: str) -> Mapping[str, Any] | None:
        if (created_by, key) in self._new:
            return self._new[created_by, key]
        query = sa.select(tasks.c.id, tasks.c.request_sha256).where(
            tasks.c.created_by == created_by, tasks.c.idempotency_key == key
        )
        found = self._connection.execute(query).first()
        return None if found is None else found._asdict()
