"""Ids: unique, sortable by time, of the standard form."""

import threading
import time
import uuid

from protocols import ids
from protocols.ids import first_id, new_id


def test_an_id_is_its_prefix_and_a_version_7_uuid() -> None:
    prefix, _, digits = new_id(ids.TASK).partition("_")
    value = uuid.UUID(hex=digits)
    assert prefix == "task"
    assert digits == digits.lower()
    assert value.version == 7
    assert value.variant == uuid.RFC_4122


def test_an_id_tells_its_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    told = int(new_id(ids.EXECUTION).removeprefix("exec_")[:12], 16)
    assert before <= told <= time.time_ns() // 1_000_000


def test_a_millisecond_divides_the_ids_made_before_it_from_those_after() -> None:
    now = time.time_ns() // 1_000_000
    made = new_id(ids.TASK)
    assert first_id(ids.TASK, now) < made < first_id(ids.TASK, now + 60_000)
    assert new_id("tash") < first_id(ids.TASK, 0)


def test_ids_of_later_milliseconds_sort_later() -> None:
    made = []
    for _ in range(5):
        made.append(new_id(ids.TASK))
        now = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == now:
            pass
    assert made == sorted(made)


def test_no_id_is_given_twice_to_threads() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(own: list[str]) -> None:
        own.extend(new_id(ids.TASK) for _ in range(2000))

    threads = [threading.Thread(target=make, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for own in made for one in own}) == 16_000


def test_prefixes_tell_nouns_apart() -> None:
    prefixes = [value for name, value in vars(ids).items() if name.isupper()]
    assert len(set(prefixes)) == len(prefixes)
    assert all(len(new_id(prefix)) <= 80 for prefix in prefixes)


def test_the_first_id_of_a_time_bounds_its_ids() -> None:
    """Ids of that time are not before it, and earlier ones are; times that no id has are bounded."""
    before = time.time_ns() // 1_000_000
    made = new_id("task")
    after = time.time_ns() // 1_000_000
    assert first_id("task", before) <= made < first_id("task", after + 1)
    assert first_id("task", before) < first_id("task", before + 1)
    assert first_id("task", -1) == first_id("task", 0) < made < first_id("task", 2**80)
