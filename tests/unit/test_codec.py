"""MessagePack from outside becomes a value or one of two errors, within bounded memory."""

import json
import subprocess
import sys
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.codec import MAX_DEPTH, MAX_ELEMENTS, MAX_VALUES, pack, unpack
from protocols.errors import InvalidFrame, TooLarge

LIMIT = 4 * 1024 * 1024
MARKER = "hunter2-hunter2"

patient = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20), max_leaves=40
)


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def filled(item: bytes, size: int = LIMIT) -> bytes:
    """Return an array of full arrays of `item`, of about `size` bytes."""
    inner = b"\xdc" + MAX_ELEMENTS.to_bytes(2) + item * MAX_ELEMENTS
    count = (size - 5) // len(inner)
    return b"\xdd" + count.to_bytes(4) + inner * count


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "reserved byte": lambda: b"\xc1",
    "two values": lambda: b"\xc0\xc0",
    "array cut off": lambda: b"\x93\x01",
    "text cut off": lambda: b"\xa5abc",
    "length cut off": lambda: b"\xdb\x00\x00",
    "text that is no UTF-8": lambda: b"\xa2\xff\xfe",
    "100,000 arrays deep": lambda: nested(100_000),
    "100,000 maps deep": lambda: b"\x81\xa1a" * 100_000 + b"\xc0",
    "one level too deep": lambda: nested(MAX_DEPTH + 1),
    "array32 of 4 billion": lambda: b"\xdd\xff\xff\xff\xff",
    "map32 of 4 billion": lambda: b"\xdf\xff\xff\xff\xff",
    "str32 of 4 GiB": lambda: b"\xdb\xff\xff\xff\xff",
    "bin32 of 4 GiB": lambda: b"\xc6\xff\xff\xff\xff",
    "ext32 of 4 GiB": lambda: b"\xc9\xff\xff\xff\xff\x05",
    "fixext": lambda: b"\xd4\x05\x00",
    "timestamp": lambda: b"\xd6\xff\x00\x00\x00\x00",
    "one item too many": lambda: b"\xdc" + (MAX_ELEMENTS + 1).to_bytes(2) + b"\xc0" * (MAX_ELEMENTS + 1),
    "nested promises": lambda: (b"\xdc" + MAX_ELEMENTS.to_bytes(2)) * 100_000,
    "duplicate key": lambda: b"\x82\xa1a\x01\xa1a\x02",
    "number as key": lambda: b"\x81\x01\x02",
    "bytes as key": lambda: b"\x81\xc4\x01a\x02",
    "array as key": lambda: b"\x81\x90\x02",
    "4 MiB of empty maps": lambda: filled(b"\x80"),
    "4 MiB of empty arrays": lambda: filled(b"\x90"),
    "4 MiB of small numbers": lambda: filled(b"\xe0"),
    "4 MiB of short texts": lambda: filled(b"\xa2zz"),
}
LARGE_BUT_LEGAL = {
    "4 MiB of one-letter texts beyond Latin": lambda: filled(b"\xa4\xf0\x9f\x98\x80"),
    "1 MiB of empty maps": lambda: filled(b"\x80", MAX_VALUES - MAX_ELEMENTS),
    "1 MiB of small numbers": lambda: filled(b"\xe0", MAX_VALUES - MAX_ELEMENTS),
}


@patient
@given(VALUES)
def test_what_is_packed_comes_back(value: object) -> None:
    assert unpack(pack(value, LIMIT), LIMIT) == value


@patient
@given(st.binary(max_size=400))
def test_random_bytes_become_a_value_or_an_error_of_ours(data: bytes) -> None:
    try:
        value = unpack(data, LIMIT)
    except (InvalidFrame, TooLarge):
        return
    assert unpack(pack(value, LIMIT), LIMIT) == value or "nan" in repr(value)


@patient
@given(VALUES, st.data())
def test_what_is_cut_off_is_refused(value: object, data: st.DataObject) -> None:
    packed = pack(value, LIMIT)
    end = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(InvalidFrame):
        unpack(packed[:end], LIMIT)


@patient
@given(VALUES, st.binary(min_size=1, max_size=20))
def test_what_follows_a_value_is_refused(value: object, more: bytes) -> None:
    with pytest.raises((InvalidFrame, TooLarge)):
        unpack(pack(value, LIMIT) + more, LIMIT)


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_bytes_are_refused(attack: str) -> None:
    with pytest.raises((InvalidFrame, TooLarge)):
        unpack(HOSTILE[attack](), LIMIT)


@pytest.mark.parametrize("message", LARGE_BUT_LEGAL)
def test_a_large_message_within_the_limits_is_accepted(message: str) -> None:
    assert unpack(LARGE_BUT_LEGAL[message](), LIMIT)


MEASURE = """
import gc, json, sys
from protocols.codec import unpack
from protocols.errors import WarrenError
from tests.unit.test_codec import HOSTILE, LARGE_BUT_LEGAL, LIMIT

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def decode(data):
    try:
        unpack(data, LIMIT)
    except WarrenError:
        pass

grown = {}
for name, make in {**HOSTILE, **LARGE_BUT_LEGAL}.items():
    data = make()
    before = memory("VmRSS:")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    decode(data)
    peak = memory("VmHWM:")
    gc.collect()
    grown[name] = (peak - before, memory("VmRSS:") - before)
json.dump(grown, sys.stdout)
"""


def test_no_message_makes_the_decoder_big() -> None:
    """Refusing takes next to nothing, the largest legal messages under 200 MB, and none of it stays."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=100, check=True)
    for name, (peak, left) in json.loads(done.stdout).items():
        assert peak < (10_000_000 if name in HOSTILE else 200_000_000), (name, peak)
        assert left < 10_000_000, (name, left)


def test_values_up_to_each_limit_are_accepted() -> None:
    unpack(nested(MAX_DEPTH), LIMIT)
    assert len(unpack(pack([0] * MAX_ELEMENTS, LIMIT), LIMIT)) == MAX_ELEMENTS
    assert unpack(pack("x" * 995, 1000), 998) == "x" * 995


def test_more_bytes_than_the_limit_are_too_large_on_both_sides() -> None:
    with pytest.raises(TooLarge):
        pack("x" * 1000, 1000)
    with pytest.raises(TooLarge):
        unpack(msgpack.packb("x" * 1000), 1000)


@pytest.mark.parametrize("value", [2**64, object(), {1, 2}, "\ud800"])
def test_what_messagepack_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(InvalidFrame):
        pack([value], LIMIT)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidFrame):
        pack(endless, LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82" + 2 * (msgpack.packb(MARKER) + b"\x01"),
        msgpack.packb(MARKER) + b"\xc0",
        msgpack.packb(MARKER)[:-1],
        msgpack.packb([MARKER, MARKER.encode()])[:-3],
        b"\x91\xaf" + MARKER.encode()[:-1] + b"\xff",
    ],
)
def test_errors_never_show_the_input(data: bytes) -> None:
    with pytest.raises(InvalidFrame) as refused:
        unpack(data, LIMIT)
    assert "hunter2" not in refused.value.message
