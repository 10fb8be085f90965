"""Files: what tasks and people leave with the control plane."""

import hashlib
import mimetypes
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record
from protocols.errors import InvalidInput, StorageUnavailable, Unreachable

ANY_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile(Record):
    """What is known of a file; `sha256` in hexadecimal."""

    id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    created_by: str
    task_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUrl(Record):
    """Where a file can be fetched without a key until it expires."""

    url: str
    expires_at: datetime
    expires_in: int


class Files(Noun[StoredFile]):
    """The files of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "files", StoredFile)

    def list(self, *, task_id: str | None = None, limit: int | None = None) -> Iterator[StoredFile]:
        """Yield files, of one task or of all, page by page, at most `limit` of them."""
        return islice(self._rows({"task_id": task_id}), limit)

    def upload(
        self,
        source: str | Path | IO[bytes],
        *,
        name: str | None = None,
        content_type: str | None = None,
        task_id: str | None = None,
    ) -> StoredFile:
        """Send a file, by its path or open in binary mode, as it is read; a failed one is not sent again.

        Raises InvalidInput if it cannot be read, TooLarge beyond what the control plane takes.
        """
        shown = name or Path(str(source if isinstance(source, (str, Path)) else getattr(source, "name", "file"))).name
        kind = content_type or mimetypes.guess_type(shown)[0] or ANY_TYPE
        try:
            with open(source, "rb") if isinstance(source, (str, Path)) else nullcontext(source) as file:
                told = self._client.upload(self._path("upload"), file, shown, kind, {"task_id": task_id})
        except OSError as error:
            raise InvalidInput(f"{source} cannot be read: {error.strerror or error}") from error
        return StoredFile.of(told)

    def download(self, file_id: str, target: str | Path) -> StoredFile:
        """Write a file's bytes to `target`, which is there whole and proven by its SHA-256, or not at all.

        Raises NotFound, and StorageUnavailable if it cannot be written.
        """
        file, path = self.get(file_id), Path(target)
        try:
            self._client.download(self._path(file_id, "download"), lambda pieces: _write(path, pieces, file.sha256))
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror or error}") from error
        return file

    def read(self, file_id: str) -> bytes:
        """Return a file's bytes."""
        return self._client.download(self._path(file_id, "download"), b"".join)

    def url(self, file_id: str) -> FileUrl:
        """Return a URL that gives the bytes to whoever has it, for a time."""
        return FileUrl.of(self._client.get(self._path(file_id, "url")))

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._delete(file_id)


def _write(path: Path, pieces: Iterator[bytes], sha256: str) -> None:
    digest = hashlib.sha256()
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        try:
            for piece in pieces:
                digest.update(piece)
                partial.write(piece)
            partial.flush()
            if digest.hexdigest() != sha256.lower():
                raise Unreachable(f"{path.name} did not arrive as it was sent")
            os.replace(partial.name, path)
        except BaseException:
            os.unlink(partial.name)
            raise
