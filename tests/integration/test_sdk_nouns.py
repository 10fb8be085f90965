"""The library's nouns against a real control plane with a real worker."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.sdk_backends import HOST, MODEL, PROVIDER, Backend, real_backend
from warren import Conflict, Forbidden, NotFound, Warren

PATIENCE_S = 60.0
LANE = "q.t.default.python"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A control plane with a worker, a model and a host."""
    with real_backend(tmp_path_factory.mktemp("nouns")) as backend:
        yield backend


@pytest.fixture
def warren(backend: Backend) -> Warren:
    """An administrator's client."""
    return backend.warren


def test_resources_are_made_changed_and_deleted(warren: Warren) -> None:
    """Secrets, providers and connections live through their whole life; a used secret stays."""
    secret = warren.secrets.create("spare", "very-private", expires_at=datetime.now(UTC) + timedelta(days=3))
    assert "very-private" not in repr(secret)
    assert warren.secrets.put("spare", "other").version == secret.version + 1
    provider = warren.providers.create("elsewhere", "https://example.org/v1", secret="spare")
    assert (provider.kind, provider.secret) == ("openai", "spare")
    with pytest.raises(Conflict):
        warren.secrets.delete("spare")
    assert warren.providers.update("elsewhere", secret=None).secret is None
    warren.providers.delete("elsewhere")
    with pytest.raises(NotFound):
        warren.providers.get("elsewhere")
    warren.secrets.delete("spare")
    assert "spare" not in [one.name for one in warren.secrets.list()]
    assert warren.connections.update(HOST, port=warren.connections.get(HOST).port).name == HOST


def test_workers_are_seen_and_turned_away(backend: Backend, warren: Warren) -> None:
    """A worker shows what it is; the fleet shows it in numbers."""
    (worker,) = warren.workers.list()
    assert (worker.name, worker.approval, worker.presence) == ("one", "approved", "online")
    assert "add" in worker.actions
    assert warren.workers.get("one") == worker or warren.workers.get("one").id == worker.id
    assert warren.workers.approve("one", str(worker.fingerprint)).approval == "approved"
    with pytest.raises(Conflict):
        warren.workers.approve("one", "0000-0000-0000-0000-0000")
    assert warren.workers.overview().total == 1
    assert list(warren.workers.tasks("one")) == []


def test_a_worker_is_drained_and_comes_back(backend: Backend, warren: Warren) -> None:
    """A drained worker takes nothing until it is resumed."""
    assert warren.workers.drain("one", "a test").drained_at is not None
    task = warren.submit("add", args=[1, 2])
    assert task.refresh().started_at is None
    assert warren.workers.resume("one").drained_at is None
    assert task.result(PATIENCE_S) == 3


def test_a_queue_is_paused_and_goes_on(backend: Backend, warren: Warren) -> None:
    """Nothing of a paused queue starts."""
    paused = warren.queues.pause(LANE, "a test")
    assert (paused.paused, paused.reason, paused.kind) == (True, "a test", "python")
    task = warren.submit("add", args=[1, 2])
    assert warren.queues.get(LANE).waiting == 1
    assert task.refresh().state == "scheduled"
    assert not warren.queues.resume(LANE).paused
    assert task.result(PATIENCE_S) == 3
    assert LANE in [queue.name for queue in warren.queues.list()]


def test_an_agent_answers_and_is_stopped(backend: Backend, warren: Warren) -> None:
    """An agent's task is a question to its model; a stopped one takes none."""
    agent = warren.agents.create("writer", llm_provider=PROVIDER, llm_model=MODEL, system_prompt="Be brief.")
    task = warren.agent("writer", "Who are you?")
    assert "Who are you?" in task.result(PATIENCE_S).text
    assert (task.info.agent_id, task.info.action) == (agent.id, "llm.chat")
    assert warren.agents.update("writer", role="author").version == agent.version + 1
    assert [version.version for version in warren.agents.versions("writer")] == [2, 1]
    assert warren.agents.version("writer", 1).profile["role"] is None
    assert warren.agents.stop("writer").status == "offline"
    with pytest.raises(Conflict):
        warren.agent("writer", "Are you there?")
    assert warren.agents.start("writer").status == "idle"
    warren.agents.delete("writer")
    with pytest.raises(NotFound):
        warren.agents.get("writer")


def test_a_tasks_history_is_told(backend: Backend, warren: Warren) -> None:
    """Attempts have their executions, the timeline its sentences, the tree its root; tasks are counted."""
    task = warren.submit("fail", max_attempts=2)
    task.wait(PATIENCE_S)
    first, second = task.attempts()
    assert (first.attempt, second.attempt) == (1, 2)
    (execution,) = first.executions
    assert execution.error is not None
    assert (execution.outcome, execution.error.code) == ("failed", "exception")
    assert all(moment.summary and moment.elapsed_s >= 0 for moment in task.timeline())
    assert task.tree().root.id == task.id
    assert warren.tasks.stats()["by_state"]["dead"] >= 1
    assert task.id in [other.id for other in warren.tasks.list(created_after=task.info.created_at, state="dead")]


def test_files_go_up_and_come_down(backend: Backend, warren: Warren, tmp_path: Path) -> None:
    """A file comes down as it went up, belongs to its task, and can be deleted."""
    task = warren.submit("add", args=[1, 2])
    source = tmp_path / "report.txt"
    source.write_bytes(b"line\n" * 100_000)
    file = warren.files.upload(source, task_id=task.id)
    assert (file.name, file.size_bytes, file.content_type) == ("report.txt", 500_000, "text/plain")
    assert [one.id for one in warren.files.list(task_id=task.id)] == [file.id]
    assert warren.files.download(file.id, tmp_path / "copy.txt") == file
    assert (tmp_path / "copy.txt").read_bytes() == source.read_bytes()
    assert f"/files/{file.id}/" in warren.files.url(file.id).url
    warren.files.delete(file.id)
    with pytest.raises(NotFound):
        warren.files.get(file.id)


def test_settings_hold_from_now_on(backend: Backend, warren: Warren) -> None:
    """A setting that is changed holds for the next task."""
    assert warren.settings.all()["tasks.default_max_attempts"].default == 3
    warren.settings.set("tasks.default_max_attempts", 5)
    assert warren.settings.get("tasks.default_max_attempts") == 5
    warren.settings.set_many({"tasks.default_max_attempts": 3, "tasks.default_priority": "normal"})
    with pytest.raises(NotFound):
        warren.settings.set("tasks.nothing", 1)
    assert "status" in warren.settings.health()


def test_secrets_are_rotated_and_told_when_they_expire(backend: Backend, warren: Warren) -> None:
    """A rotation makes a version, an expiring secret is listed, and nothing is revealed that must not be."""
    warren.secrets.create("passing", "one", expires_at=datetime.now(UTC) + timedelta(days=3))
    assert warren.secrets.rotate("passing", "two").version == 2
    assert [secret.name for secret in warren.secrets.expiring(7)] == ["passing"]
    assert warren.secrets.get("passing").value == "********"
    with pytest.raises(Forbidden):
        warren.secrets.reveal("passing")
    warren.secrets.delete("passing")


def test_a_host_is_tried_and_used(backend: Backend, warren: Warren) -> None:
    """A connection's test says whether a worker gets in; a command's answer comes with its output."""
    assert warren.connections.test(HOST).ok
    done = warren.connections.execute(HOST, "echo out; echo err >&2; exit 3")
    assert (done.exit_status, done.stdout, done.stderr) == (3, "out\n", "err\n")
    going_on = warren.connections.execute(HOST, "sleep 60", wait_s=0)
    assert going_on.exit_status is None
    task = warren.tasks.get(going_on.task.id)
    wait_until("it runs", lambda: task.refresh().state == "running")
    task.cancel()
    assert task.wait(PATIENCE_S).state == "cancelled"
