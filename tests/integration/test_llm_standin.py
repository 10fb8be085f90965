"""The stand-in provider, run as the program that it is and asked by the real action."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from protocols.claim import ProviderAccess
from protocols.outcome import Outcome
from protocols.states import Delivery, FailureClass, OutcomeKind
from worker.actions.llm import LlmChat
from worker.actions.seam import Invocation

PROGRAM = [sys.executable, "-m", "client.standin"]


class Output:
    """Keeps the pieces that an action writes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, stream: str, data: bytes) -> None:
        self.pieces.append(data)


@pytest.fixture
def base_url() -> Iterator[str]:
    """Return the base URL of a running stand-in, as it prints it."""
    with subprocess.Popen([*PROGRAM, "--port", "0"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.stdout.readline().removeprefix("listening on ").strip()
        finally:
            running.terminate()
        assert running.wait(20) == 0, "it ends quietly on SIGTERM"


@pytest.fixture
async def chat() -> AsyncIterator[LlmChat]:
    """Return the action."""
    action = LlmChat()
    yield action
    await action.close()


async def ask(chat: LlmChat, base_url: str, output: Output | None = None, **kwargs: Any) -> Outcome:
    """Return how a task for the stand-in ends."""
    return await chat(
        Invocation(
            task_id="task_1",
            attempt=1,
            execution_id="exec_1",
            action="llm.chat",
            args=(),
            kwargs={"model": "stand-in", **kwargs},
            delivery=Delivery.AT_LEAST_ONCE,
            timeout_s=60,
            sink=output or Output(),
            provider=ProviderAccess(name="stand-in", kind="openai", base_url=base_url),
        )
    )


async def test_it_streams_an_answer_that_says_what_it_is(base_url: str, chat: LlmChat) -> None:
    """The tour's first answer comes in some twenty pieces, is honest, and quotes the prompt."""
    output = Output()
    outcome = await ask(chat, base_url, output, prompt="What are rabbits like?")
    assert outcome.result is not None
    assert "stand-in" in outcome.result["text"]
    assert "no language model" in outcome.result["text"]
    assert "What are rabbits like?" in outcome.result["text"]
    assert b"".join(output.pieces).decode() == outcome.result["text"]
    assert 15 <= len(output.pieces) <= 25
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.estimated) == (4, False)
    assert outcome.usage.output_tokens == len(outcome.result["text"].split())


async def test_it_answers_in_one_piece_too(base_url: str, chat: LlmChat) -> None:
    """A chat without streaming gets the same text."""
    outcome = await ask(chat, base_url, prompt="Hi", stream=False)
    assert outcome.result is not None
    assert "“Hi”" in outcome.result["text"]


async def test_a_prompt_may_fail_once(base_url: str, chat: LlmChat) -> None:
    """Each prompt with `fail-once` gets one 500, so that a tour can show a retry."""
    kinds = [(await ask(chat, base_url, prompt=f"fail-once {name}", stream=False)).kind for name in "aabb"]
    assert kinds == [OutcomeKind.FAILED, OutcomeKind.SUCCEEDED] * 2


async def test_one_model_refuses(base_url: str, chat: LlmChat) -> None:
    """The model `refuse` shows a failure that no retry mends."""
    outcome = await ask(chat, base_url, model="refuse", prompt="Hi")
    assert outcome.failure is not None
    assert outcome.failure.failure_class is FailureClass.REQUEST


def test_it_lists_its_models(base_url: str) -> None:
    """A client that looks for models finds some."""
    listed = httpx2.get(f"{base_url}/models", trust_env=False).json()
    assert [model["id"] for model in listed["data"]] == ["stand-in", "refuse"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": "x"}', b'{"model": "x", "messages": 5}', b"[" * 100_000])
def test_nonsense_gets_an_error(base_url: str, body: bytes) -> None:
    """It answers malformed requests with a 400 and lives on."""
    url = f"{base_url}/chat/completions"
    for _ in range(2):
        assert httpx2.post(url, content=body, trust_env=False).status_code == 400
    assert httpx2.get(f"{base_url}/nowhere", trust_env=False).status_code == 404


def test_it_ends_quietly_in_the_middle_of_an_answer() -> None:
    """SIGTERM ends it at once and without a traceback while somebody reads."""
    command = [*PROGRAM, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().removeprefix("listening on ").strip() + "/chat/completions"
        asked = {"model": "stand-in", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        with httpx2.Client(trust_env=False) as client, client.stream("POST", url, json=asked) as response:
            next(response.iter_bytes())
            running.terminate()
            _, complaint = running.communicate(timeout=20)
    assert (running.returncode, complaint) == (0, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])
def test_it_serves_this_machine_only(host: str) -> None:
    """It refuses to listen where others could reach it."""
    ended = subprocess.run([*PROGRAM, "--host", host], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "no loopback address" in ended.stderr


def test_a_taken_port_is_told_in_one_line(base_url: str) -> None:
    """Where another program listens it ends with a message, not a traceback."""
    port = base_url.split(":")[2].partition("/")[0]
    ended = subprocess.run([*PROGRAM, "--port", port], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert ended.stderr.count("\n") == 1
