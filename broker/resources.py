"""What tasks need to reach the outside: providers, SSH connections, and the secrets that both use."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Row, Table
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.store.store import Store
from broker.store.tables import agents, connections, providers, secrets, tasks
from broker.store.writer import Transaction
from broker.vault import Vault
from protocols import ids
from protocols.errors import Conflict, NotFound
from protocols.states import FINISHED_STATES, TaskState

UNFINISHED_STATES = sorted(state.value for state in TaskState if state not in FINISHED_STATES)


@dataclass(frozen=True, slots=True)
class Noun:
    """One kind of resource."""

    name: str
    table: Table
    id_prefix: str
    task_column: Column[Any] | None = None
    """The column of a task that names what it uses."""
    name_in_lanes: bool = False
    """Whether waiting tasks stand in lanes that are called after it."""


PROVIDER = Noun("provider", providers, ids.PROVIDER, tasks.c.provider_id, name_in_lanes=True)
CONNECTION = Noun("connection", connections, ids.CONNECTION, tasks.c.connection_id)
SECRET = Noun("secret", secrets, ids.SECRET)


class Resources:
    """Creates, changes and deletes resources. Fields arrive validated; `secret` names one by id or name."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._writer = store.writer
        self._vault = vault

    def create(self, noun: Noun, fields: Mapping[str, Any], actor: str) -> Future[str]:
        """Store a new one; gives its id. Fails with Conflict for a name in use, NotFound for an unknown secret."""
        return self._writer.write(lambda transaction: self._create(transaction, noun, fields, actor))

    def change(self, noun: Noun, reference: str, fields: Mapping[str, Any], actor: str) -> Future[str]:
        """Change what `fields` names and nothing else; gives its id.

        Fails with NotFound, or Conflict for a name in use, or a new name while tasks wait under the old one.
        """
        return self._writer.write(lambda transaction: self._change(transaction, noun, reference, fields, actor))

    def reveal(self, reference: str, actor: str, *, allowed: bool) -> Future[Mapping[str, Any] | None]:
        """Give a secret's columns and `value`, None if that is not `allowed`; the audit log has either.

        Fails with NotFound, or SealBroken.
        """
        return self._writer.write(lambda transaction: self._reveal(transaction, reference, actor, allowed))

    def delete(self, noun: Noun, reference: str, actor: str) -> Future[None]:
        """Delete it. Fails with NotFound, or Conflict while something uses it."""
        return self._writer.write(lambda transaction: _delete(transaction, noun, reference, actor))

    def _create(self, transaction: Transaction, noun: Noun, fields: Mapping[str, Any], actor: str) -> str:
        _refuse_taken_name(transaction, noun, fields["name"])
        new_id = ids.new_id(noun.id_prefix)
        row = {
            **self._columns(transaction, new_id, 1, fields),
            "id": new_id,
            "created_at": transaction.now,
            "updated_at": transaction.now,
        }
        transaction.connection.execute(noun.table.insert().values(row))
        record(transaction, actor, f"{noun.name}.create", new_id, {"name": fields["name"]})
        return new_id

    def _change(
        self, transaction: Transaction, noun: Noun, reference: str, fields: Mapping[str, Any], actor: str
    ) -> str:
        row = find(transaction.connection, noun, reference)
        if fields.get("name", row.name) != row.name:
            _refuse_taken_name(transaction, noun, fields["name"])
            if noun.name_in_lanes:
                _refuse_if_in_use(transaction, noun, row, "renamed")
        version = row.version + 1 if noun is SECRET else 0
        columns = self._columns(transaction, row.id, version, fields)
        if columns:
            columns["updated_at"] = transaction.now
            transaction.connection.execute(noun.table.update().where(noun.table.c.id == row.id).values(columns))
            record(transaction, actor, f"{noun.name}.change", row.id, {"name": row.name, "fields": sorted(fields)})
        return str(row.id)

    def _reveal(self, transaction: Transaction, reference: str, actor: str, allowed: bool) -> Mapping[str, Any] | None:
        row = find(transaction.connection, SECRET, reference)
        action = "secret.reveal" if allowed else "secret.reveal_refused"
        record(transaction, actor, action, row.id, {"name": row.name, "version": row.version})
        if not allowed:
            return None
        value = self._vault.decrypt(row.id, row.version, row.ciphertext, row.wrapped_key)
        return {**row._mapping, "value": value.decode()}

    def _columns(
        self, transaction: Transaction, row_id: str, version: int, fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the columns for `fields`; a secret's new value becomes its `version`."""
        columns = dict(fields)
        if "secret" in columns:
            reference = columns.pop("secret")
            columns["secret_id"] = None if reference is None else _secret_id(transaction.connection, reference)
        if "value" in columns:
            ciphertext, wrapped_key = self._vault.encrypt(row_id, version, columns.pop("value"))
            columns |= {"version": version, "ciphertext": ciphertext, "wrapped_key": wrapped_key}
        return columns


def find(connection: Connection, noun: Noun, reference: str) -> Row[Any]:
    """Return the row with this id or name; raises NotFound."""
    table = noun.table
    query = sa.select(table).where(sa.or_(table.c.id == reference, table.c.name == reference))
    found = connection.execute(query).first()
    if found is None:
        raise NotFound(f"there is no {noun.name} {reference[:128]!r}")
    return found


def _secret_id(connection: Connection, reference: str) -> str:
    try:
        return str(find(connection, SECRET, reference).id)
    except NotFound as error:
        raise NotFound(error.message, field="secret", hint="add it first: POST /secrets") from error


def _refuse_taken_name(transaction: Transaction, noun: Noun, name: str) -> None:
    same_name = sa.select(noun.table.c.id).where(noun.table.c.name == name)
    if transaction.connection.execute(same_name).first() is not None:
        raise Conflict(f"there is a {noun.name} named {name!r}", field="name")


def _delete(transaction: Transaction, noun: Noun, reference: str, actor: str) -> None:
    row = find(transaction.connection, noun, reference)
    _refuse_if_in_use(transaction, noun, row, "deleted")
    if noun is PROVIDER:
        _refuse_if_an_agent_asks(transaction, row)
    transaction.connection.execute(noun.table.delete().where(noun.table.c.id == row.id))
    record(transaction, actor, f"{noun.name}.delete", row.id, {"name": row.name})


def _refuse_if_in_use(transaction: Transaction, noun: Noun, row: Row[Any], verb: str) -> None:
    if noun is SECRET:
        _refuse_if_referenced(transaction, row, verb)
    elif noun.task_column is not None:
        waiting = sa.select(tasks.c.id).where(noun.task_column == row.id, tasks.c.state.in_(UNFINISHED_STATES))
        task = transaction.connection.execute(waiting.limit(1)).first()
        if task is not None:
            raise Conflict(
                f"{noun.name} {row.name!r} cannot be {verb}: unfinished tasks use it, such as {task.id}",
                hint="cancel them or let them finish",
            )


def _refuse_if_an_agent_asks(transaction: Transaction, provider: Row[Any]) -> None:
    asking = sa.select(agents.c.name).where(agents.c.provider_id == provider.id, agents.c.deleted_at.is_(None))
    agent = transaction.connection.execute(asking.limit(1)).first()
    if agent is not None:
        raise Conflict(
            f"provider {provider.name!r} cannot be deleted: agent {agent.name!r} uses it",
            hint="give the agent another provider first",
        )


def _refuse_if_referenced(transaction: Transaction, row: Row[Any], verb: str) -> None:
    for noun in (PROVIDER, CONNECTION):
        using = sa.select(noun.table.c.name).where(noun.table.c.secret_id == row.id)
        user = transaction.connection.execute(using.limit(1)).first()
        if user is not None:
            raise Conflict(
                f"secret {row.name!r} cannot be {verb}: {noun.name} {user.name!r} uses it",
                hint=f"give the {noun.name} another secret first",
            )
