"""The `dev` script helps and refuses in plain words, whatever the machine lacks."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with the shell and what every Debian has, but no Python and no uv."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("sh", "cat", "dirname"):
        found = shutil.which(name)
        assert found
        (path / name).symlink_to(found)
    return path


def dev(path: Path, *arguments: str, script: Path = ROOT / "dev") -> subprocess.CompletedProcess[str]:
    """Run the script from a foreign folder, with an environment of nothing but PATH."""
    command = ["/bin/sh", str(script), *arguments]
    return subprocess.run(command, cwd="/", env={"PATH": str(path)}, capture_output=True, text=True, check=False)


def test_help_needs_nothing(bare_path: Path) -> None:
    """`sh ./dev help`, and no command at all, explain every command without Python."""
    for arguments in (("help",), ()):
        result = dev(bare_path, *arguments)
        assert result.returncode == 0
        for command in ("up", "test", "bench", "fmt", "lock"):
            assert f"\n  {command} " in result.stdout


def test_unknown_command_is_refused(bare_path: Path) -> None:
    """A misspelt command runs nothing, names itself and exits 2."""
    result = dev(bare_path, "tets")
    assert result.returncode == 2
    assert "'tets'" in result.stderr


@pytest.mark.parametrize("command", [("up",), ("test",), ("lock",)])
def test_missing_python_is_told_in_one_line(bare_path: Path, command: tuple[str, ...]) -> None:
    """Without a usable Python there is one line that says which is needed, and nothing is made."""
    result = dev(bare_path, *command)
    assert result.returncode == 1
    assert "Python 3.11 or newer" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_old_python_is_not_taken(bare_path: Path) -> None:
    """A python3 that reports an older version counts as none."""
    old = bare_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "Python 3.11 or newer" in dev(bare_path, "up").stderr


def test_unknown_benchmark_is_refused(bare_path: Path) -> None:
    """A misspelt benchmark says how to list those there are."""
    result = dev(bare_path, "bench", "no-such-benchmark")
    assert result.returncode == 1
    assert "sh ./dev bench" in result.stderr


def test_the_script_runs_from_a_path_with_spaces(bare_path: Path, tmp_path: Path) -> None:
    """The repository may lie anywhere."""
    copy = tmp_path / "a folder with spaces" / "dev"
    copy.parent.mkdir()
    shutil.copy(ROOT / "dev", copy)
    assert dev(bare_path, script=copy).returncode == 0
    assert "no bench/x.py" in dev(bare_path, "bench", "x", script=copy).stderr
