"""Kinds of form fields that several nouns share."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from broker.fields import NAME_SCHEMA, named, unless_reserved
from protocols.names import check_name

RESERVED_WORDS = frozenset({"expiring", "overview", "register", "session", "stats", "tools"})
"""Words that stand in paths where a name could, or may one day."""

NewName = Annotated[str, named(check_name), named(unless_reserved(RESERVED_WORDS)), NAME_SCHEMA]
"""A name that can stand in lane names and addresses."""
Reference = Annotated[str, Field(min_length=1, max_length=128)]
"""The id or name of something that exists."""
Line = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Some words without control characters."""
Reason = Annotated[str, Field(max_length=1000)]


class ReasonForm(BaseModel):
    """Why something shall happen: for the journal and the audit log."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"examples": [{"reason": "no longer needed"}]}
    )

    reason: Reason = ""


def change_schema(*examples: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return the `json_schema_extra` of a form in which everything may be left out, and then stays as it is.

    Its schema names no defaults: a client that sent them along would change what it never heard of.
    """

    def complete(schema: dict[str, Any]) -> None:
        schema["examples"] = list(examples)
        for field in schema["properties"].values():
            field.pop("default", None)

    return complete
