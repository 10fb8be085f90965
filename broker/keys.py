"""API keys: who is asking, and what they may do. Only digests are stored."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.private_file import create_private_file, read_private_file
from broker.store.store import Store
from broker.store.tables import api_keys
from broker.store.writer import Transaction
from protocols import ids
from protocols.errors import Conflict, InvalidSettings, NotFound, Unauthenticated
from protocols.states import Role

BUILTIN_ROLES = (Role.ADMIN, Role.WORKER)
"""Roles whose key lies in the data directory, in `<role>.key`."""
_PREFIX = "wrn_"
_KEY = re.compile(r"wrn_[A-Za-z0-9_-]{43}")
_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a key belongs to."""

    name: str
    role: Role
    key_id: str

    def may(self, role: Role) -> bool:
        """Return whether this principal has `role`. No human role contains the workers', nor the other way round."""
        if Role.WORKER in (role, self.role):
            return role is self.role
        return _RANK[self.role] >= _RANK[role]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when its text is known."""

    principal: Principal
    text: str


class Keys:
    """The valid keys.

    They are all held in memory and every change passes through here, after its commit; so authentication costs
    no query, sees a revocation at once, and works while the database does not.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._valid: dict[bytes, Principal] = {}

    def bootstrap(self, data_dir: Path) -> None:
        """Load the keys, and see to it that the data directory holds the built-in ones. Blocks.

        A key file that was deleted is made anew, and the key that it held before is revoked.
        Raises InvalidSettings for a key file that others may read, or that holds no valid key.
        """
        for role in BUILTIN_ROLES:
            text = _key_in(data_dir / f"{role}.key")
            self._store.writer.write(partial(_install, role=role, text=text)).result()
        self._valid = self._store.read(_valid_keys).result()

    def authenticate(self, presented: str | None) -> Principal:
        """Return whose key this is; raises Unauthenticated."""
        if not presented:
            raise Unauthenticated(hint="send `Authorization: Bearer <API key>`")
        principal = self._valid.get(_digest(presented))
        if principal is None:
            raise Unauthenticated("this API key is unknown or was revoked")
        return principal

    def create(self, name: str, role: Role, actor: str) -> Future[NewKey]:
        """Make a key; fails with Conflict if a valid one has this name, since tasks are remembered by it."""
        text = _new_text()
        return self._store.writer.write(lambda transaction: self._create(transaction, name, role, text, actor))

    def revoke(self, key_id: str, actor: str) -> Future[None]:
        """Make a key useless at once; fails with NotFound, or Conflict for a built-in one."""
        return self._store.writer.write(lambda transaction: self._revoke(transaction, key_id, actor))

    def _create(self, transaction: Transaction, name: str, role: Role, text: str, actor: str) -> NewKey:
        same_name = sa.select(api_keys.c.id).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        if transaction.connection.execute(same_name).first():
            raise Conflict(f"there is a valid key named {name!r}", field="name")
        principal = _insert(transaction, name, role, text)
        record(transaction, actor, "key.create", principal.key_id, {"name": name, "role": role.value})
        transaction.after_commit(lambda: self._valid.update({_digest(text): principal}))
        return NewKey(principal, text)

    def _revoke(self, transaction: Transaction, key_id: str, actor: str) -> None:
        valid = sa.select(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        row = transaction.connection.execute(valid).first()
        if row is None:
            raise NotFound(f"there is no valid key {key_id[:80]!r}")
        if row.name in BUILTIN_ROLES:
            raise Conflict(
                f"the key {row.name!r} belongs to the data directory",
                hint=f"delete {row.name}.key there and restart the control plane: it makes a new one",
            )
        _revoke_rows(transaction, [key_id])
        record(transaction, actor, "key.revoke", key_id, {"name": row.name})
        transaction.after_commit(partial(self._forget, row.key_sha256))

    def _forget(self, digest: bytes) -> None:
        self._valid.pop(digest, None)


def _key_in(path: Path) -> str:
    content = read_private_file(path)
    if content is None:
        text = _new_text()
        create_private_file(path, f"{text}\n".encode())
        return text
    text = content.decode("ascii", errors="replace").strip()
    if not _KEY.fullmatch(text):
        raise InvalidSettings(f"{path} holds no API key", hint="delete the file: the next start makes a new key")
    return text


def _install(transaction: Transaction, role: Role, text: str) -> None:
    """Make `text` the only valid key of this built-in role."""
    same_name = sa.select(api_keys).where(api_keys.c.name == role.value, api_keys.c.revoked_at.is_(None))
    rows = transaction.connection.execute(same_name).all()
    digest = _digest(text)
    _revoke_rows(transaction, [row.id for row in rows if row.key_sha256 != digest])
    if not any(row.key_sha256 == digest for row in rows):
        known = sa.select(api_keys.c.id).where(api_keys.c.key_sha256 == digest)
        if transaction.connection.execute(known).first():
            raise InvalidSettings(
                f"{role}.key holds a key that was revoked", hint="delete the file: the next start makes a new key"
            )
        _insert(transaction, role.value, role, text)


def _insert(transaction: Transaction, name: str, role: Role, text: str) -> Principal:
    principal = Principal(name, role, ids.new_id(ids.API_KEY))
    transaction.connection.execute(
        api_keys.insert().values(
            id=principal.key_id, name=name, role=role.value, key_sha256=_digest(text), created_at=transaction.now
        )
    )
    return principal


def _revoke_rows(transaction: Transaction, key_ids: Iterable[str]) -> None:
    transaction.connection.execute(
        api_keys.update().where(api_keys.c.id.in_(list(key_ids))).values(revoked_at=transaction.now)
    )


def _valid_keys(connection: Connection) -> dict[bytes, Principal]:
    rows = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_at.is_(None)))
    return {row.key_sha256: _principal(row) for row in rows}


def _principal(row: Row[tuple[object, ...]]) -> Principal:
    return Principal(row.name, Role(row.role), row.id)


def _new_text() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def _digest(text: str) -> bytes:
    # A key has 256 random bits: nobody can guess it from its digest, so no slow hash is needed.
    return hashlib.sha256(text.encode(errors="replace")).digest()
