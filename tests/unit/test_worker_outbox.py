"""How what goes up the session is gathered, ordered and bounded."""

import asyncio

from protocols.claim import Claim
from protocols.frames import (
    Claims,
    Consume,
    Kept,
    Outcomes,
    Output,
    Pong,
    Settle,
    UpFrame,
    up_codec,
)
from protocols.outcome import KeptOutput, Outcome, OutcomeReport, OutputChunk
from worker.outbox import MAX_OUTPUT_BYTES, Outbox, encode


def claim(number: int) -> Claims:
    return Claims(items=(Claim(task_id=f"task_{number}", attempt=1, execution_id=f"exec_{number}"),))


def outcome(number: int, size: int = 1) -> Outcomes:
    result = Outcome.success({"value": "x" * size})
    return Outcomes(items=(OutcomeReport(task_id="t", attempt=1, execution_id=f"exec_{number}", outcome=result),))


def chunk(size: int) -> OutputChunk:
    return OutputChunk(task_id="t", execution_id="e", attempt=1, offset=0, stream="text", data=b"x" * size)


def taken(outbox: Outbox) -> list[UpFrame]:
    found = []
    while (frame := outbox.take()) is not None:
        found.append(frame)
    return found


async def test_claims_and_outcomes_are_gathered_by_the_hundred() -> None:
    """250 claims become three frames, in order."""
    outbox = Outbox()
    outbox.open()
    for number in range(250):
        outbox.send(claim(number))
    frames = [frame for frame in taken(outbox) if isinstance(frame, Claims)]
    assert [len(frame.items) for frame in frames] == [100, 100, 50]
    assert [item.task_id for frame in frames for item in frame.items] == [f"task_{number}" for number in range(250)]


async def test_kept_output_leaves_before_its_outcome() -> None:
    """Whatever the order of sending, an outcome never overtakes its output, nor a claim its consumer."""
    outbox = Outbox()
    outbox.open()
    kept = Kept(
        output=KeptOutput(task_id="t", execution_id="e", attempt=1, part=0, last=True, total_bytes=0, chunks=())
    )
    for frame in (Settle(acks=(1,)), kept, outcome(1), claim(1), Settle(acks=(2,), rejects=(3,))):
        outbox.send(frame)
    outbox.send(Consume(lane="q", tag=1, prefetch=1))
    assert [frame.k for frame in taken(outbox)] == ["consume", "claims", "kept", "outcomes", "settle"]


async def test_live_output_is_dropped_when_too_much_waits_and_nothing_else_is() -> None:
    """A session that is too slow loses live output only."""
    outbox = Outbox()
    outbox.open()
    for _ in range(200):
        outbox.offer_output([chunk(64 * 1024)])
    outbox.send(Pong(number=1))
    frames = taken(outbox)
    assert frames[0] == Pong(number=1)
    sent = sum(len(item.data) for frame in frames if isinstance(frame, Output) for item in frame.chunks)
    assert 0.9 * MAX_OUTPUT_BYTES < sent <= MAX_OUTPUT_BYTES


async def test_without_a_session_nothing_is_kept() -> None:
    """What is sent before or after a session is dropped: tags and claims of one session mean nothing in another."""
    outbox = Outbox()
    outbox.send(claim(1))
    outbox.open()
    outbox.send(claim(2))
    outbox.close()
    outbox.open()
    assert taken(outbox) == []


async def test_a_waiting_writer_hears_of_frames_from_other_threads() -> None:
    """A frame from a thread wakes the writer, each time anew."""
    outbox = Outbox()
    outbox.open()
    for number in range(100):
        waiting = asyncio.create_task(outbox.wait())
        await asyncio.to_thread(outbox.send, Pong(number=number))
        await asyncio.wait_for(waiting, 10)
        assert taken(outbox) == [Pong(number=number)]


async def test_large_outcomes_are_spread_over_frames() -> None:
    """A hundred outcomes of 250 KB do not fit one frame, so they become several, and none is lost."""
    outbox = Outbox()
    outbox.open()
    for number in range(60):
        outbox.send(outcome(number, 250_000))
    codec = up_codec()
    decoded = [codec.decode(data) for frame in taken(outbox) for data in encode(codec, frame)]
    found = [item.execution_id for frame in decoded if isinstance(frame, Outcomes) for item in frame.items]
    assert found == [f"exec_{number}" for number in range(60)]
