"""A sealed value opens for its recipient in its context, and nowhere else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import SealBroken
from protocols.sealing import seal, secret_context, unseal

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
CONTEXT = secret_context(worker_id="w-1", execution_id="exec_1", name="openai")


@settings(deadline=None)
@given(st.binary(max_size=5000))
def test_the_recipient_opens_it(value: bytes) -> None:
    sealed = seal(value, recipient=PUBLIC, context=CONTEXT)
    assert unseal(sealed, key=KEY, context=CONTEXT) == value
    assert len(sealed) == len(value) + 48


def test_no_one_else_opens_it() -> None:
    sealed = seal(b"secret", recipient=PUBLIC, context=CONTEXT)
    with pytest.raises(SealBroken):
        unseal(sealed, key=X25519PrivateKey.generate(), context=CONTEXT)


@pytest.mark.parametrize(
    "context",
    [
        b"",
        secret_context(worker_id="w-2", execution_id="exec_1", name="openai"),
        secret_context(worker_id="w-1", execution_id="exec_2", name="openai"),
        secret_context(worker_id="w-1", execution_id="exec_1", name="other"),
        secret_context(worker_id="w-1exec_1", execution_id="", name="openai"),
    ],
)
def test_it_opens_for_its_worker_execution_and_name_only(context: bytes) -> None:
    sealed = seal(b"secret", recipient=PUBLIC, context=CONTEXT)
    with pytest.raises(SealBroken):
        unseal(sealed, key=KEY, context=context)


@settings(deadline=None)
@given(st.data())
def test_any_altered_byte_breaks_it(data: st.DataObject) -> None:
    sealed = bytearray(seal(b"secret", recipient=PUBLIC, context=CONTEXT))
    # The last bit of the encapsulated key means nothing (RFC 7748, 5), but is bound by the key schedule.
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealBroken):
        unseal(bytes(sealed), key=KEY, context=CONTEXT)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_do_not_open(data: bytes) -> None:
    with pytest.raises(SealBroken):
        unseal(data, key=KEY, context=CONTEXT)


def test_equal_values_are_sealed_differently_and_unreadably() -> None:
    first, second = (seal(b"hunter2" * 10, recipient=PUBLIC, context=CONTEXT) for _ in range(2))
    assert first != second
    assert b"hunter2" not in first
