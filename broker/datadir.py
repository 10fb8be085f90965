"""The data directory of a control plane: private, and used by one process at a time."""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from protocols.errors import InstanceLocked, InvalidSettings, StorageFull, StorageUnavailable


class DataDir:
    """Holds the directory's lock from entry to exit.

    Entering raises InstanceLocked if another process has it, InvalidSettings if it cannot be made or is open to
    others, StorageFull or StorageUnavailable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.chmod(0o700)
            self._lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstanceLocked(
                f"another control plane uses {self._path}", hint=f"it listens on {self._known_url()}"
            ) from error
        except OSError as error:
            raise _translate(error, self._path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def write_url(self, url: str) -> None:
        """Tell other commands on this machine where the control plane listens."""
        temporary = self._path / ".url.new"
        temporary.write_text(f"{url}\n")
        temporary.replace(self._path / "url")

    def remove_url(self) -> None:
        """It listens no more."""
        (self._path / "url").unlink(missing_ok=True)

    def _known_url(self) -> str:
        try:
            return (self._path / "url").read_text().strip()
        except OSError:
            return "an address that it has not told yet"


def _translate(error: OSError, path: Path) -> Exception:
    if error.errno == errno.ENOSPC:
        return StorageFull(f"the disk under {path} is full", hint="free some space")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS):
        return InvalidSettings(
            f"{path} cannot be the data directory: {error.strerror}", hint="choose another with --data-dir"
        )
    return StorageUnavailable(f"{path} cannot be used: {error.strerror}")
