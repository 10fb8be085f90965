"""The condition of what Warren needs: its database, the disk under it, and its workers."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from broker.fleet_view import presence_of
from broker.store.store import Store
from broker.store.tables import workers
from broker.views import View
from protocols.errors import StorageUnavailable
from protocols.states import Approval, Presence

LOW_DISK_BYTES = 1024**3
"""With less free space than this, the disk is reported as degraded."""

Status = Literal["ok", "degraded", "failing", "not_configured"]


class Part(View):
    """Something that Warren needs or may use."""

    status: Status
    message: str
    numbers: Mapping[str, float] = Field(default_factory=dict)


class Condition(View):
    """How everything is; `status` is `healthy` while nothing needs anybody's attention."""

    status: Literal["healthy", "degraded"]
    database: Part
    storage: Part
    workers: Part
    redis: Part
    minio: Part
    mail: Part


_UNUSED: Mapping[str, Part] = {
    name: Part(status="not_configured", message=f"this Warren uses no {label}")
    for name, label in (("redis", "Redis"), ("minio", "object storage"), ("mail", "mail server"))
}


async def examine(store: Store, data_dir: Path, now: int) -> Condition:
    """Look at everything; answers also while the database does not."""
    storage = await asyncio.to_thread(_storage, data_dir)
    began = perf_counter()
    try:
        presence = await asyncio.wrap_future(store.read(lambda connection: presences(connection, now)))
    except StorageUnavailable as error:
        database = Part(status="failing", message=error.message)
        fleet = Part(status="failing", message="the database does not tell")
    else:
        database = _database(store, (perf_counter() - began) * 1000)
        fleet = _fleet(presence)
    well = all(part.status in ("ok", "not_configured") for part in (database, storage, fleet))
    status: Literal["healthy", "degraded"] = "healthy" if well else "degraded"
    return Condition(status=status, database=database, storage=storage, workers=fleet, **_UNUSED)


def presences(connection: Connection, now: int) -> Counter[str]:
    """Count the approved workers by their presence."""
    query = sa.select(presence_of(now)).where(workers.c.approval == Approval.APPROVED.value)
    return Counter(connection.execute(query).scalars())


def _database(store: Store, took_ms: float) -> Part:
    numbers = {"read_ms": round(took_ms, 1), "failing_s": round(store.writer.failing_for(), 1)}
    if numbers["failing_s"]:
        return Part(status="failing", message="commits fail; what was answered is safe", numbers=numbers)
    return Part(status="ok", message="reads and writes succeed", numbers=numbers)


def _storage(data_dir: Path) -> Part:
    try:
        disk = shutil.disk_usage(data_dir)
    except OSError as error:
        return Part(status="failing", message=f"the data directory cannot be looked at: {error.strerror}")
    low = disk.free < LOW_DISK_BYTES
    return Part(
        status="degraded" if low else "ok",
        message=f"{disk.free / 1e9:.1f} GB of {disk.total / 1e9:.1f} GB are free under the data directory",
        numbers={"free_bytes": disk.free, "total_bytes": disk.total},
    )


def _fleet(presence: Counter[str]) -> Part:
    total, online, lost = presence.total(), presence[Presence.ONLINE], presence[Presence.LOST]
    numbers = {"total": total, "online": online, "lost": lost}
    if not total:
        return Part(status="not_configured", message="no worker is approved yet", numbers=numbers)
    status: Status = "degraded" if lost else "ok" if online else "failing"
    return Part(status=status, message=f"{online} of {total} approved workers are online", numbers=numbers)
