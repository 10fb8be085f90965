"""What `llm.chat` accepts, and the request that it makes of it."""

import json
from typing import Any

import pytest

from protocols.claim import ProviderAccess
from protocols.states import Effect, FailureClass
from worker.actions.llm.chat import parse_chat
from worker.actions.llm.failures import ChatError
from worker.actions.llm.openai_chat import OpenAiChat

HELLO: dict[str, Any] = {"model": "tiny-1", "prompt": "Hello?"}


def access(base_url: str = "https://api.example.com/v1") -> ProviderAccess:
    """Return a provider at `base_url`."""
    return ProviderAccess(name="example", kind="openai", base_url=base_url)


def body(**kwargs: Any) -> Any:
    """Return the body that is sent for `kwargs`."""
    return json.loads(OpenAiChat().request(parse_chat(kwargs), access(), None).body)


def test_a_prompt_becomes_a_streamed_conversation_of_one_message() -> None:
    """The least that a task can give is enough, and its usage is asked for."""
    assert body(**HELLO) == {
        "model": "tiny-1",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_argument_reaches_the_body() -> None:
    """Sampling arguments, the system text, messages and extra fields are sent as given."""
    sent = body(
        model="m",
        system="Be brief.",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop=["\n"],
        seed=7,
        stream=False,
        extra={"reasoning_effort": "low"},
    )
    assert sent == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "stream": False,
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 7,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "m"}, "give either prompt or messages"),
        ({**HELLO, "messages": [{"role": "user", "content": "x"}]}, "give either prompt or messages"),
        ({**HELLO, "temprature": 1}, "does not take temprature; it takes model, prompt"),
        ({**HELLO, "max_tokens": 0}, "max_tokens"),
        ({**HELLO, "temperature": float("nan")}, "temperature"),
        ({**HELLO, "stream": "yes"}, "stream"),
        ({**HELLO, "extra": {"stream": False}}, "extra may not set stream"),
        ({**HELLO, "extra": {"tools": []}}, "extra may not set tools"),
        ({"model": "m", "messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"model": "m", "messages": []}, "messages"),
    ],
)
def test_a_wrong_argument_is_named(kwargs: dict[str, Any], says: str) -> None:
    """Refusals say which argument is wrong; nothing has happened, and no other try would help."""
    with pytest.raises(ChatError) as refusal:
        parse_chat(kwargs)
    assert says in refusal.value.message
    assert refusal.value.failure_class is FailureClass.REQUEST
    assert refusal.value.effect is Effect.NONE


def test_a_refusal_does_not_repeat_the_prompt() -> None:
    """An error names the argument, never what was in it."""
    with pytest.raises(ChatError) as refusal:
        parse_chat({"model": "m", "prompt": ["my private text"]})
    assert "private" not in refusal.value.message


@pytest.mark.parametrize("value", [b"bytes", float("inf"), {1: {2}}])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    """An `extra` that cannot be written is the request's fault."""
    with pytest.raises(ChatError, match="cannot be written as JSON"):
        body(**HELLO, extra={"field": value})


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://example.com/x?api-version=1", "https://example.com/x/chat/completions?api-version=1"),
    ],
)
def test_the_endpoint_is_below_the_base_url(base_url: str, url: str) -> None:
    """A closing slash and a query of the base URL do no harm."""
    assert str(OpenAiChat().request(parse_chat(HELLO), access(base_url), None).url) == url


@pytest.mark.parametrize("base_url", ["api.example.com/v1", "ftp://example.com", "http://", "http://host:port", "\x00"])
def test_an_unusable_base_url_is_a_clear_failure(base_url: str) -> None:
    """A provider's wrong setting is told with an example of a right one."""
    with pytest.raises(ChatError, match=r"write it like https://api\.example\.com/v1") as refusal:
        OpenAiChat().request(parse_chat(HELLO), access(base_url), None)
    assert refusal.value.code == "invalid_base_url"


def test_the_key_is_not_shown_by_what_carries_it() -> None:
    """A request that is logged by accident does not give the key away."""
    assert "sk-secret" not in repr(OpenAiChat().request(parse_chat(HELLO), access(), "sk-secret"))
