"""The text around a command: what is sent to the host, and what is taken out of its answer."""

import itertools
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.actions.ssh import remote
from worker.actions.ssh.command import Command
from worker.actions.ssh.remote import MarkerFilter

MARKER = "0123456789abcdef"


@given(before=st.binary(max_size=40), after=st.binary(max_size=40), cuts=st.lists(st.integers(0, 120), max_size=6))
def test_the_marker_is_taken_out_however_the_stream_is_cut(before: bytes, after: bytes, cuts: list[int]) -> None:
    stream = before + f"{MARKER} 4711\n".encode() + after
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    found = MarkerFilter(MARKER)
    passed = b"".join(found.take(stream[start:end]) for start, end in itertools.pairwise(places))
    assert passed + found.flush() == before + after
    assert found.process_group == 4711


def test_without_a_marker_everything_is_passed_on_in_the_end() -> None:
    found = MarkerFilter(MARKER)
    assert found.take(b"This account is not available\n") == b""
    assert found.flush() == b"This account is not available\n"
    assert found.process_group is None


def test_a_host_that_never_prints_the_marker_is_not_held_back_for_ever() -> None:
    found = MarkerFilter(MARKER)
    noise = b"x" * (remote.MARKER_SEARCH_BYTES + 1)
    assert found.take(noise) == noise
    assert found.take(b"more") == b"more"


@pytest.mark.parametrize("number", ["0", "1", "-5", "x", ""])
def test_a_process_group_that_must_not_be_killed_is_never_learned(number: str) -> None:
    found = MarkerFilter(MARKER)
    found.take(f"{MARKER} {number}\n".encode())
    assert found.process_group is None


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(value=_TEXT, words=_TEXT)
def test_any_text_of_a_task_means_itself_to_the_shell(value: str, words: str) -> None:
    command = Command(command=f": {words}", env={"VALUE": value})
    script = remote.script_input(command, MARKER).decode().removesuffix(f"\n{MARKER}\n")
    program = f'{script}\nprintf "%s\\0%s" "$VALUE" "$1"'
    said = subprocess.run(["sh", "-c", program], capture_output=True, check=True, timeout=30)
    assert said.stdout.decode().split("\0") == [value, command.command]


def test_the_request_carries_nothing_of_the_task() -> None:
    request = remote.exec_request(MARKER, watched=True)
    assert request.endswith(f"{MARKER} watched")
    assert remote.exec_request(MARKER, watched=True) == request
    assert len(request) < 4096
