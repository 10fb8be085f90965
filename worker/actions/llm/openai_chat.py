"""The chat completions interface of OpenAI, which many other providers and servers speak too."""

import json
from typing import Any

import httpx2

from protocols.claim import ProviderAccess
from protocols.outcome import Usage
from protocols.states import Effect, FailureClass
from worker.actions.llm.chat import Chat
from worker.actions.llm.failures import ChatError, ErrorDetail, failed_inside, malformed
from worker.actions.llm.reply import Reply
from worker.actions.llm.wire import WireRequest

_SAMPLING = ("max_tokens", "temperature", "top_p", "stop", "seed")


class OpenAiChat:
    """Speaks `POST {base_url}/chat/completions`."""

    def request(self, chat: Chat, access: ProviderAccess, key: str | None) -> WireRequest:
        """Return what to send. Raises ChatError for a base URL or an `extra` that cannot be sent."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if chat.stream else "application/json",
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return WireRequest(url=_endpoint(access.base_url), headers=headers, body=_encode(_body(chat)))

    def read_event(self, data: bytes, reply: Reply) -> None:
        """Add a chunk to `reply`. Raises ChatError for an error or nonsense in it."""
        if data == b"[DONE]":
            reply.ended = True
            return
        chunk = _decode(data)
        self._read(chunk, "delta", reply)

    def read_document(self, body: bytes, reply: Reply) -> None:
        """Add an unstreamed completion to `reply`. Raises ChatError as `read_event` does."""
        self._read(_decode(body), "message", reply)
        reply.ended = True

    def error_detail(self, body: bytes) -> ErrorDetail:
        """Return what the body of a refused request says."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return ErrorDetail(message=body.decode("utf-8", "replace").strip())
        if isinstance(document, list) and document:
            document = document[0]  # Google's compatible endpoint
        return _find_error(document) or _as_detail(document)

    def _read(self, chunk: dict[str, Any], part: str, reply: Reply) -> None:
        if ("error" in chunk or chunk.get("object") == "error") and (detail := _find_error(chunk)):
            raise failed_inside(detail)
        if usage := chunk.get("usage"):
            reply.counted = _usage(usage)
        if reply.response_id is None:
            reply.response_id = _string(chunk.get("id"))
        if reply.model is None:
            reply.model = _string(chunk.get("model"))
        choices = chunk.get("choices")
        if choices and isinstance(choices, list) and isinstance(choices[0], dict):
            _read_choice(choices[0], part, reply)


def _read_choice(choice: dict[str, Any], part: str, reply: Reply) -> None:
    message = choice.get(part)
    if isinstance(message, dict):
        if content := message.get("content"):
            reply.add_text(_text(content))
        if reasoning := (message.get("reasoning_content") or message.get("reasoning")):
            reply.add_reasoning(str(reasoning))
        if refusal := message.get("refusal"):
            reply.add_refusal(str(refusal))
    if reason := choice.get("finish_reason"):
        if reason == "error":
            raise failed_inside(_find_error(choice) or ErrorDetail(message="finish_reason is error"))
        reply.finish_reason = str(reason)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text", "")) for part in parts)
    raise malformed("the answer's content is neither text nor a list of parts")


def _body(chat: Chat) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": chat.model,
        "messages": [message.model_dump() for message in chat.conversation()],
        "stream": chat.stream,
    }
    if chat.stream:
        body["stream_options"] = {"include_usage": True}
    body |= {name: value for name in _SAMPLING if (value := getattr(chat, name)) is not None}
    return body | chat.extra


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        message = f"llm.chat: cannot be written as JSON: {error}"
        raise ChatError(FailureClass.REQUEST, "invalid_input", message) from error


def _decode(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed("the answer is no valid JSON") from error
    if not isinstance(document, dict):
        raise malformed("the answer is no JSON object")
    return document


def _endpoint(base_url: str) -> httpx2.URL:
    try:
        base = httpx2.URL(base_url)
        if base.scheme in {"http", "https"} and base.host:
            return base.copy_with(path=base.path.rstrip("/") + "/chat/completions")
    except (httpx2.InvalidURL, UnicodeError):
        pass
    message = "the provider's base URL is not usable: write it like https://api.example.com/v1"
    raise ChatError(FailureClass.REQUEST, "invalid_base_url", message, effect=Effect.NONE)


def _find_error(document: object) -> ErrorDetail | None:
    """Return the error in `document`, or None if it has none, in any of the shapes that servers use."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict):
        return _as_detail(error)
    if error:
        return ErrorDetail(words=_as_detail(document).words, message=str(error))
    return _as_detail(document) if document.get("object") == "error" else None


def _as_detail(error: object) -> ErrorDetail:
    if not isinstance(error, dict):
        return ErrorDetail(message=str(error))
    words = tuple(str(word) for name in ("code", "type", "status") if (word := error.get(name)))
    return ErrorDetail(words=words, message=str(error.get("message") or error.get("detail") or ""))


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(prompt, "cached_tokens"),
        reasoning_tokens=_count(completion, "reasoning_tokens"),
    )


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if type(value) is int and 0 <= value <= 2**53 else 0


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
