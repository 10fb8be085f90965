"""Who a worker is: the id and fingerprint that follow from its keys, and what it signs to prove them."""

import base64
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import Unauthenticated

_SESSION_DOMAIN = b"warren/session/v1\0"
_REGISTER_DOMAIN = b"warren/register/v1\0"


def worker_id(identity_key: bytes) -> str:
    """Return the id of the worker with this raw Ed25519 public key.

    Two machines with the same name can never collide, and nobody can choose an id.
    """
    digest = hashlib.sha256(identity_key).digest()
    return "w-" + base64.b32encode(digest).decode("ascii").lower()[:20]


def fingerprint(identity_key: bytes, sealing_key: bytes) -> str:
    """Return what an admin compares: 80 bits over both public keys, in five groups."""
    digits = hashlib.sha256(identity_key + sealing_key).hexdigest()[:20]
    return "-".join(digits[start : start + 4] for start in range(0, 20, 4))


def sign_session(key: Ed25519PrivateKey, *, nonce: bytes, worker: str, boot_id: str) -> bytes:
    """Return the signature that opens a session; the nonce makes it useless for any other."""
    return key.sign(_session_message(nonce, worker, boot_id))


def verify_session(identity_key: bytes, signature: bytes, *, nonce: bytes, worker: str, boot_id: str) -> None:
    """Raise Unauthenticated unless the holder of the key signed this nonce."""
    _verify(identity_key, signature, _session_message(nonce, worker, boot_id))


def sign_registration(key: Ed25519PrivateKey, *, sealing_key: bytes, hostname: str) -> bytes:
    """Return the proof that the registering side holds the identity key; it binds the sealing key to it."""
    return key.sign(_registration_message(sealing_key, hostname))


def verify_registration(identity_key: bytes, signature: bytes, *, sealing_key: bytes, hostname: str) -> None:
    """Raise Unauthenticated unless the holder of the identity key signed the sealing key."""
    _verify(identity_key, signature, _registration_message(sealing_key, hostname))


def _session_message(nonce: bytes, worker: str, boot_id: str) -> bytes:
    return _SESSION_DOMAIN + nonce + worker.encode() + b"\0" + boot_id.encode()


def _registration_message(sealing_key: bytes, hostname: str) -> bytes:
    return _REGISTER_DOMAIN + sealing_key + hostname.encode()


def _verify(identity_key: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(identity_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Unauthenticated("the signature does not fit the worker's identity key") from error
