"""Looks through a MessagePack message before it is decoded, so that a short one cannot make the decoder big.

A few bytes may declare nested arrays of millions, or a message consist of empty maps, each of which takes a
hundred times its size once it is an object. Only headers are read here; nothing is set aside for what they say.
"""

from dataclasses import dataclass

from protocols.errors import InvalidFrame, TooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may hold."""

    depth: int
    """Arrays and maps inside each other."""
    items: int
    """Items of one array or map."""
    values: int
    """Values of the whole message, keys included."""


_BYTES_OF_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Binary and text that say how long they are."""
_BYTES_OF_COUNT = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4} | dict.fromkeys(range(0x80, 0xA0), 0)
"""Arrays and maps."""
_FIXED = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_FIXED |= dict.fromkeys((*range(0x80), *range(0xE0, 0x100)), 1) | {0xA0 + size: 1 + size for size in range(32)}
_SIZES = tuple(_FIXED.get(head, 0) for head in range(256))
"""Bytes of a value by its first one; 0 where more than that has to be read."""


def check_structure(data: bytes, limits: Limits) -> None:
    """Raise InvalidFrame for what nests too deep, has too many items, an unknown type or is cut off.

    Raises TooLarge for too many values. What is cut off inside its last value is left to the decoder.
    """
    enclosing: list[int] = []
    due, position, values = 1, 0, 1
    try:
        while due or enclosing:
            if not due:
                due = enclosing.pop()
                continue
            due -= 1
            head = data[position]
            if size := _SIZES[head]:
                position += size
                continue
            if head in _BYTES_OF_LENGTH:
                position += _with_length(data, position)
                continue
            enclosing.append(due)
            if len(enclosing) > limits.depth:
                raise InvalidFrame(f"nested deeper than {limits.depth} levels")
            due = _items(data, position, limits.items)
            position += 1 + _BYTES_OF_COUNT[head]
            values += due
            if values > limits.values:
                raise TooLarge(f"more than {limits.values:,} values in one message")
    except IndexError:
        raise InvalidFrame("malformed MessagePack: it ends too early") from None


def _with_length(data: bytes, position: int) -> int:
    width = _BYTES_OF_LENGTH[data[position]]
    return 1 + width + int.from_bytes(data[position + 1 : position + 1 + width])


def _items(data: bytes, position: int, most: int) -> int:
    """Return how many values the array or map at `position` has; a pair of a map has two."""
    head = data[position]
    if head not in _BYTES_OF_COUNT:
        raise InvalidFrame("malformed MessagePack: a type that no message has")
    width = _BYTES_OF_COUNT[head]
    items = int.from_bytes(data[position + 1 : position + 1 + width]) if width else head & 0x0F
    if items > most:
        raise InvalidFrame(f"an array or map of more than {most:,} items")
    return items * 2 if head < 0x90 or head >= 0xDE else items
