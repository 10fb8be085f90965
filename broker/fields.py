"""Names, times and numbers in forms: checked where they stand, so that a refusal can say where that is."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from protocols.errors import InvalidName
from protocols.names import NAME_PATTERN, check_name


def named(check: Callable[[str], str]) -> AfterValidator:
    """Return the validator of a name that `check` returns, or refuses with InvalidName."""

    def validate(name: str) -> str:
        try:
            return check(name)
        except InvalidName as error:
            # Any exception of our own would leave the form at once, and nobody could say which field it was.
            raise PydanticCustomError(error.code, "{message}", {"message": error.message}) from error

    return AfterValidator(validate)


def unless_reserved(words: frozenset[str]) -> Callable[[str], str]:
    """Return a check that refuses these words with InvalidName: what was called so could not be reached."""

    def check(name: str) -> str:
        if name in words:
            raise InvalidName(f"name {name!r} is reserved: choose another word")
        return name

    return check


def _dated(value: object) -> object:
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE.match(value)):
        raise ValueError("write a time, such as 2030-01-31T12:00:00Z")
    return value


def _zoned(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("write the time zone, such as 2030-01-31T12:00:00Z")
    return moment


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        # No TypeError: pydantic turns ValueError alone into a refusal.
        raise ValueError("write a number")  # noqa: TRY004
    return value


_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

Moment = Annotated[datetime, BeforeValidator(_dated), AfterValidator(_zoned)]
"""A time with its zone (RFC 3339). A number is none, though others read it as seconds, or as milliseconds."""
A_NUMBER = BeforeValidator(_number)
"""For an int (of which 3.0 is one) or a float: neither `true` nor `"1"` is a number, though others read both as 1."""
NAME_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})
PoolName = Annotated[str, named(lambda pool: check_name(pool, "pool")), NAME_SCHEMA]
"""The name of a pool, which stands in lane names."""
