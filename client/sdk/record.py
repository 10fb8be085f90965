"""What the control plane tells, as frozen dataclasses. A newer one may tell more: `raw` has all of it."""

import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import Any, Self

from protocols.errors import InvalidFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something that the control plane told; made from JSON by the names and types of its fields.

    A field with a default may be missing there. Times become `datetime`, lists tuples, objects records.
    """

    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """All of it, as it came."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Return the record in `data`; raises InvalidFrame if a field is missing or cannot be read."""
        kind: Any = cls
        try:
            return cls(raw=data, **{name: read(data) for name, read in _readers(kind).items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidFrame(f"the control plane told of a {cls.__name__} that this version cannot read") from error

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the record in a JSON text; raises InvalidFrame."""
        try:
            return cls.of(json.loads(text))
        except ValueError as error:
            raise InvalidFrame(f"the control plane told of a {cls.__name__} in no JSON") from error


@cache
def _readers(kind: Any) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    hints = typing.get_type_hints(kind)
    return {
        one.name: _field_reader(str(one.metadata.get("name", one.name)), one.default, _value_reader(hints[one.name]))
        for one in fields(kind)
        if one.name != "raw"
    }


def _field_reader(name: str, default: Any, read: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
    if default is MISSING:
        return lambda data: read(data[name])
    return lambda data: default if data.get(name) is None else read(data[name])


def _value_reader(hint: Any) -> Callable[[Any], Any]:
    if typing.get_origin(hint) is types.UnionType:
        (inner,) = (_value_reader(one) for one in typing.get_args(hint) if one is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if typing.get_origin(hint) is tuple:
        read = _value_reader(typing.get_args(hint)[0])
        return lambda values: tuple(read(value) for value in values)
    if hint is datetime:
        return datetime.fromisoformat
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.of
    return lambda value: value


def query(where: Mapping[str, object]) -> dict[str, str | int | None]:
    """Return a list's filters as they travel, without those that are None."""
    return {
        name: value if isinstance(value, int) else str(value)
        for name, value in sent(where).items()
        if value is not None
    }


def sent(form: Mapping[str, object]) -> dict[str, Any]:
    """Return a form's fields as JSON can carry them."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in form.items()}
