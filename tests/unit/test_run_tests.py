"""The program behind `sh ./dev test` tells the truth about what passed and what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import run_tests
from tools.run_tests import CannotRun, Program, Result, read_counts, require_programs, summarise

ABSENT = Program("no-such-program", "no-such-package", frozenset({"integration"}))

EXAMPLES = """
import pytest

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError

def test_passes(): pass
def test_passes_too(): pass
def test_fails(): assert False
def test_skipped(): pytest.skip("not here")
def test_error(broken_teardown): pass
"""


def test_only_what_passed_entirely_counts_as_passed(tmp_path: Path) -> None:
    """A failed teardown is a failure, and its test has not passed; neither has a skipped one."""
    (tmp_path / "test_examples.py").write_text(EXAMPLES)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    subprocess.run([*command, f"--junitxml={report}", str(tmp_path)], capture_output=True, check=False)
    assert read_counts(report) == (2, 2, 1)


def test_missing_report_counts_nothing(tmp_path: Path) -> None:
    """A pytest that died before its report has passed nothing."""
    assert read_counts(tmp_path / "none.xml") == (0, 0, 0)


def test_last_line_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line is `N passed, N failed` over all stages, and the exit status is 0 if nothing failed."""
    assert summarise([Result("lint", 1.0), Result("unit", 1.0, 40), Result("faults", 1.0, 2, 0, 1)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "42 passed, 0 failed"


def test_failed_check_is_not_hidden_by_passing_tests(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed check alone makes the run fail, in the last line and in the exit status."""
    assert summarise([Result("lint", 1.0, failed=1), Result("unit", 1.0, 40)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "40 passed, 1 failed"


def test_testing_nothing_is_a_failure() -> None:
    """A selection that matches no test does not look like success."""
    assert summarise([Result("unit", 1.0)]) == 1


def test_missing_program_is_told_in_one_line() -> None:
    """The line names the program, and the commands that install it."""
    with pytest.raises(CannotRun) as caught:
        require_programs(["integration"], install=False, programs=[ABSENT])
    message = str(caught.value)
    assert "\n" not in message
    assert "no-such-program" in message
    assert "sh ./dev test --install" in message
    assert "apt-get install -y --no-install-recommends no-such-package" in message


def test_only_the_stages_that_run_need_their_programs() -> None:
    """Nobody has to install a server in order to run the unit tests."""
    require_programs(["lint", "unit"], install=False, programs=[ABSENT])


def test_unknown_stage_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt stage runs nothing and exits 2."""
    with pytest.raises(SystemExit) as caught:
        run_tests.main(["unti"])
    assert caught.value.code == 2
    assert "unti" in capsys.readouterr().err


def test_arguments_for_pytest_come_after_the_dashes() -> None:
    """Stages and options go before `--` in any order, and none is needed."""
    options, pytest_args = run_tests.parse(["unit", "--long", "faults", "--", "-k", "drain"])
    assert (options.stages, options.long, options.install) == (["unit", "faults"], True, False)
    assert pytest_args == ["-k", "drain"]
    assert not run_tests.parse([])[0].stages
