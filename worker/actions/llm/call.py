"""One chat from its invocation to its outcome: what is to be sent, what has come, and what that means."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from protocols.claim import ProviderAccess
from protocols.errors import InvalidInput
from protocols.outcome import Outcome, Usage, shorten
from protocols.states import Effect, FailureClass
from worker.actions.llm.chat import Chat, parse_chat
from worker.actions.llm.failures import ChatError
from worker.actions.llm.openai_chat import OpenAiChat
from worker.actions.llm.reply import Reply
from worker.actions.llm.wire import Wire, WireRequest
from worker.actions.seam import Invocation

WIRES: Mapping[str, Wire] = MappingProxyType({"openai": OpenAiChat()})
"""By the kind of a provider."""
_MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A chat that is ready to be sent, and what arrives of its answer."""

    chat: Chat
    provider: str
    wire: Wire
    request: WireRequest
    reply: Reply
    key: str | None = field(repr=False)

    @property
    def usage(self) -> Usage | None:
        """What the chat has used so far."""
        return self.reply.usage(self.chat)

    def finished(self) -> Outcome:
        """Return the outcome of a complete answer; a filtered or refused one is a failure."""
        if self.reply.refusal:
            return self._declined("refusal", self.reply.refusal)
        if self.reply.finish_reason == "content_filter":
            return self._declined("content_filter", "the provider's content filter ended the answer")
        result = self.reply.result(self.provider)
        result |= {name: self._scrub(result[name] or "") for name in ("finish_reason", "model", "response_id")}
        return Outcome.success(result, usage=self.usage)

    def failed(self, error: ChatError) -> Outcome:
        """Return the outcome of a call that `error` ended."""
        return failure_outcome(error, self._scrub(error.message), usage=self.usage)

    def cancelled(self) -> Outcome:
        """Return the outcome of a call that was cancelled after the model had begun."""
        effect = Effect.DONE if self.reply.finish_reason else Effect.MAYBE
        outcome = Outcome.cancelled("cancelled in the middle of the answer", effect=effect)
        return replace(outcome, usage=self.usage)

    def _declined(self, code: str, message: str) -> Outcome:
        return self.failed(ChatError(FailureClass.REQUEST, code, message, effect=Effect.MAYBE))

    def _scrub(self, text: str) -> str:
        """Return `text` without the API key, which a provider may quote when it refuses it."""
        return text.replace(self.key, "[key]") if self.key else text


def prepare_call(invocation: Invocation) -> Call:
    """Return the call that `invocation` asks for.

    Raises ChatError, effect `none`, if it cannot be made.
    """
    chat = parse_chat(invocation.kwargs)
    if invocation.args:
        raise ChatError(FailureClass.REQUEST, "invalid_input", "llm.chat takes keyword arguments only")
    access = invocation.provider
    if access is None:
        message = "llm.chat needs a provider: submit it to the lane of one"
        raise ChatError(FailureClass.REQUEST, "no_provider", message)
    wire = WIRES.get(access.kind)
    if wire is None:
        known = ", ".join(sorted(WIRES))
        message = f"this worker cannot speak to providers of kind {access.kind!r}; it knows {known}"
        raise ChatError(FailureClass.REQUEST, "unsupported_provider", message)
    key = _key(invocation, access)
    return Call(
        chat=chat,
        provider=access.name,
        wire=wire,
        request=wire.request(chat, access, key),
        reply=Reply(invocation.sink),
        key=key,
    )


def failure_outcome(error: ChatError, message: str, *, usage: Usage | None = None) -> Outcome:
    """Return the outcome that tells `error` with `message` for its text."""
    return Outcome.failed(
        error.failure_class,
        error.code,
        shorten(message, _MAX_MESSAGE),
        effect=error.effect,
        usage=usage,
        retry_after_s=error.retry_after_s,
    )


def _key(invocation: Invocation, access: ProviderAccess) -> str | None:
    try:
        key = (invocation.secret(access.secret) or "").strip()
    except InvalidInput as error:
        raise ChatError(FailureClass.CREDENTIAL, "secret_missing", error.message) from error
    if not (key.isascii() and key.isprintable()):
        message = f"the secret of provider {access.name!r} has characters that no API key has"
        raise ChatError(FailureClass.CREDENTIAL, "secret_unusable", message)
    return key or None
