"""Counting that takes no longer when there are millions: exact up to a limit, beyond it the limit itself."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ScalarSelect, Select
from sqlalchemy.engine import Connection

LIMIT = 10_000
"""For numbers that are asked for often, or many at once. Counting so many rows takes one or two milliseconds."""
STATISTICS_LIMIT = 50_000
"""For statistics."""
MONITORING_LIMIT = 250_000
"""For programs that watch, to which a number that stands still means that nothing happens."""
MAX_GROUPS = 100


@dataclass(frozen=True, slots=True)
class Groups:
    """How many rows have each value. Unless they are exact, a number that is the limit stands for more."""

    numbers: dict[Any, int]
    are_exact: bool


class Grouping:
    """How many rows have each value of a column, up to MAX_GROUPS values in order.

    Each value is looked up in an index that begins with the column, where GROUP BY would read every row.
    """

    def __init__(self, column: Column[Any], *where: sa.ColumnElement[bool], limit: int) -> None:
        first = sa.select(sa.func.min(column)).where(*where).scalar_subquery()
        found = sa.select(first.label("value")).cte("found", recursive=True)
        next_one = sa.select(sa.func.min(column)).where(*where, column > found.c.value).scalar_subquery()
        found = found.union_all(sa.select(next_one).where(found.c.value.is_not(None)))
        rows = sa.select(column).where(*where, column == found.c.value).correlate(found)
        self.query = sa.select(found.c.value, counted(rows, limit)).where(found.c.value.is_not(None)).limit(MAX_GROUPS)
        self._limit = limit

    def read(self, connection: Connection, total: int | None = None) -> Groups:
        """Count; with the exact total of all rows, one group may be as large as it likes."""
        numbers: dict[Any, int] = {row[0]: row[1] for row in connection.execute(self.query)}
        large = [value for value, number in numbers.items() if not is_exact(number, self._limit)]
        if total is not None and len(large) == 1:
            numbers[large.pop()] += total - sum(numbers.values())
            return Groups(numbers, are_exact=True)
        return Groups({value: shown(number, self._limit) for value, number in numbers.items()}, are_exact=not large)


def counted(query: Select[Any], limit: int = LIMIT) -> ScalarSelect[int]:
    """Return, as a value of a larger query, how many rows this one has: limit + 1 if they are more than the limit."""
    one: Select[Any] = query.with_only_columns(sa.literal_column("1"), maintain_column_froms=True)
    some = one.order_by(None).limit(sa.literal_column(str(limit + 1))).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def shown(number: int, limit: int = LIMIT) -> int:
    """Return a number so counted as people see it."""
    return min(number, limit)


def is_exact(number: int, limit: int = LIMIT) -> bool:
    """Return whether a number so counted is how many there are."""
    return number <= limit
