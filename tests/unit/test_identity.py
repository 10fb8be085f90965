"""Who a worker is follows from its keys, today and in every later version."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import Unauthenticated
from protocols.identity import (
    fingerprint,
    sign_registration,
    sign_session,
    verify_registration,
    verify_session,
    worker_id,
)

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()
NONCE = bytes(32)
SEALING = b"\x07" * 32


def test_id_and_fingerprint_never_change() -> None:
    """Approved workers keep their ids, and noted fingerprints stay comparable."""
    assert PUBLIC.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert worker_id(PUBLIC) == "w-kzdvvj2umnduyauf35o3"
    assert fingerprint(PUBLIC, SEALING) == "ef66-8239-b2dd-35e0-f058"


def test_signatures_never_change() -> None:
    """A worker of an older version of the same protocol still opens its session."""
    assert sign_session(KEY, nonce=NONCE, worker="w-1", boot_id="b-1").hex()[:32] == "a7a74e08f16747f72677ca7770deffcf"
    assert sign_registration(KEY, sealing_key=SEALING, hostname="host").hex()[:32] == "97b3938aec3aefc19272fe9e6be324c5"


def test_another_key_is_another_worker() -> None:
    assert worker_id(bytes(32)) != worker_id(b"\x01" + bytes(31))
    assert fingerprint(PUBLIC, SEALING) != fingerprint(PUBLIC, bytes(32))
    assert fingerprint(PUBLIC, SEALING) != fingerprint(bytes(32), SEALING)


def test_a_fingerprint_can_be_read_aloud() -> None:
    groups = fingerprint(PUBLIC, SEALING).split("-")
    assert [len(group) for group in groups] == [4] * 5
    assert set("".join(groups)) <= set("0123456789abcdef")


def test_the_holder_of_the_key_is_believed() -> None:
    signature = sign_session(KEY, nonce=NONCE, worker="w-1", boot_id="b-1")
    verify_session(PUBLIC, signature, nonce=NONCE, worker="w-1", boot_id="b-1")
    proof = sign_registration(KEY, sealing_key=SEALING, hostname="host")
    verify_registration(PUBLIC, proof, sealing_key=SEALING, hostname="host")


@pytest.mark.parametrize(
    ("nonce", "worker", "boot_id"),
    [(b"\x01" * 32, "w-1", "b-1"), (NONCE, "w-2", "b-1"), (NONCE, "w-1", "b-2"), (NONCE, "w-1b-1", "")],
)
def test_a_session_signature_is_good_for_one_challenge_worker_and_boot(nonce: bytes, worker: str, boot_id: str) -> None:
    signature = sign_session(KEY, nonce=NONCE, worker="w-1", boot_id="b-1")
    with pytest.raises(Unauthenticated):
        verify_session(PUBLIC, signature, nonce=nonce, worker=worker, boot_id=boot_id)


@pytest.mark.parametrize(("sealing_key", "hostname"), [(bytes(32), "host"), (SEALING, "other")])
def test_a_registration_binds_the_sealing_key_and_the_host(sealing_key: bytes, hostname: str) -> None:
    proof = sign_registration(KEY, sealing_key=SEALING, hostname="host")
    with pytest.raises(Unauthenticated):
        verify_registration(PUBLIC, proof, sealing_key=sealing_key, hostname=hostname)


def test_a_signature_for_one_purpose_is_none_for_the_other() -> None:
    """A challenge that looks like a registration cannot be used to take a worker's identity over."""
    signature = sign_session(KEY, nonce=SEALING, worker="", boot_id="")
    with pytest.raises(Unauthenticated):
        verify_registration(PUBLIC, signature, sealing_key=SEALING, hostname="\0")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\xff" * 32], ids=len)
@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)], ids=len)
def test_malformed_keys_and_signatures_are_refused(key: bytes, signature: bytes) -> None:
    with pytest.raises(Unauthenticated):
        verify_session(key, signature, nonce=NONCE, worker="w-1", boot_id="b-1")
