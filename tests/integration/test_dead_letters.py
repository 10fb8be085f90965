"""Retrying many dead letters: in chunks, each once, and without those that change or come meanwhile."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from broker import dead_letters
from broker.dead_letters import LetterFilter, Retried
from protocols.states import CauseOfDeath
from tests.support.kernel import Kernel, kernel


async def make(subject: Kernel, number: int) -> list[str]:
    """Return the ids of so many dead letters."""
    ids = await subject.submit_all([{"delay_s": 3600} for _ in range(number)])
    return [await asyncio.wrap_future(subject.control.dead_letters.give_up(one, "", "test")) for one in ids]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 7])
async def test_every_one_is_retried_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Fewer than a chunk, exactly some chunks, and some more."""
    monkeypatch.setattr(dead_letters, "CHUNK", 2)
    async with kernel(tmp_path) as subject:
        await make(subject, number)
        assert await subject.control.dead_letters.retry_all(LetterFilter(), "test") == Retried(number, 0)
        counted = await asyncio.wrap_future(subject.control.store.read(dead_letters.stats))
        assert counted.total == 0


async def test_what_changes_meanwhile_is_skipped_and_what_comes_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is discarded after the counting is not retried; one that comes then waits for the next time."""
    count = dead_letters._count
    async with kernel(tmp_path) as subject:
        letters = await make(subject, 5)
        (late,) = await subject.submit_all([{"delay_s": 3600}])

        def count_then_change(connection: Connection, chosen: LetterFilter) -> tuple[int, str | None]:
            counted = count(connection, chosen)
            subject.control.dead_letters.discard(letters[2], "somebody").result()
            subject.control.dead_letters.give_up(late, "", "somebody").result()
            return counted

        monkeypatch.setattr(dead_letters, "_count", count_then_change)
        chosen = LetterFilter(cause=CauseOfDeath.MANUAL)
        assert await subject.control.dead_letters.retry_all(chosen, "test") == Retried(4, 1)
        assert (await subject.task(late)).state == "dead"
