"""Kinds of form fields that several nouns share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from protocols.errors import InvalidName
from protocols.names import NAME_PATTERN, check_name

RESERVED_WORDS = frozenset({"expiring", "overview", "register", "session", "stats", "tools"})
"""Words that stand in paths where a name could: what was called so could not be reached."""


def _checked(name: str) -> str:
    try:
        checked = check_name(name)
    except InvalidName as error:
        raise InvalidName(error.message, field="name") from error
    if checked in RESERVED_WORDS:
        raise InvalidName(f"name {name!r} is reserved: choose another word", field="name")
    return checked


def _checked_pool(name: str) -> str:
    try:
        return check_name(name, "pool")
    except InvalidName as error:
        raise InvalidName(error.message, field="pool") from error


NewName = Annotated[str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})]
"""A name that can stand in lane names and addresses."""
PoolName = Annotated[
    str, AfterValidator(_checked_pool), WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})
]
"""The name of a pool, which stands in lane names."""
Reference = Annotated[str, Field(min_length=1, max_length=128)]
"""The id or name of something that exists."""
Line = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Some words without control characters."""
Reason = Annotated[str, Field(max_length=1000)]


class ReasonForm(BaseModel):
    """Why something shall happen: for the journal and the audit log."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: Reason = ""
