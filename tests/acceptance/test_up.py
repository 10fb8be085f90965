"""`warren up`: one command that starts everything, shows it, and leaves nothing behind."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from client.processes import Child, stop
from client.tour.model import start_stand_in
from client.tour.screen import Screen
from client.tour.story import Tour
from tests.support.ports import free_port
from tests.support.warren import COMMAND, Warren, environ, processes_of, until, warren_up

TOUR_S = 60.0
pytestmark = pytest.mark.timeout(300)


def _tour_only(data_dir: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "up", "--tour-only", "--port", str(free_port())]
    return subprocess.run(
        command, env=environ(data_dir, **more), capture_output=True, text=True, timeout=TOUR_S, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def warren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warren]:
    """A Warren that stays up for the tests of this file that leave it whole."""
    with warren_up(tmp_path_factory.mktemp("up") / "data") as running:
        yield running


def test_the_tour_passes_twice_on_one_directory_within_a_minute_and_leaves_no_process(tmp_path: Path) -> None:
    """`warren up --tour-only` exits 0 in under a minute, again on the same directory, and everything has ended."""
    data_dir = tmp_path / "data"
    for _ in range(2):
        began = time.monotonic()
        ended = _tour_only(data_dir)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert time.monotonic() - began < TOUR_S
        assert "Everything worked" in ended.stdout
        assert "\x1b" not in ended.stdout
        assert processes_of(data_dir) == []


def test_staying_up_refuses_a_second_instance_and_a_busy_port_and_ends_clean(tmp_path: Path) -> None:
    """While it is up, a second `up` on its directory or its port is refused with 6 and what to do; SIGTERM ends it."""
    data_dir = tmp_path / "data"
    with warren_up(data_dir) as warren:
        second = warren.run("up", "--port", str(free_port()))
        assert second.returncode == 6
        assert f"already running on {data_dir}, at {warren.url}" in second.stderr
        busy = warren.run("up", "--port", str(warren.port), "--data-dir", str(tmp_path / "other"))
        assert busy.returncode == 6
        assert f"127.0.0.1:{warren.port} cannot be used" in busy.stderr
        assert "--port" in busy.stderr.splitlines()[-1]
        assert warren.run("worker", "list").returncode == 0
        assert warren.stop() == 0
    assert processes_of(data_dir) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_however_up_ends_its_children_end_with_it(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C, and even SIGKILL, leave no process of the instance."""
    data_dir = tmp_path / "data"
    with warren_up(data_dir) as warren:
        warren.process.send_signal(number)
        assert warren.process.wait(TOUR_S) == status
        until("the children's end", lambda: not processes_of(data_dir))
    assert "Traceback" not in warren.output


def test_a_killed_worker_is_reported_and_comes_back_as_itself(warren: Warren) -> None:
    """A worker that dies is reported and started again, with the identity that is already approved."""
    with warren.client() as client:
        before = client.get("/workers/local-1")
        _worker_process(warren).kill()
        until("the report", lambda: "was ended by signal 9" in warren.output)
        until("a session", lambda: client.get(f"/workers/{before['id']}")["presence"] != "online")
        until("the return", lambda: client.get(f"/workers/{before['id']}")["presence"] == "online")
        after = client.get("/workers/local-1")
    assert (after["id"], after["approval"]) == (before["id"], "approved")


def test_a_dead_control_plane_ends_up_with_its_last_words(tmp_path: Path) -> None:
    """When the control plane dies, `up` says so, ends its workers and exits 1."""
    data_dir = tmp_path / "data"
    with warren_up(data_dir) as warren:
        _process(data_dir, "broker").kill()
        assert warren.process.wait(TOUR_S) == 1
    assert "error: control plane was ended by signal 9" in warren.output
    assert "broker.log" in warren.output
    assert processes_of(data_dir) == []


def test_only_workers_that_up_started_are_approved(warren: Warren, tmp_path: Path) -> None:
    """A worker that somebody else starts on the same machine waits for an admin."""
    arguments = ("worker", "run", "--name", "stranger", "--state-dir", str(tmp_path / "state"))
    with warren.client() as client, warren.running(*arguments) as (_, stdout):
        until("the stranger", lambda: any(row["name"] == "stranger" for row in client.rows("/workers")))
        stranger = client.get("/workers/stranger")
        assert stranger["approval"] == "pending"
        approved = warren.run("worker", "approve", "stranger", "--fingerprint", "0000-0000-0000-0000-0000")
        assert approved.returncode == 6, approved.stderr
        approved = warren.run("worker", "approve", "stranger", "--fingerprint", stranger["fingerprint"])
        assert approved.returncode == 0, approved.stderr
        until("its session", lambda: client.get("/workers/stranger")["presence"] == "online")
        said = os.read(stdout.fileno(), 65536).decode()
        assert [said.count(word) for word in ("approval=pending", "approval=approved", "no session")] == [1, 1, 1], said
        assert warren.run("worker", "reject", "stranger", "--yes").returncode == 0


def _tour(warren: Warren, tmp_path: Path) -> tuple[bool, str]:
    text = io.StringIO()
    helpers: list[Child] = []
    screen = Screen(Console(file=text, width=100, markup=False, highlight=False))
    with warren.client() as client:
        try:
            passed = Tour(client, screen, tmp_path / "tour", tmp_path / "logs", helpers.append).run()
        finally:
            stop(helpers)
    return passed, text.getvalue()


def test_without_sshd_the_tour_says_how_to_get_it_and_goes_on(
    warren: Warren, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sshd is one line and no failure: the dead letter and its retry come from the stand-in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("client.tour.sshd._PLACES", "")
    passed, text = _tour(warren, tmp_path)
    assert passed, text
    assert "apt-get install openssh-server" in text
    assert "fail-once" in text


def test_a_provider_that_cannot_be_used_gives_way_to_the_stand_in(
    warren: Warren, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider with a key but without an answer is named, its key is not, and the stand-in answers."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-private")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    passed, text = _tour(warren, tmp_path)
    assert passed, text
    assert "openai (OPENAI_API_KEY is set) cannot be used" in text
    assert "a stand-in answers" in text
    assert "sk-very-private" not in text


def test_a_provider_with_a_key_is_used(warren: Warren, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OPENAI_API_KEY the tour asks that provider, whose key goes into a secret."""
    helpers: list[Child] = []
    try:
        monkeypatch.setenv("OPENAI_BASE_URL", start_stand_in(tmp_path / "provider.log", helpers.append).base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-very-private")
        passed, text = _tour(warren, tmp_path)
    finally:
        stop(helpers)
    assert passed, text
    assert "OPENAI_API_KEY is set: provider openai" in text
    with warren.client() as client:
        assert client.get("/providers/openai")["secret"] == "openai-api-key"


def _worker_process(warren: Warren) -> psutil.Process:
    return _process(warren.data_dir, "worker")


def _process(data_dir: Path, module: str) -> psutil.Process:
    for line in processes_of(data_dir):
        pid, _, command = line.partition(" ")
        if command.endswith(f"-m {module}"):
            return psutil.Process(int(pid))
    raise AssertionError(f"no {module} among {processes_of(data_dir)}, {os.getpid()}")
