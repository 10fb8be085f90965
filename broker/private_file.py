"""Small files that only their owner may read: created once and whole, or not at all."""

import os
import secrets
from pathlib import Path

from protocols.errors import InvalidSettings, StorageUnavailable


def read_private_file(path: Path) -> bytes | None:
    """Return the file's content, None if there is no such file.

    Raises InvalidSettings if others may read it, StorageUnavailable if it cannot be read.
    """
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise InvalidSettings(f"{path} is open to other users (mode {mode:04o})", hint=f"run: chmod 600 {path}")
    return content


def create_private_file(path: Path, content: bytes) -> None:
    """Create the file, durably, with mode 0600; after a crash it is there with all of its content or absent.

    Raises StorageUnavailable if it exists or cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link never takes the place of a file that somebody else has just created.
            path.hardlink_to(draft)
        finally:
            draft.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be created: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make what was created or renamed in a directory durable; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
