"""Files that people and tasks leave with Warren: their bytes in a storage, what is known of them in the database.

The bytes are kept before the row is written, and deleted after it. So what a crash can leave is bytes without a row,
which the next start sweeps, and never a row without bytes.
"""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import sqlalchemy as sa
import structlog
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.storage import Storage
from broker.store.store import Store
from broker.store.tables import artifacts
from broker.store.writer import Transaction
from protocols import ids
from protocols.clock import Clock
from protocols.errors import Forbidden, NotFound, StorageUnavailable, TooLarge, WarrenError

MAX_NAME_BYTES = 255
ANY_TYPE = "application/octet-stream"
_SUFFIX_BYTES = 16
"""What of a name is an ending worth keeping when the name is cut."""
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?: *; *{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')
_IDS_OF_A_QUERY = 500

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arriving:
    """A file on its way in."""

    name: str
    content_type: str | None
    task_id: str | None
    """The task that it belongs to, which exists or has existed."""
    created_by: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Signature:
    """What lets somebody without a key read one file for some time."""

    expires: int
    """Seconds since the epoch."""
    text: str


class Artifacts:
    """Takes, gives out and deletes files."""

    def __init__(self, store: Store, storage: Storage, clock: Clock, signing_key: bytes) -> None:
        self._store = store
        self._storage = storage
        self._clock = clock
        self._signing_key = signing_key

    async def add(self, arriving: Arriving, chunks: AsyncIterator[bytes]) -> str:
        """Keep a file whose bytes come in `chunks`; gives its id.

        Raises TooLarge, StorageFull, StorageUnavailable, and what `chunks` raises; then nothing of it is left.
        """
        file_id = ids.new_id(ids.ARTIFACT)
        draft = await asyncio.to_thread(self._storage.begin, file_id)
        digest = hashlib.sha256()
        size = 0

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            draft.write(chunk)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > arriving.max_bytes:
                    raise too_large(arriving.max_bytes)
                await asyncio.to_thread(take, chunk)
            await asyncio.to_thread(draft.keep)
        except BaseException:
            await asyncio.to_thread(draft.discard)
            raise
        row = {
            "id": file_id,
            "task_id": arriving.task_id,
            "name": safe_name(arriving.name),
            "content_type": safe_type(arriving.content_type),
            "size_bytes": size,
            "sha256": digest.digest(),
            "created_by": arriving.created_by,
        }
        try:
            # Not on a cancel: the row is written then too.
            await asyncio.wrap_future(self._store.writer.write(lambda transaction: _add(transaction, row)))
        except WarrenError:
            await asyncio.to_thread(draft.discard)
            raise
        return file_id

    async def find(self, file_id: str) -> Row[Any]:
        """Return what is known of a file; raises NotFound."""
        return await asyncio.wrap_future(self._store.read(lambda connection: _find(connection, file_id)))

    async def open(self, file_id: str) -> BinaryIO:
        """Return the bytes of a file that `find` gave, to be closed by the caller; raises StorageUnavailable."""
        return await asyncio.to_thread(self._storage.open, file_id)

    async def delete(self, file_id: str, actor: str) -> None:
        """Delete a file; raises NotFound."""
        await asyncio.wrap_future(self._store.writer.write(lambda transaction: _delete(transaction, file_id, actor)))
        try:
            await asyncio.to_thread(self._storage.delete, file_id)
        except StorageUnavailable as error:
            _log.warning("file_left_over", file=file_id, error=error.message)

    def sign(self, file_id: str, seconds: int) -> Signature:
        """Return what `check` accepts for so long."""
        expires = self._clock.now() // 1000 + seconds
        return Signature(expires, self._signature(file_id, expires))

    def check(self, file_id: str, signature: Signature) -> None:
        """Raise Forbidden unless the signature was made for this file and has not expired."""
        # A signature is compared in full, in constant time, before anything is said about its age.
        wanted = self._signature(file_id, signature.expires)
        if not hmac.compare_digest(wanted.encode(), signature.text.encode()):
            raise Forbidden("this URL was not made by this Warren, or was altered", hint="use it as it was given")
        if signature.expires * 1000 <= self._clock.now():
            raise Forbidden("this URL has expired", hint=f"ask for a new one: GET /files/{file_id}/url")

    def sweep(self) -> None:
        """Delete what a crash has left of files that were not yet or no longer known. Only while nothing is added."""
        try:
            for batch in self._storage.batches():
                for first in range(0, len(batch), _IDS_OF_A_QUERY):
                    self._sweep(batch[first : first + _IDS_OF_A_QUERY])
        except StorageUnavailable as error:
            _log.warning("files_not_swept", error=error.message)

    def _sweep(self, found: Sequence[str]) -> None:
        query = sa.select(artifacts.c.id).where(artifacts.c.id.in_(found))
        known = set(self._store.read(lambda connection: connection.execute(query).scalars().all()).result())
        for file_id in found:
            if file_id not in known:
                self._storage.delete(file_id)
                _log.info("file_swept", file=file_id)

    def _signature(self, file_id: str, expires: int) -> str:
        made = hmac.digest(self._signing_key, f"{file_id}|{expires}".encode(), "sha256")
        return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def too_large(max_bytes: int) -> TooLarge:
    """Return the refusal of a file beyond the limit."""
    return TooLarge(
        f"the file is larger than {max_bytes:,} bytes", field="file", hint="see the setting files.max_bytes"
    )


def safe_name(name: str) -> str:
    """Return a file's name as it may be stored and shown: without folders and unprintable characters, 255 bytes."""
    base = re.split(r"[/\\]", name)[-1]
    shown = "".join(character if character.isprintable() else "_" for character in base).strip()
    if shown in ("", ".", ".."):
        return "file"
    stem, dot, ending = shown.rpartition(".")
    if not stem or len(ending.encode()) > _SUFFIX_BYTES:
        stem, dot, ending = shown, "", ""
    kept = stem.encode()[: MAX_NAME_BYTES - len((dot + ending).encode())]
    return kept.decode(errors="ignore") + dot + ending


def safe_type(content_type: str | None) -> str:
    """Return a media type as it may be sent again: what was said if that is one, else the one that says nothing."""
    said = (content_type or "").strip()
    return said if len(said) <= MAX_NAME_BYTES and _TYPE.fullmatch(said) else ANY_TYPE


def _find(connection: Connection, file_id: str) -> Row[Any]:
    found = connection.execute(sa.select(artifacts).where(artifacts.c.id == file_id)).first()
    if found is None:
        raise NotFound(f"there is no file {file_id[:80]!r}")
    return found


def _add(transaction: Transaction, row: dict[str, Any]) -> None:
    transaction.connection.execute(artifacts.insert().values({**row, "created_at": transaction.now}))
    noted = {"name": row["name"], "size_bytes": row["size_bytes"], "task_id": row["task_id"]}
    record(transaction, row["created_by"], "file.create", row["id"], noted)


def _delete(transaction: Transaction, file_id: str, actor: str) -> None:
    name = _find(transaction.connection, file_id).name
    transaction.connection.execute(artifacts.delete().where(artifacts.c.id == file_id))
    record(transaction, actor, "file.delete", file_id, {"name": name})
