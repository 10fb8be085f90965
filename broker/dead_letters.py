"""Dead letters: tasks that failed for good, and what people do with them."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.counting import STATISTICS_LIMIT, Grouping
from broker.fields import Moment
from broker.store.store import Store
from broker.store.tables import dead_letters, in_period, tasks
from broker.store.writer import Transaction
from broker.tasks import find_task
from broker.transitions import die, redrive
from protocols import ids
from protocols.errors import Conflict, NotFound
from protocols.states import FINISHED_STATES, CauseOfDeath, TaskState

CHUNK = 100
"""Most dead letters that one transaction retries."""

OPEN = dead_letters.c.resolved_at.is_(None)
_BY_CAUSE = Grouping(dead_letters.c.cause, OPEN, limit=STATISTICS_LIMIT)
_BY_ACTION = Grouping(dead_letters.c.action, OPEN, limit=STATISTICS_LIMIT)
_TIMES = sa.select(
    *(
        sa.select(end(dead_letters.c.dead_at)).where(OPEN).scalar_subquery().label(name)
        for name, end in (("oldest_at", sa.func.min), ("newest_at", sa.func.max))
    )
)
# Without inputs and results, which may be large and are not needed for it.
_DEAD_TASKS = sa.select(
    dead_letters.c.id.label("letter_id"),
    *(column for column in tasks.c if not isinstance(column.type, sa.LargeBinary)),
).select_from(dead_letters.outerjoin(tasks, tasks.c.id == dead_letters.c.task_id))


class LetterFilter(BaseModel):
    """Which of the dead letters that nobody has dealt with; what is left out chooses all."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"cause": "unavailable", "dead_after": "2031-01-31T12:00:00Z"}]},
    )

    cause: CauseOfDeath | None = None
    action: Annotated[str, Field(max_length=128)] | None = None
    lane: Annotated[str, Field(max_length=200)] | None = None
    error_code: Annotated[str, Field(max_length=128)] | None = None
    dead_after: Moment | None = None
    """From this time on."""
    dead_before: Moment | None = None
    """Up to, and without, this time."""

    def equal(self) -> dict[sa.Column[Any], str]:
        """Return the values that columns of `dead_letters` have; each begins an index of the open ones."""
        wanted = self.model_dump(include={"cause", "action", "lane", "error_code"}, exclude_none=True)
        return {dead_letters.c[name]: value for name, value in wanted.items()}

    def others(self) -> list[sa.ColumnElement[bool]]:
        """Return what else holds for those that are meant."""
        return in_period(dead_letters.c.dead_at, dead_letters.c.id, ids.DEAD_LETTER, self.dead_after, self.dead_before)

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return all that holds for them."""
        return [OPEN, *self.others(), *(column == value for column, value in self.equal().items())]


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a retry of many dead letters."""

    retried: int
    skipped: int
    """Were there when it began, but were dealt with by someone else before their turn came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterStats:
    """The dead letters that nobody has dealt with, counted. Times in milliseconds."""

    total: int
    by_cause: dict[str, int]
    by_action: dict[str, int]
    oldest_at: int | None
    newest_at: int | None
    counts_are_exact: bool


class DeadLetters:
    """Changes dead letters on someone's request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = store.writer

    def redrive(self, dead_letter_id: str, actor: str) -> Future[str]:
        """Run a dead task again, with all of its tries; returns the task's id.

        Fails with NotFound, or Conflict if this dead letter was dealt with.
        """
        return self._writer.write(lambda transaction: _redrive(transaction, dead_letter_id, actor))

    def discard(self, dead_letter_id: str, actor: str) -> Future[None]:
        """Take a dead letter off the list; its task stays dead. Fails with NotFound or Conflict."""
        return self._writer.write(lambda transaction: _discard(transaction, dead_letter_id, actor))

    def give_up(self, task_id: str, reason: str, actor: str) -> Future[str]:
        """Make an unfinished task that nobody runs a dead letter; returns the dead letter's id.

        Fails with NotFound, or Conflict if the task has finished or a worker runs it.
        """
        return self._writer.write(lambda transaction: _give_up(transaction, task_id, reason, actor))

    async def retry_all(self, chosen: LetterFilter, actor: str) -> Retried:
        """Run again what the chosen dead letters stand for; those that come meanwhile are left alone.

        Done in many transactions: when it fails, those before it stay done.
        """
        total, last = await asyncio.wrap_future(self._store.read(partial(_count, chosen=chosen)))
        retried, after = 0, ""
        while last is not None and after < last:
            chunk = partial(_retry_chunk, chosen=chosen, after=after, last=last, actor=actor)
            number, after = await asyncio.wrap_future(self._writer.write(chunk))
            retried += number
        return Retried(retried, total - retried)


def stats(connection: Connection) -> LetterStats:
    """Count the dead letters that nobody has dealt with."""
    by_cause, by_action = _BY_CAUSE.read(connection), _BY_ACTION.read(connection)
    return LetterStats(
        total=sum(by_cause.numbers.values()),
        by_cause=by_cause.numbers,
        by_action=by_action.numbers,
        **connection.execute(_TIMES).one()._mapping,
        counts_are_exact=by_cause.are_exact and by_action.are_exact,
    )


def _count(connection: Connection, chosen: LetterFilter) -> tuple[int, str | None]:
    """Return how many dead letters are chosen, and the last one of them."""
    query = sa.select(sa.func.count(), sa.func.max(dead_letters.c.id)).where(*chosen.conditions())
    total, last = connection.execute(query).one()
    return total, last


def _retry_chunk(
    transaction: Transaction, *, chosen: LetterFilter, after: str, last: str, actor: str
) -> tuple[int, str]:
    """Retry the next ones; returns how many, and behind which one to go on."""
    query = (
        _DEAD_TASKS.where(*chosen.conditions(), dead_letters.c.id > after, dead_letters.c.id <= last)
        .order_by(dead_letters.c.id)
        .limit(CHUNK)
    )
    found = transaction.connection.execute(query).all()
    dead = [row for row in found if row.state == TaskState.DEAD.value]
    for row in dead:
        redrive(transaction, row._asdict(), actor)
    if dead:
        told = {"retried": len(dead), "first": dead[0].letter_id, "last": dead[-1].letter_id}
        record(transaction, actor, "dead_letter.retry_all", "dead-letter", {**told, "filter": _plain(chosen)})
    return len(dead), found[-1].letter_id if len(found) == CHUNK else last


def _plain(chosen: LetterFilter) -> dict[str, Any]:
    return chosen.model_dump(mode="json", exclude_none=True)


def _redrive(transaction: Transaction, dead_letter_id: str, actor: str) -> str:
    letter = _open_letter(transaction, dead_letter_id)
    redrive(transaction, find_task(transaction, letter.task_id), actor)
    record(transaction, actor, "dead_letter.retry", dead_letter_id, {"task_id": letter.task_id})
    return str(letter.task_id)


def _discard(transaction: Transaction, dead_letter_id: str, actor: str) -> None:
    _open_letter(transaction, dead_letter_id)
    transaction.connection.execute(
        dead_letters.update()
        .where(dead_letters.c.id == dead_letter_id)
        .values(resolved_at=transaction.now, resolution="discarded")
    )
    record(transaction, actor, "dead_letter.delete", dead_letter_id, {})


def _give_up(transaction: Transaction, task_id: str, reason: str, actor: str) -> str:
    task = find_task(transaction, task_id)
    state = TaskState(task["state"])
    if state in FINISHED_STATES:
        raise Conflict(f"the task has finished: it is {state}", field="task_id")
    if state is TaskState.RUNNING:
        raise Conflict("a worker runs the task", field="task_id", hint="cancel it, or wait for its end")
    message = reason or f"given up by {actor}"
    die(transaction, task, CauseOfDeath.MANUAL, error_code="manual", error_message=message)
    letter = sa.select(dead_letters.c.id).where(dead_letters.c.task_id == task_id, OPEN)
    letter_id = str(transaction.connection.execute(letter).scalar_one())
    record(transaction, actor, "dead_letter.create", letter_id, {"task_id": task_id, "reason": reason})
    return letter_id


def _open_letter(transaction: Transaction, dead_letter_id: str) -> Row[Any]:
    found = transaction.connection.execute(sa.select(dead_letters).where(dead_letters.c.id == dead_letter_id)).first()
    if found is None:
        raise NotFound(f"there is no dead letter {dead_letter_id[:80]!r}")
    if found.resolved_at is not None:
        raise Conflict(f"this dead letter was dealt with before: {found.resolution}")
    return found
