"""Connections: how Warren opens SQLite, and its errors in Warren's terms."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from protocols.errors import Conflict, InvalidSettings, StorageFull, StorageUnavailable

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs"})


def open_sqlite(path: Path, *, write: bool) -> Engine:
    """Return an engine for the database file.

    A writing engine begins every transaction with the write lock, so that a read that leads to a write is never
    refused half-way; a reading engine never takes it. Raises InvalidSettings on a network file system, whose
    locks SQLite cannot trust.
    """
    refuse_network_file_system(path.parent)
    if write:
        # SQLite's own files beside it take over its mode.
        path.touch(mode=0o600)
    engine = sa.create_engine(
        f"sqlite+pysqlite:///{path}",
        poolclass=QueuePool,
        pool_size=1 if write else 4,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": 5.0},
    )
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin("BEGIN IMMEDIATE" if write else "BEGIN"))
    return engine


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling would begin late and commit early.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def refuse_network_file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise InvalidSettings if `folder` is on one; `mounts` lists what is mounted, as proc_mounts(5) says."""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _device, mount, file_system, *_ = line.split(" ")
        inside = folder.resolve().is_relative_to(mount.replace("\\040", " "))
        if inside and len(mount) >= len(best):
            best, kind = mount, file_system
    if kind in _NETWORK_FILE_SYSTEMS:
        raise InvalidSettings(
            f"{folder} is on a network file system ({kind}), where SQLite can lose data: "
            "choose a local directory, or use PostgreSQL"
        )


def rows_changed(connection: Connection) -> int:
    """Return how many rows this connection to SQLite has changed so far."""
    return int(getattr(connection.connection.dbapi_connection, "total_changes", 0))


def dicts(found: CursorResult[Any]) -> list[dict[str, Any]]:
    """Return all rows of a result by the names of their columns, in a third of the time that `Row._asdict` takes."""
    names = tuple(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found.all()]


def insert_new(connection: Connection, table: sa.Table) -> sa.Insert:
    """Return an insert that leaves rows alone whose key is there already."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's exceptions into Warren's."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("the database refused the change: something with this name or key exists") from error
    except DBAPIError as error:
        raise storage_error(error.orig or error) from error
    except sqlite3.Error as error:
        raise storage_error(error) from error


def storage_error(error: BaseException) -> StorageUnavailable:
    """Return what a failed database operation means."""
    text = str(error)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StorageFull("the disk under the database is full: free some space; nothing was lost")
    return StorageUnavailable(f"the database cannot be used: {text}")
