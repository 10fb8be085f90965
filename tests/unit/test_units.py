"""The systemd units hold what their comments and the documentation promise."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from protocols.names import ExitCode
from worker.settings import Settings

UNITS = Path(__file__).resolve().parents[2] / "systemd"
WORKER = "warren-worker@.service"
BROKER = "warren-broker.service"

Unit = Mapping[tuple[str, str], list[str]]


def parse(name: str) -> Unit:
    """Return the values of each (section, key) in their order; fails on any line that systemd would ignore."""
    unit: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(Unit|Service|Install)\]", line):
            section = header[1]
            continue
        entry = re.fullmatch(r"([A-Z][A-Za-z]+)=(.*)", line)
        assert section, f"{name}: a setting before any section: {line!r}"
        assert entry, f"{name}: not a setting: {line!r}"
        unit.setdefault((section, entry[1]), []).append(entry[2])
    return unit


@pytest.fixture(params=[WORKER, BROKER])
def unit(request: pytest.FixtureRequest) -> Unit:
    return parse(request.param)


def service(unit: Unit, key: str) -> list[str]:
    return unit.get(("Service", key), [])


def test_each_setting_is_given_once(unit: Unit) -> None:
    """Except for the system call filter, whose lines add up."""
    repeated = {key for (_, key), values in unit.items() if len(values) > 1}
    assert repeated <= {"SystemCallFilter"}


def test_worker_runs_from_its_own_state_directory() -> None:
    """Each instance keeps its identity and its spool where no other instance can read them."""
    unit = parse(WORKER)
    assert service(unit, "ExecStart") == ["/opt/warren/bin/warren worker run --state-dir %S/warren-worker/%i"]
    assert service(unit, "StateDirectory") == ["warren-worker/%i"]
    assert service(unit, "StateDirectoryMode") == ["0700"]
    assert service(unit, "DynamicUser") == ["yes"]


def test_broker_serves_from_its_own_state_directory() -> None:
    """The data directory is the one that systemd makes for it."""
    unit = parse(BROKER)
    assert service(unit, "ExecStart") == ["/opt/warren/bin/warren serve --data-dir %S/warren"]
    assert service(unit, "StateDirectory") == ["warren"]
    assert service(unit, "StateDirectoryMode") == ["0700"]


def test_worker_key_comes_as_a_credential() -> None:
    """The API key is in neither the unit, its environment nor its arguments: only the path of a credential is."""
    unit = parse(WORKER)
    assert service(unit, "LoadCredential") == ["api-key:warren-worker-%i.key"]
    assert "WARREN_WORKER_KEY_FILE=%d/api-key" in service(unit, "Environment")[0].split()


def test_worker_is_watched_and_drains() -> None:
    """A hung worker is restarted; a stopped one gets SIGTERM alone and more time than its grace."""
    unit = parse(WORKER)
    assert int(service(unit, "WatchdogSec")[0]) > 0
    assert service(unit, "KillMode") == ["mixed"]
    assert int(service(unit, "TimeoutStopSec")[0]) >= Settings.model_fields["grace_s"].default + 60
    assert service(unit, "OOMPolicy") == ["continue"]


@pytest.mark.parametrize(
    ("name", "restart", "codes"),
    [(WORKER, "on-failure", {ExitCode.REVOKED, ExitCode.CONFIG}), (BROKER, "always", {ExitCode.CONFIG})],
)
def test_no_restart_where_only_a_person_can_help(name: str, restart: str, codes: set[ExitCode]) -> None:
    """Every other failure is restarted, for ever; a worker that has drained stays down."""
    unit = parse(name)
    assert {int(code) for code in service(unit, "RestartPreventExitStatus")[0].split()} == codes
    assert service(unit, "Restart") == [restart]
    assert unit["Unit", "StartLimitIntervalSec"] == ["0"]


def test_readiness_comes_from_the_program(unit: Unit) -> None:
    """A unit counts as started when its own main process says that it is ready."""
    assert service(unit, "Type") == ["notify"]
    assert service(unit, "NotifyAccess") == ["main"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("CapabilityBoundingSet", [""]),
        ("NoNewPrivileges", ["yes"]),
        ("ProtectSystem", ["strict"]),
        ("ProtectHome", ["yes"]),
        ("ProtectProc", ["invisible"]),
        ("ProtectKernelTunables", ["yes"]),
        ("ProtectKernelModules", ["yes"]),
        ("ProtectKernelLogs", ["yes"]),
        ("ProtectControlGroups", ["yes"]),
        ("ProtectClock", ["yes"]),
        ("PrivateTmp", ["yes"]),
        ("PrivateDevices", ["yes"]),
        ("PrivateMounts", ["yes"]),
        ("PrivateUsers", ["yes"]),
        ("RestrictAddressFamilies", ["AF_UNIX AF_INET AF_INET6"]),
        ("RestrictNamespaces", ["yes"]),
        ("RestrictRealtime", ["yes"]),
        ("SystemCallArchitectures", ["native"]),
        ("SystemCallFilter", ["@system-service", "~@privileged @resources"]),
        ("SystemCallErrorNumber", ["EPERM"]),
        ("MemoryDenyWriteExecute", ["yes"]),
        ("UMask", ["0077"]),
        ("LimitCORE", ["0"]),
    ],
)
def test_the_machine_is_out_of_reach(unit: Unit, key: str, values: list[str]) -> None:
    """Both units keep every line that `systemd-analyze security` counts, and no core file holds a secret."""
    assert service(unit, key) == values


def test_the_heartbeat_can_read_load_and_memory() -> None:
    """ProcSubset=pid would hide /proc/stat and /proc/meminfo from the worker."""
    assert service(parse(WORKER), "ProcSubset") in ([], ["all"])
