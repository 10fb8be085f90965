"""What FakeWarren offers tests, beside being a control plane."""

import threading
import time

import httpx2
import pytest

from broker.submit import TaskForm
from client.sdk.fake.form import TaskForm as FakeForm
from warren import NotFound, TaskDead, TaskInfo, Unauthenticated, Warren, forms
from warren.testing import Effect, FailureClass, FakeWarren, Outcome

PATIENCE_S = 30.0


def test_it_takes_every_field_that_the_control_plane_takes() -> None:
    """No form that works there is refused here."""
    assert TaskForm.model_fields.keys() <= FakeForm.model_fields.keys()


def test_it_keeps_what_was_submitted() -> None:
    """Forms are kept as they were sent, in order, a repeated one once."""
    with FakeWarren() as fake, fake.client() as warren, fake.held():
        warren.submit("add", args=[1], idempotency_key="once")
        warren.submit("add", args=[1], idempotency_key="once")
        warren.submit_many([forms.ssh("web-1", "uptime", priority="high")])
    assert fake.submissions == [
        {"action": "add", "args": [1]},
        {"action": "ssh.exec", "connection": "web-1", "input": {"command": "uptime"}, "priority": "high"},
    ]


def test_held_tasks_wait_and_go_on() -> None:
    """While tasks are held they can be looked at and cancelled; afterwards the rest runs."""
    with FakeWarren() as fake, fake.client() as warren:
        fake.action("add", lambda left, right: left + right)
        with fake.held():
            first, second = (warren.submit("add", args=[1, number]) for number in range(2))
            assert {task.state for task in warren.tasks.list()} == {"queued"}
            first.cancel()
        assert second.result(PATIENCE_S) == 2
        assert first.refresh().started_at is None


def test_outcomes_come_in_the_order_in_which_they_were_written_down() -> None:
    """Counted ones first, in order, then the newest that holds for ever and fits."""
    with FakeWarren(slots=1) as fake, fake.client() as warren:
        fake.on("f", result="for ever")
        fake.on("f", result="first", times=1)
        fake.on("f", result="second", times=2)
        fake.on("f", result="special", when=lambda form: form["args"] == ["special"])
        said = [warren.submit("f").result(PATIENCE_S) for _ in range(5)]
        assert said == ["first", "second", "second", "for ever", "for ever"]
        assert warren.submit("f", args=["special"]).result(PATIENCE_S) == "special"
        fake.on("f", result="newer")
        assert warren.submit("f").result(PATIENCE_S) == "newer"


def test_failures_are_messages_or_whole_outcomes() -> None:
    """A message is a failure that may pass; an Outcome says exactly what happened."""
    with FakeWarren() as fake, fake.client() as warren:
        fake.on("llm.chat", error="overloaded", output=["half an "])
        dead = _death(warren, forms.llm("p", "m", "hi", max_attempts=2))
        assert dead.error is not None
        assert (dead.error.message, dead.error.cause, dead.tries) == ("overloaded", "max_attempts", 2)
        assert warren.tasks.get(dead.id).output() == b"half an "
        refused = Outcome.failed(FailureClass.CREDENTIAL, "authentication_failed", "no", effect=Effect.NONE)
        fake.on("llm.chat", error=refused)
        dead = _death(warren, forms.llm("p", "m", "hi"))
        assert dead.error is not None
        assert (dead.error.code, dead.error.cause, dead.tries) == ("authentication_failed", "not_retryable", 0)


def test_a_throttled_task_waits_as_asked_and_spends_no_try() -> None:
    """Being throttled costs time and nothing else."""
    slow_down = Outcome.failed(FailureClass.THROTTLED, "rate_limited", "no", effect=Effect.NONE, retry_after_s=0.2)
    with FakeWarren() as fake, fake.client() as warren:
        fake.on("llm.chat", error=slow_down, times=1)
        fake.on("llm.chat", output="at last")
        began = time.monotonic()
        task = warren.llm("p", "m", "hi")
        assert task.result(PATIENCE_S).text == "at last"
        assert time.monotonic() - began >= 0.2
        assert (task.info.tries, task.info.attempt) == (0, 2)


def test_a_connection_that_was_refused_is_tried_again_although_it_is_at_most_once() -> None:
    """What surely had no effect may be repeated."""
    refused = Outcome.failed(FailureClass.PROVIDER, "connection_refused", "no", effect=Effect.NONE)
    with FakeWarren() as fake, fake.client() as warren:
        fake.on("ssh.exec", error=refused, times=1)
        fake.on("ssh.exec", output="up\n")
        assert warren.ssh("web-1", "uptime").result(PATIENCE_S).stdout_tail == "up\n"


def test_what_nobody_wrote_down_says_what_to_write() -> None:
    """A model without an outcome fails with the line that is missing."""
    with FakeWarren() as fake, fake.client() as warren, pytest.raises(TaskDead, match=r"fake\.on\('llm\.chat', …\)"):
        warren.llm("p", "m", "hi").result(PATIENCE_S)


def test_what_it_does_not_have_it_says() -> None:
    """A path beyond its part is NotFound, by its name."""
    with FakeWarren() as fake, fake.client() as warren, pytest.raises(NotFound, match="FakeWarren has no GET /workers"):
        list(warren.workers.list())


def test_it_asks_for_its_key() -> None:
    """Who has no key, or another, is refused."""
    with FakeWarren() as fake:
        with Warren(fake.url, "wk_other") as stranger, pytest.raises(Unauthenticated):
            stranger.tasks.get("task_1")
        assert httpx2.get(f"{fake.url}/api/v1/tasks", trust_env=False).status_code == 401


def test_many_threads_may_submit_and_wait() -> None:
    """Clients of many threads get each their own answers."""
    found: list[int] = []
    with FakeWarren() as fake, fake.client() as warren:
        fake.action("add", lambda left, right: left + right)

        def work(number: int) -> None:
            found.append(warren.submit("add", args=[number, 0]).result(PATIENCE_S) - number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert found == [0] * 16


def test_it_stops_while_someone_follows() -> None:
    """Open streams, idle connections and waiting tasks do not keep it from ending."""
    opened = threading.Event()
    began = threading.Event()

    def wait() -> bool:
        began.set()
        return opened.wait(PATIENCE_S)

    with FakeWarren(slots=1) as fake, fake.client(retry_for_s=0.0) as warren:
        fake.action("wait", wait)
        task = warren.submit("wait")
        warren.submit("wait", delay_s=600)
        assert began.wait(PATIENCE_S)
        events = warren.events()
        assert next(events).task_id == task.id
        opened.set()
        started = time.monotonic()
    assert time.monotonic() - started < PATIENCE_S


def _death(warren: Warren, form: forms.Form) -> TaskInfo:
    with pytest.raises(TaskDead) as caught:
        warren.tasks.submit(form).result(PATIENCE_S)
    return caught.value.task
