"""The frames of a worker's session, up and down, one WebSocket message each."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from protocols.claim import Answer, Claim
from protocols.codec import FrameCodec
from protocols.outcome import KeptOutput, OutcomeReport, OutputChunk
from protocols.values import (
    FROZEN,
    Blob,
    Count,
    Flag,
    Id,
    Key,
    Measure,
    Milliseconds,
    Name,
    Seconds,
    Signature,
    Text,
)

MAX_FRAME_BYTES = 4 * 1024 * 1024
MAX_BATCH = 100
"""Most claims, outcomes or deliveries of one frame."""

Ids = Annotated[tuple[Id, ...], Field(max_length=10_000)]
Tags = Annotated[tuple[Count, ...], Field(max_length=10_000)]


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Challenge:
    """Down, first: what the worker has to sign to prove its identity."""

    k: Literal["challenge"] = "challenge"
    nonce: Key


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Hello:
    """Up, first: who the worker is, and what it still runs."""

    k: Literal["hello"] = "hello"
    worker_id: Id
    boot_id: Id
    """New at every start of the process: two of them alternating would be a copied identity."""
    signature: Signature
    version: Name
    slots: dict[Name, Count] = Field(max_length=16)
    """By lane kind."""
    actions: tuple[Name, ...] = Field(default=(), max_length=1000)
    epoch: Count = 0
    """The session to resume; 0 for none."""
    running: Ids = ()
    """Executions that this process has claimed and not settled."""


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Welcome:
    """Down: the session is open."""

    k: Literal["welcome"] = "welcome"
    epoch: Count
    ended: Ids = ()
    """Of the worker's `running`: those whose leases have ended, which it must cancel."""
    lanes: tuple[Name, ...] = Field(default=(), max_length=2000)
    heartbeat_s: Seconds
    server_time: Milliseconds


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Refused:
    """Down, last: there is no session, and why. `code` is an error code."""

    k: Literal["refused"] = "refused"
    code: Name
    message: Text
    retry_after_s: Seconds | None = None
    """None: do not come back."""


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Ping:
    """Down, every 3 s."""

    k: Literal["ping"] = "ping"
    number: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Pong:
    """Up: the answer to a ping."""

    k: Literal["pong"] = "pong"
    number: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Claims:
    """Up: deliveries that wait for the gate."""

    k: Literal["claims"] = "claims"
    items: tuple[Claim, ...] = Field(max_length=MAX_BATCH)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Answers:
    """Down: the gate's answers."""

    k: Literal["answers"] = "answers"
    items: tuple[Answer, ...] = Field(max_length=MAX_BATCH)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Outcomes:
    """Up: finished executions. Repeated until answered."""

    k: Literal["outcomes"] = "outcomes"
    items: tuple[OutcomeReport, ...] = Field(max_length=MAX_BATCH)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class OutcomesStored:
    """Down: these outcomes are durable; applied, repeated or late makes no difference to the worker."""

    k: Literal["outcomes_stored"] = "outcomes_stored"
    execution_ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Output:
    """Up: live output, best effort."""

    k: Literal["output"] = "output"
    chunks: tuple[OutputChunk, ...] = Field(max_length=4096)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Kept:
    """Up: a part of a finished execution's complete output, sent before its outcome."""

    k: Literal["kept"] = "kept"
    output: KeptOutput


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Slots:
    """Slots of one lane kind."""

    busy: Count
    total: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Heartbeat:
    """Up, every 10 s: the machine's state, or the container's where there is one."""

    k: Literal["heartbeat"] = "heartbeat"
    cpu_percent: Measure
    """Of what the worker may use: 100 is all of it."""
    cpus: Measure
    memory_percent: Measure
    memory_used_bytes: Count
    memory_total_bytes: Count
    disk_percent: Measure
    """Of the file system that holds the state directory."""
    load_1m: Measure
    container: Flag
    slots: dict[Name, Slots] = Field(max_length=16)
    unsettled: Count
    """Outcomes that wait for their answer."""
    uptime_s: Seconds
    version: Name
    draining: Flag = False


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Cancel:
    """Down: end this execution's work."""

    k: Literal["cancel"] = "cancel"
    execution_id: Id
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Lanes:
    """Down: the lanes that the worker shall consume from now on."""

    k: Literal["lanes"] = "lanes"
    lanes: tuple[Name, ...] = Field(max_length=2000)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Drain:
    """Down: stop taking work, finish what runs, then leave."""

    k: Literal["drain"] = "drain"
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Consume:
    """Up, direct lanes: deliver from `lane` under consumer `tag`, at most `prefetch` unacknowledged."""

    k: Literal["consume"] = "consume"
    lane: Name
    tag: Count
    prefetch: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class StopConsuming:
    """Up, direct lanes: deliver no more under `tag`; what it has not settled goes back to its lane."""

    k: Literal["stop_consuming"] = "stop_consuming"
    tag: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Delivered:
    """One message under consumer `tag`, to be acknowledged by `delivery_tag`."""

    tag: Count
    delivery_tag: Count
    redelivered: Flag
    body: Blob


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Deliver:
    """Down, direct lanes."""

    k: Literal["deliver"] = "deliver"
    items: tuple[Delivered, ...] = Field(max_length=MAX_BATCH)


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Settle:
    """Up, direct lanes: acknowledged and rejected deliveries."""

    k: Literal["settle"] = "settle"
    acks: Tags = ()
    rejects: Tags = ()


UpFrame = Annotated[
    Hello | Pong | Claims | Outcomes | Output | Kept | Heartbeat | Consume | StopConsuming | Settle,
    Field(discriminator="k"),
]
DownFrame = Annotated[
    Challenge | Welcome | Refused | Ping | Answers | OutcomesStored | Cancel | Lanes | Drain | Deliver,
    Field(discriminator="k"),
]


def up_codec() -> "FrameCodec[UpFrame]":
    """Return the codec of frames from worker to control plane."""
    return FrameCodec(UpFrame, MAX_FRAME_BYTES)


def down_codec() -> "FrameCodec[DownFrame]":
    """Return the codec of frames from control plane to worker."""
    return FrameCodec(DownFrame, MAX_FRAME_BYTES)
