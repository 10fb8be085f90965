"""What a granted claim lets its task use: a provider or a host, and the secrets to get in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.store.tables import connections, providers, secrets
from broker.store.writer import Transaction
from protocols.claim import ConnectionAccess, ProviderAccess


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret as it lies in the database, to be opened after the commit and sealed to the worker."""

    id: str
    version: int
    ciphertext: bytes
    wrapped_key: bytes


class AccessReader:
    """Reads what tasks need, each row once per transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._rows: dict[tuple[str, str], Mapping[str, Any] | None] = {}

    def of(
        self, task: Mapping[str, Any]
    ) -> tuple[ProviderAccess | None, ConnectionAccess | None, dict[str, SealedSecret]]:
        """Return how `task` reaches its provider and its host, and the secrets that these name."""
        needed: dict[str, SealedSecret] = {}
        provider = self._row(providers, task["provider_id"])
        connection = self._row(connections, task["connection_id"])
        provider_access = connection_access = None
        if provider is not None:
            provider_access = ProviderAccess(
                name=provider["name"],
                kind=provider["kind"],
                base_url=provider["base_url"],
                secret=self._secret(provider["secret_id"], needed),
            )
        if connection is not None:
            connection_access = ConnectionAccess(
                name=connection["name"],
                hostname=connection["hostname"],
                port=connection["port"],
                username=connection["username"],
                auth_method=connection["auth_method"],
                host_keys=tuple(connection["host_keys"]),
                secret=self._secret(connection["secret_id"], needed),
            )
        return provider_access, connection_access, needed

    def _secret(self, secret_id: str | None, needed: dict[str, SealedSecret]) -> str | None:
        secret = self._row(secrets, secret_id)
        if secret is None:
            return None
        name = str(secret["name"])
        needed[name] = SealedSecret(secret["id"], secret["version"], secret["ciphertext"], secret["wrapped_key"])
        return name

    def _row(self, table: sa.Table, row_id: str | None) -> Mapping[str, Any] | None:
        if row_id is None:
            return None
        key = (table.name, row_id)
        if key not in self._rows:
            found = self._connection.execute(sa.select(table).where(table.c.id == row_id)).first()
            self._rows[key] = None if found is None else found._asdict()
        return self._rows[key]
