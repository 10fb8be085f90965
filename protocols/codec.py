"""MessagePack with limits: bytes from outside become typed values or InvalidFrame, nothing else.

A frame is the map `{"v": PROTOCOL_VERSION, "k": kind, ...fields}`. Unknown fields are ignored, so that a newer
peer of the same protocol version may add some.
"""

from typing import Any, Generic, TypeVar

import msgpack
from pydantic import TypeAdapter, ValidationError

from protocols import PROTOCOL_VERSION
from protocols.errors import InvalidFrame, TooLarge

Frame = TypeVar("Frame")

MAX_DEPTH = 32
MAX_ELEMENTS = 16_384
"""Most items of one array or map: bounds what a short message can make the decoder set aside."""


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

    Raises TooLarge beyond `limit` bytes, InvalidFrame for anything malformed or nested beyond MAX_DEPTH.
    """
    if len(data) > limit:
        raise TooLarge(f"{len(data):,} bytes, the limit is {limit:,}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
            max_str_len=limit,
            max_bin_len=limit,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise InvalidFrame(f"malformed MessagePack: {error}") from error
    if _deeper_than(value, MAX_DEPTH):
        raise InvalidFrame(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True


class FrameCodec(Generic[Frame]):
    """Encodes and decodes one direction's union of frames, told apart by their field `k`."""

    def __init__(self, frames: Any, limit: int) -> None:
        self._adapter: TypeAdapter[Frame] = TypeAdapter(frames)
        self._limit = limit

    def encode(self, frame: Frame) -> bytes:
        """Return the bytes of `frame`; raises TooLarge or InvalidFrame."""
        fields = self._adapter.dump_python(frame, exclude_none=True)
        fields["v"] = PROTOCOL_VERSION
        return pack(fields, self._limit)

    def decode(self, data: bytes) -> Frame:
        """Return the frame in `data`; raises TooLarge or InvalidFrame, with the field that was wrong."""
        fields = unpack(data, self._limit)
        if not isinstance(fields, dict):
            raise InvalidFrame("a frame is a map")
        if fields.get("v") != PROTOCOL_VERSION:
            raise InvalidFrame(
                f"protocol version {str(fields.get('v'))[:20]!r}, this side speaks {PROTOCOL_VERSION}: "
                "run the same Warren version on both sides"
            )
        try:
            return self._adapter.validate_python(fields)
        except ValidationError as error:
            raise InvalidFrame(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a pydantic error as `where: what`, without the input itself."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
