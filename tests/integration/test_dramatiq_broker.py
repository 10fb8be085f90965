"""WarrenBroker against a real control plane and worker: results, groups, pipelines, and what breaks on the way."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.results import ResultFailure, ResultMissing, ResultTimeout

from tests.support.cluster import Cluster
from tests.support.dramatiq_program import ACTIONS, add, broker, fail, relay, wait_for_file
from tests.support.processes import FAST, wait_until

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with one worker, and the program connected to it."""
    with Cluster(tmp_path_factory.mktemp("dramatiq"), FAST) as cluster, pytest.MonkeyPatch.context() as patch:
        cluster.broker.start()
        connection = {"WARREN_URL": cluster.broker.url, "WARREN_API_KEY": cluster.broker.key("admin")}
        worker = cluster.worker("one", actions=",".join(f"{name}={source}" for name, source in ACTIONS.items()))
        # An actor may send too, if its worker says where to.
        worker.environment.update(connection)
        worker.start()
        for name, value in connection.items():
            patch.setenv(name, value)
        # Messages ask the global broker for their results.
        patch.setattr("dramatiq.broker.global_broker", broker)
        yield cluster
        broker.close()
        wait_until("the invariant holds", lambda: not cluster.ledger.violations())


@pytest.fixture(autouse=True)
def _running(cluster: Cluster) -> None:
    """Every test needs it."""


def result(message: Any) -> Any:
    """Wait for a result."""
    return message.get_result(block=True, timeout=PATIENCE_MS)


def rows(cluster: Cluster, message: Message[Any]) -> list[dict[str, Any]]:
    """Return the tasks of a message."""
    found: list[dict[str, Any]] = cluster.api.call("GET", f"/tasks?idempotency_key={message.message_id}")["data"]
    return found


def test_a_message_has_a_result() -> None:
    """Also for whoever has only read the message somewhere."""
    message = add.send(20, 22)
    assert result(message) == 42
    assert Message.decode(message.encode()).get_result() == 42
    assert message.get_result() == 42


def test_a_failed_actor_raises() -> None:
    """With the exception's own name and words."""
    with pytest.raises(ResultFailure, match="actor raised ValueError: the third wheel is missing") as caught:
        result(fail.send())
    assert caught.value.orig_exc_type == "ValueError"
    assert caught.value.orig_exc_msg == "the third wheel is missing"


def test_a_delayed_message_waits(cluster: Cluster) -> None:
    """As a row, and in no worker's memory."""
    message = add.send_with_options(args=(1, 2), delay=3_600_000)
    with pytest.raises(ResultMissing):
        message.get_result()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=100)
    (task,) = rows(cluster, message)
    assert (task["state"], task["max_attempts"]) == ("scheduled", 21)


def test_a_message_that_is_sent_again_is_one_task(cluster: Cluster) -> None:
    """Whoever does not know whether it was sent may send it again."""
    message = add.message(1, 2)
    for _ in range(3):
        assert broker.enqueue(message) is message
    assert len(rows(cluster, message)) == 1
    assert result(message) == 3


def test_a_group_gives_all_results() -> None:
    """In the order of its messages."""
    group = dramatiq.group([add.message(number, 1) for number in range(6)]).run()
    group.wait(timeout=PATIENCE_MS)
    assert list(group.get_results()) == [1, 2, 3, 4, 5, 6]
    assert (group.completed, group.completed_count) == (True, 6)


def test_a_pipeline_gives_the_results_of_its_stages() -> None:
    """Each of them, and the last as its own."""
    pipeline = (add.message(1, 2) | add.message_with_options(args=(10,)) | add.message_with_options(args=(100,))).run()
    assert pipeline.get_result(block=True, timeout=PATIENCE_MS) == 113
    assert list(pipeline.get_results()) == [3, 13, 113]
    assert (pipeline.completed, pipeline.completed_count) == (True, 3)
    last = pipeline.messages[-1]
    assert Message.decode(last.encode()).get_result() == 113


def test_a_group_of_pipelines_gives_their_last_results() -> None:
    """They do not get in each other's way."""
    pipelines = [add.message(number, 1) | add.message_with_options(args=(100,)) for number in range(4)]
    group = dramatiq.group(pipelines).run()
    assert list(group.get_results(block=True, timeout=PATIENCE_MS)) == [101, 102, 103, 104]
    assert group.completed


def test_a_result_may_be_ignored() -> None:
    """As `pipe_ignore` says."""
    ignoring = add.message_with_options(args=(5, 6), pipe_ignore=True)
    assert (add.message(1, 2) | ignoring).run().get_result(block=True, timeout=PATIENCE_MS) == 11


def test_a_pipeline_that_broke_off_has_no_last_result() -> None:
    """The first stage says why."""
    pipeline = (fail.message() | add.message_with_options(args=(1, 2), pipe_ignore=True)).run()
    with pytest.raises(ResultFailure):
        result(pipeline.messages[0])
    assert not pipeline.messages[0].options.get("warren_key")
    with pytest.raises(ResultMissing):
        pipeline.get_result()
    assert not pipeline.completed


def test_an_actor_sends_from_inside_a_worker() -> None:
    """The module that makes the broker is the same there."""
    sent = add.message().copy(message_id=result(relay.send(2, 3)))  # type: ignore[call-arg]
    assert result(sent) == 5


def test_many_threads_share_one_broker(cluster: Cluster) -> None:
    """Every message of theirs is a task."""
    with ThreadPoolExecutor(8) as threads:
        messages = list(threads.map(lambda number: add.send(number, number), range(40)))
    assert [result(message) for message in messages] == [2 * number for number in range(40)]
    assert all(len(rows(cluster, message)) == 1 for message in messages[:3])


def test_waiting_for_a_result_outlives_a_control_plane_that_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever waits with a timeout waits until it is over."""
    go, started = tmp_path / "go", tmp_path / "started"
    message = wait_for_file.send(str(go), str(started))
    wait_until("it runs", started.exists)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(result, message)
        cluster.broker.kill()
        cluster.broker.start()
        assert not waiting.done()
        go.touch()
        assert waiting.result(60) == "seen"
