"""Preferences: what an admin may change while Warren runs. What a process is started with is in `settings`."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Literal

import sqlalchemy as sa
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.store.store import Store
from broker.store.tables import settings
from broker.store.writer import Transaction
from protocols.codec import first_problem
from protocols.errors import InvalidInput, NotFound

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

_log = structlog.get_logger(__name__)


class TaskPreferences(BaseModel):
    """What holds for a task whose form does not say it."""

    model_config = _STRICT

    default_agent: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="The agent, by id or name, of a task that names neither an agent nor an action."
    )
    default_max_attempts: int = Field(default=3, ge=1, le=100, description="How often a task may fail.")
    default_timeout_s: float = Field(
        default=600.0, gt=0, le=30 * 86400, allow_inf_nan=False, description="Seconds that one attempt may take."
    )
    default_priority: Literal["low", "normal", "high", "critical"] = Field(
        default="normal", description="The priority of a task."
    )


class FilePreferences(BaseModel):
    """Uploaded files."""

    model_config = _STRICT

    max_bytes: int = Field(default=100 * 1024 * 1024, ge=1, le=2**40, description="The largest file taken.")
    url_expires_s: int = Field(default=3600, ge=1, le=7 * 86400, description="How long a download URL is valid.")


class ApiPreferences(BaseModel):
    """The HTTP interface."""

    model_config = _STRICT

    rate_limit_per_minute: int = Field(
        default=0, ge=0, le=10_000_000, description="Requests that one address may make in a minute; 0: no limit."
    )
    public_docs: bool = Field(default=False, description="Show /docs, /redoc and /openapi.json to everybody.")


class Preferences(BaseModel):
    """All preferences; a field is a category, whose fields are its keys."""

    model_config = _STRICT

    tasks: TaskPreferences = TaskPreferences()
    files: FilePreferences = FilePreferences()
    api: ApiPreferences = ApiPreferences()


@dataclass(frozen=True, slots=True)
class Preference:
    """One preference as it is now."""

    name: str
    """`category.key`"""
    value: Any
    default: Any
    type: str
    """As JSON calls it: `string`, `integer`, `number` or `boolean`."""
    description: str
    updated_at: int | None
    """Milliseconds since the epoch; None while nobody has changed it."""
    updated_by: str | None


@dataclass(frozen=True, slots=True)
class _Change:
    """When a preference was changed last, and by whom."""

    at: int
    by: str | None


class PreferenceStore:
    """Holds the preferences in memory, and changes them in the database first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._current = Preferences()
        self._changes: dict[str, _Change] = {}
        self._types = _types(self._current)

    @property
    def current(self) -> Preferences:
        """Return the preferences as they are now; from any thread."""
        return self._current

    def load(self) -> None:
        """Read what the database holds. A stored value that this version does not take counts as not stored."""
        for row in self._store.read(_stored).result():
            try:
                self._keep(parsed({row.key: row.value}), _Change(row.updated_at, row.updated_by))
            except (InvalidInput, NotFound) as error:
                _log.warning("preference_ignored", name=row.key, reason=error.message)

    def change(self, changes: Mapping[str, Any], actor: str) -> Future[None]:
        """Set values by `category.key`, all of them or none.

        Raises NotFound for a name that does not exist, InvalidInput for a value that it does not take.
        """
        values = parsed(changes)
        return self._store.writer.write(lambda transaction: self._change(transaction, values, actor))

    def listed(self) -> list[Preference]:
        """Return all preferences with what is known of each, by category, in the order of their definition."""
        current, changes = self._current, self._changes
        return [
            Preference(
                name=name,
                value=attrgetter(name)(current),
                default=field.default,
                type=self._types[name],
                description=field.description or "",
                updated_at=changes[name].at if name in changes else None,
                updated_by=changes[name].by if name in changes else None,
            )
            for name, field in _fields(current)
        ]

    def _change(self, transaction: Transaction, values: Mapping[str, Any], actor: str) -> None:
        for name, value in values.items():
            row = {"value": value, "updated_at": transaction.now, "updated_by": actor}
            known = transaction.connection.execute(settings.update().where(settings.c.key == name).values(row))
            if not known.rowcount:
                transaction.connection.execute(settings.insert().values(key=name, **row))
            record(transaction, actor, "setting.change", name, {"value": value})
        change = _Change(transaction.now, actor)
        transaction.after_commit(lambda: self._keep(values, change))

    def _keep(self, values: Mapping[str, Any], change: _Change) -> None:
        # Laid over what is current by now: others may have changed theirs in the same transaction.
        self._current = changed(self._current, values)
        self._changes = {**self._changes, **dict.fromkeys(values, change)}


def parsed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by `category.key` in their own types (for a number, `"5"` is 5).

    Raises NotFound for a name that does not exist, InvalidInput for a value that it does not take.
    """
    wanted = changed(Preferences(), changes)
    return {name: attrgetter(name)(wanted) for name in changes}


def changed(preferences: Preferences, changes: Mapping[str, Any]) -> Preferences:
    """Return `preferences` with values set by `category.key`; raises NotFound or InvalidInput, naming the field."""
    plain = preferences.model_dump()
    for name, value in changes.items():
        category, _, key = name.partition(".")
        if category not in plain or key not in plain[category]:
            known = ", ".join(sorted(f"{one}.{inner}" for one, keys in plain.items() for inner in keys))
            raise NotFound(f"there is no setting {name[:80]!r}", field=name[:80], hint=f"there are: {known}")
        plain[category][key] = value
    try:
        return Preferences.model_validate(plain)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise InvalidInput(first_problem(error), field=field) from error


def _fields(preferences: Preferences) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each preference as `category.key` and how it is defined."""
    for category, held in preferences:
        for key, field in type(held).model_fields.items():
            yield f"{category}.{key}", field


def _stored(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(sa.select(settings)).all()


def _types(preferences: Preferences) -> dict[str, str]:
    """Return the type of each preference's value as JSON calls it, whether or not the value may be none."""
    found = {}
    for category, held in preferences:
        for key, schema in type(held).model_json_schema()["properties"].items():
            kinds = [schema, *schema.get("anyOf", ())]
            found[f"{category}.{key}"] = next(str(kind["type"]) for kind in kinds if kind.get("type", "null") != "null")
    return found
