"""Values that only one worker can open, for one purpose: HPKE (RFC 9180) to its X25519 key.

The control plane seals secrets for the claim that releases them, so that a proxy that ends TLS, a log or a
queue never sees one. HPKE base mode does not authenticate the sender; the session that carries it does.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protocols.errors import SealBroken


def secret_context(*, worker_id: str, execution_id: str, name: str) -> bytes:
    """Return what a released secret is bound to; anything else in its place does not open."""
    return b"\0".join((b"warren/secret/v1", worker_id.encode(), execution_id.encode(), name.encode()))


def seal(value: bytes, *, recipient: bytes, context: bytes) -> bytes:
    """Return `value` sealed to the raw X25519 public key `recipient` (48 bytes longer)."""
    return _suite().encrypt(value, X25519PublicKey.from_public_bytes(recipient), info=context)


def unseal(sealed: bytes, *, key: X25519PrivateKey, context: bytes) -> bytes:
    """Return what was sealed; raises SealBroken for another recipient, context, or altered bytes."""
    try:
        return _suite().decrypt(sealed, key, info=context)
    except (InvalidTag, ValueError) as error:
        raise SealBroken from error


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
