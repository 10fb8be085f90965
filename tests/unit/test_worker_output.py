"""What is kept, sent live and redacted of an execution's output."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from protocols.frames import Kept, Output
from worker.outbox import Outbox
from worker.output import HEAD_BYTES, PART_BYTES, TAIL_BYTES, LiveOutput
from worker.output import Output as Sink
from worker.redact import Redactor


def sink(outbox: Outbox | None = None, secrets: tuple[str, ...] = ()) -> Sink:
    live = LiveOutput(outbox or Outbox(), asyncio.get_running_loop())
    return Sink("task_1", 1, "exec_1", live, secrets)


def kept_bytes(parts: tuple[Kept, ...]) -> bytes:
    return b"".join(chunk.data for part in parts for chunk in part.output.chunks)


async def test_short_output_is_kept_whole_and_in_order() -> None:
    """Offsets run over both streams, and the parts put together are what was written."""
    output = sink()
    for number in range(100):
        output.write("stdout" if number % 3 else "stderr", f"line {number}\n".encode())
    parts = output.finish()
    chunks = [chunk for part in parts for chunk in part.output.chunks]
    assert kept_bytes(parts) == b"".join(f"line {number}\n".encode() for number in range(100))
    position = 0
    for chunk in chunks:
        assert chunk.offset == position
        position += len(chunk.data)
    assert parts[0].output.total_bytes == position
    assert [part.output.last for part in parts] == [False] * (len(parts) - 1) + [True]


async def test_long_output_keeps_its_head_and_tail_and_counts_everything() -> None:
    """Of 10 MiB the beginning and the end stay, in parts that fit a frame; the total is the true one."""
    output = sink()
    line = b"%015d\n"
    for number in range(655_360):
        output.write("stdout", line % number)
    parts = output.finish()
    data = kept_bytes(parts)
    assert data.startswith(line % 0)
    assert data.endswith(line % 655_359)
    assert 0.9 * (HEAD_BYTES + TAIL_BYTES) < len(data) <= HEAD_BYTES + TAIL_BYTES
    assert all(part.output.total_bytes == 10 * 1024 * 1024 for part in parts)
    assert all(sum(len(chunk.data) for chunk in part.output.chunks) <= PART_BYTES for part in parts)


async def test_endless_tiny_writes_stay_bounded() -> None:
    """A stream that changes at every byte costs no more memory than one that does not."""
    output = sink()
    for _ in range(100_000):
        output.write("stdout", b"x")
        output.write("stderr", b"y")
    parts = output.finish()
    assert sum(len(part.output.chunks) for part in parts) < 6000
    assert parts[0].output.total_bytes == 200_000


async def test_live_output_goes_up_gathered() -> None:
    """Many small writes become few chunks, after a moment."""
    outbox = Outbox()
    outbox.open()
    output = sink(outbox)
    for _ in range(50):
        output.write("text", b"token ")
    await asyncio.wait_for(outbox.wait(), 10)
    frame = outbox.take()
    assert isinstance(frame, Output)
    assert [chunk.data for chunk in frame.chunks] == [b"token " * 50]


async def test_nothing_is_written_after_the_end() -> None:
    """An abandoned action cannot add to what was already reported."""
    output = sink()
    output.write("stdout", b"before")
    parts = output.finish()
    output.write("stdout", b"after")
    assert kept_bytes(parts) == b"before"
    assert output.take_live() == ()


async def test_no_output_is_nothing_to_keep() -> None:
    """An execution without output sends no parts."""
    assert sink().finish() == ()


async def test_writes_from_threads_are_all_there() -> None:
    """Eight threads at once lose no byte."""
    output = sink()

    def write() -> None:
        for _ in range(500):
            output.write("stdout", b"0123456789")

    await asyncio.gather(*(asyncio.to_thread(write) for _ in range(8)))
    assert len(kept_bytes(output.finish())) == 8 * 500 * 10


SECRETS = ("abcd", "abcdef", "cdxx", "sk-12345", "aaaa")


@given(st.lists(st.sampled_from([*SECRETS, "a", "b", "cd", "x", "sk-", "12345", "ef", "aa"]), max_size=12), st.data())
def test_secrets_never_leave_however_the_output_is_split(words: list[str], data: st.DataObject) -> None:
    """For any text and any split, no secret is in what is told, and text without secrets is untouched."""
    text = "".join(words).encode()
    redactor = Redactor(SECRETS)
    told = b""
    position = 0
    while position < len(text):
        size = data.draw(st.integers(1, len(text) - position))
        told += redactor.feed(text[position : position + size])
        position += size
    told += redactor.finish()
    whole = Redactor(SECRETS)
    assert told == whole.feed(text) + whole.finish()
    assert not any(secret.encode() in told for secret in SECRETS)
    if not any(secret.encode() in text for secret in SECRETS):
        assert told == text


def test_short_values_black_out_nothing() -> None:
    """A secret of three characters would hide ordinary text, so it is not looked for."""
    assert Redactor(["the"]).text("the end") == "the end"
    assert Redactor(["password1"]).text("it is password1!") == "it is ***!"
