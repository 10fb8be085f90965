"""How an execution ended, and what it produced."""

from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from protocols.codec import pack, unpack
from protocols.errors import InvalidFrame, TooLarge
from protocols.states import Effect, FailureClass, OutcomeKind
from protocols.values import FROZEN, Blob, Count, Flag, Id, Name, Seconds, Text

MAX_RESULT_BYTES = 256 * 1024
"""A result's limit in MessagePack; more belongs into the output or an Artifact."""


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Failure:
    """What went wrong, for the decision and for a person."""

    failure_class: FailureClass
    code: Name
    """A stable word such as `connection_refused` or `exit_status`."""
    message: Text
    retry_after_s: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Usage:
    """Tokens of an LLM call as the provider counted them."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0
    estimated: Flag = False


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Outcome:
    """The closed end of an execution. `failure` is there unless it succeeded."""

    kind: OutcomeKind
    effect: Effect
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    duration_s: Seconds = 0.0

    @classmethod
    def success(cls, result: dict[str, Any], *, usage: Usage | None = None) -> "Outcome":
        """The action did what it was asked to."""
        return cls(kind=OutcomeKind.SUCCEEDED, effect=Effect.DONE, result=result, usage=usage)

    @classmethod
    def returned(cls, value: Any) -> "Outcome":
        """A Python function returned `value`: a success, unless that cannot be stored."""
        try:
            # Read back as well, within the limits that every later reader has.
            unpack(pack([[[[[[{"value": value}]]]]]], MAX_RESULT_BYTES), MAX_RESULT_BYTES)
        except TooLarge as error:
            code, problem = "result_too_large", error.message
        except InvalidFrame as error:
            code, problem = "result_not_serializable", error.message
        else:
            return cls.success({"value": value})
        message = f"the function returned a {type(value).__name__} that cannot be stored: {problem}"
        return cls.failed(FailureClass.REQUEST, code, message, effect=Effect.DONE)

    @classmethod
    def raised(cls, error: BaseException) -> "Outcome":
        """A Python function raised `error`."""
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            said = f"the function called sys.exit({error.code!r})"
        text = said.encode(errors="replace").decode()
        return cls.failed(FailureClass.EXIT, "exception", text, effect=Effect.MAYBE)

    @classmethod
    def failed(
        cls,
        failure_class: FailureClass,
        code: str,
        message: str,
        *,
        effect: Effect,
        result: dict[str, Any] | None = None,
        usage: Usage | None = None,
        retry_after_s: float | None = None,
    ) -> "Outcome":
        """The action failed; `effect` says whether it can have changed anything."""
        return cls(
            kind=OutcomeKind.FAILED,
            effect=effect,
            result=result,
            usage=usage,
            failure=Failure(
                failure_class=failure_class,
                code=code,
                message=shorten(message),
                retry_after_s=retry_after_s,
            ),
        )

    @classmethod
    def cancelled(cls, message: str, *, effect: Effect, result: dict[str, Any] | None = None) -> "Outcome":
        """The work was ended because someone asked for it."""
        return cls(
            kind=OutcomeKind.CANCELLED,
            effect=effect,
            result=result,
            failure=Failure(failure_class=FailureClass.LOCAL, code="cancelled", message=shorten(message)),
        )

    @classmethod
    def interrupted(cls, code: str, message: str, *, effect: Effect) -> "Outcome":
        """Handed back, not counted."""
        return cls(
            kind=OutcomeKind.INTERRUPTED,
            effect=effect,
            failure=Failure(failure_class=FailureClass.LOCAL, code=code, message=shorten(message)),
        )

    @classmethod
    def rejected(cls, code: str, message: str) -> "Outcome":
        """The worker refused to run it; nothing has happened."""
        return cls(
            kind=OutcomeKind.REJECTED,
            effect=Effect.NONE,
            failure=Failure(failure_class=FailureClass.REQUEST, code=code, message=shorten(message)),
        )


def shorten(message: str, limit: int = 4000) -> str:
    """Return `message` within `limit` characters, its middle left out if need be."""
    if len(message) <= limit:
        return message
    return f"{message[: limit - 600]} […] {message[-500:]}"


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class OutcomeReport:
    """An execution's outcome on its way to the control plane."""

    task_id: Id
    attempt: Count
    execution_id: Id
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class OutputChunk:
    """A piece of an execution's output. Offsets count bytes over all streams in the order of their arrival."""

    task_id: Id
    execution_id: Id
    attempt: Count
    offset: Count
    stream: Name
    """`stdout`, `stderr` or `text`."""
    data: Blob


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class KeptOutput:
    """A part of the complete kept output, stored before the outcome is applied."""

    task_id: Id
    execution_id: Id
    attempt: Count
    part: Count
    last: Flag
    total_bytes: Count
    """All that the action produced; more than is kept when the middle was left out."""
    chunks: tuple[OutputChunk, ...] = Field(max_length=4096)
