"""`llm.chat` against a provider on a real socket."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from protocols.claim import ProviderAccess
from protocols.outcome import MAX_RESULT_BYTES, Failure, Outcome, Usage
from protocols.states import Delivery, Effect, FailureClass, OutcomeKind
from tests.support.llm_server import (
    Answer,
    End,
    LlmServer,
    byte_by_byte,
    chunk,
    completion,
    document,
    event,
    failure,
)
from worker.actions.llm import LlmChat
from worker.actions.llm.transport import Timeouts
from worker.actions.seam import Invocation, Stopped

KEY = "sk-very-secret-0123456789"
PROVIDER, THROTTLED, QUOTA = FailureClass.PROVIDER, FailureClass.THROTTLED, FailureClass.QUOTA
CREDENTIAL, REQUEST, LOCAL = FailureClass.CREDENTIAL, FailureClass.REQUEST, FailureClass.LOCAL
PATIENT = Timeouts(connect_s=30, silence_s=60, close_s=30)


class Output:
    """Keeps what an action writes and tells when something has come."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.written = asyncio.Event()

    def write(self, stream: str, data: bytes) -> None:
        assert stream == "text"
        self.text += data
        self.written.set()


@pytest.fixture
def server() -> Iterator[LlmServer]:
    """Return a running provider."""
    with LlmServer() as running:
        yield running


@pytest.fixture
async def chat() -> AsyncIterator[LlmChat]:
    """Return the action, patient enough for a busy machine."""
    action = LlmChat(timeouts=PATIENT)
    yield action
    await action.close()


@contextlib.asynccontextmanager
async def impatient(*, connect_s: float = 30, silence_s: float = 60, close_s: float = 30) -> AsyncIterator[LlmChat]:
    """Give the action with short waits."""
    action = LlmChat(timeouts=Timeouts(connect_s=connect_s, silence_s=silence_s, close_s=close_s))
    try:
        yield action
    finally:
        await action.close()


def invocation(base_url: str, output: Output | None = None, **options: Any) -> Invocation:
    """Return a task for the provider at `base_url`; `options` are kwargs or fields of Invocation."""
    given = ("args", "timeout_s", "provider", "secrets")
    fields: dict[str, Any] = {name: options.pop(name) for name in given if name in options}
    access = ProviderAccess(name="tiny", kind="openai", base_url=base_url, secret="tiny-key")
    plain = Invocation(
        task_id="task_1",
        attempt=1,
        execution_id="exec_1",
        action="llm.chat",
        args=(),
        kwargs={"model": "tiny-1", "prompt": "Hello?", **options},
        delivery=Delivery.AT_LEAST_ONCE,
        timeout_s=90.0,
        sink=output or Output(),
        provider=access,
        secrets={"tiny-key": KEY},
    )
    return replace(plain, **fields)


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server for 127.0.0.1 whose certificate nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "impostor")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def failed(outcome: Outcome) -> Failure:
    """Return the failure of an outcome that must be one."""
    assert outcome.kind is OutcomeKind.FAILED, outcome
    assert outcome.failure is not None
    return outcome.failure


async def test_a_streamed_answer_is_shown_and_returned(server: LlmServer, chat: LlmChat) -> None:
    """Text reaches the output as it comes; the result, the usage and the request are what they should be."""
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    server.answer_next(completion("Good ", "morning.", usage=usage))
    output = Output()
    outcome = await chat(invocation(server.base_url, output, system="Be kind."))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert outcome.effect is Effect.DONE
    assert outcome.result == {
        "text": "Good morning.",
        "finish_reason": "stop",
        "model": "tiny-1",
        "response_id": "chatcmpl-1",
        "provider": "tiny",
    }
    assert outcome.usage == Usage(input_tokens=11, output_tokens=5, cached_tokens=4, reasoning_tokens=3)
    assert output.text == b"Good morning."
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json()["messages"][0] == {"role": "system", "content": "Be kind."}


async def test_an_unstreamed_answer_is_the_same(server: LlmServer, chat: LlmChat) -> None:
    """Without streaming the text comes in one piece, with the provider's usage."""
    choice = {"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "length"}
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    server.answer_next(document({"id": "c", "model": "m", "choices": [choice], "usage": usage}))
    output = Output()
    outcome = await chat(invocation(server.base_url, output, stream=False))
    assert outcome.result is not None
    assert (outcome.result["text"], outcome.result["finish_reason"]) == ("Hi.", "length")
    assert outcome.usage == Usage(input_tokens=2, output_tokens=1)
    assert output.text == b"Hi."


async def test_a_provider_without_key_gets_none(server: LlmServer, chat: LlmChat) -> None:
    """No Authorization header is sent for a provider that names no secret."""
    access = ProviderAccess(name="tiny", kind="openai", base_url=server.base_url)
    outcome = await chat(invocation(server.base_url, provider=access))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert "authorization" not in server.requests[0].headers


async def test_cuts_inside_characters_change_nothing(server: LlmServer, chat: LlmChat) -> None:
    """A stream that arrives byte by byte gives the same text."""
    whole = completion("Grüße, ", "世界 🎉")
    server.answer_next(Answer(pieces=byte_by_byte(whole.pieces)))
    output = Output()
    outcome = await chat(invocation(server.base_url, output))
    assert outcome.result is not None
    assert outcome.result["text"] == "Grüße, 世界 🎉" == output.text.decode()


async def test_the_connection_is_used_again(server: LlmServer, chat: LlmChat) -> None:
    """Complete answers leave their connection to the next chat."""
    for _ in range(3):
        assert (await chat(invocation(server.base_url))).kind is OutcomeKind.SUCCEEDED
    assert {request.connection for request in server.requests} == {1}


async def test_cookies_do_not_join_accounts(server: LlmServer, chat: LlmChat) -> None:
    """What a provider sets for one chat is not sent with the next one."""
    server.answer_next(completion("a", headers={"Set-Cookie": "who=1; Path=/", "Content-Type": "text/event-stream"}))
    await chat(invocation(server.base_url))
    await chat(invocation(server.base_url))
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("end", [End.FIN, End.RESET, End.STALL])
async def test_a_finished_answer_needs_no_done_marker(server: LlmServer, end: End) -> None:
    """After the finish_reason nothing can spoil the answer, and nothing is waited for long."""
    server.answer_next(Answer(pieces=[event(chunk("Done.", finish_reason="stop"))], end=end))
    async with impatient(close_s=0.2) as chat, asyncio.timeout(20):
        outcome = await chat(invocation(server.base_url))
    assert outcome.result is not None
    assert outcome.result["text"] == "Done."
    assert outcome.usage is not None
    assert outcome.usage.estimated


async def test_usage_after_the_finish_reason_counts(server: LlmServer, chat: LlmChat) -> None:
    """The last chunk has no choices and must not be missed, [DONE] or not."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    pieces = [event(chunk("x", finish_reason="stop")), event({"id": "c", "choices": [], "usage": usage})]
    server.answer_next(Answer(pieces=pieces))
    assert (await chat(invocation(server.base_url))).usage == Usage(input_tokens=9, output_tokens=1)


@pytest.mark.parametrize(
    ("end", "framed"), [(End.COMPLETE, True), (End.FIN, True), (End.FIN, False), (End.RESET, True)]
)
async def test_a_cut_stream_is_a_failure(server: LlmServer, chat: LlmChat, end: End, framed: bool) -> None:
    """However a stream ends without a finish_reason, it is no answer; what came is counted by estimate."""
    server.answer_next(completion("Half an ", finish_reason=None, end=end, framed=framed))
    output = Output()
    outcome = await chat(invocation(server.base_url, output))
    assert (failed(outcome).failure_class, failed(outcome).code) == (PROVIDER, "stream_cut")
    assert outcome.effect is Effect.MAYBE
    assert outcome.usage == Usage(input_tokens=10, output_tokens=3, estimated=True)
    assert output.text == b"Half an "


async def test_a_connection_lost_before_the_answer_is_the_providers(server: LlmServer, chat: LlmChat) -> None:
    """The request may have been carried out although nothing came back."""
    server.answer_next(Answer(silent=True, end=End.FIN))
    outcome = await chat(invocation(server.base_url))
    assert (failed(outcome).failure_class, failed(outcome).code) == (PROVIDER, "connection_lost")
    assert (outcome.effect, outcome.usage) == (Effect.MAYBE, None)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(silent=True, end=End.STALL), "first_byte_timeout"),
        (Answer(end=End.STALL), "first_byte_timeout"),
        (completion("x", finish_reason=None, end=End.STALL), "idle_timeout"),
    ],
)
async def test_silence_is_a_failure_of_the_provider(server: LlmServer, answer: Answer, code: str) -> None:
    """A provider that says nothing, or nothing more, is not waited for until the deadline."""
    server.answer_next(answer)
    async with impatient(silence_s=0.3) as chat, asyncio.timeout(20):
        outcome = await chat(invocation(server.base_url))
    assert (failed(outcome).failure_class, failed(outcome).code) == (PROVIDER, code)
    assert outcome.effect is Effect.MAYBE


async def test_signs_of_life_are_no_silence(server: LlmServer) -> None:
    """A slow answer may take longer than the longest silence, and comments count as life."""
    whole = completion("a", "b", "c")
    pieces = [piece for event in whole.pieces for piece in (b": still here\n\n", event)]
    server.answer_next(Answer(pieces=pieces, pause_s=0.2))
    async with impatient(silence_s=1.5) as chat:
        outcome = await chat(invocation(server.base_url))
    assert outcome.kind is OutcomeKind.SUCCEEDED


async def test_the_deadline_bounds_everything(server: LlmServer, chat: LlmChat) -> None:
    """An answer that is not complete in time is a timeout, not the provider's failure."""
    server.answer_next(completion("Slow", finish_reason=None, end=End.STALL))
    outcome = await chat(invocation(server.base_url, timeout_s=0.5))
    assert failed(outcome).failure_class is FailureClass.TIMEOUT
    assert outcome.effect is Effect.MAYBE
    assert outcome.usage is not None
    assert outcome.usage.estimated


@pytest.mark.parametrize(
    ("status", "error", "headers", "expected"),
    [
        (500, {"type": "server_error"}, {}, (PROVIDER, "server_error", Effect.NONE, None)),
        (503, {"code": "server_is_overloaded"}, {"Retry-After": "2"}, (PROVIDER, "overloaded", Effect.NONE, 2.0)),
        (529, {"type": "overloaded_error"}, {}, (PROVIDER, "overloaded", Effect.NONE, None)),
        (504, {}, {}, (PROVIDER, "gateway_timeout", Effect.MAYBE, None)),
        (408, {}, {}, (PROVIDER, "request_timeout", Effect.MAYBE, None)),
        (
            429,
            {"code": "rate_limit_exceeded"},
            {"Retry-After-Ms": "250"},
            (THROTTLED, "rate_limited", Effect.NONE, 0.25),
        ),
        (429, {"type": "tokens", "code": None}, {}, (THROTTLED, "rate_limited", Effect.NONE, None)),
        (429, {"type": "insufficient_quota"}, {}, (QUOTA, "quota_exhausted", Effect.NONE, None)),
        (402, {}, {}, (QUOTA, "quota_exhausted", Effect.NONE, None)),
        (401, {"code": "invalid_api_key"}, {}, (CREDENTIAL, "authentication_failed", Effect.NONE, None)),
        (403, {}, {}, (CREDENTIAL, "permission_denied", Effect.NONE, None)),
        (400, {"type": "invalid_request_error"}, {}, (REQUEST, "invalid_request", Effect.NONE, None)),
        (404, {"code": "model_not_found"}, {}, (REQUEST, "model_not_found", Effect.NONE, None)),
        (413, {}, {}, (REQUEST, "request_too_large", Effect.NONE, None)),
        (422, {}, {}, (REQUEST, "invalid_request", Effect.NONE, None)),
        (307, {}, {"Location": "/elsewhere"}, (REQUEST, "unexpected_redirect", Effect.NONE, None)),
    ],
)
async def test_a_refused_request_is_classified(
    server: LlmServer, chat: LlmChat, status: int, error: dict[str, Any], headers: dict[str, str], expected: Any
) -> None:
    """Status, words and headers of a refusal become class, code, effect and wait; it is never tried again."""
    server.answer_next(failure(status, {"error": {"message": "Not now.", **error}}, headers))
    outcome = await chat(invocation(server.base_url))
    told = failed(outcome)
    assert (told.failure_class, told.code, outcome.effect, told.retry_after_s) == expected
    assert f"HTTP {status}" in told.message
    assert "Not now." in told.message
    assert outcome.usage is None
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "failure_class", "code"),
    [
        (Answer(pieces=[event({"error": {"type": "overloaded_error", "message": "x"}})]), PROVIDER, "overloaded"),
        (Answer(pieces=[event({"error": {"code": 429, "message": "x"}})]), THROTTLED, "rate_limited"),
        (Answer(pieces=[event({"error": {"code": "insufficient_quota"}})]), QUOTA, "quota_exhausted"),
        (Answer(pieces=[event({"error": "out of memory"})]), PROVIDER, "provider_error"),
        (Answer(pieces=[event({"object": "error", "message": "x", "code": 400})]), REQUEST, "invalid_request"),
        (completion("x", finish_reason="error"), PROVIDER, "provider_error"),
        (completion("x", finish_reason="content_filter"), REQUEST, "content_filter"),
        (Answer(pieces=[b"data: {nonsense\n\n"]), PROVIDER, "malformed_response"),
        (Answer(pieces=[b"data: [1]\n\n"]), PROVIDER, "malformed_response"),
        (Answer(pieces=[b"data: \xff\n\n"]), PROVIDER, "malformed_response"),
        (Answer(pieces=[b"data: " + b"[" * 100_000 + b"\n\n"]), PROVIDER, "malformed_response"),
        (Answer(pieces=[event({"choices": [{"delta": {"content": 7}}]})]), PROVIDER, "malformed_response"),
        (document({"error": {"message": "x", "type": "server_error"}}), PROVIDER, "server_error"),
        (document(b"<html>"), PROVIDER, "malformed_response"),
        (document({"choices": [{"message": {"content": "x"}}]}), PROVIDER, "malformed_response"),
        (failure(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}), PROVIDER, "malformed_response"),
        (failure(200, b"{}", {"Content-Encoding": "gzip"}), PROVIDER, "malformed_response"),
    ],
)
async def test_an_error_inside_a_200_is_no_answer(
    server: LlmServer, chat: LlmChat, answer: Answer, failure_class: FailureClass, code: str
) -> None:
    """Errors and nonsense under a good status are failures of their own class, with an open effect."""
    server.answer_next(answer)
    outcome = await chat(invocation(server.base_url))
    assert (failed(outcome).failure_class, failed(outcome).code) == (failure_class, code)
    assert outcome.effect is Effect.MAYBE


async def test_a_refusal_by_the_model_is_a_failure(server: LlmServer, chat: LlmChat) -> None:
    """What a model says when it declines is the failure's message."""
    delta = {"refusal": "I will not."}
    server.answer_next(Answer(pieces=[event({"choices": [{"delta": delta, "finish_reason": "stop"}]})]))
    told = failed(await chat(invocation(server.base_url)))
    assert (told.failure_class, told.code, told.message) == (REQUEST, "refusal", "I will not.")


async def test_reasoning_is_counted_but_not_shown(server: LlmServer, chat: LlmChat) -> None:
    """Reasoning is no part of the text; when the stream is cut its tokens are in the estimate."""
    thought = event({"choices": [{"delta": {"reasoning_content": "Let me see"}}]})
    server.answer_next(Answer(pieces=[thought], end=End.FIN))
    output = Output()
    outcome = await chat(invocation(server.base_url, output))
    assert outcome.usage is not None
    assert (outcome.usage.reasoning_tokens, outcome.usage.output_tokens) == (4, 4)
    assert output.text == b""


async def test_a_long_text_is_cut_in_the_result_only(server: LlmServer, chat: LlmChat) -> None:
    """The output has all of a long answer, the result its head and a word about it."""
    pieces = ["ä" * 50_000] * 4
    server.answer_next(completion(*pieces))
    output = Output()
    outcome = await chat(invocation(server.base_url, output))
    assert outcome.result is not None
    assert outcome.result["truncated"] is True
    assert len(msgpack.packb(outcome.result)) <= MAX_RESULT_BYTES
    assert "".join(pieces).startswith(outcome.result["text"])
    assert output.text.decode() == "".join(pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        [event(chunk("x" * 600_000))] * 15,
        [event(chunk("x" * 1_100_000))],
        [b"data: " + b"x" * 600_000] * 2,
    ],
    ids=["text", "event", "line without end"],
)
async def test_an_endless_answer_is_given_up(server: LlmServer, chat: LlmChat, pieces: list[bytes]) -> None:
    """No answer can fill the worker's memory."""
    server.answer_next(Answer(pieces=pieces, end=End.STALL))
    async with asyncio.timeout(20):
        outcome = await chat(invocation(server.base_url))
    assert (failed(outcome).failure_class, failed(outcome).code) == (PROVIDER, "oversized_response")
    assert outcome.effect is Effect.MAYBE


async def test_an_endless_error_text_is_given_up(server: LlmServer, chat: LlmChat) -> None:
    """The status classifies a refusal whose text does not end."""
    server.answer_next(Answer(status=429, pieces=[b"x" * 50_000] * 3, end=End.STALL))
    async with asyncio.timeout(20):
        assert failed(await chat(invocation(server.base_url))).code == "rate_limited"


async def test_a_cancel_closes_the_connection(server: LlmServer, chat: LlmChat) -> None:
    """A cancel in the middle of the answer ends the request at the provider and tells what was used."""
    server.answer_next(completion("Begun", finish_reason=None, end=End.STALL))
    output = Output()
    running = asyncio.create_task(chat(invocation(server.base_url, output)))
    await asyncio.wait_for(output.written.wait(), 20)
    running.cancel()
    with pytest.raises(Stopped) as stopped:
        await asyncio.wait_for(running, 5)
    assert await asyncio.to_thread(server.departures.get, timeout=5) == 1
    outcome = stopped.value.outcome
    assert (outcome.kind, outcome.effect) == (OutcomeKind.CANCELLED, Effect.MAYBE)
    assert outcome.usage == Usage(input_tokens=10, output_tokens=2, estimated=True)


async def test_a_cancel_before_the_answer_closes_the_connection(server: LlmServer, chat: LlmChat) -> None:
    """Cancelling a request that waits for its answer ends it at the provider too."""
    server.answer_next(Answer(silent=True, end=End.STALL))
    running = asyncio.create_task(chat(invocation(server.base_url)))
    assert await asyncio.to_thread(server.asked.wait, 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
    assert await asyncio.to_thread(server.departures.get, timeout=5) == 1


async def test_two_hundred_streams_at_once_do_not_mix(server: LlmServer, chat: LlmChat) -> None:
    """Many chats share one client, and each gets its own answer."""
    server.usual = completion("one ", "two ", "three", pause_s=0.05)
    outputs = [Output() for _ in range(200)]
    outcomes = await asyncio.gather(*(chat(invocation(server.base_url, output)) for output in outputs))
    assert all(outcome.kind is OutcomeKind.SUCCEEDED for outcome in outcomes), outcomes
    assert {bytes(output.text) for output in outputs} == {b"one two three"}
    assert len({request.connection for request in server.requests}) == 200


async def test_a_refused_connection_is_a_local_failure(chat: LlmChat) -> None:
    """Where nobody listens nothing has happened, and the provider is not blamed for it."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        outcome = await chat(invocation(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"))
    assert (failed(outcome).failure_class, failed(outcome).code) == (LOCAL, "connection_refused")
    assert outcome.effect is Effect.NONE


async def test_a_connection_that_nobody_accepts_is_a_local_failure() -> None:
    """A host that does not answer at all is given up after the time for connecting."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with impatient(connect_s=0.5) as chat:
            outcome = await chat(invocation(f"http://127.0.0.1:{full.getsockname()[1]}/v1"))
    assert (failed(outcome).failure_class, failed(outcome).code) == (LOCAL, "connect_timeout")
    assert outcome.effect is Effect.NONE


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'x' * 70}.example"])
async def test_an_unknown_host_is_a_local_failure(chat: LlmChat, host: str) -> None:
    """A name that does not resolve is told as such."""
    outcome = await chat(invocation(f"http://{host}/v1"))
    assert (failed(outcome).failure_class, failed(outcome).code) == (LOCAL, "name_resolution")
    assert outcome.effect is Effect.NONE


async def test_an_untrusted_certificate_is_a_local_failure(chat: LlmChat, tmp_path: Path) -> None:
    """The key is not sent to a server that cannot prove who it is."""
    with LlmServer(tls=self_signed(tmp_path)) as impostor:
        outcome = await chat(invocation(impostor.base_url))
        assert impostor.requests == []
    assert (failed(outcome).failure_class, failed(outcome).code) == (LOCAL, "tls")
    assert outcome.effect is Effect.NONE


async def test_loopback_needs_no_proxy(server: LlmServer, chat: LlmChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is used for other hosts only."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert (await chat(invocation(server.base_url))).kind is OutcomeKind.SUCCEEDED
        outcome = await chat(invocation("http://provider.example/v1"))
    assert (failed(outcome).failure_class, failed(outcome).code) == (LOCAL, "connection_refused")


@pytest.mark.parametrize(
    ("options", "failure_class", "code"),
    [
        ({"provider": None}, REQUEST, "no_provider"),
        ({"provider": ProviderAccess(name="a", kind="martian", base_url="x")}, REQUEST, "unsupported_provider"),
        ({"args": ("Hello?",)}, REQUEST, "invalid_input"),
        ({"colour": "red"}, REQUEST, "invalid_input"),
        ({"secrets": {}}, CREDENTIAL, "secret_missing"),
        ({"secrets": {"tiny-key": "sk-ü"}}, CREDENTIAL, "secret_unusable"),
        ({"secrets": {"tiny-key": f"{KEY}\nX: y"}}, CREDENTIAL, "secret_unusable"),
    ],
)
async def test_a_task_that_cannot_be_sent_is_not_sent(
    server: LlmServer, chat: LlmChat, options: dict[str, Any], failure_class: FailureClass, code: str
) -> None:
    """What is wrong with a task is found before anything happens."""
    outcome = await chat(invocation(server.base_url, **options))
    assert (failed(outcome).failure_class, failed(outcome).code) == (failure_class, code)
    assert outcome.effect is Effect.NONE
    assert KEY not in repr(outcome)
    assert server.requests == []


async def test_the_key_is_in_no_outcome_and_no_log(
    server: LlmServer, chat: LlmChat, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider that quotes the key everywhere cannot get it into what Warren keeps."""
    caplog.set_level(logging.DEBUG)
    quoting = {"message": f"Incorrect key {KEY}.", "code": KEY, "type": KEY}
    named = {"id": KEY, "model": KEY, "choices": [{"delta": {"content": "x"}, "finish_reason": KEY}]}
    server.answer_next(
        failure(401, {"error": quoting}),
        failure(500, f"{'x' * 350} {KEY} {'y' * 900}".encode()),
        Answer(pieces=[event({"error": quoting})]),
        Answer(pieces=[event(named)]),
        Answer(pieces=[event({"choices": [{"delta": {"refusal": KEY}, "finish_reason": "stop"}]})]),
        Answer(silent=True, end=End.RESET),
    )
    outcomes = [await chat(invocation(server.base_url)) for _ in range(6)]
    assert [outcome.kind for outcome in outcomes].count(OutcomeKind.SUCCEEDED) == 1
    assert server.requests[0].headers["authorization"].endswith(KEY)
    assert KEY[:12] not in repr(outcomes)
    assert caplog.records
    assert KEY[:12] not in caplog.text
    assert KEY[:12] not in repr(invocation(server.base_url))


async def test_the_action_can_be_closed_and_used_again(server: LlmServer, chat: LlmChat) -> None:
    """Closing twice does no harm, and a later call opens a new client."""
    await chat(invocation(server.base_url))
    await chat.close()
    await chat.close()
    assert (await chat(invocation(server.base_url))).kind is OutcomeKind.SUCCEEDED
    assert [request.connection for request in server.requests] == [1, 2]
