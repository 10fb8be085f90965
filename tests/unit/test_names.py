"""Names: a lane name says what it is for and parses back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import InvalidName
from protocols.identity import worker_id
from protocols.names import (
    RESERVED_NAMES,
    BuiltinAction,
    ExitCode,
    LaneKind,
    LaneParts,
    check_name,
    lane_kind,
    lane_name,
    lane_parts,
    pinned_lane_name,
)

USABLE = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)


@settings(deadline=None)
@given(USABLE, st.sampled_from([LaneKind.LLM, LaneKind.SSH, LaneKind.PYTHON]), USABLE)
def test_lane_names_parse_back(pool: str, kind: LaneKind, provider: str) -> None:
    assert lane_kind(lane_name(check_name(pool), kind, check_name(provider))) is kind


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_a_workers_own_lane_is_told_from_every_pools(key: bytes) -> None:
    assert lane_kind(pinned_lane_name(worker_id(key))) is LaneKind.PINNED


@settings(deadline=None)
@given(USABLE, USABLE, USABLE, USABLE)
def test_two_pools_or_providers_never_share_a_lane(pool: str, provider: str, other: str, another: str) -> None:
    first, second = lane_name(pool, LaneKind.LLM, provider), lane_name(other, LaneKind.LLM, another)
    assert (first == second) == ((pool, provider) == (other, another))
    assert first not in {lane_name(other, LaneKind.SSH), lane_name(other, LaneKind.PYTHON), pinned_lane_name(other)}


@settings(deadline=None)
@given(USABLE, USABLE)
def test_a_lanes_name_gives_its_parts_back(pool: str, name: str) -> None:
    assert lane_parts(lane_name(pool, LaneKind.LLM, name)) == LaneParts(LaneKind.LLM, pool=pool, provider=name)
    assert lane_parts(lane_name(pool, LaneKind.SSH)) == LaneParts(LaneKind.SSH, pool=pool)
    assert lane_parts(pinned_lane_name(name)) == LaneParts(LaneKind.PINNED, worker_id=name)


def test_lanes_are_spelt_as_documented() -> None:
    assert lane_name("default", LaneKind.LLM, "openai") == "q.t.default.openai"
    assert lane_name("default", LaneKind.SSH) == "q.t.default.ssh"
    assert lane_name("gpu", LaneKind.PYTHON) == "q.t.gpu.python"
    assert pinned_lane_name("w-1") == "q.t.w.w-1"


def test_an_llm_lane_needs_a_provider() -> None:
    with pytest.raises(InvalidName):
        lane_name("default", LaneKind.LLM)


@pytest.mark.parametrize(
    "name",
    ["", "q", "q.t", "q.t.", "q.t.default", "q.t.default.", "q.t..ssh", "q.t.a.b.c", "x.q.t.a.ssh", "q.dead", "a.b"],
)
def test_what_is_no_lane_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        lane_kind(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "A",
        "a.b",
        "a_b",
        "a b",
        "ä",
        "a\n",
        "\na",
        "a\0",
        "a/b",
        "a*",
        "a" * 64,
        *sorted(RESERVED_NAMES),
    ],
)
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "gpt-4", "a" * 63, "sshd"])
def test_usable_names_are_returned(name: str) -> None:
    assert check_name(name) == name


def test_a_refusal_says_what_is_wrong_and_stays_short() -> None:
    with pytest.raises(InvalidName, match=r"pool .* is not usable: write 1 to 63") as refused:
        check_name("X" * 10_000, "pool")
    assert len(refused.value.message) < 250


def test_every_lane_kind_but_llm_and_pinned_is_reserved() -> None:
    """So no pool or provider can take another kind's lane."""
    assert {LaneKind.SSH.value, LaneKind.PYTHON.value, "w"} == RESERVED_NAMES


def test_exit_codes_differ_and_fit_a_process() -> None:
    assert len({code.value for code in ExitCode}) == len(ExitCode)
    assert all(0 <= code <= 125 for code in ExitCode)


def test_built_in_actions_have_their_documented_names() -> None:
    assert [action.value for action in BuiltinAction] == ["llm.chat", "ssh.exec"]
