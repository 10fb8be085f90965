"""Private keys from text to what paramiko signs with."""

import io

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from protocols.states import FailureClass
from worker.actions.ssh.failure import NotStarted

SupportedKey = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey


def private_key(text: str) -> paramiko.PKey:
    """Return the Ed25519, RSA or ECDSA key in `text` (OpenSSH or PEM, without a passphrase).

    Raises NotStarted (credential, `unusable_key`); its message never quotes the key.
    """
    key = _load(text.strip().encode(errors="replace") + b"\n")
    openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    try:
        return _paramiko_class(key).from_private_key(io.StringIO(openssh))
    except (paramiko.SSHException, ValueError):
        raise _unusable("paramiko cannot use it") from None


def _load(data: bytes) -> SupportedKey:
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        key = load(data, password=None)
    except TypeError:
        raise _unusable("it is protected by a passphrase; store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("it is no private key in OpenSSH or PEM format") from None
    if not isinstance(key, SupportedKey):
        raise _unusable("it is neither an Ed25519, an RSA nor an ECDSA key")
    return key


def _paramiko_class(key: SupportedKey) -> type[paramiko.PKey]:
    if isinstance(key, RSAPrivateKey):
        return paramiko.RSAKey
    if isinstance(key, EllipticCurvePrivateKey):
        return paramiko.ECDSAKey
    return paramiko.Ed25519Key


def _unusable(why: str) -> NotStarted:
    return NotStarted(FailureClass.CREDENTIAL, "unusable_key", f"the connection's private key is unusable: {why}")
