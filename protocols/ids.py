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


def new_id(prefix: str) -> str:
    """Return a new id such as `task_01973cf0a6b07c3d8f0e2a4b6c8d9e1f`."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{prefix}_{value:032x}"
