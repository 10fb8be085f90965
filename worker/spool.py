"""Outcomes on disk, until the control plane has them."""

import errno
from pathlib import Path

import structlog

from protocols.codec import pack, unpack
from protocols.errors import InvalidFrame, StorageFull, StorageUnavailable, WarrenError
from protocols.frames import Kept, Outcomes, UpFrame, up_codec
from worker.identity import sync_directory, write_atomically

log = structlog.get_logger(__name__)

SUFFIX = ".outcome"
MAX_ENTRY_BYTES = 8 * 1024 * 1024


class Spool:
    """A directory with one file per unsettled outcome. Its methods block; an entry survives a power failure.

    Raises StorageFull or StorageUnavailable when the disk does not play along.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._codec = up_codec()

    def open(self) -> list[str]:
        """Make the directory ready and return the executions in it, oldest first."""
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in self._path.glob(".*.tmp"):
                leftover.unlink()
            return sorted(entry.name.removesuffix(SUFFIX) for entry in self._path.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise _storage_error(error) from error

    def write(self, execution_id: str, frames: tuple[UpFrame, ...]) -> None:
        """Store an execution's frames; returns when they are durable."""
        data = pack([self._codec.encode(frame) for frame in frames], MAX_ENTRY_BYTES)
        try:
            write_atomically(self._file(execution_id), data, mode=0o600)
        except OSError as error:
            raise _storage_error(error) from error

    def read(self, execution_id: str) -> tuple[UpFrame, ...] | None:
        """Return an execution's frames; None if the entry is damaged, which is then put aside."""
        path = self._file(execution_id)
        try:
            items = unpack(path.read_bytes(), MAX_ENTRY_BYTES)
            frames = tuple(self._codec.decode(item) for item in items)
            if not frames or not isinstance(frames[-1], Outcomes) or not all(_is_ours(frame) for frame in frames):
                raise InvalidFrame("no outcome in it")
        except OSError as error:
            log.warning("an outcome in the spool cannot be read", entry=path.name, reason=error.strerror)
        except (WarrenError, TypeError) as error:
            log.warning("an outcome in the spool is damaged and put aside", entry=path.name, reason=str(error))
            self._put_aside(path)
        else:
            return frames
        return None

    def remove(self, execution_id: str) -> None:
        """Forget an entry; it is no harm if it comes back after a power failure."""
        try:
            self._file(execution_id).unlink(missing_ok=True)
        except OSError as error:
            log.warning("an outcome cannot be removed from the spool", reason=error.strerror)

    def _put_aside(self, path: Path) -> None:
        bad = self._path / "bad"
        try:
            bad.mkdir(mode=0o700, exist_ok=True)
            path.rename(bad / path.name)
            sync_directory(bad)
        except OSError as error:
            log.warning("a damaged outcome cannot be put aside", entry=path.name, reason=error.strerror)

    def _file(self, execution_id: str) -> Path:
        return self._path / f"{execution_id}{SUFFIX}"


def _is_ours(frame: UpFrame) -> bool:
    return isinstance(frame, (Kept, Outcomes))


def _storage_error(error: OSError) -> StorageUnavailable:
    kind = StorageFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageUnavailable
    return kind(f"the spool cannot be written: {error.strerror}")
