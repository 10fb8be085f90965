"""Secrets at rest: each version has a data key of its own, which the control plane's master key wraps.

Both layers are AES-256-GCM and bound to the secret's id and version, so that no row can be put in another's place.
"""

import os
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.private_file import create_private_file, read_private_file
from protocols.errors import InvalidSettings, SealBroken

MASTER_KEY_FILE = "master.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_VALUE_DOMAIN = b"warren/vault/value/v1\0"
_KEY_DOMAIN = b"warren/vault/key/v1\0"
_DERIVED_DOMAIN = b"warren/vault/derived/v1\0"


class Vault:
    """Encrypts and decrypts secrets' values with the master key that it holds."""

    def __init__(self, master_key: bytes) -> None:
        self._master_key = master_key

    @classmethod
    def open(cls, data_dir: Path) -> Self:
        """Return the vault of a data directory, which gets a master key if it has none.

        Raises InvalidSettings for a key file that others may read or that holds no key, StorageUnavailable.
        """
        path = data_dir / MASTER_KEY_FILE
        master_key = read_private_file(path)
        if master_key is None:
            master_key = os.urandom(_KEY_BYTES)
            create_private_file(path, master_key)
        if len(master_key) != _KEY_BYTES:
            raise InvalidSettings(
                f"{path} holds no master key: {len(master_key)} bytes in place of {_KEY_BYTES}",
                hint="put the backup of the file back: without it the stored secrets are lost",
            )
        return cls(master_key)

    def derived_key(self, purpose: str) -> bytes:
        """Return the key for something else than secrets: the same for a purpose, and telling nothing of others."""
        info = _DERIVED_DOMAIN + purpose.encode()
        return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(self._master_key)

    def encrypt(self, secret_id: str, version: int, value: bytes) -> tuple[bytes, bytes]:
        """Return the ciphertext of a secret's version and its wrapped key."""
        key = os.urandom(_KEY_BYTES)
        place = _place(secret_id, version)
        return _encrypt(key, value, _VALUE_DOMAIN + place), _encrypt(self._master_key, key, _KEY_DOMAIN + place)

    def decrypt(self, secret_id: str, version: int, ciphertext: bytes, wrapped_key: bytes) -> bytes:
        """Return a secret's value; raises SealBroken for another master key, or a row that was altered or moved."""
        place = _place(secret_id, version)
        try:
            key = _decrypt(self._master_key, wrapped_key, _KEY_DOMAIN + place)
            return _decrypt(key, ciphertext, _VALUE_DOMAIN + place)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(
                f"version {version} of secret {secret_id} does not open with this master key, or its row was altered",
                hint=f"put the right {MASTER_KEY_FILE} back, or give the secret its value anew",
            ) from error


def _place(secret_id: str, version: int) -> bytes:
    return f"{secret_id}|{version}".encode()


def _encrypt(key: bytes, value: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, value, bound_to)


def _decrypt(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
