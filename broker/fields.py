"""Names in forms: checked where they arrive, so that a refusal says where in the form the bad one stands."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
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


NAME_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})
PoolName = Annotated[str, named(lambda pool: check_name(pool, "pool")), NAME_SCHEMA]
"""The name of a pool, which stands in lane names."""
