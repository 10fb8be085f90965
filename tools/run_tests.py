"""Run the checks and tests of this repository, in stages: `sh ./dev test` calls this inside its environment."""

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".dev" / "junit"
BIN = Path(sys.executable).parent
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
LONG_ROUNDS = "20"
NOTHING_COLLECTED = 5
INTERRUPTED = 130

# Outside a git checkout ruff does not heed .gitignore, and .dev holds uv's cache.
OURS = ("--extend-exclude", ".dev", ".")
CHECKS = {
    "lint": (("ruff", "check", *OURS), ("ruff", "format", "--check", *OURS), ("lint-imports",)),
    "types": (("mypy",), ("mypy", "-p", "tools")),
    # Warnings are errors: a link to what is not there fails.
    "docs": (("sphinx-build", "-q", "-W", "--keep-going", "-n", "-E", "docs", ".dev/site"),),
}
SIDE_BY_SIDE = frozenset({"unit", "contract", "integration", "acceptance"})
"""Stages whose files may run beside each other: mostly they wait. The faults have time limits and run alone."""
TEST_STAGES = ("unit", "contract", "integration", "faults", "acceptance", "browser")
STAGES = (*CHECKS, *TEST_STAGES)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that tests start, the Debian package that has it, and the stages that need it."""

    name: str
    package: str
    stages: frozenset[str]


WITH_SERVERS = frozenset({"contract", "integration", "faults", "acceptance"})
REQUIREMENTS = (
    Program("sshd", "openssh-server", WITH_SERVERS),
    Program("ssh-keygen", "openssh-client", WITH_SERVERS),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a stage. A failed check, or a pytest that could not even count, is one failure."""

    stage: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0


class CannotRun(Exception):
    """Something that the stages need is not there; the message is one line that says how to get it."""


def main(argv: Sequence[str]) -> int:
    """Run the stages that `argv` names and return the exit status: 0, 1 for failures, 2 for wrong usage."""
    options, pytest_args = parse(argv)
    stages = [stage for stage in options.stages or STAGES if _has_work(stage)]
    try:
        require_programs(stages, install=options.install or (os.environ.get("CI") == "true" and os.geteuid() == 0))
        results = [run_stage(stage, pytest_args, long=options.long) for stage in stages]
    except CannotRun as error:
        sys.stderr.write(f"dev: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return summarise(results)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Return our own options, and the arguments after `--`, which are pytest's; exits 2 for wrong usage."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="sh ./dev test",
        usage="%(prog)s [--install] [--long] [stage ...] [-- pytest_arg ...]",
        description=f"Stages, in their order: {' '.join(STAGES)}. Without a name all of them run.",
    )
    parser.add_argument("stages", nargs="*", metavar="stage", type=_stage)
    parser.add_argument("--install", action="store_true", help="install missing programs with apt-get")
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"also tests marked `long`, and WARREN_ROUNDS={LONG_ROUNDS} rounds of every fault unless it is set",
    )
    return parser.parse_intermixed_args(argv[:end]), argv[end + 1 :]


def _stage(name: str) -> str:
    if name not in STAGES:
        raise argparse.ArgumentTypeError(f"there is no {name!r}, but: {' '.join(STAGES)}")
    return name


def _has_work(stage: str) -> bool:
    return stage in CHECKS or any((ROOT / "tests" / stage).rglob("test_*.py"))


def require_programs(stages: Iterable[str], *, install: bool, programs: Sequence[Program] = REQUIREMENTS) -> None:
    """Make sure that the programs which `stages` start are there; raises CannotRun in one line otherwise."""
    missing = _missing(programs, set(stages))
    if not missing:
        return
    packages = sorted({program.package for program in missing})
    names = _names(missing)
    if not install:
        raise CannotRun(
            f"missing: {names}; run `sh ./dev test --install`, or as root: "
            f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
        )
    _apt_get("update")
    _apt_get("install", "-y", "--no-install-recommends", *packages)
    if still := _missing(missing, set(stages)):
        raise CannotRun(f"still missing after the installation: {_names(still)}")


def _missing(programs: Iterable[Program], stages: set[str]) -> list[Program]:
    path = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"
    return [
        program for program in programs if stages & program.stages and shutil.which(program.name, path=path) is None
    ]


def _names(programs: Iterable[Program]) -> str:
    return ", ".join(program.name for program in programs)


def _apt_get(*arguments: str) -> None:
    # In runlevel 1 the packages' scripts start no servers where there is no systemd: tests start private ones.
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-q", *arguments)
    command = quiet if os.geteuid() == 0 else ("sudo", *quiet)
    if _run(command) != 0:
        raise CannotRun(f"apt-get {' '.join(arguments)} failed, see above")


def run_stage(stage: str, pytest_args: Sequence[str], *, long: bool) -> Result:
    """Run one stage to its end, whatever fails in it."""
    sys.stdout.write(f"\n== {stage}\n")
    started = time.monotonic()
    if stage in CHECKS:
        failures = sum(_run((str(BIN / command[0]), *command[1:])) != 0 for command in CHECKS[stage])
        return Result(stage, time.monotonic() - started, failed=failures)
    report = REPORTS / f"{stage}.xml"
    report.unlink(missing_ok=True)
    selection = () if long else ("-m", "not long")
    spread = ("-n", str(len(os.sched_getaffinity(0))), "--dist", "loadfile") if stage in SIDE_BY_SIDE else ()
    command = (sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *spread, *selection, *pytest_args)
    status = _run((*command, f"tests/{stage}"), rounds=LONG_ROUNDS if long else None)
    passed, failed, skipped = read_counts(report)
    if status not in (0, NOTHING_COLLECTED):
        failed = max(failed, 1)
    return Result(stage, time.monotonic() - started, passed, failed, skipped)


def read_counts(report: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed (errors too) and were skipped; zeros if pytest wrote no report."""
    if not report.exists():
        return 0, 0, 0
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def _run(command: Sequence[str], *, rounds: str | None = None) -> int:
    environment = dict(os.environ, PATH=f"{BIN}:{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}")
    if rounds is not None:
        environment.setdefault("WARREN_ROUNDS", rounds)
    sys.stdout.flush()
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    except FileNotFoundError:
        raise CannotRun(f"{command[0]} is not installed") from None


def summarise(results: Sequence[Result]) -> int:
    """Print the table and the closing line, and return the exit status."""
    sys.stdout.write("\nstage        seconds   passed  failed  skipped\n")
    for result in results:
        counts = f"{result.passed:>8} {result.failed:>7} {result.skipped:>8}"
        sys.stdout.write(f"{result.stage:<12} {result.seconds:>7.1f} {counts}\n")
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    tested = any(result.stage in TEST_STAGES for result in results)
    if tested:
        sys.stdout.write(f"\n{passed} passed, {failed} failed\n")
    else:
        sys.stdout.write("\nchecks failed\n" if failed else "\nchecks passed\n")
    return int(failed > 0 or (tested and not passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
