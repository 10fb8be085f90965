"""Names that more than one process must spell alike: lanes, built-in actions, entry points, exit codes."""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from protocols.errors import InvalidName

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN)
_PREFIX = "q.t."
_PINNED = "q.t.w."

DEFAULT_POOL = "default"
ACTION_ENTRY_POINTS = "warren.actions"
"""Entry point group in which installed packages declare their Python actions."""
SESSION_PATH = "/api/v1/workers/session"
RESERVED_NAMES = frozenset({"w", "ssh", "python"})
"""Words with a meaning inside a lane name, which no pool or provider may take."""


class BuiltinAction(StrEnum):
    """Actions that every worker has."""

    LLM_CHAT = "llm.chat"
    SSH_EXEC = "ssh.exec"


class LaneKind(StrEnum):
    """What kind of slot a lane's tasks take on a worker."""

    LLM = "llm"
    SSH = "ssh"
    PYTHON = "python"
    PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What the name of a lane says about it."""

    kind: LaneKind
    pool: str | None = None
    provider: str | None = None
    worker_id: str | None = None
    """The one worker that runs its tasks, if it is a pinned lane."""


class ExitCode(IntEnum):
    """Exit statuses of Warren's processes and of the `warren` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TASK_DEAD = 3
    TASK_CANCELLED = 4
    UNREACHABLE = 5
    REFUSED = 6
    """The server understood and said no: not allowed, not found, conflict."""
    STORAGE = 74
    """The disk is full or cannot be written (EX_IOERR)."""
    REVOKED = 77
    """This worker may not come back (EX_NOPERM); systemd does not restart it."""
    CONFIG = 78
    """A setting is wrong (EX_CONFIG); systemd does not restart it."""


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it can stand in a lane name: lower case letters, digits and inner hyphens, up to 63.

    Raises InvalidName, which says what would be right.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{what} {name[:80]!r} is not usable: write 1 to 63 lower case letters, digits or inner hyphens"
        )
    if name in RESERVED_NAMES:
        raise InvalidName(f"{what} {name!r} is reserved: choose another word")
    return name


def lane_name(pool: str, kind: LaneKind, provider: str | None = None) -> str:
    """Return the lane of a pool's tasks: `q.t.<pool>.<provider|ssh|python>`."""
    if kind is LaneKind.LLM:
        if provider is None:
            raise InvalidName("an LLM lane needs a provider's name")
        return f"{_PREFIX}{pool}.{provider}"
    return f"{_PREFIX}{pool}.{kind.value}"


def pinned_lane_name(worker_id: str) -> str:
    """Return the lane of tasks that one worker alone may run: `q.t.w.<worker>`."""
    return _PINNED + worker_id


def lane_kind(lane: str) -> LaneKind:
    """Return what kind of slot the tasks of `lane` take.

    Raises InvalidName for anything that is no lane.
    """
    return lane_parts(lane).kind


def lane_parts(lane: str) -> LaneParts:
    """Return what a lane's name says; raises InvalidName for anything that is no lane."""
    if lane.startswith(_PINNED):
        return LaneParts(LaneKind.PINNED, worker_id=lane.removeprefix(_PINNED))
    parts = lane.removeprefix(_PREFIX).split(".")
    if not lane.startswith(_PREFIX) or len(parts) != 2 or not all(parts):
        raise InvalidName(f"{lane[:80]!r} is no lane")
    pool, last = parts
    if last in (LaneKind.SSH.value, LaneKind.PYTHON.value):
        return LaneParts(LaneKind(last), pool=pool)
    return LaneParts(LaneKind.LLM, pool=pool, provider=last)
