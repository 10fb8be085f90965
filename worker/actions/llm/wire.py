"""The seam between `llm.chat` and the HTTP interface of a kind of provider."""

from dataclasses import dataclass, field
from typing import Protocol

import httpx2

from protocols.claim import ProviderAccess
from worker.actions.llm.chat import Chat
from worker.actions.llm.failures import ErrorDetail
from worker.actions.llm.reply import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A POST that asks a provider for one chat."""

    url: httpx2.URL = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Wire(Protocol):
    """Speaks one kind of provider's interface; keeps no state, so one object serves all chats.

    An answer is complete when `reply.finish_reason` is set. A streamed answer is server-sent events.
    """

    def request(self, chat: Chat, access: ProviderAccess, key: str | None) -> WireRequest:
        """Return what to send. Raises ChatError, class `request`, for what this interface cannot carry."""
        ...

    def read_event(self, data: bytes, reply: Reply) -> None:
        """Add a streamed event to `reply`. Raises ChatError for an error or nonsense in it."""
        ...

    def read_document(self, body: bytes, reply: Reply) -> None:
        """Add an answer that came in one piece to `reply`. Raises ChatError as `read_event` does."""
        ...

    def error_detail(self, body: bytes) -> ErrorDetail:
        """Return what the body of a refused request says; never raises."""
        ...
