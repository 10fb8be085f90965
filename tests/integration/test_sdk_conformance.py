"""The library against the real control plane and against FakeWarren: no test here can tell them apart."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import wait_until
from tests.support.sdk_backends import HOST, MODEL, PROVIDER, Backend, fake_backend, real_backend
from warren import (
    ChatResult,
    CommandResult,
    Conflict,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    TaskCancelled,
    TaskDead,
    Unauthenticated,
    WaitTimeout,
    Warren,
    forms,
)

PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=["fake", "real"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A control plane with workers, a model and a host."""
    if request.param == "fake":
        with fake_backend() as backend:
            yield backend
    else:
        with real_backend(tmp_path_factory.mktemp("sdk")) as backend:
            yield backend


@pytest.fixture
def warren(backend: Backend) -> Warren:
    """An administrator's client."""
    return backend.warren


def _types(task: Any) -> list[str]:
    return [event.type for event in task.events()]


def test_a_function_returns_its_value(warren: Warren) -> None:
    """A task gives what its function returned, and all that is known of it."""
    task = warren.submit("add", args=[1], input={"right": 2}, title="a sum", priority="high")
    assert task.result(PATIENCE_S) == 3
    info = task.info
    assert (info.state, info.finished, info.action, info.lane) == ("succeeded", True, "add", "q.t.default.python")
    assert (info.title, info.priority, info.delivery) == ("a sum", "high", "at_least_once")
    assert (info.attempt, info.tries, info.max_attempts, info.error) == (1, 0, 3, None)
    assert (info.args, info.input, info.result) == ((1,), {"right": 2}, {"value": 3})
    assert info.started_at
    assert info.finished_at
    assert info.created_at <= info.started_at <= info.finished_at
    assert info.execution_id
    assert info.worker_id
    assert _types(task) == ["task.created", "task.queued", "task.started", "task.succeeded"]
    assert task.output() == b""


def test_a_coroutine_function_is_a_function(warren: Warren) -> None:
    """An asynchronous function's value is that of its coroutine."""
    assert warren.submit("add_async", args=[20, 22]).result(PATIENCE_S) == 42


def test_a_function_that_raises_is_tried_as_often_as_it_may(warren: Warren) -> None:
    """A failure is retried up to max_attempts, and then its error says what was raised."""
    task = warren.submit("fail", max_attempts=2)
    with pytest.raises(TaskDead, match="the third wheel is missing") as caught:
        task.result(PATIENCE_S)
    dead = caught.value.task
    assert (dead.state, dead.tries, dead.attempt) == ("dead", 2, 2)
    assert dead.error is not None
    assert (dead.error.failure_class, dead.error.code, dead.error.cause) == ("exit", "exception", "max_attempts")
    assert dead.error.message == "ValueError: the third wheel is missing"
    once = ["task.queued", "task.started"]
    assert _types(task) == ["task.created", *once, "task.retrying", *once, "task.dead"]


def test_an_at_most_once_function_that_raises_is_dead_at_once(warren: Warren) -> None:
    """What may have had an effect is not repeated by itself."""
    with pytest.raises(TaskDead) as caught:
        warren.submit("fail", delivery="at_most_once").result(PATIENCE_S)
    assert caught.value.task.error is not None
    assert (caught.value.task.error.cause, caught.value.task.tries) == ("effect_possible", 1)


@pytest.mark.parametrize(
    ("action", "code", "cause"),
    [
        ("leave", "exception", "max_attempts"),
        ("strange", "result_not_serializable", "not_retryable"),
        ("large", "result_too_large", "not_retryable"),
        ("never_installed", "unknown_action", "not_retryable"),
    ],
)
def test_ways_to_die(warren: Warren, action: str, code: str, cause: str) -> None:
    """Leaving the process, results that cannot be kept and unknown functions end alike."""
    with pytest.raises(TaskDead) as caught:
        warren.submit(action, max_attempts=1).result(PATIENCE_S)
    error = caught.value.task.error
    assert error is not None
    assert (error.code, error.cause) == (code, cause)


def test_a_repeated_submission_is_one_task(warren: Warren) -> None:
    """The same Idempotency-Key gives the same task, and refuses another form."""
    first = warren.submit("add", args=[1, 1], idempotency_key="once")
    assert warren.submit("add", args=[1, 1], idempotency_key="once").id == first.id
    with pytest.raises(IdempotencyMismatch):
        warren.submit("add", args=[1, 2], idempotency_key="once")


def test_many_are_submitted_in_order_and_repeated_as_one(warren: Warren) -> None:
    """More forms than fit into one request become tasks in their order; the same key finds them again."""
    # Only the last nine shall run: this is about how they get there.
    many = [
        forms.call("add", args=[number, 0], title=f"bulk {number}", delay_s=0 if number >= 996 else 86_400)
        for number in range(1005)
    ]
    heard: list[int] = []
    tasks = warren.submit_many(many, idempotency_key="many", progress=heard.append)
    assert heard == [1000, 1005]
    assert [tasks[place].info.title for place in (0, 999, 1000, 1004)] == [
        "bulk 0",
        "bulk 999",
        "bulk 1000",
        "bulk 1004",
    ]
    again = warren.submit_many(many, idempotency_key="many")
    assert [task.id for task in again] == [task.id for task in tasks]
    assert sorted(task.result() for task in warren.as_completed(tasks[-9:], PATIENCE_S)) == list(range(996, 1005))


PAST = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"action": "add", "colour": "red"}, "colour"),
        ({"action": "add", "max_attempts": 0}, "max_attempts"),
        ({"action": "add", "timeout_s": -1}, "timeout_s"),
        ({"action": "add", "priority": "urgent"}, "priority"),
        ({"action": "add", "delivery": "twice"}, "delivery"),
        ({"action": "add", "args": "1 2"}, "args"),
        ({"action": "add", "deadline": "2030-01-31T12:00:00"}, "deadline"),
        ({"action": "add", "deadline": PAST.isoformat()}, "deadline"),
        ({"action": "llm.chat", "input": {}}, None),
        ({"action": "ssh.exec", "input": {}}, None),
        ({"action": "ssh.exec", "connection": HOST, "args": [1]}, None),
        ({"action": "add", "provider": PROVIDER}, None),
        ({"action": "add", "connection": HOST}, None),
        ({"action": "add", "pool": "No Such Name"}, None),
        ({}, None),
    ],
)
def test_wrong_forms_are_refused_alike(warren: Warren, form: dict[str, Any], field: str | None) -> None:
    """A form that is wrong is refused with the field that is wrong, alone and among many."""
    with pytest.raises(InvalidInput) as caught:
        warren.tasks.submit(form)
    if field is not None:
        assert caught.value.field == field
    with pytest.raises(InvalidInput):
        warren.submit_many([forms.call("add", args=[1, 1], title="beside a wrong one"), form])
    assert not [task for task in warren.tasks.list(limit=20) if task.info.title == "beside a wrong one"]


def test_what_is_not_there_and_who_is_not_known(warren: Warren) -> None:
    """Unknown ids are NotFound; an unknown key is Unauthenticated."""
    for look in (warren.tasks.get, warren.dead_letters.get, warren.dead_letters.retry, warren.dead_letters.delete):
        with pytest.raises(NotFound):
            look("nobody")
    with Warren(warren.url, "wk_wrong") as stranger, pytest.raises(Unauthenticated):
        stranger.submit("add")


def test_a_waiting_task_is_cancelled_at_once(warren: Warren) -> None:
    """A delayed task is cancelled without having run; a second cancel is a conflict."""
    task = warren.submit("add", args=[1, 2], delay_s=600)
    assert task.state == "scheduled"
    assert task.cancel("a test").state == "cancelled"
    with pytest.raises(TaskCancelled):
        task.result(PATIENCE_S)
    assert _types(task) == ["task.created", "task.cancelled"]
    with pytest.raises(Conflict):
        task.cancel()


def test_a_running_task_is_cancelled(warren: Warren, tmp_path: Path) -> None:
    """A running task ends as cancelled soon after it was asked to stop."""
    task = warren.submit("wait_for_file", args=[str(tmp_path / "wanted"), str(tmp_path / "started")])
    wait_until("it runs", (tmp_path / "started").exists)
    task.cancel("a test")
    with pytest.raises(TaskCancelled):
        task.result(PATIENCE_S)
    (tmp_path / "wanted").touch()
    assert _types(task)[-2:] == ["task.cancel_requested", "task.cancelled"]


def test_waiting_ends_with_the_task_or_in_time(warren: Warren, tmp_path: Path) -> None:
    """WaitTimeout says that it goes on; whoever waits longer gets the result."""
    task = warren.submit("wait_for_file", args=[str(tmp_path / "wanted"), str(tmp_path / "started")])
    wait_until("it runs", (tmp_path / "started").exists)
    began = datetime.now(UTC)
    with pytest.raises(WaitTimeout, match="running"):
        task.result(0.3)
    with pytest.raises(TimeoutError):
        list(warren.as_completed([task], 0.3))
    assert datetime.now(UTC) - began < timedelta(seconds=10)
    (tmp_path / "wanted").touch()
    assert task.result(PATIENCE_S) == "seen"


def test_tasks_are_found_by_what_they_are(warren: Warren) -> None:
    """Lists take filters and a limit, go over pages, and come newest first."""
    mine = warren.submit_many([forms.call("add", args=[1, 1], priority="low", delay_s=600)] * 3)
    listed = list(warren.tasks.list(state="scheduled", action="add", priority="low"))
    assert [task.id for task in listed] == [task.id for task in reversed(mine)]
    assert not listed[0].info.complete
    assert len(list(warren.tasks.list(action="add", limit=2))) == 2
    assert len(list(warren.tasks.list(action="add", limit=450))) == 450
    assert not list(warren.tasks.list(state="dead", action="add"))
    for task in mine:
        task.cancel()
    with pytest.raises(InvalidInput):
        list(warren.tasks.list(state="asleep"))


def test_tasks_are_found_by_when_they_were_made(backend: Backend) -> None:
    """`created_after` is the first moment that counts, `created_before` the first that does not."""
    warren = backend.warren
    task = warren.submit("add", args=[1, 1])
    made = task.info.created_at
    assert task.id in [found.id for found in warren.tasks.list(created_after=made)]
    assert task.id not in [found.id for found in warren.tasks.list(created_before=made)]


def test_what_is_said_of_a_task_changes(backend: Backend) -> None:
    """A title changes at any time, a priority until the task has begun."""
    task = backend.warren.submit("add", args=[1, 1], delay_s=600, title="old")
    info = task.update(title="new", priority="high", deadline=datetime.now(UTC) + timedelta(hours=1))
    assert (info.title, info.priority, task.refresh().title) == ("new", "high", "new")
    assert info.deadline is not None
    assert task.update(deadline=None).deadline is None
    task.cancel()
    assert task.update(title="at the end").title == "at the end"
    with pytest.raises(Conflict):
        task.update(priority="low")


def test_a_listed_task_still_has_its_result(warren: Warren) -> None:
    """A handle from a list asks for what the list left out."""
    warren.submit("add", args=[3, 4], title="listed").wait(PATIENCE_S)
    task = next(task for task in warren.tasks.list(state="succeeded", action="add") if task.info.title == "listed")
    assert task.result(PATIENCE_S) == 7


def test_tasks_come_as_they_finish(warren: Warren, tmp_path: Path) -> None:
    """The one that finishes first comes first, finished ones at once, dead ones too."""
    slow = warren.submit("wait_for_file", args=[str(tmp_path / "wanted"), str(tmp_path / "started")])
    done = warren.submit("add", args=[1, 2])
    dead = warren.submit("fail", max_attempts=1)
    done.wait(PATIENCE_S)
    dead.wait(PATIENCE_S)
    coming = warren.as_completed([slow, done, dead], PATIENCE_S)
    assert {next(coming).id, next(coming).id} == {done.id, dead.id}
    (tmp_path / "wanted").touch()
    assert next(coming).result() == "seen"
    assert list(coming) == []
    assert list(warren.as_completed([])) == []


def test_a_models_answer_comes_in_pieces(warren: Warren) -> None:
    """An answer is streamed, kept, and the result; its tokens are counted."""
    task = warren.llm(PROVIDER, MODEL, "Who are you?", max_tokens=100)
    pieces = list(task.stream())
    assert len(pieces) > 1
    assert {(piece.stream, piece.attempt) for piece in pieces} == {("text", 1)}
    answer = task.result(PATIENCE_S)
    assert isinstance(answer, ChatResult)
    assert (answer.text, answer.model, answer.provider, answer.finish_reason) == (
        "".join(piece.text for piece in pieces),
        MODEL,
        PROVIDER,
        "stop",
    )
    assert task.output().decode() == answer.text
    assert task.info.usage is not None
    assert task.info.usage["output_tokens"] > 0
    assert (task.info.lane, task.info.provider) == (f"q.t.default.{PROVIDER}", PROVIDER)
    assert task.info.input == {"model": MODEL, "prompt": "Who are you?", "max_tokens": 100}
    assert [piece.data for piece in task.stream()]


def test_a_command_prints_and_exits(warren: Warren) -> None:
    """A command's output is streamed and kept, its exit status the result."""
    task = warren.ssh(HOST, "echo out")
    assert b"".join(piece.data for piece in task.stream()) == b"out\n"
    result = task.result(PATIENCE_S)
    assert isinstance(result, CommandResult)
    assert (result.outcome, result.exit_status, result.stdout_tail, result.stdout_bytes) == ("exited", 0, "out\n", 4)
    assert (task.info.lane, task.info.connection, task.info.delivery) == ("q.t.default.ssh", HOST, "at_most_once")
    assert task.output() == b"out\n"


def test_a_command_that_fails_is_dead_with_its_exit_status(warren: Warren) -> None:
    """A status other than 0 is a failure, which nobody repeats, and stays in the result."""
    with pytest.raises(TaskDead, match="exit status 9: err") as caught:
        warren.ssh(HOST, "echo err >&2; exit 9").result(PATIENCE_S)
    dead = caught.value.task
    assert dead.error is not None
    assert (dead.error.failure_class, dead.error.code, dead.error.cause) == ("exit", "exit_status", "effect_possible")
    assert (dead.value.exit_status, dead.value.stderr_tail) == (9, "err\n")


def test_dead_letters_are_listed_retried_and_deleted(warren: Warren, tmp_path: Path) -> None:
    """A dead task has a letter; retrying it once is all right, twice a conflict; a deleted one leaves the list."""
    forgiven, forgotten = (
        warren.submit("fail_first", args=[str(tmp_path / name), name, 1], max_attempts=1) for name in ("one", "two")
    )
    for task in (forgiven, forgotten):
        assert task.wait(PATIENCE_S).state == "dead"
    letters = {letter.task_id: letter for letter in warren.dead_letters.list(cause="max_attempts")}
    first, second = letters[forgiven.id], letters[forgotten.id]
    assert (first.action, first.lane, first.cause) == ("fail_first", "q.t.default.python", "max_attempts")
    assert (first.attempts, first.tries, first.task_state, first.resolved_at) == (1, 1, "dead", None)
    assert first.error is not None
    assert first.error.message == "RuntimeError: not yet"
    retried = warren.dead_letters.retry(first.id)
    assert (retried.id, retried.result(PATIENCE_S)) == (forgiven.id, "one")
    assert _types(retried)[4:] == ["task.redriven", "task.queued", "task.started", "task.succeeded"]
    assert warren.dead_letters.get(first.id).resolution == "redriven"
    warren.dead_letters.delete(second.id)
    assert warren.dead_letters.get(second.id).resolution == "discarded"
    assert not {first.id, second.id} & {letter.id for letter in warren.dead_letters.list()}
    for deal in (warren.dead_letters.retry, warren.dead_letters.delete):
        with pytest.raises(Conflict):
            deal(first.id)


def test_a_dead_task_is_retried_by_itself(backend: Backend, tmp_path: Path) -> None:
    """A task's own retry is its dead letter's."""
    task = backend.warren.submit("fail_first", args=[str(tmp_path / "x"), "x", 1], max_attempts=1)
    assert task.wait(PATIENCE_S).state == "dead"
    assert not task.retry().finished
    assert task.result(PATIENCE_S) == "x"
    with pytest.raises(Conflict):
        task.retry()


def test_all_dead_letters_of_a_kind_are_retried_together(backend: Backend, tmp_path: Path) -> None:
    """retry_all takes the list's filters, and stats count what is left."""
    tasks = backend.warren.submit_many(
        [forms.call("fail_first", args=[str(tmp_path / str(n)), str(n), 1], max_attempts=1) for n in range(3)]
    )
    for task in tasks:
        assert task.wait(PATIENCE_S).state == "dead"
    before = backend.warren.dead_letters.stats()
    assert before.by_action["fail_first"] == 3
    assert backend.warren.dead_letters.retry_all(action="fail_first").retried == 3
    assert sorted(task.result(PATIENCE_S) for task in tasks) == ["0", "1", "2"]
    assert backend.warren.dead_letters.stats().total == before.total - 3


def test_an_unfinished_task_is_given_up(backend: Backend) -> None:
    """An admin can make a waiting task a dead letter."""
    task = backend.warren.submit("add", args=[1, 1], delay_s=600)
    letter = backend.warren.dead_letters.give_up(task.id, "a test")
    assert (letter.task_id, letter.cause, task.refresh().state) == (task.id, "manual", "dead")
    backend.warren.dead_letters.delete(letter.id)


def test_a_plan_follows_its_task(backend: Backend) -> None:
    """Each step gets the result before it, and is a child of its task."""
    warren = backend.warren
    task = warren.submit("add", args=[1, 2], then=[forms.call("add", args=[10]), forms.call("add", args=[100])])
    task.wait(PATIENCE_S)

    def child(parent: str) -> Any:
        return next(warren.tasks.list(parent_id=parent), None)

    second = wait_until("the first step", lambda: child(task.id))
    assert second.result(PATIENCE_S) == 13
    third = wait_until("the second step", lambda: child(second.id))
    assert third.result(PATIENCE_S) == 113


def test_the_journal_is_followed(warren: Warren) -> None:
    """The journal gives every event in order, from any of them on."""
    task = warren.submit("add", args=[1, 2])
    task.wait(PATIENCE_S)
    first, *_, last = task.events()
    seen = []
    for event in warren.events(after=first.id - 1):
        seen.append(event)
        if event.id == last.id:
            break
    assert [event.type for event in seen if event.task_id == task.id] == _types(task)
    assert [event.id for event in seen] == sorted(event.id for event in seen)
