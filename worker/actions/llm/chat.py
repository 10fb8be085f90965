"""What a task may ask of `llm.chat`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from protocols.codec import first_problem
from protocols.states import FailureClass
from worker.actions.llm.failures import ChatError

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_OWN_FIELDS = frozenset({"model", "messages", "stream"})
_UNSUPPORTED_FIELDS = frozenset({"n", "tools", "functions"})
"""Fields whose answers `llm.chat` would have to throw away."""
_TOKENS_PER_MESSAGE = 8
_BYTES_PER_TOKEN = 3


class Message(BaseModel):
    """One turn of the conversation; `content` is text or the provider's list of content parts."""

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]


class Chat(BaseModel):
    """The keyword arguments of `llm.chat`."""

    model_config = _STRICT

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    system: str | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: str | list[str] | None = None
    seed: StrictInt | None = None
    stream: StrictBool = True
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body, passed on as they are."""

    @model_validator(mode="after")
    def _is_one_conversation(self) -> "Chat":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if own := _OWN_FIELDS & self.extra.keys():
            raise ValueError(f"extra may not set {', '.join(sorted(own))}: use the argument of that name")
        if unsupported := _UNSUPPORTED_FIELDS & self.extra.keys():
            raise ValueError(f"extra may not set {', '.join(sorted(unsupported))}: the answer is one text")
        return self

    def conversation(self) -> list[Message]:
        """Return all messages, the system's first."""
        messages = list(self.messages or ())
        if self.system is not None:
            messages.insert(0, Message(role="system", content=self.system))
        if self.prompt is not None:
            messages.append(Message(role="user", content=self.prompt))
        return messages

    def estimated_input_tokens(self) -> int:
        """Return an upper estimate for a provider that did not count."""
        messages = self.conversation()
        size = sum(_text_bytes(message.content) for message in messages)
        return estimated_tokens(size) + _TOKENS_PER_MESSAGE * len(messages)


def estimated_tokens(utf8_bytes: int) -> int:
    """Return an upper estimate of the tokens in a text of that many bytes."""
    return -(-utf8_bytes // _BYTES_PER_TOKEN)


def parse_chat(kwargs: Mapping[str, Any]) -> Chat:
    """Return the request in `kwargs`.

    Raises ChatError, class `request`, that names the first argument that is wrong.
    """
    try:
        return Chat.model_validate(dict(kwargs))
    except ValidationError as error:
        raise ChatError(FailureClass.REQUEST, "invalid_input", _explain(error)) from error


def _explain(error: ValidationError) -> str:
    unknown = [
        str(problem["loc"][0])
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1
    ]
    if unknown:
        known = ", ".join(Chat.model_fields)
        return f"llm.chat does not take {', '.join(unknown)[:200]}; it takes {known}"
    return f"llm.chat: {first_problem(error)}"


def _text_bytes(content: str | list[dict[str, Any]]) -> int:
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    return sum(len(str(part.get("text", "")).encode("utf-8", "replace")) for part in content)
