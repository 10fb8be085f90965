"""MessagePack with limits: bytes from outside become typed values or InvalidFrame, nothing else.

A frame is the map `{"v": PROTOCOL_VERSION, "k": kind, ...fields}`. Unknown fields are ignored, so that a newer
peer of the same protocol version may add some.
"""

from typing import Any, Generic, TypeVar

import msgpack
from pydantic import TypeAdapter, ValidationError

from protocols import PROTOCOL_VERSION
from protocols.errors import InvalidFrame, TooLarge
from protocols.structure import Limits, check_structure

Frame = TypeVar("Frame")

MAX_DEPTH = 32
MAX_ELEMENTS = 16_384
"""Most items of one array or map."""
MAX_VALUES = 1024 * 1024
"""Most values of one message; one of no more bytes than this cannot have more."""
MAX_KEY_SHOWN = 64

_LIMITS = Limits(depth=MAX_DEPTH, items=MAX_ELEMENTS, values=MAX_VALUES)


def pack(value: Any, limit: int) -> bytes:
    """Return `value` in MessagePack.

    Raises TooLarge beyond `limit` bytes, InvalidFrame for what MessagePack cannot carry.
    """
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidFrame(f"cannot be encoded: {error}") from error
    if len(packed) > limit:
        raise TooLarge(f"{len(packed):,} bytes encoded, the limit is {limit:,}")
    return packed


def unpack(data: bytes, limit: int) -> Any:
    """Return the value in `data`, which comes from outside.

    Raises TooLarge beyond `limit` bytes, and TooLarge or InvalidFrame for anything that `check_structure` refuses,
    anything malformed, and maps with a key that is no text or comes twice.
    """
    if len(data) > limit:
        raise TooLarge(f"{len(data):,} bytes, the limit is {limit:,}")
    check_structure(data, _LIMITS)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=_map)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise InvalidFrame(f"malformed MessagePack: {error}") from error


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidFrame("a map has a key twice")
    if not all(isinstance(key, str) for key in fields):
        raise InvalidFrame("a map has a key that is no text")
    return fields


class FrameCodec(Generic[Frame]):
    """Encodes and decodes one direction's union of frames, told apart by their field `k`."""

    def __init__(self, frames: Any, limit: int) -> None:
        self._adapter: TypeAdapter[Frame] = TypeAdapter(frames)
        self._limit = limit

    def encode(self, frame: Frame) -> bytes:
        """Return the bytes of `frame`; raises TooLarge or InvalidFrame."""
        fields = self._adapter.dump_python(frame, exclude_none=True)
        fields["v"] = PROTOCOL_VERSION
        packed = pack(fields, self._limit)
        if len(packed) > MAX_VALUES:
            # Only a frame of so many bytes can hold more values than the other side accepts.
            check_structure(packed, _LIMITS)
        return packed

    def decode(self, data: bytes) -> Frame:
        """Return the frame in `data`; raises TooLarge or InvalidFrame, with the field that was wrong."""
        fields = unpack(data, self._limit)
        if not isinstance(fields, dict):
            raise InvalidFrame("a frame is a map")
        if fields.get("v") != PROTOCOL_VERSION:
            raise InvalidFrame(
                f"{_spoken(fields.get('v'))}, this side speaks {PROTOCOL_VERSION}: "
                "run the same Warren version on both sides"
            )
        try:
            return self._adapter.validate_python(fields)
        except ValidationError as error:
            raise InvalidFrame(first_problem(error)) from error


def _spoken(version: Any) -> str:
    return f"protocol version {version}" if isinstance(version, int) else "no protocol version"


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a pydantic error as `where: what`, without the input itself."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(_step(part) for part in problem["loc"])
    what = problem["msg"]
    if problem["type"] == "union_tag_invalid":
        # Here alone pydantic quotes what came, however long.
        what = "{discriminator} must be one of {expected_tags}".format_map(problem["ctx"])
    return f"{where}: {what}" if where else what


def _step(part: int | str) -> str:
    """Return a part of a path; a map's key comes from the input, so it is shown only if it looks like a name."""
    return str(part) if isinstance(part, int) or (len(part) <= MAX_KEY_SHOWN and part.isprintable()) else "…"
