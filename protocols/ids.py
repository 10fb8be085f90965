"""Ids: a prefix that names the noun, and a UUID version 7 (RFC 9562, 5.7), so that ids sort by time."""

import os
import time

TASK = "task"
EXECUTION = "exec"
BATCH = "batch"
DEAD_LETTER = "dead"
PROVIDER = "prov"
CONNECTION = "conn"
SECRET = "sec"
API_KEY = "key"
AGENT = "agent"
ARTIFACT = "file"

_LAST_MS = 2**48 - 1


def new_id(prefix: str) -> str:
    """Return a new id such as `task_01973cf0a6b07c3d8f0e2a4b6c8d9e1f`.

    Ids that one process makes one after the other sort in that order: the twelve bits behind the milliseconds
    tell the time within them, to a quarter of a microsecond (RFC 9562, 6.2, method 3).
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    value = (milliseconds & _LAST_MS) << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | random
    return f"{prefix}_{value:032x}"


def first_id(prefix: str, milliseconds: int) -> str:
    """Return what is not after any id of that time or later, and after every earlier one."""
    return f"{prefix}_{min(max(milliseconds, 0), _LAST_MS) << 80:032x}"
