"""Where the bytes of files lie: the seam, and a local directory behind it."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from broker.private_file import sync_directory
from protocols.errors import StorageFull, StorageUnavailable

_DRAFT = ".part"
_FAN_OUT = 2
"""Folders are called after so many last digits of an id: its first ones are a time, and would fill one by one."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Draft(Protocol):
    """Bytes on their way in, which nobody can read yet."""

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        ...

    def keep(self) -> None:
        """Make the bytes durable, and readable under their id."""
        ...

    def discard(self) -> None:
        """Leave nothing of them, whether they were kept or not."""
        ...


class Storage(Protocol):
    """Keeps bytes under ids. Blocks, so it is called on threads. Raises StorageFull and StorageUnavailable."""

    def begin(self, file_id: str) -> Draft:
        """Return an empty draft of what will lie under a new id."""
        ...

    def open(self, file_id: str) -> BinaryIO:
        """Return the bytes, to be read from any place on and closed; StorageUnavailable if there are none."""
        ...

    def delete(self, file_id: str) -> None:
        """Leave nothing under this id, neither draft nor bytes."""
        ...

    def batches(self) -> Iterator[Sequence[str]]:
        """Yield the ids of all that lies here, drafts too."""
        ...


class LocalStorage:
    """Keeps bytes in a directory that only its owner may read, a file for each id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with _translated(str(directory)):
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)

    def begin(self, file_id: str) -> "LocalDraft":
        """Return an empty draft of what will lie under a new id."""
        path = self._path(file_id)
        with _translated(file_id):
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._directory)
            return LocalDraft(path)

    def open(self, file_id: str) -> BinaryIO:
        """Return the bytes, to be read from any place on and closed; StorageUnavailable if there are none."""
        path = self._path(file_id)
        with _translated(file_id):
            return path.open("rb")

    def delete(self, file_id: str) -> None:
        """Leave nothing under this id, neither draft nor bytes."""
        path = self._path(file_id)
        with _translated(file_id):
            _draft(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def batches(self) -> Iterator[Sequence[str]]:
        """Yield the ids of all that lies here, drafts too, a folder at a time."""
        with _translated(str(self._directory)):
            for folder in self._directory.iterdir():
                found = (name.removesuffix(_DRAFT) for name in os.listdir(folder))
                yield [file_id for file_id in found if self._path(file_id).parent == folder]

    def _path(self, file_id: str) -> Path:
        return self._directory / file_id[-_FAN_OUT:] / file_id


class LocalDraft:
    """A file under another name, which gets its own one when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = _draft(path)
        self._file = FileIO(self._draft, "xb", opener=_open_private)

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        with _translated(self._path.name):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def keep(self) -> None:
        """Make the bytes durable, and readable under their id."""
        with _translated(self._path.name):
            os.fsync(self._file.fileno())
            self._file.close()
            self._draft.rename(self._path)
            sync_directory(self._path.parent)

    def discard(self) -> None:
        """Leave nothing of them, whether they were kept or not."""
        with _translated(self._path.name):
            self._file.close()
            self._draft.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _draft(path: Path) -> Path:
    return path.with_name(path.name + _DRAFT)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the file system's exceptions into Warren's."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("the disk under the files is full", hint="free some space, or delete files") from error
        raise StorageUnavailable(f"{what} cannot be used: {error.strerror}") from error
