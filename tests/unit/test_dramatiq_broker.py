"""WarrenBroker: what a dramatiq program may declare and send, and what is refused rather than ignored."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ConnectionFailed, QueueNotFound
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    CurrentMessage,
    GroupCallbacks,
    Middleware,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
    default_middleware,
)
from dramatiq.rate_limits.backends import StubBackend as StubRates
from dramatiq.results import ResultFailure, ResultMissing, Results, ResultTimeout
from dramatiq.results.backends import StubBackend

from client.dramatiq_forms import priority_name
from protocols.errors import InvalidInput, InvalidName, Unauthenticated
from tests.support.scripted_http import Answer, ScriptedServer
from warren.dramatiq import WarrenBroker

TASKS = "/tasks"
CREATED = Answer(status=201, body={"id": "task_1"})
KEY = "an-api-key"


def sent(use: Callable[[WarrenBroker], object], **broker: Any) -> Any:
    """Return the form of the one message that `use` sends."""
    with ScriptedServer({TASKS: [CREATED]}) as server:
        subject = WarrenBroker(server.url, api_key=KEY, **broker)
        use(subject)
        subject.close()
        (asked,) = server.asked
    return asked.body


def refused(use: Callable[[WarrenBroker], object]) -> str:
    """Return why what `use` does is refused; nothing is sent."""
    with ScriptedServer({}) as server:
        subject = WarrenBroker(server.url, api_key=KEY)
        with pytest.raises(InvalidInput) as caught:
            use(subject)
        assert server.asked == []
    return caught.value.message


def actor(broker: WarrenBroker, **options: Any) -> Any:
    """Declare an actor."""

    def work(*args: Any, **kwargs: Any) -> None:
        del args, kwargs

    return dramatiq.actor(broker=broker, **options)(work)


def test_a_message_is_a_task() -> None:
    """With dramatiq's defaults: 20 retries, ten minutes."""
    form = sent(lambda broker: actor(broker).send(1, "two", three=[3, None]))
    assert form == {
        "action": "work",
        "args": [1, "two"],
        "input": {"three": [3, None]},
        "pool": "default",
        "priority": "normal",
        "max_attempts": 21,
        "timeout_s": 600.0,
        "delay_s": 0.0,
    }


def test_an_actors_options_are_the_tasks() -> None:
    """Retries are further attempts, times are seconds, the queue is the pool, a low number is urgent."""
    options = {"max_retries": 2, "time_limit": 1500, "queue_name": "mail", "priority": -1, "store_results": True}
    form = sent(lambda broker: actor(broker, actor_name="send_mail", **options).send())
    assert (form["action"], form["pool"], form["priority"]) == ("send_mail", "mail", "high")
    assert (form["max_attempts"], form["timeout_s"]) == (3, 1.5)


def test_a_messages_options_win_over_its_actors_and_these_over_the_middlewares() -> None:
    """As in dramatiq."""
    middleware = [Retries(max_retries=5), TimeLimit(time_limit=2000), AgeLimit(max_age=60_000), Pipelines()]
    plain = sent(lambda broker: actor(broker).send(), middleware=middleware)
    assert (plain["max_attempts"], plain["timeout_s"]) == (6, 2.0)
    own = sent(
        lambda broker: actor(broker, max_retries=4, time_limit=3000).send_with_options(max_retries=0),
        middleware=middleware,
    )
    assert (own["max_attempts"], own["timeout_s"]) == (1, 3.0)


def test_without_middleware_there_is_one_try_and_hardly_a_limit() -> None:
    """As in dramatiq; infinite is 30 days."""
    form = sent(lambda broker: actor(broker).send(), middleware=[])
    assert (form["max_attempts"], form["timeout_s"]) == (1, 30 * 86400)
    endless = sent(lambda broker: actor(broker, time_limit=math.inf).send())
    assert endless["timeout_s"] == 30 * 86400


def test_a_delay_is_seconds() -> None:
    """Of several, the longest counts."""
    assert sent(lambda broker: actor(broker).send_with_options(delay=1500))["delay_s"] == 1.5
    both = lambda broker: broker.enqueue(actor(broker).message_with_options(delay=2000), delay=1000)  # noqa: E731
    assert sent(both)["delay_s"] == 2.0


def test_an_age_limit_is_a_deadline() -> None:
    """Counted from when the message was made."""
    messages: list[Message[Any]] = []
    form = sent(lambda broker: messages.append(actor(broker, max_age=90_000).send()))
    made = datetime.fromtimestamp(messages[0].message_timestamp / 1000, UTC)
    assert (datetime.fromisoformat(form["deadline"]) - made).total_seconds() == 90


@pytest.mark.parametrize(
    ("priority", "name"),
    [(-1000, "critical"), (-100, "critical"), (-99, "high"), (-1, "high"), (0, "normal"), (1, "low"), (100, "low")],
)
def test_a_lower_number_is_more_urgent(priority: int, name: str) -> None:
    """The usual one is normal."""
    assert priority_name(priority) == name


def test_a_pipeline_is_one_task_with_a_plan() -> None:
    """What comes later is carried with it, and finds its result by the first message's id and its own number."""
    pipes: list[Any] = []

    def use(broker: WarrenBroker) -> None:
        first, second = actor(broker, actor_name="first"), actor(broker, actor_name="second", queue_name="mail")
        quiet = actor(broker, actor_name="quiet", pipe_ignore=True, priority=5)
        messages = [
            first.message(1),
            second.message_with_options(args=(2,), delay=500),
            second.message_with_options(pipe_ignore=True),
            quiet.message(),
            second.message(),
        ]
        pipes.append(dramatiq.pipeline(messages, broker=broker).run(delay=3000))

    form = sent(use)
    assert (form["action"], form["args"], form["delay_s"]) == ("first", [1], 3.0)
    assert [(step["action"], step["args"], step["pool"]) for step in form["then"]] == [
        ("second", [2], "mail"),
        ("second", [], "mail"),
        ("quiet", [], "default"),
        ("second", [], "mail"),
    ]
    assert [step["pass_result"] for step in form["then"]] == [True, False, True, False]
    assert [step["delay_s"] for step in form["then"]] == [0.5, 0.0, 0.0, 0.0]
    assert [step["priority"] for step in form["then"]] == ["normal", "normal", "low", "normal"]
    first, *rest = pipes[0].messages
    keys = [message.options["warren_key"] for message in rest]
    assert keys == [f"{first.message_id} {number}" for number in (1, 2, 3, 4)]


def test_whether_a_result_is_ignored_is_decided_as_in_dramatiq() -> None:
    """By the message that would get it, or by the actor that has it; the same program gives the same there."""
    got: list[tuple[Any, ...]] = []
    stub = StubBroker()

    def pipe(broker: Any) -> Any:
        def take(*args: Any) -> str:
            got.append(args)
            return "result"

        first = dramatiq.actor(take, actor_name="first", broker=broker, pipe_ignore=True)  # type: ignore[call-overload]
        second = dramatiq.actor(take, actor_name="second", broker=broker)  # type: ignore[call-overload]
        messages = [first.message(), second.message(), second.message_with_options(pipe_ignore=True), second.message()]
        return dramatiq.pipeline(messages, broker=broker).run()

    worker = dramatiq.Worker(stub, worker_timeout=10, worker_threads=1)
    worker.start()
    pipe(stub)
    stub.join("default", timeout=10_000)
    worker.stop()
    passed = [step["pass_result"] for step in sent(pipe)["then"]]
    assert passed == [args == ("result",) for args in got[1:]] == [False, False, True]


def test_the_message_id_is_the_idempotency_key_also_when_the_connection_breaks() -> None:
    """So sending is safe to repeat."""
    with ScriptedServer({TASKS: [Answer(breaks=True), CREATED]}) as server:
        subject = WarrenBroker(server.url, api_key=KEY)
        message = actor(subject).send()
        assert [asked.headers["Idempotency-Key"] for asked in server.asked] == [message.message_id] * 2
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
        subject.close()


def test_a_message_that_was_sent_differently_before_is_refused() -> None:
    """dramatiq would run it twice."""
    mismatch = {"error": {"code": "idempotency_mismatch", "message": "used before"}}
    with ScriptedServer({TASKS: [Answer(status=409, body=mismatch)]}) as server:
        subject = WarrenBroker(server.url, api_key=KEY)
        with pytest.raises(InvalidInput, match="was sent before"):
            actor(subject).send()
        subject.close()


def test_a_control_plane_that_is_away_is_a_connection_that_failed(unused_tcp_port: int) -> None:
    """The error that dramatiq programs know."""
    subject = WarrenBroker(f"http://127.0.0.1:{unused_tcp_port}", api_key=KEY)
    message = actor(subject).message()
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        subject.enqueue(message)
    with pytest.raises(ConnectionFailed):
        message.get_result(backend=subject.get_results_backend())
    with pytest.raises(ConnectionFailed):
        message.get_result(backend=subject.get_results_backend(), block=True, timeout=50)


def test_actors_can_be_declared_where_there_is_no_control_plane(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Workers import the same modules; only sending needs to know where to."""
    for name in ("WARREN_URL", "WARREN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WARREN_DATA_DIR", str(tmp_path))
    subject = WarrenBroker()
    work = actor(subject)
    with pytest.raises(ConnectionFailed, match="WARREN_URL"):
        work.send()
    monkeypatch.setenv("WARREN_URL", "http://127.0.0.1:9")
    with pytest.raises(Unauthenticated):
        work.send()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retry_when": lambda *_: True}, "retry_when"),
        ({"throws": ValueError}, "catch them in the function"),
        ({"min_backoff": 10}, "WARREN_RETRY_BASE_S"),
        ({"max_backoff": 10}, "WARREN_RETRY_CAP_S"),
        ({"on_retry_exhausted": "other"}, "warren dead-letter list"),
        ({"on_success": "other"}, "pipeline"),
        ({"on_failure": "other"}, "dead letter"),
        ({"notify_shutdown": True}, "SIGTERM"),
        ({"result_ttl": 1000}, "kept as long as its task"),
        ({"broker_priority": 1}, "the actor's priority"),
        ({"max_retries": None}, "from 0 to 99, it is None"),
        ({"max_retries": 100}, "from 0 to 99"),
        ({"time_limit": 31 * 86_400_000}, "up to 30 days"),
        ({"time_limit": None}, "milliseconds"),
        ({"queue_name": "Emails_v2"}, "WarrenBroker(pools={'Emails_v2': 'some-pool'})"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_row_cannot_carry_is_refused_when_an_actor_is_declared(options: dict[str, Any], words: str) -> None:
    """With what to do about it."""
    assert words in refused(lambda broker: actor(broker, **options))


def test_options_that_say_nothing_are_no_reason_to_refuse() -> None:
    """They are what dramatiq assumes anyway."""
    nothing = {"retry_when": None, "throws": None, "on_success": None, "notify_shutdown": False}
    assert sent(lambda broker: actor(broker, **nothing).send())["action"] == "work"


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda work: work.send(b"bytes"), "bytes is not JSON serializable"),
        (lambda work: work.send(when=datetime(2026, 1, 1, tzinfo=UTC)), "must be JSON"),
        (lambda work: work.send(math.nan), "must be JSON"),
        (lambda work: work.send_with_options(on_failure="other"), "dead letter"),
        (lambda work: work.send_with_options(max_retries=-1), "max_retries"),
        (lambda work: work.send_with_options(trace_id="t"), "cannot carry trace_id"),
        (lambda work: (work.message() | work.message_with_options(max_age=5)).run(), "only the first stage"),
        (lambda work: (work.message() | work.message(b"x")).run(), "must be JSON"),
    ],
)
def test_what_a_row_cannot_carry_is_refused_when_a_message_is_sent(
    send: Callable[[Any], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent."""

    def use(broker: WarrenBroker) -> None:
        monkeypatch.setattr("dramatiq.broker.global_broker", broker)
        send(actor(broker))

    assert words in refused(use)


def test_a_group_with_a_callback_and_one_inside_a_pipeline_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By dramatiq itself."""
    subject = WarrenBroker("http://127.0.0.1:9", api_key=KEY)
    monkeypatch.setattr("dramatiq.broker.global_broker", subject)
    work = actor(subject)
    group = dramatiq.group([work.message()])
    with pytest.raises(AttributeError):
        dramatiq.pipeline([work.message(), group])  # type: ignore[list-item]
    group.add_completion_callback(work.message())
    with pytest.raises(RuntimeError, match="GroupCallbacks"):
        group.run()


def test_a_queue_may_have_another_pool() -> None:
    """For names that no pool can have, and for those that shall go elsewhere."""
    pools = {"Emails_v2": "emails", "other": "emails"}
    for queue in pools:
        form = sent(lambda broker, queue=queue: actor(broker, queue_name=queue).send(), pools=pools)  # type: ignore[misc]
        assert form["pool"] == "emails"
    with pytest.raises(InvalidName):
        WarrenBroker(pools={"x": "No Pool"})


def test_a_queue_that_nobody_declared_is_unknown() -> None:
    """As with dramatiq's brokers."""
    subject = WarrenBroker("http://127.0.0.1:9", api_key=KEY)
    with pytest.raises(QueueNotFound):
        subject.enqueue(Message(queue_name="mail", actor_name="work", args=(), kwargs={}, options={}))


class Tracing(Middleware):
    """Middleware of a program, which works where messages are sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    @property
    def actor_options(self) -> set[str]:
        """Options of its own."""
        return {"traced"}

    def before_enqueue(self, _broker: Any, message: Message[Any], delay: int) -> None:
        """Note it, and change it."""
        self.seen.append(("before", message.actor_name, delay))
        message.options["max_retries"] = 1

    def after_enqueue(self, _broker: Any, message: Message[Any], delay: int) -> None:
        """Note it."""
        self.seen.append(("after", message.actor_name, delay))

    def after_declare_actor(self, _broker: Any, declared: Any) -> None:
        """Note it."""
        self.seen.append(("declared", declared.actor_name))


def test_middleware_that_works_where_messages_are_sent_is_called() -> None:
    """For every stage of a pipeline, since all of them are sent now; what it changes counts."""
    tracing = Tracing()

    def use(broker: WarrenBroker) -> None:
        broker.add_middleware(tracing, before=Retries)
        work = actor(broker, traced=True)
        dramatiq.pipeline([work.message(), work.message_with_options(delay=7)], broker=broker).run(delay=5)

    form = sent(use)
    assert (form["max_attempts"], form["then"][0]["max_attempts"]) == (2, 2)
    assert tracing.seen == [
        ("declared", "work"),
        ("before", "work", 5),
        ("before", "work", 7),
        ("after", "work", 5),
        ("after", "work", 7),
    ]


class Forking(Middleware):
    """Middleware that wants a process of its own."""

    @property
    def forks(self) -> list[Callable[[], int]]:
        """What would run there."""
        return []


class GentleRetries(Retries):
    """Decides by itself, in a worker that is not there."""


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (lambda: Results(backend=StubBackend()), "Warren keeps every result"),
        (lambda: GroupCallbacks(StubRates()), "wait for the group"),
        (CurrentMessage, "process_message would run in dramatiq's worker"),
        (Forking, "forks would run in dramatiq's worker"),
        (GentleRetries, "after_process_message would run in dramatiq's worker"),
        (lambda: Retries(retry_when=lambda *_: True), "retry_when"),
        (lambda: Retries(min_backoff=5), "min_backoff"),
        (lambda: Retries(max_retries=1000), "max_retries"),
        (lambda: ShutdownNotifications(notify_shutdown=True), "notify_shutdown"),
    ],
)
def test_middleware_of_a_worker_is_refused(middleware: Callable[[], Middleware], words: str) -> None:
    """Since nobody would call it."""
    assert words in refused(lambda broker: broker.add_middleware(middleware()))
    with pytest.raises(InvalidInput):
        WarrenBroker(middleware=[middleware()])


def test_dramatiqs_own_middleware_is_accepted() -> None:
    """All of the default one, and what lets actors be coroutines."""
    subject = WarrenBroker(middleware=[*(one() for one in default_middleware), AsyncIO()])
    assert {Callbacks, Pipelines, AsyncIO} <= {type(one) for one in subject.middleware}


def test_it_has_no_worker() -> None:
    """Whoever starts one learns what to start instead."""
    subject = WarrenBroker("http://127.0.0.1:9", api_key=KEY)
    worker = dramatiq.Worker(subject)
    with pytest.raises(InvalidInput, match="warren worker run"):
        worker.start()
    with pytest.raises(InvalidInput, match=r"warren\.actions"):
        subject.consume("default")
    with pytest.raises(InvalidInput, match="warren task cancel"):
        subject.flush_all()
    with pytest.raises(InvalidInput, match="wait for messages"):
        subject.join("default")


def _state(state: str, error: dict[str, Any] | None = None, result: Any = None) -> dict[str, list[Answer]]:
    task = {"id": "task_1", "state": state, "error": error, "result": result}
    return {TASKS: [Answer(body={"data": [task]})], f"{TASKS}/task_1": [Answer(body=task)]}


def _result_of(script: dict[str, list[Answer]], **how: Any) -> Any:
    with ScriptedServer(script) as server:
        subject = WarrenBroker(server.url, api_key=KEY)
        try:
            return actor(subject).message().get_result(backend=subject.get_results_backend(), **how)
        finally:
            subject.close()


def test_a_result_is_what_the_function_returned() -> None:
    """None is one too."""
    assert _result_of(_state("succeeded", result={"value": [1, 2]})) == [1, 2]
    assert _result_of(_state("succeeded", result={"value": None})) is None


FAILED = {"code": "exception", "message": "ValueError: no: really"}
EXPIRED = {"code": "deadline", "message": "its deadline passed"}


@pytest.mark.parametrize(
    ("state", "error", "told", "kind"),
    [
        ("dead", FAILED, "actor raised ValueError: no: really", "ValueError"),
        ("dead", EXPIRED, "its deadline passed", "deadline"),
        ("cancelled", None, "the task is cancelled", "cancelled"),
    ],
)
def test_what_has_failed_raises(state: str, error: dict[str, Any] | None, told: str, kind: str) -> None:
    """With the exception's own name and words, as in dramatiq."""
    with pytest.raises(ResultFailure) as caught:
        _result_of(_state(state, error))
    assert str(caught.value) == told
    assert caught.value.orig_exc_type == kind


def test_a_result_that_is_not_there_is_missing_or_waited_for() -> None:
    """A control plane that is away for a moment does not end the waiting."""
    with pytest.raises(ResultMissing):
        _result_of({TASKS: [Answer(body={"data": []})]})
    with pytest.raises(ResultMissing):
        _result_of(_state("running"))
    with pytest.raises(ResultTimeout):
        _result_of(_state("running"), block=True, timeout=150)
    script = _state("succeeded", result={"value": 1})
    script[TASKS] = [Answer(body={"data": []}), Answer(status=503), *script[TASKS]]
    assert _result_of(script, block=True) == 1
