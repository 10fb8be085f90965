"""The parser of server-sent events."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.actions.llm.sse import EventTooLarge, SseParser

FRAGMENTS = (
    *(b"data:", b"data: ", b"data", b": comment", b"event: ping", b"id: 1", b"{}", b"\xc3\xa9", b"x" * 9),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"[DONE]"),
)
STREAMS = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)
LINES = st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"), max_size=12)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """Return `stream` in pieces, cut at the given places."""
    places = [0, *sorted(place % (len(stream) + 1) for place in at), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(places)]


def read(pieces: list[bytes], limit: int = 1000) -> tuple[list[bytes], bool]:
    """Return the events of a stream that comes in `pieces`, and whether a limit ended it."""
    parser, events = SseParser(limit), []
    try:
        for piece in pieces:
            for data in parser.feed(piece):
                events.append(data)  # noqa: PERF402 - what came before the error counts
    except EventTooLarge:
        return events, True
    return events, False


@given(STREAMS, st.lists(st.integers(0, 500), max_size=20), st.sampled_from([12, 1000]))
def test_the_cuts_of_a_stream_change_nothing(stream: bytes, at: list[int], limit: int) -> None:
    """Any split of the bytes gives the same events, and the same end if a limit is passed."""
    whole = read([stream], limit)
    assert read(cut(stream, at), limit) == whole
    assert read([bytes([byte]) for byte in stream], limit) == whole


@given(
    st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.sampled_from(["", ": keep-alive", "event: message", "retry: 5"]),
)
def test_what_is_written_is_read(events: list[list[str]], end: str, between: str) -> None:
    """Data comes out as it was put in, with any line end, anything else between, and byte by byte."""
    stream = "".join(
        (f"{between}{end}" if between else "") + "".join(f"data: {line}{end}" for line in lines) + end
        for lines in events
    )
    written = (["\n".join(lines).encode() for lines in events], False)
    assert read([stream.encode()]) == written
    assert read([bytes([byte]) for byte in stream.encode()]) == written


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b", [b"a"]),
        (b"data: a\n\ndata: b\n", [b"a"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data\n\n", [b""]),
        (b"\n\n: nothing\n\nevent: ping\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"database: a\n\n", []),
    ],
)
def test_the_format_is_read_as_its_standard_says(stream: bytes, events: list[bytes]) -> None:
    """Unfinished events are dropped, one leading space is taken off, and unknown fields are passed over."""
    assert read([stream]) == (events, False)


def test_a_line_without_end_is_given_up_at_the_limit() -> None:
    """A server that never ends its line cannot fill the memory."""
    assert read([b"data: 789"] * 12, limit=100) == ([], True)


def test_an_event_of_many_lines_is_given_up_at_the_limit() -> None:
    """The limit is on the event, not only on each line."""
    assert read([b"data: 1234567890\n" * 11], limit=100) == ([], True)
