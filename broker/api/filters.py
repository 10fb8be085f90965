"""Filters of lists that have to mean the same everywhere."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from fastapi import Query
from sqlalchemy import Column, ColumnElement, Select
from sqlalchemy.engine import Connection

from broker.counting import counted, is_exact
from protocols.errors import InvalidInput

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows of a list are meant."""

    equal: Mapping[Column[Any], Any]
    """Values that columns have. Each column begins an index in which ids are in order."""
    others: Sequence[ColumnElement[bool]]
    """What else holds, without an index of its own."""
    listed: ColumnElement[bool] = field(default_factory=sa.true)
    """What holds for all rows of the list; those indexes may have no others."""

    def narrow(self, connection: Connection, query: Select[Any]) -> Select[Any]:
        """Return the query of the rows that are meant.

        They are found by the index of the value that fewest rows have: one that a million rows have would lead to
        each of them for the few that have another one too. The planner only knows how rare a column's values are
        on average, so the other columns are not shown to it.
        """
        fewest = self._fewest(connection) if len(self.equal) > 1 else None
        return query.where(
            self.listed,
            *self.others,
            *(
                (column if fewest in (None, column.name) else sa.func.coalesce(column, sa.null())) == value
                for column, value in self.equal.items()
            ),
        )

    def _fewest(self, connection: Connection) -> str | None:
        """Return the name of the column whose value fewest rows have; None if each is too frequent to be counted."""
        each = (
            counted(sa.select(column).where(self.listed, column == value)).label(column.name)
            for column, value in self.equal.items()
        )
        numbers = connection.execute(sa.select(*each)).one()._asdict()
        name, number = min(numbers.items(), key=itemgetter(1))
        return name if is_exact(number) else None


def one_state(states: type[E]) -> Callable[..., Awaitable[E | None]]:
    """Return a dependency that gives the state in the query: `state`, `status` and `status_filter` mean the same.

    It raises InvalidInput if they are given and say different things.
    """

    async def chosen(state: E | None = None, status: E | None = None, status_filter: E | None = None) -> E | None:
        given = {one for one in (state, status, status_filter) if one is not None}
        if len(given) > 1:
            raise InvalidInput(
                "state, status and status_filter mean the same and say different things",
                field="status_filter",
                hint="send one of them",
            )
        return next(iter(given), None)

    # FastAPI reads the annotations at run time, when it is known which states these are.
    chosen.__annotations__.update(
        state=Annotated[states | None, Query(description="Only those in this state.")],
        status=Annotated[states | None, Query(description="Another spelling of `state`.")],
        status_filter=Annotated[states | None, Query(description="Another spelling of `state`.")],
    )
    return chosen
