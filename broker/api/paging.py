"""Parts of lists: by `limit` and `offset`, or from page to page by `cursor`, which stays right while rows come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from fastapi import Depends, Query
from sqlalchemy import ColumnElement, Row, Select
from sqlalchemy.engine import Connection

from broker.views import Page
from protocols.errors import InvalidInput

T = TypeVar("T")

MAX_LIMIT = 500
MAX_OFFSET = 10_000_000
_CURSOR = r"^[A-Za-z0-9_-]{1,80}$"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a list that was asked for."""

    limit: int
    offset: int
    cursor: str | None


async def window(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    cursor: Annotated[str | None, Query(pattern=_CURSOR)] = None,
) -> Window:
    """Return the part of a list that the query asks for."""
    return Window(limit, offset, cursor)


Windowed = Annotated[Window, Depends(window)]


def read_page(
    query: Select[Any],
    key: ColumnElement[Any],
    wanted: Window,
    view: Callable[[Row[Any]], T],
    *,
    newest_first: bool = False,
) -> Callable[[Connection], Page[T]]:
    """Return work for `Store.read` that gives one page of `query`, ordered by `key`, a unique column of it."""

    def read(connection: Connection) -> Page[T]:
        counted = query.with_only_columns(key).order_by(None).subquery()
        total = connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one()
        chosen = query.order_by(key.desc() if newest_first else key).offset(wanted.offset).limit(wanted.limit + 1)
        if wanted.cursor is not None:
            after = _parsed(wanted.cursor, key)
            chosen = chosen.where(key < after if newest_first else key > after)
        rows = connection.execute(chosen).all()
        has_more = len(rows) > wanted.limit
        shown = rows[: wanted.limit]
        return Page(
            data=[view(row) for row in shown],
            total=total,
            limit=wanted.limit,
            offset=wanted.offset,
            next_cursor=str(shown[-1]._mapping[key]) if has_more else None,
            has_more=has_more,
        )

    return read


def _parsed(cursor: str, key: ColumnElement[Any]) -> str | int:
    if not isinstance(key.type, sa.Integer):
        return cursor
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidInput("this cursor comes from another list", field="cursor")
    return int(cursor)
