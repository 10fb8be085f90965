"""The envelope: a dramatiq message in MessagePack, within its limits and of this protocol."""

import hashlib
from typing import Any

import msgpack
import pytest
from dramatiq import Message
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import PROTOCOL_VERSION
from protocols.envelope import MAX_ENVELOPE_BYTES, Envelope, EnvelopeEncoder, decode_message, envelope_sha256
from protocols.errors import InvalidFrame, TooLarge
from protocols.states import Delivery

patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.text(min_size=1, max_size=40)
ENVELOPES = st.builds(
    Envelope,
    lane=NAMES,
    action=NAMES,
    args=st.lists(JSON, max_size=3).map(tuple),
    kwargs=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    task_id=NAMES,
    attempt=st.integers(0, 2**53),
    delivery=st.sampled_from(Delivery),
    published_at=st.integers(0, 2**53),
)


def envelope(**changes: Any) -> Envelope:
    fields = {
        "lane": "q.t.default.python",
        "action": "add",
        "args": (1, "two"),
        "kwargs": {"three": [3]},
        "task_id": "task_1",
        "attempt": 2,
        "delivery": Delivery.AT_LEAST_ONCE,
        "published_at": 1_800_000_000_000,
    }
    return Envelope(**{**fields, **changes})


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields that travel for a valid envelope, some of them changed."""
    return {**msgpack.unpackb(envelope().encode()), **changes}


@patient
@given(ENVELOPES)
def test_every_envelope_survives_the_trip(sent: Envelope) -> None:
    assert Envelope.decode(sent.encode()) == sent


@patient
@given(ENVELOPES)
def test_an_envelope_is_a_message_for_dramatiq(sent: Envelope) -> None:
    data = EnvelopeEncoder().decode(sent.encode())
    message: Message[Any] = Message(**{**data, "args": tuple(data["args"])})
    assert message == sent.to_message()
    assert Envelope.from_message(message) == sent


def test_the_message_carries_what_dramatiq_needs_and_no_more_options_than_ours() -> None:
    message = envelope().to_message()
    assert (message.queue_name, message.actor_name) == ("q.t.default.python", "add")
    assert (message.args, message.kwargs) == ((1, "two"), {"three": [3]})
    assert message.message_id == "task_1.2"
    assert message.message_timestamp == 1_800_000_000_000
    assert message.options == {
        "warren": PROTOCOL_VERSION,
        "task_id": "task_1",
        "attempt": 2,
        "delivery": "at_least_once",
    }


def test_each_attempt_of_a_task_is_another_message() -> None:
    assert envelope(attempt=1).to_message().message_id != envelope(attempt=2).to_message().message_id


def test_the_largest_envelope_is_accepted_and_one_byte_more_is_not() -> None:
    room = MAX_ENVELOPE_BYTES - len(envelope(args=("x" * 100_000,)).encode()) + 100_000
    largest = envelope(args=("x" * room,))
    assert len(largest.encode()) == MAX_ENVELOPE_BYTES
    assert Envelope.decode(largest.encode()) == largest
    with pytest.raises(TooLarge):
        envelope(args=("x" * (room + 1),)).encode()
    with pytest.raises(TooLarge):
        Envelope.decode(largest.encode() + b"\xc0")


def test_the_digest_changes_with_every_byte() -> None:
    body = envelope().encode()
    assert envelope_sha256(body) == hashlib.sha256(body).digest()
    altered = {envelope_sha256(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]) for place in range(10)}
    assert len(altered | {envelope_sha256(body)}) == 11


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"not MessagePack",
        JSONEncoder().encode(envelope().to_message().asdict()),
        msgpack.packb([]),
        msgpack.packb("args"),
        msgpack.packb({}),
        msgpack.packb({**fields(), "surplus": 1}),
        msgpack.packb({name: value for name, value in fields().items() if name != "queue_name"}),
        msgpack.packb(fields(args="text")),
        msgpack.packb(fields(args={"a": 1})),
        msgpack.packb(fields(args=None)),
    ],
)
def test_what_is_no_dramatiq_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_message(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": None},
        {"options": []},
        {"options": {}},
        {"options": {**fields()["options"], "warren": PROTOCOL_VERSION + 1}},
        {"options": {**fields()["options"], "delivery": "whenever"}},
        {"options": {**fields()["options"], "attempt": -1}},
        {"options": {**fields()["options"], "attempt": "1"}},
        {"options": {**fields()["options"], "task_id": ""}},
        {"options": {**fields()["options"], "task_id": None}},
        {"queue_name": 5},
        {"queue_name": ""},
        {"actor_name": ["add"]},
        {"kwargs": []},
        {"kwargs": None},
        {"message_timestamp": -1},
        {"message_timestamp": 1.5},
    ],
    ids=repr,
)
def test_a_message_that_is_no_envelope_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidFrame):
        Envelope.decode(msgpack.packb(fields(**changes)))


def test_the_fields_of_these_tests_are_valid_before_they_are_spoiled() -> None:
    assert Envelope.decode(msgpack.packb(fields())) == envelope()


def test_a_message_of_another_program_is_refused() -> None:
    foreign: Message[Any] = Message(queue_name="default", actor_name="add", args=(), kwargs={}, options={"retries": 1})
    with pytest.raises(InvalidFrame, match="no Warren envelope"):
        Envelope.from_message(foreign)


def test_dramatiq_gets_the_error_that_it_expects_for_broken_bytes() -> None:
    with pytest.raises(DecodeError):
        EnvelopeEncoder().decode(b"\x93\x01")


def test_errors_never_show_the_input() -> None:
    marker = "hunter2" * 10
    for spoiled in (
        fields(**{marker: 1}),
        fields(kwargs=marker),
        fields(options={**fields()["options"], "task_id": 5}),
    ):
        with pytest.raises(InvalidFrame) as refused:
            Envelope.decode(msgpack.packb({**spoiled, "actor_name": marker}))
        assert "hunter2" not in refused.value.message
