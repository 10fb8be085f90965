"""What has arrived of a provider's answer."""

from typing import Any

from protocols.outcome import MAX_RESULT_BYTES, Usage
from worker.actions.llm.chat import Chat, estimated_tokens
from worker.actions.llm.failures import oversized
from worker.actions.seam import OutputSink

MAX_TEXT_BYTES = 8 * 1024 * 1024
_MAX_HEAD_BYTES = MAX_RESULT_BYTES - 8 * 1024
"""Leaves room for the result's other fields, which are shortened to _MAX_FIELD characters each."""
_MAX_FIELD = 256


class Reply:
    """Collects one answer: passes its text on to the sink and keeps what the result needs."""

    def __init__(self, sink: OutputSink) -> None:
        self._sink = sink
        self._head = bytearray()
        self._text_bytes = 0
        self._reasoning_bytes = 0
        self.received = False
        """Whether any byte of the answer's body has come."""
        self.ended = False
        """Whether the provider has said that nothing more follows."""
        self.finish_reason: str | None = None
        self.refusal = ""
        self.model: str | None = None
        self.response_id: str | None = None
        self.counted: Usage | None = None
        """The provider's own count."""

    @property
    def begun(self) -> bool:
        """Whether the model has produced anything."""
        return self._text_bytes > 0 or self._reasoning_bytes > 0 or bool(self.refusal)

    def add_text(self, text: str) -> None:
        """Take the next piece of the answer's text.

        Raises ChatError (`oversized_response`) beyond MAX_TEXT_BYTES.
        """
        # A lone surrogate is valid JSON but no UTF-8.
        data = text.encode("utf-8", "replace")
        self._text_bytes += len(data)
        if self._text_bytes > MAX_TEXT_BYTES:
            raise oversized(f"the answer's text is longer than {MAX_TEXT_BYTES:,} bytes")
        if (room := _MAX_HEAD_BYTES - len(self._head)) > 0:
            self._head += data[:room]
        self._sink.write("text", data)

    def add_reasoning(self, text: str) -> None:
        """Count a piece of the model's reasoning, which is not part of the answer."""
        self._reasoning_bytes += len(text.encode("utf-8", "replace"))

    def add_refusal(self, text: str) -> None:
        """Take a piece of the text in which the model declines to answer."""
        self.refusal = (self.refusal + text)[:4000]

    def result(self, provider: str) -> dict[str, Any]:
        """Return the task's result; `truncated` is there when the text is only the head of the output."""
        result: dict[str, Any] = {
            "text": self._head.decode("utf-8", "ignore"),
            "finish_reason": _short(self.finish_reason),
            "model": _short(self.model),
            "response_id": _short(self.response_id),
            "provider": provider,
        }
        if self._text_bytes > len(self._head):
            result["truncated"] = True
        return result

    def usage(self, chat: Chat) -> Usage | None:
        """Return the provider's count, else an estimate of what has come, else None when nothing has."""
        if self.counted is not None or not (self.begun or self.finish_reason):
            return self.counted
        reasoning = estimated_tokens(self._reasoning_bytes)
        output = estimated_tokens(self._text_bytes + len(self.refusal.encode("utf-8", "replace")))
        return Usage(
            input_tokens=chat.estimated_input_tokens(),
            output_tokens=output + reasoning,
            reasoning_tokens=reasoning,
            estimated=True,
        )


def _short(value: str | None) -> str | None:
    return value if value is None else value[:_MAX_FIELD]
