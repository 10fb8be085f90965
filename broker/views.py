"""What people see of tasks, workers, events and dead letters; the names are documented in docs/http.md."""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from broker.pipeline import read_plan
from protocols.codec import unpack
from protocols.states import Delivery, Priority

T = TypeVar("T")

_MAX_BLOB = 4 * 1024 * 1024


_EPOCH = datetime.fromisoformat("1970-01-01")
"""Without a zone, with which a time takes twice as long to write."""
_PRIORITIES = {level.value: level.name.lower() for level in Priority}


def rfc3339(milliseconds: int) -> str:
    """Return a stored time as text, UTC."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds") + "Z"


Time = Annotated[
    int,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""Milliseconds since the epoch, shown as RFC 3339."""


EXACTNESS = "Whether the numbers are exact; if not, the largest stand for more."


class View(BaseModel):
    """Something that the API shows; made from a row whose columns have the same names."""

    model_config = ConfigDict(from_attributes=True, frozen=True, validate_by_name=True, validate_by_alias=True)


class Page(View, Generic[T]):
    """A part of a list."""

    data: list[T]
    total: int
    total_is_exact: bool = Field(description="Whether `total` is how many there are; if not, there are more.")
    limit: int
    offset: int
    next_cursor: str | None
    has_more: bool


class TaskErrorView(View):
    """Why a task's last execution failed, and why the task is dead."""

    failure_class: str | None = Field(alias="class")
    code: str | None
    message: str | None
    cause: str | None = None


class TaskSummary(View):
    """A task in a list."""

    id: str
    state: str
    status: str
    action: str
    lane: str
    pool: str
    provider: str | None
    connection: str | None
    worker: str | None
    priority: str
    delivery: str
    max_attempts: int
    timeout_s: float
    deadline: Time | None
    title: str | None
    description: str | None
    agent_id: str | None
    agent: str | None
    agent_version: int | None
    parent_id: str | None
    required_tools: list[str]
    concurrency_key: str | None
    concurrency_limit: int
    attempt: int
    tries: int
    due_at: Time | None
    wait_reason: str | None
    cancel_requested: bool
    execution_id: str | None
    worker_id: str | None
    usage: dict[str, Any] | None
    error: TaskErrorView | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    created_by: str


class StepView(View):
    """A step that follows a task's success; what it does not say is as with the task before it."""

    action: str
    title: str | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    pool: str | None = None
    worker: str | None = None
    priority: str | None = None
    delivery: str = Delivery.AT_LEAST_ONCE.value
    max_attempts: int | None = None
    timeout_s: float | None = None
    delay_s: float = 0.0
    pass_result: bool = True


class TaskView(TaskSummary):
    """A task with all that went in and came out."""

    instructions: str | None
    input: dict[str, Any]
    args: list[Any]
    then: list[StepView]
    result: dict[str, Any] | None


class WorkerView(View):
    """A worker."""

    id: str
    name: str
    hostname: str
    ip_address: str | None
    approval: str
    presence: str
    status: str
    group: str | None
    pools: list[str]
    fingerprint: str | None
    version: str | None
    os_info: str | None
    cpu_cores: int | None
    memory_total_mb: int | None
    max_agents: int | None
    actions: list[str]
    heartbeat: dict[str, Any] | None
    last_seen_at: Time | None
    registered_at: Time
    approved_at: Time | None
    drained_at: Time | None
    drained_by: str | None
    running: int


class AgentView(View):
    """An agent."""

    id: str
    name: str
    description: str | None
    role: str | None
    llm_provider: str | None
    llm_model: str | None
    system_prompt: str | None
    enabled_tools: list[str]
    pool: str
    worker_id: str | None
    worker: str | None
    status: str
    version: int
    created_at: Time
    created_by: str
    updated_at: Time


class AgentVersionView(View):
    """An agent's profile as it was at a time, with the names of that time."""

    agent_id: str
    version: int
    at: Time
    actor: str
    profile: dict[str, Any]


class EventView(View):
    """An entry of the journal."""

    id: int
    type: str
    at: Time
    task_id: str | None
    attempt: int | None
    execution_id: str | None
    worker_id: str | None
    data: dict[str, Any]


class DeadLetterView(View):
    """A task that failed for good."""

    id: str
    task_id: str
    action: str
    lane: str
    cause: str
    error: TaskErrorView | None
    attempts: int
    tries: int
    dead_at: Time
    task_state: str
    resolved_at: Time | None
    resolution: str | None


def task_summary(row: Mapping[str, Any]) -> TaskSummary:
    """Return the list entry of a task's row with `provider`, `connection` and `worker` joined to it."""
    return TaskSummary.model_validate(_task_fields(row))


def task_view(row: Mapping[str, Any]) -> TaskView:
    """Return the whole task of such a row."""
    args, task_input = plain(unpack(row["input_blob"], _MAX_BLOB))
    result = _opened(row["result_blob"])
    more = {"input": task_input, "args": args, "then": plain(read_plan(row["then_blob"])), "result": result}
    return TaskView.model_validate({**_task_fields(row), **more})


def worker_view(row: Mapping[str, Any]) -> WorkerView:
    """Return a worker of its row (see `fleet_view.worker_rows`)."""
    beat = row["heartbeat"]
    return WorkerView.model_validate({**row, "heartbeat": beat and {**beat, "at": rfc3339(beat["at"])}})


def agent_view(row: Mapping[str, Any]) -> AgentView:
    """Return an agent of its row of `living_agents`."""
    return AgentView.model_validate({**row, "status": row["shown_status"]})


def dead_letter_view(row: Mapping[str, Any]) -> DeadLetterView:
    """Return a dead letter of its row, joined with its task's state as `task_state`."""
    return DeadLetterView.model_validate({**row, "error": _error(row)})


def text_or_base64(data: bytes) -> dict[str, str]:
    """Return bytes as JSON can carry them: `{"text": …}`, or `{"base64": …}` where they are no UTF-8."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def plain(value: Any) -> Any:
    """Return a value from MessagePack with its bytes as JSON can carry them."""
    if isinstance(value, dict):
        return {_key(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        carried = text_or_base64(value)
        return carried.get("text", carried)
    return value


def _key(key: str | bytes) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def _task_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "status": row["state"],
        "priority": _PRIORITIES[row["priority"]],
        "deadline": row["deadline_at"],
        "required_tools": row["required_tools"] or [],
        "usage": _opened(row["usage_blob"]),
        "error": _error(row),
    }


def _opened(blob: bytes | None) -> Any:
    return None if blob is None else plain(unpack(blob, _MAX_BLOB))


def _error(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["error_code"] is None and row["cause"] is None:
        return None
    return {
        "class": row["error_class"],
        "code": row["error_code"],
        "message": row["error_message"],
        "cause": row["cause"],
    }
