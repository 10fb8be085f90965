"""Task forms as the control plane takes them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocols.errors import InvalidInput, InvalidName
from protocols.names import DEFAULT_POOL, BuiltinAction, LaneKind, check_name, lane_name
from protocols.states import Delivery

Word = Annotated[str, Field(min_length=1, max_length=128)]
Model = TypeVar("Model", bound=BaseModel)
_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_KINDS = {BuiltinAction.LLM_CHAT.value: LaneKind.LLM, BuiltinAction.SSH_EXEC.value: LaneKind.SSH}


class Step(BaseModel):
    """A Python function that follows a task's success."""

    model_config = _STRICT

    action: Word
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    pool: Word | None = None
    worker: Word | None = None
    priority: Literal["low", "normal", "high", "critical"] | None = None
    delivery: Delivery | None = None
    max_attempts: int | None = Field(default=None, ge=1, le=100)
    timeout_s: float | None = Field(default=None, gt=0, le=30 * 86400, allow_inf_nan=False)
    delay_s: float = Field(default=0.0, ge=0, le=366 * 86400, allow_inf_nan=False)
    title: Annotated[str, Field(max_length=500)] | None = None
    pass_result: bool = True


class TaskForm(BaseModel):
    """What a client asks for."""

    model_config = _STRICT

    action: Word | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    provider: Word | None = None
    connection: Word | None = None
    pool: Word = DEFAULT_POOL
    worker: Word | None = None
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    delivery: Delivery | None = None
    max_attempts: int = Field(default=3, ge=1, le=100)
    timeout_s: float = Field(default=600.0, gt=0, le=30 * 86400, allow_inf_nan=False)
    deadline: AwareDatetime | None = None
    delay_s: float = Field(default=0.0, ge=0, le=366 * 86400, allow_inf_nan=False)
    concurrency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    concurrency_limit: int = Field(default=1, ge=1, le=10_000)
    title: Annotated[str, Field(max_length=500)] | None = None
    description: Annotated[str, Field(max_length=10_000)] | None = None
    agent_id: Word | None = None
    instructions: str | None = None
    required_tools: list[str] = Field(default_factory=list)
    parent_id: Word | None = None
    then: list[Step] = Field(default_factory=list, max_length=20)

    @field_validator("pool")
    @classmethod
    def _pool_is_a_name(cls, pool: str) -> str:
        try:
            return check_name(pool, "pool")
        except InvalidName as error:
            raise ValueError(error.message) from error

    @field_validator("deadline")
    @classmethod
    def _deadline_is_to_come(cls, deadline: datetime | None) -> datetime | None:
        if deadline is not None and deadline <= datetime.now(UTC):
            raise ValueError("the deadline has passed")
        return deadline

    @model_validator(mode="after")
    def _fits_its_action(self) -> "TaskForm":
        if self.action is None and self.agent_id is None:
            raise ValueError("say `action`, or `agent_id` for a task of an agent")
        if self.action == BuiltinAction.LLM_CHAT and self.provider is None and self.agent_id is None:
            raise ValueError("llm.chat needs `provider`: the name of one from /providers")
        if self.action == BuiltinAction.SSH_EXEC and self.connection is None:
            raise ValueError("ssh.exec needs `connection`: the name of one from /ssh-connections")
        if self.args and self.action in tuple(BuiltinAction):
            raise ValueError(f"{self.action} takes `input`, not `args`")
        if self.provider is not None and self.runs != BuiltinAction.LLM_CHAT:
            raise ValueError("`provider` belongs to llm.chat")
        if self.connection is not None and self.action != BuiltinAction.SSH_EXEC:
            raise ValueError("`connection` belongs to ssh.exec")
        return self

    @property
    def runs(self) -> str:
        """The action: an agent's task is a question to a model."""
        return self.action or BuiltinAction.LLM_CHAT.value

    @property
    def promise(self) -> Delivery:
        """What holds about its effects."""
        at_most_once = self.runs == BuiltinAction.SSH_EXEC
        return self.delivery or (Delivery.AT_MOST_ONCE if at_most_once else Delivery.AT_LEAST_ONCE)

    @property
    def lane(self) -> str:
        """The lane that it waits in."""
        return lane_name(self.pool, _KINDS.get(self.runs, LaneKind.PYTHON), self.provider or self.agent_id)


class TaskChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = _STRICT

    title: Annotated[str, Field(max_length=500)] | None = None
    description: Annotated[str, Field(max_length=10_000)] | None = None
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    deadline: AwareDatetime | None = None
    instructions: str | None = None


class BulkForm(BaseModel):
    """Many tasks, which are submitted together or not at all."""

    model_config = _STRICT

    tasks: list[TaskForm] = Field(min_length=1, max_length=1000)


def read_form(kind: type[Model], body: Any) -> Model:
    """Return the form in a request's body; raises InvalidInput with the field that is wrong."""
    if not isinstance(body, Mapping):
        raise InvalidInput("the body must be a JSON object")
    try:
        return kind.model_validate(dict(body))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in problem["loc"]) or None
        what = str(problem["msg"]).removeprefix("Value error, ")
        raise InvalidInput(f"{where}: {what}" if where else what, field=where) from error
