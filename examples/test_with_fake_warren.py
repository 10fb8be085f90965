"""Test a program that uses Warren, without Warren: no installation, no model, no host.

pytest examples/test_with_fake_warren.py
"""

from collections.abc import Iterator

import pytest

from warren import TaskDead, Warren
from warren.testing import FakeWarren


def report(warren: Warren, hosts: list[str]) -> str:
    """Ask hosts how they are, and a model for a summary: the program that is tested."""
    answers = []
    for host, task in [(host, warren.ssh(host, "uptime")) for host in hosts]:
        try:
            answers.append(f"{host}: {task.result(timeout_s=30).stdout_tail.strip()}")
        except TaskDead as dead:
            answers.append(f"{host}: {dead.task.error.message if dead.task.error else 'dead'}")
    return warren.llm("openai", "small", "Summarise:\n" + "\n".join(answers)).result(timeout_s=30).text


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWarren]:
    """A control plane which `Warren()` finds in this test."""
    with FakeWarren() as fake:
        monkeypatch.setenv("WARREN_URL", fake.url)
        monkeypatch.setenv("WARREN_API_KEY", fake.key)
        yield fake


def test_a_host_that_fails_is_part_of_the_report(fake: FakeWarren) -> None:
    """What one host cannot tell does not keep the others from the report."""
    fake.on("ssh.exec", output="up 3 days\n")
    fake.on("ssh.exec", result={"exit_status": 127}, when=lambda form: form["connection"] == "web-2")
    fake.on("llm.chat", output=["All is ", "well."])
    with Warren() as warren:
        assert report(warren, ["web-1", "web-2"]) == "All is well."
    *_, question = fake.submissions
    assert question["input"]["prompt"] == "Summarise:\nweb-1: up 3 days\nweb-2: exit status 127"


def test_a_model_that_is_busy_once_is_asked_again(fake: FakeWarren) -> None:
    """A failure that passes costs an attempt and nothing else."""
    fake.on("llm.chat", error="the model is overloaded", times=1)
    fake.on("llm.chat", output="At last.")
    with Warren() as warren:
        task = warren.llm("openai", "small", "Hello")
        assert task.result(timeout_s=30).text == "At last."
        assert task.info.attempt == 2


def test_functions_run_in_the_tests_own_process(fake: FakeWarren) -> None:
    """What workers have installed is a function of the test."""
    fake.action("word_count", lambda text: len(text.split()))
    with Warren() as warren:
        assert warren.submit("word_count", args=["one two three"]).result(timeout_s=30) == 3
