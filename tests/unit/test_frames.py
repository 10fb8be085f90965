"""Frames: every kind survives the trip, and nothing but a frame of this protocol gets in."""

import contextlib
import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgpack
import pytest
from annotated_types import Ge, Le, MaxLen, MinLen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from protocols import PROTOCOL_VERSION
from protocols.codec import MAX_ELEMENTS, FrameCodec
from protocols.errors import InvalidFrame, TooLarge, WarrenError
from protocols.frames import (
    MAX_BATCH,
    MAX_FRAME_BYTES,
    Deliver,
    Delivered,
    DownFrame,
    Hello,
    Outcomes,
    Pong,
    UpFrame,
    down_codec,
    up_codec,
)
from protocols.outcome import Outcome, OutcomeReport
from protocols.states import Effect

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
patient = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Bounds = Mapping[type, Any]
UP, DOWN = up_codec(), down_codec()


def bounds_of(*infos: Any) -> Bounds:
    metadata = [part for info in infos if isinstance(info, FieldInfo) for part in info.metadata]
    return {type(part): dataclasses.astuple(part)[0] for part in metadata if isinstance(part, (Ge, Le, MinLen, MaxLen))}


def sizes(bounds: Bounds, most: int) -> tuple[int, int]:
    return bounds.get(MinLen, 0), max(bounds.get(MinLen, 0), min(most, bounds.get(MaxLen, most)))


def values(kind: Any, bounds: Bounds) -> st.SearchStrategy[Any]:
    """Return a strategy for everything that a field of this type may hold."""
    origin, parts = get_origin(kind), get_args(kind)
    least, most = sizes(bounds, 3)
    if origin is Annotated:
        return values(parts[0], {**bounds_of(*parts[1:]), **bounds})
    if origin is Literal:
        return st.just(parts[0])
    if origin in (Union, types.UnionType):
        return st.one_of(*(values(part, bounds) for part in parts))
    if origin is tuple:
        return st.lists(values(parts[0], {}), min_size=least, max_size=most).map(tuple)
    if origin is dict:
        return st.dictionaries(values(parts[0], {}), values(parts[1], {}), min_size=least, max_size=most)
    return scalars(kind, bounds)


def scalars(kind: Any, bounds: Bounds) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind):
        return built(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    least, most = sizes(bounds, 20)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        Any: JSON,
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(bounds.get(Ge), bounds.get(Le)),
        float: st.floats(bounds.get(Ge), bounds.get(Le)),
        str: st.text(min_size=least, max_size=most),
        bytes: st.binary(min_size=least, max_size=most),
    }
    return simple[kind]


def built(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: values(hints[field.name], bounds_of(field.default)) for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


def kinds(union: Any) -> tuple[Any, ...]:
    return get_args(get_args(union)[0])


FRAMES = [(UP, kind) for kind in kinds(UpFrame)] + [(DOWN, kind) for kind in kinds(DownFrame)]
each_frame = pytest.mark.parametrize(("codec", "kind"), FRAMES, ids=lambda part: getattr(part, "__name__", ""))


def fields_of(codec: FrameCodec[Any], frame: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(codec.encode(frame))
    return fields


@each_frame
@patient
@given(data=st.data())
def test_every_frame_survives_the_trip(codec: FrameCodec[Any], kind: Any, data: st.DataObject) -> None:
    frame = data.draw(built(kind))
    assert codec.decode(codec.encode(frame)) == frame


@each_frame
@patient
@given(data=st.data())
def test_a_field_of_any_other_value_is_read_or_refused(codec: FrameCodec[Any], kind: Any, data: st.DataObject) -> None:
    fields = fields_of(codec, data.draw(built(kind)))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(JSON | st.binary(max_size=40) | st.sampled_from([float("nan"), float("inf"), -1]))
    with contextlib.suppress(InvalidFrame, TooLarge):
        codec.decode(msgpack.packb(fields))


@each_frame
@patient
@given(data=st.data())
def test_an_altered_byte_is_read_or_refused(codec: FrameCodec[Any], kind: Any, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(data.draw(built(kind))))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidFrame, TooLarge):
        codec.decode(bytes(encoded))


@each_frame
@patient
@given(data=st.data())
def test_a_newer_peer_may_add_fields(codec: FrameCodec[Any], kind: Any, data: st.DataObject) -> None:
    frame = data.draw(built(kind))
    assert codec.decode(msgpack.packb({**fields_of(codec, frame), "added_later": [1]})) == frame


@each_frame
def test_each_direction_has_its_own_frames(codec: FrameCodec[Any], kind: Any) -> None:
    fields = {"v": PROTOCOL_VERSION, "k": dataclasses.fields(kind)[0].default}
    with pytest.raises(InvalidFrame, match="'k' must be one of"):
        (DOWN if codec is UP else UP).decode(msgpack.packb(fields))


def test_kinds_are_told_apart_by_different_words() -> None:
    words = [dataclasses.fields(kind)[0].default for _, kind in FRAMES]
    assert len(set(words)) == len(words)


PING = {"v": PROTOCOL_VERSION, "k": "ping", "number": 1}
HEARTBEAT = {
    "v": PROTOCOL_VERSION,
    "k": "heartbeat",
    "cpu_percent": 1.0,
    "cpus": 1.0,
    "memory_percent": 1.0,
    "memory_used_bytes": 1,
    "memory_total_bytes": 1,
    "disk_percent": 1.0,
    "load_1m": 1.0,
    "container": False,
    "slots": {},
    "unsettled": 0,
    "uptime_s": 1.0,
    "version": "1",
}


@pytest.mark.parametrize(
    ("codec", "fields"),
    [
        (DOWN, []),
        (DOWN, "ping"),
        (DOWN, None),
        (DOWN, {}),
        (DOWN, {**PING, "v": PROTOCOL_VERSION + 1}),
        (DOWN, {**PING, "v": str(PROTOCOL_VERSION)}),
        (DOWN, {"k": "ping", "number": 1}),
        (DOWN, {**PING, "k": "pingpong"}),
        (DOWN, {**PING, "k": ["ping"]}),
        (DOWN, {**PING, "k": {"ping": 1}}),
        (DOWN, {"v": PROTOCOL_VERSION, "number": 1}),
        (DOWN, {"v": PROTOCOL_VERSION, "k": "ping"}),
        (DOWN, {**PING, "number": "1"}),
        (DOWN, {**PING, "number": True}),
        (DOWN, {**PING, "number": 1.0}),
        (DOWN, {**PING, "number": -1}),
        (DOWN, {**PING, "number": 2**53 + 1}),
        (UP, {**HEARTBEAT, "cpu_percent": float("nan")}),
        (UP, {**HEARTBEAT, "uptime_s": float("inf")}),
        (UP, {**HEARTBEAT, "uptime_s": -0.5}),
        (UP, {**HEARTBEAT, "uptime_s": "1.5"}),
        (UP, {**HEARTBEAT, "cpu_percent": True}),
        (UP, {**HEARTBEAT, "container": "yes"}),
        (UP, {**HEARTBEAT, "slots": {"llm": {"busy": 1}}}),
        (UP, {**HEARTBEAT, "slots": {str(number): {"busy": 1, "total": 1} for number in range(17)}}),
        (UP, {"v": PROTOCOL_VERSION, "k": "claims", "items": [{}] * (MAX_BATCH + 1)}),
    ],
    ids=lambda part: repr(part)[:60] if isinstance(part, dict) else "",
)
def test_what_is_no_frame_is_refused(codec: FrameCodec[Any], fields: Any) -> None:
    with pytest.raises(InvalidFrame):
        codec.decode(msgpack.packb(fields))


def test_the_heartbeat_of_these_tests_is_valid_before_it_is_spoiled() -> None:
    UP.decode(msgpack.packb(HEARTBEAT))


MARKER = "hunter2" * 20


@pytest.mark.parametrize(
    ("codec", "fields"),
    [
        (DOWN, {**PING, "k": MARKER}),
        (DOWN, {**PING, "v": MARKER}),
        (DOWN, {**PING, "number": MARKER}),
        (UP, {**HEARTBEAT, "version": MARKER}),
        (UP, {**HEARTBEAT, "slots": {MARKER: 1}}),
        (UP, {**HEARTBEAT, "slots": {"llm": {"busy": MARKER, "total": 1}}}),
        (DOWN, {"v": 1, "k": "refused", "code": "x", "message": "y", "retry_after_s": MARKER}),
    ],
)
def test_errors_never_show_the_input(codec: FrameCodec[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFrame) as refused:
        codec.decode(msgpack.packb(fields))
    assert "hunter2" not in refused.value.message


def test_errors_name_the_field_that_was_wrong() -> None:
    with pytest.raises(InvalidFrame, match=r"heartbeat\.slots\.llm\.busy"):
        UP.decode(msgpack.packb({**HEARTBEAT, "slots": {"llm": {"busy": "many", "total": 1}}}))


def test_another_version_is_told_what_to_do() -> None:
    with pytest.raises(InvalidFrame, match="protocol version 7, this side speaks 1: run the same Warren version"):
        DOWN.decode(msgpack.packb({**PING, "v": 7}))


def test_a_frame_beyond_its_limit_is_too_large_before_it_is_sent() -> None:
    item = Delivered(tag=1, delivery_tag=1, redelivered=False, body=b"x" * (2 * 1024 * 1024))
    with pytest.raises(TooLarge):
        DOWN.encode(Deliver(items=(item, item)))
    with pytest.raises(TooLarge):
        DOWN.decode(b"\xc0" * (MAX_FRAME_BYTES + 1))


def test_whatever_a_codec_encodes_the_other_side_takes() -> None:
    """A batch of outcomes with too many values is refused where it can still be sent in halves."""
    outcome = Outcome.success({"numbers": [[1] * MAX_ELEMENTS] * 10})
    reports = tuple(
        OutcomeReport(task_id="t", attempt=1, execution_id=str(number), outcome=outcome) for number in range(10)
    )
    with pytest.raises(TooLarge):
        UP.encode(Outcomes(items=reports))
    half = Outcomes(items=reports[:5])
    assert UP.decode(UP.encode(half)) == half


def test_none_inside_a_result_is_kept() -> None:
    outcome = Outcome.success({"value": None, "list": [None, {"inner": None}]})
    report = OutcomeReport(task_id="t", attempt=1, execution_id="e", outcome=outcome)
    assert UP.decode(UP.encode(Outcomes(items=(report,)))) == Outcomes(items=(report,))


@pytest.mark.parametrize("effect", [Effect.NONE.value, "unheard-of"])
def test_closed_vocabularies_stay_closed(effect: str) -> None:
    outcome = {"kind": "interrupted", "effect": effect}
    report = {"task_id": "t", "attempt": 1, "execution_id": "e", "outcome": outcome}
    data = msgpack.packb({"v": PROTOCOL_VERSION, "k": "outcomes", "items": [report]})
    if effect == Effect.NONE.value:
        assert isinstance(UP.decode(data), Outcomes)
    else:
        with pytest.raises(WarrenError, match=r"items\.0\.outcome\.effect"):
            UP.decode(data)


def test_frames_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pong(number=1).number = 2  # type: ignore[misc] # what is tested
    assert Pong(number=1) == Pong(number=1)
    assert Hello.__dataclass_fields__["k"].default == "hello"
