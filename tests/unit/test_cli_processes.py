"""Child processes: ready when they say so, ended in order, never left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from client.local_worker import LocalWorker
from client.processes import Child, ChildEnded, stop
from client.programs import broker_environ
from protocols.errors import StorageUnavailable, Unavailable

DEADLINE_S = 30.0
PATIENT = "import signal, time; print('ready', flush=True); signal.pause()"
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
while True:
    signal.pause()
"""


def _child(tmp_path: Path, program: str) -> Child:
    return Child("trial", [sys.executable, "-c", program], log=tmp_path / "logs" / "trial.log")


def _ready(child: Child) -> None:
    child.wait_for("ready", lambda: "ready" in child.last_lines() or None, DEADLINE_S)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _tend_until(worker: LocalWorker, said: list[str], condition: Callable[[], bool]) -> None:
    def tended() -> bool:
        worker.tend(said.append)
        return condition()

    _until(tended)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """Waiting for a child that dies ends at once, with its status and the end of its log."""
    child = _child(tmp_path, "import sys; print('the reason', file=sys.stderr); sys.exit(7)")
    child.start()
    with pytest.raises(ChildEnded, match=r"(?s)status 7.*the reason"):
        child.wait_for("ready", lambda: None, DEADLINE_S)


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    """Waiting ends as Unavailable after its time."""
    child = _child(tmp_path, PATIENT)
    child.start()
    with pytest.raises(Unavailable, match="the thing"):
        child.wait_for("the thing", lambda: None, 0.1)
    stop([child])


def test_children_end_by_sigterm_and_the_stubborn_by_sigkill(tmp_path: Path) -> None:
    """Stopping asks with SIGTERM and, after the grace, does not ask any more."""
    patient = Child("patient", [sys.executable, "-c", PATIENT], log=tmp_path / "patient.log")
    stubborn = Child("stubborn", [sys.executable, "-c", STUBBORN], log=tmp_path / "stubborn.log")
    for child in (patient, stubborn):
        child.start()
        _ready(child)
    stop([patient, stubborn], grace_s=0.3)
    assert (patient.exit_status, stubborn.exit_status) == (-signal.SIGTERM, -signal.SIGKILL)


def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    """When the parent is SIGKILLed its children get SIGTERM from the kernel."""
    parent = (
        "import sys, signal; from pathlib import Path; from client.processes import Child\n"
        f"child = Child('c', [sys.executable, '-c', {PATIENT!r}], log=Path({str(tmp_path / 'c.log')!r}))\n"
        "child.start(); child.wait_for('r', lambda: 'ready' in child.last_lines() or None, 30)\n"
        "print(child.pid, flush=True); signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert _runs(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    _until(lambda: not _runs(pid))


def test_last_words_are_those_of_this_run(tmp_path: Path) -> None:
    """The log keeps earlier runs, but a report quotes the present one."""
    first = _child(tmp_path, "print('old words')")
    first.start()
    assert first.wait(DEADLINE_S)
    second = _child(tmp_path, "print('new words')")
    second.start()
    assert second.wait(DEADLINE_S)
    assert second.last_lines() == "new words"
    assert second.log.read_text().splitlines() == ["old words", "new words"]
    assert second.log.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """A log directory that cannot be made is StorageUnavailable, with the path."""
    (tmp_path / "logs").write_text("a file in its way")
    with pytest.raises(StorageUnavailable, match="logs"):
        _child(tmp_path, PATIENT).start()


def test_a_fallen_worker_is_started_again_and_a_revoked_one_is_not(tmp_path: Path) -> None:
    """A worker that falls comes back and is reported; one that may not come back stays down."""
    said: list[str] = []
    fallen = LocalWorker(_child(tmp_path, "raise SystemExit(1)"), tmp_path)
    fallen.start()
    first_pid = fallen.child.pid
    _tend_until(fallen, said, lambda: fallen.child.pid != first_pid)
    assert "status 1" in said[0]
    assert "started again" in said[0]
    said.clear()
    revoked = LocalWorker(_child(tmp_path, "raise SystemExit(77)"), tmp_path)
    revoked.start()
    pid = revoked.child.pid
    _tend_until(revoked, said, lambda: bool(said))
    revoked.tend(said.append)
    assert len(said) == 1
    assert "stays down" in said[0]
    assert revoked.child.pid == pid
    stop([fallen.child, revoked.child])


def test_provider_keys_do_not_reach_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a child has its settings, and none of the user's API keys."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WARREN_API_KEY"):
        monkeypatch.setenv(name, "very-private")
    environ = broker_environ(tmp_path, "127.0.0.1", 8000)
    assert "very-private" not in environ.values()
    assert environ["WARREN_DATA_DIR"] == str(tmp_path)
