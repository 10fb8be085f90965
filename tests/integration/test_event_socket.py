"""`/ws` with a real client: who is let in, what is told under which name, and how a connection ends."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from broker.api.ws import AUTH_S, MAX_MESSAGE_CHARS, MAX_SUBSCRIPTIONS, MAX_WAITING, STUCK_S
from tests.support.api import BASE
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ACTIONS = "print=builtins:print,divide=operator:truediv"
PATIENCE_S = 20.0
PATHS = ("/ws", "/ws/", f"{BASE}/ws")


class Listener:
    """A program that listens; a context manager that hangs up."""

    def __init__(self, cluster: Cluster, path: str = "/ws", *, headers: Any = None, **more: Any) -> None:
        url = cluster.broker.url.replace("http", "ws", 1) + path
        self._connection = ExitStack()
        opening = connect(url, additional_headers=headers, proxy=None, max_size=None, **more)
        self._socket = self._connection.enter_context(opening)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def say(self, kind: str, **more: Any) -> None:
        """Send a message."""
        self.say_raw(json.dumps({"type": kind, **more}))

    def say_raw(self, text: str | bytes) -> None:
        """Send what need not be a message."""
        self._socket.send(text)

    def hear(self) -> dict[str, Any]:
        """Return the next message."""
        heard: dict[str, Any] = json.loads(self._socket.recv(PATIENCE_S))
        return heard

    def ask(self, kind: str, **more: Any) -> dict[str, Any]:
        """Send a message and return the next one that comes."""
        self.say(kind, **more)
        return self.hear()

    def subscribe(self, event: str, **more: Any) -> None:
        """Subscribe, and wait until that holds."""
        assert self.ask("subscribe", event=event, **more) == {"type": "subscribed", "event": event}

    def hear_until(self, last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return messages up to the first that is `last`."""
        heard = [self.hear()]
        while not last(heard[-1]):
            heard.append(self.hear())
        return heard

    def ended(self, within_s: float = PATIENCE_S) -> tuple[list[dict[str, Any]], int]:
        """Wait for the end; returns what came before it, and its close code."""
        heard = []
        deadline = time.monotonic() + within_s
        with suppress(ConnectionClosed):
            while True:
                heard.append(json.loads(self._socket.recv(max(0.0, deadline - time.monotonic()))))
        assert self._socket.close_code is not None
        return heard, self._socket.close_code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that logs everything, with one worker."""
    with Cluster(tmp_path_factory.mktemp("events"), {**FAST, "WARREN_LOG_LEVEL": "debug"}) as cluster:
        cluster.broker.start()
        cluster.worker("one", actions=ACTIONS).start()
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def silent(cluster: Cluster) -> Iterator[tuple[Listener, float]]:
    """A program that connects before anything else happens, and never says who it is."""
    began = time.monotonic()
    with Listener(cluster) as listener:
        yield listener, began


@pytest.fixture(scope="module")
def key(cluster: Cluster) -> str:
    """The key of somebody who may only look."""
    return make_key(cluster, "viewer")


@pytest.fixture
def listener(cluster: Cluster, key: str) -> Iterator[Listener]:
    """A program that was let in."""
    with Listener(cluster, f"/ws?token={key}") as listener:
        yield listener


def make_key(cluster: Cluster, name: str, role: str = "viewer") -> str:
    """Return a new key."""
    return str(cluster.api.call("POST", "/security/api-keys", {"name": name, "role": role})["key"])


def newest_event(cluster: Cluster) -> int:
    """Return the id of the newest event."""
    with sqlite3.connect(cluster.broker.data_dir / "warren.db") as database:
        return int(database.execute("SELECT max(id) FROM events").fetchone()[0])


def finish(cluster: Cluster, task_id: str) -> None:
    """Wait until a task has finished."""
    wait_until("the task has finished", lambda: cluster.api.task(task_id)["finished_at"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameter", ["token", "access_token"])
def test_a_key_in_the_address_lets_in(cluster: Cluster, key: str, path: str, parameter: str) -> None:
    """At the root and under the API's base, with and without a slash at the end."""
    with Listener(cluster, f"{path}?{parameter}={key}") as listener:
        assert listener.ask("ping") == {"type": "pong"}


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_in_a_header_lets_in(cluster: Cluster, key: str, header: str) -> None:
    """As for any other request."""
    value = f"Bearer {key}" if header == "Authorization" else key
    with Listener(cluster, headers={header: value}) as listener:
        assert listener.ask("ping") == {"type": "pong"}


@pytest.mark.parametrize("path", PATHS)
def test_a_key_in_the_first_message_lets_in(cluster: Cluster, key: str, path: str) -> None:
    """It is answered; shown again it is refused, and the connection stays."""
    with Listener(cluster, path) as listener:
        assert listener.ask("auth", token=key) == {"type": "authenticated"}
        assert listener.ask("auth", token=key)["code"] == "invalid_input"
        assert listener.ask("ping") == {"type": "pong"}


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_higher_roles_may_listen(cluster: Cluster, role: str) -> None:
    """They contain the viewer."""
    with Listener(cluster, f"/ws?token={make_key(cluster, f'listening-{role}', role)}") as listener:
        assert listener.ask("ping") == {"type": "pong"}


@pytest.mark.parametrize("token", ["wrong", "wrn_" + "a" * 43, "%00", "%F0%9F%90%87"])
def test_a_wrong_key_in_the_address_is_turned_away(cluster: Cluster, token: str) -> None:
    """With a message and a close code that say why, and never the key."""
    with Listener(cluster, f"/ws?token={token}") as listener:
        heard, code = listener.ended()
    assert ([message["code"] for message in heard], code) == (["unauthenticated"], 4401)
    assert token not in str(heard)


@pytest.mark.parametrize(
    "first",
    [
        '{"type": "auth", "token": "wrong"}',
        '{"type": "auth"}',
        '{"type": "auth", "token": ""}',
        '{"type": "ping"}',
        '{"type": "subscribe", "event": "*"}',
        "hello",
        "",
        b"\x00",
        "x" * (MAX_MESSAGE_CHARS + 1),
    ],
)
def test_any_other_first_message_is_turned_away(cluster: Cluster, first: str | bytes) -> None:
    """Nothing is answered to a stranger but that."""
    with Listener(cluster) as listener:
        listener.say_raw(first)
        heard, code = listener.ended()
    assert ([message["type"] for message in heard], code) == (["error"], 4401)


@pytest.mark.parametrize("shown_in", ["address", "message"])
def test_a_workers_key_does_not_listen(cluster: Cluster, shown_in: str) -> None:
    """It is valid, and may not do this."""
    worker_key = cluster.broker.key("worker")
    with Listener(cluster, f"/ws?token={worker_key}" if shown_in == "address" else "/ws") as listener:
        if shown_in == "message":
            listener.say("auth", token=worker_key)
        heard, code = listener.ended()
    assert ([message["code"] for message in heard], code) == (["forbidden"], 4403)


@pytest.mark.parametrize("event", ["*", "task.completed", "system.alert", "notification", "message.new", "task.dead"])
def test_events_can_be_subscribed_to_and_left(listener: Listener, event: str) -> None:
    """Each is answered; leaving what was not subscribed to is no error."""
    for _ in range(2):
        assert listener.ask("unsubscribe", event=event) == {"type": "unsubscribed", "event": event}
        listener.subscribe(event)


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ('{"type": "subscribe", "event": "task.done"}', "invalid_input", "event"),
        ('{"type": "unsubscribe", "event": "task.done"}', "invalid_input", "event"),
        ('{"type": "subscribe", "event": "*", "task_id": "task_none"}', "not_found", None),
        ('{"type": "subscribe", "event": "*", "agent_id": "agent_none"}', "not_found", "agent_id"),
        ('{"type": "subscribe", "event": "*", "after": -1}', "invalid_input", None),
        ('{"type": "subscribe", "event": "*", "after": "x"}', "invalid_input", None),
        ('{"type": "subscribe", "event": "*", "more": 1}', "invalid_input", None),
        ('{"type": "subscribe", "event": 5}', "invalid_input", None),
        ('{"type": "subscribe"}', "invalid_input", None),
        ('{"type": "dance"}', "invalid_input", None),
        ("{}", "invalid_input", None),
        ("[]", "invalid_input", None),
        ("5", "invalid_input", None),
        ("null", "invalid_input", None),
        ("", "invalid_input", None),
        ("{", "invalid_input", None),
        ('{"type": NaN}', "invalid_input", None),
        ('{"type": "\\ud800"}', "invalid_input", None),
        ("[" * 5000, "invalid_input", None),
        ("x" * (MAX_MESSAGE_CHARS + 1), "too_large", None),
        (b'{"type": "ping"}', "invalid_input", None),
    ],
)
def test_what_is_not_understood_is_answered_and_the_connection_stays(
    listener: Listener, message: str | bytes, code: str, field: str | None
) -> None:
    """The answer says what was wrong; the next message is heard."""
    listener.say_raw(message)
    answer = listener.hear()
    assert (answer["type"], answer["code"], answer.get("field")) == ("error", code, field)
    assert listener.ask("ping") == {"type": "pong"}


def test_a_connection_has_a_limit_of_subscriptions(cluster: Cluster, listener: Listener) -> None:
    """One more is refused, the same once more is not."""
    forms = [{"action": "print", "delay_s": 3600}] * MAX_SUBSCRIPTIONS
    first, *others = cluster.api.submit_all(forms)
    listener.subscribe("task.created")
    for task_id in others:
        listener.subscribe("task.created", task_id=task_id)
    assert listener.ask("subscribe", event="task.created", task_id=first)["code"] == "invalid_input"
    listener.subscribe("task.created", task_id=others[0])


def test_a_task_is_told_of_from_its_creation_to_its_end(cluster: Cluster, listener: Listener) -> None:
    """Under the public names, in order, each event of the journal once, with what it is about."""
    listener.subscribe("*")
    listener.subscribe("task.completed")
    task_id = cluster.api.submit("print", "x")
    heard = [
        message
        for message in listener.hear_until(lambda message: message["type"] == "task.completed")
        if message["data"].get("task_id") == task_id
    ]
    written = cluster.api.call("GET", f"/tasks/{task_id}/events")["data"]
    assert [message["id"] for message in heard] == [event["id"] for event in written]
    assert [message["at"] for message in heard] == [event["at"] for event in written]
    assert [message["data"]["event"] for message in heard] == [event["type"] for event in written]
    assert [message["type"] for message in heard] == ["task.created", "task.updated", "task.updated", "task.completed"]
    assert heard[0]["data"]["action"] == "print"
    assert heard[-1]["data"]["worker_id"] == cluster.processes[1].id  # type: ignore[attr-defined]
    assert {*heard[-1]} == {"type", "id", "at", "data"}


def test_only_what_was_asked_for_is_told(cluster: Cluster, listener: Listener) -> None:
    """By public name, by the journal's own, and no more once it was left."""
    listener.subscribe("task.failed")
    listener.subscribe("task.started")
    first = cluster.api.submit("divide", 1, 0, max_attempts=1)
    started, failed = listener.hear(), listener.hear()
    assert [(one["type"], one["data"]["task_id"]) for one in (started, failed)] == [
        ("task.started", first),
        ("task.failed", first),
    ]
    assert (failed["data"]["event"], failed["data"]["cause"]) == ("task.dead", "max_attempts")
    assert listener.ask("unsubscribe", event="task.started") == {"type": "unsubscribed", "event": "task.started"}
    second = cluster.api.submit("divide", 1, 0, max_attempts=1)
    message = listener.hear()
    assert (message["type"], message["data"]["task_id"]) == ("task.failed", second)


def test_a_subscription_to_one_task_hears_of_no_other(cluster: Cluster, listener: Listener) -> None:
    """Until that is left, too."""
    one, other, last = (cluster.api.submit("print", delay_s=3600) for _ in range(3))
    listener.subscribe("task.updated", task_id=one)
    listener.subscribe("task.updated", task_id=last)
    for task_id in (other, one, last):
        cluster.api.cancel(task_id)
    assert [listener.hear()["data"]["task_id"] for _ in range(2)] == [one, last]


def test_a_subscription_to_an_agent_hears_of_its_tasks(cluster: Cluster, listener: Listener) -> None:
    """And of nobody else's."""
    mine, others, last = (cluster.api.submit("print", delay_s=3600) for _ in range(3))
    with sqlite3.connect(cluster.broker.data_dir / "warren.db", timeout=20) as database:
        database.execute(
            "INSERT INTO agents (id, name, enabled_tools, pool, status, version, created_at, created_by, updated_at)"
            " VALUES ('agent_1', 'writer', '[]', 'default', 'idle', 1, 1, 'test', 1)"
        )
        database.execute("UPDATE tasks SET agent_id = 'agent_1' WHERE id IN (?, ?)", (mine, last))
    listener.subscribe("*", agent_id="agent_1")
    for task_id in (others, mine, last):
        cluster.api.cancel(task_id)
    assert [listener.hear()["data"]["task_id"] for _ in range(2)] == [mine, last]


def test_nothing_is_missed_between_two_connections(cluster: Cluster, key: str) -> None:
    """The first subscription says after which event to begin; a later one cannot."""
    begin = newest_event(cluster)
    with Listener(cluster, f"/ws?token={key}") as listener:
        listener.subscribe("task.completed")
        first = cluster.api.submit("print", 1)
        last_heard = listener.hear()["id"]
    second = cluster.api.submit("print", 2)
    finish(cluster, second)
    with Listener(cluster, f"/ws?token={key}") as listener:
        listener.subscribe("task.completed", after=last_heard)
        assert listener.hear()["data"]["task_id"] == second
        assert listener.ask("subscribe", event="task.failed", after=last_heard)["field"] == "after"
        third = cluster.api.submit("print", 3)
        assert listener.hear()["data"]["task_id"] == third
    with Listener(cluster, f"/ws?token={key}") as listener:
        listener.subscribe("task.completed", after=begin)
        assert [listener.hear()["data"]["task_id"] for _ in range(3)] == [first, second, third]


def test_a_backlog_longer_than_the_queue_arrives_whole(cluster: Cluster, listener: Listener) -> None:
    """A reader that reads is never cut off, however much there is to tell."""
    begin = newest_event(cluster)
    made = cluster.api.submit_all([{"action": "print", "delay_s": 3600}] * (MAX_WAITING * 2))
    listener.subscribe("task.created", after=begin)
    assert [listener.hear()["data"]["task_id"] for _ in made] == made


def test_workers_that_come_leave_and_are_lost_are_told_of(cluster: Cluster, listener: Listener) -> None:
    """A lost worker is offline for those who know no other word, and an alert."""
    for event in ("worker.online", "worker.offline", "system.alert"):
        listener.subscribe(event)
    worker = cluster.worker("two", actions=ACTIONS)
    worker.start()
    assert (heard := listener.hear())["type"] == "worker.online"
    assert heard["data"]["worker_id"] == worker.id
    assert worker.stop() == 0
    assert (heard := listener.hear())["type"] == "worker.offline"
    assert heard["data"]["event"] == "worker.offline"
    worker.start()
    assert listener.hear()["type"] == "worker.online"
    worker.kill()
    offline, alert = listener.hear(), listener.hear()
    assert [one["type"] for one in (offline, alert)] == ["worker.offline", "system.alert"]
    assert offline["id"] == alert["id"]
    assert alert["data"] | {"event": "worker.lost", "worker_id": worker.id} == alert["data"]


def test_a_revoked_key_ends_the_connection(cluster: Cluster) -> None:
    """Within seconds, whether or not anything happens."""
    made = cluster.api.call("POST", "/security/api-keys", {"name": "leaver", "role": "viewer"})
    with Listener(cluster, f"/ws?token={made['key']}") as listener:
        listener.subscribe("*")
        cluster.api.call("DELETE", f"/security/api-keys/{made['id']}")
        heard, code = listener.ended(within_s=5.0)
    assert (heard[-1]["code"], code) == ("unauthenticated", 4401)


def test_a_reader_that_is_stuck_is_let_go(cluster: Cluster, key: str) -> None:
    """While more waits for it than fits anywhere; when it reads on it learns why."""
    begin = newest_event(cluster)
    filler = json.dumps({"filler": "x" * 4000})
    with sqlite3.connect(cluster.broker.data_dir / "warren.db", timeout=20) as database:
        database.executemany(
            "INSERT INTO events (at, type, data) VALUES (1, 'worker.registered', ?)", [(filler,)] * 8000
        )
    with Listener(cluster, f"/ws?token={key}", max_queue=1, ping_interval=None) as listener:
        listener.say("subscribe", event="worker.registered", after=begin)
        wait_until("it is given up", lambda: "code=1013" in cluster.broker.output, STUCK_S + PATIENCE_S)
        heard, code = listener.ended()
    assert (heard[-1]["code"], code) == ("unavailable", 1013)
    assert len(heard) < 8000


def test_who_says_nothing_is_turned_away(silent: tuple[Listener, float]) -> None:
    """After the time that everybody has to show a key."""
    listener, began = silent
    heard, code = listener.ended(AUTH_S + PATIENCE_S)
    assert ([message["code"] for message in heard], code) == (["unauthenticated"], 4401)
    assert time.monotonic() - began >= AUTH_S


def test_a_control_plane_that_stops_says_so(cluster: Cluster, key: str) -> None:
    """Whatever its readers do at that moment, they hear it, and it does not wait for them."""
    with ExitStack() as open_ones:
        idle, following, stranger = (
            open_ones.enter_context(Listener(cluster, path)) for path in (f"/ws?token={key}", f"/ws?token={key}", "/ws")
        )
        following.subscribe("*")
        began = time.monotonic()
        assert cluster.broker.stop() == 0
        assert time.monotonic() - began < 8.0
        assert [one.ended()[1] for one in (idle, following, stranger)] == [1012, 1012, 1012]
    cluster.broker.start()
    with Listener(cluster, f"/ws?token={key}") as listener:
        assert listener.ask("ping") == {"type": "pong"}


def test_no_key_is_ever_logged(cluster: Cluster, key: str) -> None:
    """Not even by a control plane that logs everything."""
    assert "event_reader_ended" in cluster.broker.output
    assert key not in cluster.broker.output
    assert cluster.broker.key("worker") not in cluster.broker.output
    assert "token=" not in cluster.broker.output
    assert "Traceback" not in cluster.broker.output
