"""Filters of lists that have to mean the same everywhere."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, TypeVar

from fastapi import Query

from protocols.errors import InvalidInput

E = TypeVar("E", bound=StrEnum)


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
