"""Parts of lists: by `limit` and `offset`, or from page to page by `cursor`, which stays right while rows come.

`page` and `page_size` are another spelling of `offset` and `limit`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
from fastapi import Depends, Query
from sqlalchemy import Column, Label, Select
from sqlalchemy.engine import Connection

from broker.counting import counted, is_exact, shown
from broker.store.database import dicts
from broker.views import Page
from protocols.errors import InvalidInput

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_OFFSET = 10_000_000
_CURSOR = r"^[A-Za-z0-9_.-]{1,200}$"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a list that was asked for."""

    limit: int
    offset: int
    cursor: str | None


Limit = Annotated[int | None, Query(ge=1, le=MAX_LIMIT, description=f"How many rows, {DEFAULT_LIMIT} by default.")]
Offset = Annotated[int | None, Query(ge=0, le=MAX_OFFSET, description="How many rows to leave out at the beginning.")]
Cursor = Annotated[
    str | None, Query(pattern=_CURSOR, description="The `next_cursor` of the page before: gives the page after it.")
]
PageNumber = Annotated[int | None, Query(ge=1, le=MAX_OFFSET, description="Which page, from 1: instead of `offset`.")]
PageSize = Annotated[int | None, Query(ge=1, le=MAX_LIMIT, description="Another spelling of `limit`.")]


async def window(
    limit: Limit = None,
    offset: Offset = None,
    cursor: Cursor = None,
    page: PageNumber = None,
    page_size: PageSize = None,
) -> Window:
    """Return the part of a list that the query asks for; raises InvalidInput for what contradicts itself."""
    if limit is not None and page_size is not None and limit != page_size:
        raise InvalidInput("limit and page_size say different things", field="page_size", hint="send one of them")
    if sum(given is not None for given in (offset or None, cursor, page)) > 1:
        raise InvalidInput(
            "offset, cursor and page are three ways to say where to begin", field="page", hint="send one of them"
        )
    size = limit or page_size or DEFAULT_LIMIT
    start = offset or 0 if page is None else (page - 1) * size
    if start > MAX_OFFSET:
        raise InvalidInput(f"no list is shown beyond row {MAX_OFFSET:,}", field="page", hint="use cursor")
    return Window(size, start, cursor)


Windowed = Annotated[Window, Depends(window)]


def read_page(
    query: Select[Any],
    key: Column[Any] | Label[Any],
    wanted: Window,
    view: Callable[[dict[str, Any]], T],
    *,
    newest_first: bool = False,
) -> Callable[[Connection], Page[T]]:
    """Return work for `Store.read` that gives one page of `query`, ordered by `key`, a unique column of it.

    `view` makes an entry of a row's values by their names.
    """

    def read(connection: Connection) -> Page[T]:
        total = connection.execute(sa.select(counted(query))).scalar_one()
        chosen = query.order_by(key.desc() if newest_first else key).offset(wanted.offset).limit(wanted.limit + 1)
        if wanted.cursor is not None:
            after = _parsed(wanted.cursor, key)
            chosen = chosen.where(key < after if newest_first else key > after)
        rows = dicts(connection.execute(chosen))
        has_more = len(rows) > wanted.limit
        page = rows[: wanted.limit]
        return Page(
            data=[view(row) for row in page],
            total=shown(total),
            total_is_exact=is_exact(total),
            limit=wanted.limit,
            offset=wanted.offset,
            next_cursor=str(page[-1][key.name]) if has_more else None,
            has_more=has_more,
        )

    return read


def page_of(names: Sequence[str], wanted: Window, view: Callable[[Sequence[str]], list[T]]) -> Page[T]:
    """Return one page of things that are known by their sorted names; `view` makes those that are shown."""
    rest = [name for name in names if wanted.cursor is None or name > wanted.cursor]
    end = wanted.offset + wanted.limit
    page = rest[wanted.offset : end]
    has_more = len(rest) > end
    return Page(
        data=view(page),
        total=len(names),
        total_is_exact=True,
        limit=wanted.limit,
        offset=wanted.offset,
        next_cursor=page[-1] if has_more else None,
        has_more=has_more,
    )


def _parsed(cursor: str, key: Column[Any] | Label[Any]) -> str | int:
    if not isinstance(key.type, sa.Integer):
        return cursor
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidInput("this cursor comes from another list", field="cursor")
    return int(cursor)
