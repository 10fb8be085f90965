"""Settings: what an admin may change while the control plane runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from client.http import ApiClient, path_to
from client.sdk.record import Record
from protocols.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Record):
    """One setting; its default holds until somebody sets it."""

    value: Any
    default: Any = None
    type: str | None = None
    description: str | None = None
    updated_at: datetime | None = None
    updated_by: str | None = None


class Settings:
    """The settings of the control plane, each by its `category.key`, such as `tasks.default_timeout_s`."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def all(self) -> dict[str, Setting]:
        """Return all settings by their names."""
        told = self._client.get("/settings")
        return {
            f"{category}.{key}": Setting.of(setting) for category, keys in told.items() for key, setting in keys.items()
        }

    def get(self, name: str) -> Any:
        """Return a setting's value; raises NotFound."""
        found = self.all().get(name)
        if found is None:
            raise NotFound(f"there is no setting {name!r}")
        return found.value

    def set(self, name: str, value: Any) -> None:
        """Set one; raises NotFound, or InvalidInput for a value that it does not take."""
        category, _, key = name.partition(".")
        self._client.put(path_to("settings", category, key), {"value": value})

    def set_many(self, values: Mapping[str, Any]) -> None:
        """Set several, all of them or none."""
        self._client.put(path_to("settings", "bulk"), {"settings": dict(values)})

    def health(self) -> Mapping[str, Any]:
        """Return how the parts of the control plane are."""
        return self._client.get(path_to("settings", "health"))
