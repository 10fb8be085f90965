"""The worker's keys: made once, kept in its state directory, used by one process at a time."""

import base64
import fcntl
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import InstanceLocked, InvalidSettings, StorageUnavailable
from protocols.identity import fingerprint, worker_id

IDENTITY_FILE = "identity.json"
PUBLIC_FILE = "worker.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """Ed25519 to prove who it is, X25519 to open what is sealed to it."""

    signing: Ed25519PrivateKey = field(repr=False)
    sealing: X25519PrivateKey = field(repr=False)

    @property
    def identity_key(self) -> bytes:
        """The raw public Ed25519 key."""
        return self.signing.public_key().public_bytes_raw()

    @property
    def sealing_key(self) -> bytes:
        """The raw public X25519 key."""
        return self.sealing.public_key().public_bytes_raw()

    @property
    def worker_id(self) -> str:
        """The id that follows from the identity key."""
        return worker_id(self.identity_key)

    @property
    def fingerprint(self) -> str:
        """What an admin compares before approving."""
        return fingerprint(self.identity_key, self.sealing_key)


class StateDir:
    """A worker's state directory, locked for this process.

    Raises StorageUnavailable if it cannot be written, InstanceLocked if another process uses it,
    InvalidSettings for an identity that is damaged or readable by others: a new identity is never made in the
    place of an old one, since it would have to be approved again and could not open what was sealed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"the state directory {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InstanceLocked(f"another worker uses the state directory {self.path}") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def identity(self) -> Identity:
        """Return the identity, made at the first start."""
        path = self.path / IDENTITY_FILE
        try:
            if not path.exists():
                identity = Identity(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())
                write_atomically(path, _encode(identity), mode=0o600)
            elif stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise InvalidSettings(f"{path} can be read by others: chmod 600 it, or enrol anew if it was copied")
            identity = _decode(path)
            public = {"worker_id": identity.worker_id, "fingerprint": identity.fingerprint}
            write_atomically(self.path / PUBLIC_FILE, json.dumps(public).encode(), mode=0o644)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be read or written: {error.strerror}") from error
        return identity


def write_atomically(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file so that after a crash it is there whole or not at all; raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable; raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encode(identity: Identity) -> bytes:
    keys = {
        "signing": base64.b64encode(identity.signing.private_bytes_raw()).decode(),
        "sealing": base64.b64encode(identity.sealing.private_bytes_raw()).decode(),
    }
    return json.dumps(keys).encode()


def _decode(path: Path) -> Identity:
    try:
        keys = json.loads(path.read_bytes())
        return Identity(
            Ed25519PrivateKey.from_private_bytes(base64.b64decode(keys["signing"], validate=True)),
            X25519PrivateKey.from_private_bytes(base64.b64decode(keys["sealing"], validate=True)),
        )
    except (ValueError, KeyError, TypeError):
        # Without its cause: the message of a JSON error may quote what it found, which is a key.
        raise InvalidSettings(
            f"{path} is damaged: restore it from a backup, or delete it to enrol as a new worker"
        ) from None
