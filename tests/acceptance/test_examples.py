"""Every example runs as it says, against what `warren up` leaves running after its tour."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.warren import DEADLINE_S, Warren, environ

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def warren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warren]:
    """`warren up`, after its tour: there is the host `this-machine` and the model `stand-in`."""
    warren = Warren(tmp_path_factory.mktemp("examples") / "data")
    try:
        warren.start()
        yield warren
    finally:
        if warren.process.poll() is None:
            warren.stop()


def _run(warren: Warren, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env=environ(warren.data_dir),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def _fine(ended: "subprocess.CompletedProcess[str]") -> str:
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    return ended.stdout


def test_quickstart(warren: Warren) -> None:
    """A command and a question are answered, and the journal tells how."""
    said = _fine(_run(warren, "quickstart.py"))
    assert "the host: Linux" in said
    assert "the model: This is Warren's stand-in" in said
    assert "task.succeeded" in said


def test_llm_stream(warren: Warren) -> None:
    """The answer is printed whole, with its tokens."""
    said = _fine(_run(warren, "llm_stream.py", "Who are you?"))
    assert "Your prompt began with “Who are you?”" in said
    assert "tokens: " in said


def test_ssh_fleet(warren: Warren) -> None:
    """Every host answers under its name; one that fails makes the status 1 and keeps nobody else from answering."""
    with warren.client() as client:
        known = client.get("/ssh-connections/this-machine")
        fields = {name: known[name] for name in ("hostname", "port", "username", "secret", "host_keys")}
        client.post("/ssh-connections", {"name": "other-name", **fields})
    said = _fine(_run(warren, "ssh_fleet.py", "echo here"))
    assert sorted(said.splitlines()) == ["other-name: here", "this-machine: here"]
    failed = _run(warren, "ssh_fleet.py", "exit 9", "this-machine")
    assert failed.returncode == 1
    assert failed.stderr.startswith("this-machine: task task_")


def test_bulk_progress(warren: Warren) -> None:
    """All tasks succeed, and a second run finds them again."""
    for _ in range(2):
        assert _fine(_run(warren, "bulk_progress.py", "12")).splitlines()[-1] == "12 succeeded"
    with warren.client() as client:
        bulk = [row for row in client.rows("/tasks", {"action": "ssh.exec"}) if row["title"] == "bulk example"]
    assert len(bulk) == 12


def test_dead_letters(warren: Warren, tmp_path: Path) -> None:
    """What failed is counted by its error, and runs again when its cause is mended."""
    wanted = tmp_path / "wanted"
    ended = warren.run("task", "submit", "ssh", "this-machine", "--wait", "--", f"cat {wanted}")
    assert ended.returncode == 3
    assert "exit_status  ssh.exec" in _fine(_run(warren, "dead_letters.py"))
    wanted.write_text("here now")
    said = _fine(_run(warren, "dead_letters.py", "--retry", "exit_status")).splitlines()
    assert [line.split()[1] for line in said].count("succeeded") == 1


def test_testing_with_fake_warren(tmp_path: Path) -> None:
    """The example's own tests pass, wherever they are run, with nothing else running."""
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", "."]
    ended = subprocess.run(
        [*pytest_here, str(EXAMPLES / "test_with_fake_warren.py")],
        env=environ(tmp_path / "nothing"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout


def test_every_example_is_run_here() -> None:
    """No example is left out."""
    names = {path.stem.removeprefix("test_") for path in EXAMPLES.glob("*.py")}
    tested = {name.removeprefix("test_").removeprefix("testing_") for name in globals() if name.startswith("test_")}
    assert names <= tested
