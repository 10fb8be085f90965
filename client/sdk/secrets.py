"""Secrets: what workers need to log in somewhere, and nobody else to see."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record, query
from protocols.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Record):
    """A secret; its value is a mask unless it was revealed, and not shown in any case."""

    id: str
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    category: str | None = None
    expires_at: datetime | None = None
    value: str | None = field(default=None, repr=False)


class Secrets(Noun[Secret]):
    """The secrets of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "secrets", Secret)

    def create(
        self, name: str, value: str, *, category: str | None = None, expires_at: datetime | None = None
    ) -> Secret:
        """Add a secret; raises Conflict if the name is taken."""
        times = query({"expires_at": expires_at})
        return self._create({"name": name, "value": value, "category": category, **times})

    def put(self, name: str, value: str) -> Secret:
        """Make the secret of this name have this value, whether it exists or not."""
        try:
            return self._change(name, {"value": value})
        except NotFound:
            return self.create(name, value)

    def rotate(self, secret: str, value: str) -> Secret:
        """Give it its next version; tasks that begin from now on get that."""
        return self._tell(secret, "rotate", {"value": value})

    def reveal(self, secret: str) -> Secret:
        """Return it with its value, which is audited; raises Forbidden where that is not allowed at all."""
        return Secret.of(self._client.get(self._path(secret), {"reveal": "true"}))

    def expiring(self, days: int = 30) -> Iterator[Secret]:
        """Yield those that expire within so many days."""
        return map(Secret.of, self._client.rows(self._path("expiring"), {"days": days}))

    def delete(self, secret: str) -> None:
        """Delete it; raises Conflict while something uses it."""
        self._delete(secret)
