"""Rounds, recovery times, and the table of faults at the end of a run."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.processes import FAST

RECOVERY = "recovery_s"
FAULT = "fault"


@dataclass(slots=True)
class Line:
    """One fault's row of the table."""

    fault: str
    rounds: int = 0
    passed: int = 0
    worst_recovery_s: float | None = None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with short leases; its workers are the tests' own business."""
    with Cluster(tmp_path_factory.mktemp("cluster"), FAST) as started:
        started.broker.start()
        yield started


@pytest.fixture
def recovered(record_property: Callable[[str, object], None]) -> Callable[[float], None]:
    """Notes how many seconds a recovery took, for the table."""
    return lambda seconds: record_property(RECOVERY, seconds)


@pytest.fixture(autouse=True)
def _fault(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    record_property(FAULT, (request.module.__doc__ or request.module.__name__).split(":")[0])


@pytest.fixture
def round_number(request: pytest.FixtureRequest) -> int:
    """Which round of this fault it is, from 0."""
    number: int = request.param
    return number


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every fault WARREN_ROUNDS times."""
    rounds = int(os.environ.get("WARREN_ROUNDS", "1"))
    metafunc.fixturenames.append("round_number")
    metafunc.parametrize("round_number", range(rounds), indirect=True, ids=lambda number: f"round{number}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print fault, rounds, how many passed, and the worst recovery time; also as JSON to WARREN_FAULT_REPORT."""
    lines = _table(terminalreporter)
    if not lines:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':<44} {'rounds':>6} {'passed':>6}  worst recovery")
    for line in lines:
        worst = "" if line.worst_recovery_s is None else f"{line.worst_recovery_s:.1f} s"
        terminalreporter.write_line(f"{line.fault:<44} {line.rounds:>6} {line.passed:>6}  {worst}")
    if path := os.environ.get("WARREN_FAULT_REPORT"):
        Path(path).write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n")


def _table(reporter: pytest.TerminalReporter) -> list[Line]:
    lines: dict[str, Line] = {}
    reports = [report for kind in ("passed", "failed", "error") for report in reporter.stats.get(kind, [])]
    for report in reports:
        told = dict(report.user_properties)
        if FAULT not in told:
            continue
        line = lines.setdefault(told[FAULT], Line(told[FAULT]))
        line.rounds += 1
        line.passed += report.outcome == "passed"
        for name, seconds in report.user_properties:
            if name == RECOVERY:
                line.worst_recovery_s = max(line.worst_recovery_s or 0.0, seconds)
    return list(lines.values())
