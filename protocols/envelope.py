"""The envelope: what a lane carries to a worker. A `dramatiq.Message` in MessagePack, without any secret."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dramatiq import Message
from dramatiq.encoder import Encoder, MessageData
from dramatiq.errors import DecodeError
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from protocols import PROTOCOL_VERSION
from protocols.codec import first_problem, pack, unpack
from protocols.errors import InvalidFrame, WarrenError
from protocols.states import Delivery
from protocols.values import FROZEN, Count, Id, Milliseconds, Name

MAX_ENVELOPE_BYTES = 1024 * 1024
"""Larger inputs travel as Artifacts, by reference."""
MAX_INPUT_BYTES = MAX_ENVELOPE_BYTES - 4096
"""What a task's arguments may take of it; the rest is for what an envelope adds to them."""


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Envelope:
    """One attempt of one task, addressed to a lane."""

    lane: Name
    action: Name
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    task_id: Id
    attempt: Count
    """Rises with every publish of the task and never resets."""
    delivery: Delivery
    published_at: Milliseconds

    def to_message(self) -> Message[Any]:
        """Return the dramatiq form."""
        return Message(
            queue_name=self.lane,
            actor_name=self.action,
            args=self.args,
            kwargs=self.kwargs,
            options={
                "warren": PROTOCOL_VERSION,
                "task_id": self.task_id,
                "attempt": self.attempt,
                "delivery": self.delivery.value,
            },
            message_id=f"{self.task_id}.{self.attempt}",
            message_timestamp=self.published_at,
        )

    def encode(self) -> bytes:
        """Return the bytes that travel; raises TooLarge beyond MAX_ENVELOPE_BYTES."""
        return EnvelopeEncoder().encode(self.to_message().asdict())

    @classmethod
    def from_message(cls, message: Message[Any]) -> "Envelope":
        """Return the envelope in a dramatiq message; raises InvalidFrame if it is none of ours."""
        options = message.options
        if not isinstance(options, dict) or options.get("warren") != PROTOCOL_VERSION:
            raise InvalidFrame("no Warren envelope of this protocol version")
        try:
            return _ENVELOPE.validate_python(
                {
                    "lane": message.queue_name,
                    "action": message.actor_name,
                    "args": message.args,
                    "kwargs": message.kwargs,
                    "task_id": options.get("task_id"),
                    "attempt": options.get("attempt"),
                    "delivery": options.get("delivery"),
                    "published_at": message.message_timestamp,
                }
            )
        except ValidationError as error:
            raise InvalidFrame(f"envelope: {first_problem(error)}") from error

    @classmethod
    def decode(cls, body: bytes) -> "Envelope":
        """Return the envelope in `body`, which comes from outside; raises InvalidFrame or TooLarge."""
        return cls.from_message(decode_message(body))


_ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)


def decode_message(body: bytes) -> Message[Any]:
    """Return the dramatiq message in `body`; raises InvalidFrame or TooLarge."""
    fields = unpack(body, MAX_ENVELOPE_BYTES)
    if not isinstance(fields, dict) or not isinstance(fields.get("args"), list):
        raise InvalidFrame("no dramatiq message")
    try:
        return Message(**{**fields, "args": tuple(fields["args"])})
    except TypeError as error:
        raise InvalidFrame("no dramatiq message: it has other fields") from error


def pack_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return a task's arguments as they are stored; raises TooLarge or InvalidFrame for what no worker could read."""
    packed = pack([args, kwargs], MAX_INPUT_BYTES)
    unpack(packed, MAX_ENVELOPE_BYTES)
    return packed


class EnvelopeEncoder(Encoder):
    """MessagePack for dramatiq, with the envelope's limits."""

    def encode(self, data: MessageData) -> bytes:
        """Return the bytes of a message's fields; raises TooLarge or InvalidFrame."""
        return pack(data, MAX_ENVELOPE_BYTES)

    def decode(self, data: bytes) -> MessageData:
        """Return a message's fields; raises dramatiq's DecodeError, as its callers expect."""
        try:
            fields: MessageData = unpack(data, MAX_ENVELOPE_BYTES)
        except WarrenError as error:
            raise DecodeError(error.message, data, error) from error
        return fields


def envelope_sha256(body: bytes) -> bytes:
    """Return the digest that a claim's answer carries, which makes a forged or altered envelope useless."""
    return hashlib.sha256(body).digest()
