"""What can be wrong with an installation, looked at from the machine that the command runs on."""

import json
import os
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from client.programs import NEEDED, command, inherited
from client.render import at_least
from protocols.errors import Forbidden, Unauthenticated, WarrenError

if TYPE_CHECKING:
    from client.http import ApiClient, Json

MAX_CLOCK_SKEW_S = 2.0
"""Beyond it, times in lists mislead; leases and deadlines do not depend on it."""
LOW_DISK_BYTES = 1024**3
FULL_DISK_BYTES = 100 * 1024**2
MIN_OPEN_FILES = 1024
CHECK_SETTINGS_S = 30
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph"})
_PARTS = {"broker": "WARREN_", "worker": "WARREN_WORKER_"}
_OF_THE_COMMAND = frozenset({"WARREN_URL", "WARREN_API_KEY", "WARREN_PROFILE", "WARREN_DEBUG", "WARREN_DATA_DIR"})


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `advice` says what to change."""

    name: str
    verdict: Verdict
    detail: str
    advice: str = ""

    def row(self) -> dict[str, str]:
        """Return it as plain data."""
        return asdict(self)


def examine_machine(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Yield what this machine's part of an installation looks like."""
    yield _python_parts()
    for part, prefix in _PARTS.items():
        if _is_installed(part) and any(name.startswith(prefix) for name in environ):
            yield _settings(part, environ)
    if data_dir.is_dir():
        yield _permissions(data_dir)
        yield _disk(data_dir)
        yield _file_system(data_dir)
    yield _open_files()


def examine_control_plane(client: "ApiClient") -> Iterator[Check]:
    """Yield what a control plane tells of itself; ends with the first check if it does not answer."""
    try:
        before = time.time()
        health = client.get("/health")
        after = time.time()
    except WarrenError as error:
        advice = error.hint or "is it running? Start one here with `warren up`, or name another with --url"
        yield Check("control plane", Verdict.FAILED, error.message, advice)
        return
    yield Check("control plane", Verdict.OK, f"{client.url} answers, up for {float(health['uptime_s']):,.0f} s")
    yield _version(str(health["version"]))
    yield _clock(health, before, after)
    yield _database(health)
    for name, look in _QUESTIONS:
        yield _asked(name, client, look)


def examine_tasks(client: "ApiClient") -> Iterator[Check]:
    """Yield the violations of the ownership invariant; raises WarrenError if it cannot be asked for."""
    found = client.get("/admin/invariant")
    if found["ok"]:
        yield Check("tasks", Verdict.OK, "every unfinished task has an owner that can be named")
    for violation in found["violations"]:
        yield Check("tasks", Verdict.FAILED, f"{violation['task_id']}: {violation['problem']}", "report this: a defect")


def _python_parts() -> Check:
    parts = [part for part in _PARTS if _is_installed(part)]
    return Check("installation", Verdict.OK, f"warren {version('warren')}, with {' and '.join(parts) or 'the command'}")


def _is_installed(part: str) -> bool:
    return all(find_spec(name) for name in NEEDED[part])


def _settings(part: str, environ: Mapping[str, str]) -> Check:
    """Let the part itself say whether it would start with this environment, and which variables it knows."""
    name = f"settings of the {part}"
    asked = subprocess.run(
        command(part, "--check"), env=inherited(), capture_output=True, text=True, timeout=CHECK_SETTINGS_S, check=False
    )
    if asked.returncode != 0:
        error, _, hint = asked.stderr.strip().removeprefix("error: ").partition("\nhint: ")
        return Check(name, Verdict.FAILED, error, hint or "change the variable that it names")
    known = set(json.loads(asked.stdout)["names"]) | _OF_THE_COMMAND
    mine = {one for one in environ if one.startswith(_PARTS[part])}
    if part == "broker":
        mine = {one for one in mine if not one.startswith(_PARTS["worker"])}
    if unknown := sorted(mine - known):
        listed = ", ".join(unknown)
        return Check(name, Verdict.WARNING, f"no such setting: {listed}", f"is it misspelt? There are: {_few(known)}")
    return Check(name, Verdict.OK, f"{len(mine & known)} set in the environment, the others as shipped")


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:40])


def _permissions(data_dir: Path) -> Check:
    paths = [data_dir, *(path for path in data_dir.iterdir() if path.suffix == ".key" or path.name == "warren.db")]
    strangers = [path for path in paths if path.stat().st_uid != os.getuid()]
    if strangers and os.getuid() != 0:
        listed = ", ".join(map(str, strangers))
        return Check("permissions", Verdict.FAILED, f"not yours: {listed}", "run this as the user who owns them")
    readable = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if readable:
        modes = "; ".join(f"chmod {'700' if path.is_dir() else '600'} {path}" for path in readable)
        return Check("permissions", Verdict.FAILED, f"open to other users: {', '.join(map(str, readable))}", modes)
    return Check("permissions", Verdict.OK, f"{data_dir} and its keys are private")


def _disk(data_dir: Path) -> Check:
    usage = shutil.disk_usage(data_dir)
    detail = f"{usage.free / 1024**3:,.1f} of {usage.total / 1024**3:,.1f} GiB free under {data_dir}"
    if usage.free < FULL_DISK_BYTES:
        return Check("disk", Verdict.FAILED, detail, "make room: submissions are refused when it is full")
    if usage.free < LOW_DISK_BYTES:
        return Check("disk", Verdict.WARNING, detail, "make room before it is full")
    return Check("disk", Verdict.OK, detail)


def _file_system(data_dir: Path) -> Check:
    kind = _mounted_as(data_dir.resolve())
    if kind in _NETWORK_FILE_SYSTEMS:
        advice = "SQLite's locks cannot be trusted there: choose a local disk with --data-dir"
        return Check("file system", Verdict.FAILED, f"{data_dir} is on {kind}", advice)
    return Check("file system", Verdict.OK, f"{data_dir} is on {kind}")


def _mounted_as(path: Path) -> str:
    """Return the type of the file system that holds `path` (proc(5), /proc/mounts: device, place, type)."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [(Path(place), kind) for _, place, kind, *_ in lines if path.is_relative_to(place)]
    return max(places, key=lambda one: len(one[0].parts), default=(path, "an unknown file system"))[1]


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_OPEN_FILES:
        advice = f"ulimit -n {MIN_OPEN_FILES}, or LimitNOFILE= in the unit: each session and connection needs one"
        return Check("open files", Verdict.WARNING, f"at most {soft} in a process", advice)
    return Check("open files", Verdict.OK, f"up to {soft:,} in a process")


def _version(theirs: str) -> Check:
    ours = version("warren")
    if ours != theirs:
        advice = "install the same version on both"
        return Check("version", Verdict.WARNING, f"this command is {ours}, the control plane {theirs}", advice)
    return Check("version", Verdict.OK, f"{ours} on both sides")


def _clock(health: "Json", before: float, after: float) -> Check:
    theirs = datetime.fromisoformat(str(health["started_at"])).timestamp() + float(health["uptime_s"])
    skew = max(before - theirs, theirs - after, 0.0)
    if skew > MAX_CLOCK_SKEW_S:
        advice = "let both machines keep time, such as with systemd-timesyncd or chrony"
        return Check("clock", Verdict.WARNING, f"this machine's differs by {skew:,.1f} s", advice)
    return Check("clock", Verdict.OK, "agrees with the control plane's")


def _database(health: "Json") -> Check:
    if health["status"] != "healthy":
        advice = "look at its disk and its log; nothing is lost, and it goes on by itself"
        return Check("database", Verdict.FAILED, f"commits are {health['database']}", advice)
    return Check("database", Verdict.OK, "commits succeed")


def _asked(name: str, client: "ApiClient", look: Callable[["ApiClient"], Check]) -> Check:
    try:
        return look(client)
    except Unauthenticated as error:
        return Check(name, Verdict.FAILED, error.message, "`warren login` stores a key; WARREN_API_KEY names one")
    except Forbidden as error:
        return Check(name, Verdict.WARNING, error.message, "use a key of that role to have it checked")
    except WarrenError as error:
        return Check(name, Verdict.FAILED, error.message, error.hint or "")


def _key(client: "ApiClient") -> Check:
    principal = client.get("/auth/whoami")
    return Check("key", Verdict.OK, f"{principal['name']}, role {principal['role']}")


def _workers(client: "ApiClient") -> Check:
    overview = client.get("/workers/overview")
    online = overview["by_presence"].get("online", 0)
    detail = f"{online} online of {overview['total']}"
    if pending := overview["by_approval"].get("pending", 0):
        advice = "compare their fingerprints: `warren worker list`, then `warren worker approve NAME`"
        return Check("workers", Verdict.WARNING, f"{detail}, {pending} waiting for an approval", advice)
    if not online:
        return Check("workers", Verdict.WARNING, detail, "nothing runs without one: `warren worker run`")
    return Check("workers", Verdict.OK, detail)


def _worker_versions(client: "ApiClient") -> Check:
    ours = str(client.get("/health")["version"])
    approved = [worker for worker in client.rows("/workers") if worker["approval"] == "approved"]
    others = [f"{worker['name']} {worker['version']}" for worker in approved if worker["version"] not in (None, ours)]
    if others:
        return Check("worker versions", Verdict.WARNING, f"not {ours}: {', '.join(others[:10])}", "update them")
    return Check("worker versions", Verdict.OK, f"{len(approved)} approved, none of another version")


def _queues(client: "ApiClient") -> Check:
    queues = list(client.rows("/queues"))
    paused = [str(queue["name"]) for queue in queues if queue["paused"]]
    orphaned = [str(queue["name"]) for queue in queues if queue["waiting"] + queue["queued"] and not queue["consumers"]]
    if orphaned:
        advice = "start a worker of that pool, or `warren worker approve NAME --pool POOL`"
        return Check("queues", Verdict.WARNING, f"tasks wait and no worker takes them: {', '.join(orphaned)}", advice)
    if paused:
        return Check("queues", Verdict.WARNING, f"paused: {', '.join(paused)}", "`warren queue resume NAME`")
    return Check("queues", Verdict.OK, f"{len(queues)} known, none paused, none without a worker")


def _dead_letters(client: "ApiClient") -> Check:
    stats = client.get("/dead-letter/stats")
    if stats["total"]:
        numbers = stats["by_cause"]
        causes = ", ".join(f"{at_least(stats, number, numbers.values())} {cause}" for cause, number in numbers.items())
        return Check("dead letters", Verdict.WARNING, causes, "`warren dead-letter list`, then retry or delete them")
    return Check("dead letters", Verdict.OK, "none that nobody dealt with")


_QUESTIONS: tuple[tuple[str, Callable[["ApiClient"], Check]], ...] = (
    ("key", _key),
    ("workers", _workers),
    ("worker versions", _worker_versions),
    ("queues", _queues),
    ("dead letters", _dead_letters),
)
