"""Server-sent events out of a byte stream, wherever its chunks are cut.

Only the data of an event is given out: every provider repeats the event's name inside it.
"""

from collections.abc import Iterator

MAX_EVENT_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event or a line of one is longer than the limit."""


class SseParser:
    """Collects bytes and gives out the data of each event that they complete.

    Lines end with LF, CR or CRLF; comments and fields other than `data` are passed over; several `data` lines of
    one event are joined by LF; an event without its closing empty line is never given out.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of the events that end in `chunk`; to be read to its end before the next call.

        Raises EventTooLarge when the limit is passed, after the events before it.
        """
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk[-1:] == b"\r"
        for line in self._complete_lines(chunk):
            if line:
                self._take(line)
            elif self._data:
                yield self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                self._data = []
                self._size = 0
        if len(self._line) > self._limit + len(_BYTE_ORDER_MARK):
            raise EventTooLarge

    def _complete_lines(self, chunk: bytes) -> list[bytes]:
        ends_line = b"\n" in chunk or b"\r" in chunk
        if not ends_line:
            # Joined only when its end is there, so that a long line in short chunks costs no quadratic copying.
            self._line += chunk
            return []
        if self._line:
            chunk = bytes(self._line) + chunk
            self._line.clear()
        lines = chunk.splitlines()
        if chunk[-1:] not in (b"\n", b"\r"):
            self._line += lines.pop()
        if self._at_start:
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        return lines

    def _take(self, line: bytes) -> None:
        if len(line) > self._limit:
            raise EventTooLarge
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
        elif line == b"data":
            value = b""
        else:
            return
        self._size += len(value) + 1
        if self._size > self._limit:
            raise EventTooLarge
        self._data.append(value)
