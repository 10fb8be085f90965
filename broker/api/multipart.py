"""Uploads: the file in a multipart body, as its bytes arrive.

A form parser would first put all of it into a temporary file, on whatever disk that is on.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from broker.artifacts import too_large
from protocols.errors import InvalidInput

FIELD = "file"
_FRAME_BYTES = 64 * 1024
"""What a body may hold besides the file."""
_HINT = "send multipart/form-data with one field `file`, such as: curl -F file=@report.pdf"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way in: what its part's headers say, and its bytes."""

    name: str
    content_type: str | None
    chunks: AsyncIterator[bytes]
    """Raises InvalidInput for a body that breaks off or holds more than the file."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The head of a part of a body."""

    field: str | None
    filename: str
    content_type: str | None


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read a body up to the first byte of its file, which may have `max_bytes`.

    Raises InvalidInput for anything but a file alone, TooLarge for a body that is announced as larger.
    """
    pieces = _pieces(request, max_bytes + _FRAME_BYTES)
    part = await anext(pieces, None)
    if not isinstance(part, _Part) or part.field != FIELD:
        raise InvalidInput("the body holds no file, or something before it", field=FIELD, hint=_HINT)
    return Upload(part.filename, part.content_type, _only_bytes(pieces))


async def _only_bytes(pieces: AsyncIterator[_Part | bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        if isinstance(piece, _Part):
            raise InvalidInput("the body holds more than one file", field=FIELD, hint=_HINT)
        yield piece


async def _pieces(request: Request, limit: int) -> AsyncGenerator[_Part | bytes, None]:
    """Yield each part's head, then its bytes as they come."""
    reader = _Reader(request.headers.get("content-type"))
    _check_size(int(request.headers.get("content-length", 0)), limit)
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            _check_size(received, limit)
            for piece in reader.feed(chunk):
                yield piece
    except ClientDisconnect as error:
        raise InvalidInput("the client left before the body's end") from error
    if not reader.ended:
        raise InvalidInput("the body breaks off before its last boundary", field=FIELD, hint=_HINT)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise too_large(limit - _FRAME_BYTES)


class _Reader:
    """Turns the parser's callbacks into what they tell."""

    def __init__(self, content_type: str | None) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput("the body is no multipart/form-data", field=FIELD, hint=_HINT)
        self.ended = False
        self._found: list[_Part | bytes] = []
        self._header = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        with _translated():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )

    def feed(self, data: bytes) -> list[_Part | bytes]:
        """Return what these bytes add; raises InvalidInput."""
        self._found = []
        with _translated():
            self._parser.write(data)
        return self._found

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        field, content_type = options.get(b"name"), self._headers.get(b"content-type")
        self._found.append(
            _Part(
                None if field is None else _text(field),
                _text(options.get(b"filename", b"")),
                None if content_type is None else _text(content_type),
            )
        )

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


def _text(said: bytes) -> str:
    return said.decode(errors="replace")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the parser's exceptions into Warren's."""
    try:
        yield
    except FormParserError as error:
        raise InvalidInput("the body is no valid multipart/form-data", field=FIELD, hint=_HINT) from error
