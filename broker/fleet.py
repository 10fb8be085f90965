"""The fleet: workers introduce themselves, admins decide about them. A worker's session is in `sessions`."""

import base64
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    model_validator,
)
from sqlalchemy import Row
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.events import worker_event
from broker.fields import A_NUMBER, named, unless_reserved
from broker.store.store import Store
from broker.store.tables import workers
from broker.store.writer import Transaction
from protocols.errors import Conflict, InvalidName, NotFound, Unavailable, WorkerRefused
from protocols.identity import fingerprint, verify_registration, worker_id
from protocols.names import DEFAULT_POOL, check_name
from protocols.states import Approval, Presence

MAX_PENDING = 1000
"""Workers that wait for approval; a stolen worker key cannot fill the database with more."""
RESERVED_NAMES = frozenset({"overview", ".", ".."})
"""Words that stand in the place of a worker's name in a path, and what no path can end with."""
_RANDOM_ID_BYTES = 13


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("write it in base64") from None


def _base64(size: int) -> WithJsonSchema:
    # What travels is text, whatever pydantic thinks of bytes.
    length = -(-size // 3) * 4
    return WithJsonSchema(
        {"type": "string", "contentEncoding": "base64", "minLength": length, "maxLength": length}, mode="validation"
    )


Key = Annotated[bytes, BeforeValidator(_decoded), Field(min_length=32, max_length=32), _base64(32)]
Signature = Annotated[bytes, BeforeValidator(_decoded), Field(min_length=64, max_length=64), _base64(64)]
Line = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Pools = Annotated[list[Line], Field(min_length=1, max_length=100)]
Percent = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False), A_NUMBER]


def _checked(names: list[str], field: str) -> list[str]:
    try:
        return sorted({check_name(name, field) for name in names})
    except InvalidName as error:
        raise InvalidName(error.message, field=field) from error


class Registration(BaseModel):
    """How a worker introduces itself. Without keys it can report over HTTP, but have no session."""

    model_config = ConfigDict(
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "node-1",
                    "hostname": "node-1.example",
                    "ip_address": "192.0.2.7",
                    "max_agents": 4,
                    "cpu_cores": 8,
                    "memory_total_mb": 16384,
                    "os_info": "Debian 13",
                    "pools": ["default"],
                }
            ]
        },
    )

    name: Annotated[Line, Field(min_length=1), named(unless_reserved(RESERVED_NAMES))]
    hostname: Line = ""
    ip_address: Annotated[str, Field(max_length=64)] | None = None
    max_agents: Annotated[int, Field(ge=0, le=1_000_000), A_NUMBER] | None = None
    cpu_cores: Annotated[int, Field(ge=0, le=1_000_000), A_NUMBER] | None = None
    memory_total_mb: Annotated[int, Field(ge=0, le=2**40), A_NUMBER] | None = None
    os_info: Annotated[str, Field(max_length=1000)] | None = None
    version: Annotated[str, Field(max_length=64)] | None = None
    pools: Pools = Field(default=[DEFAULT_POOL])
    """The pools that it would like to serve, which an admin sees and may change when approving it."""
    identity_key: Key | None = None
    sealing_key: Key | None = None
    signature: Signature | None = None

    @model_validator(mode="after")
    def _keys_go_together(self) -> "Registration":
        given = {self.identity_key is not None, self.sealing_key is not None, self.signature is not None}
        if len(given) > 1:
            raise ValueError("identity_key, sealing_key and signature go together: send all of them or none")
        return self


class Verdict(BaseModel):
    """An admin's decision about a worker. What is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"is_approved": True, "group": "lab", "pools": ["default"]}]},
    )

    is_approved: StrictBool = True
    group: Line | None = None
    pools: Pools | None = None
    fingerprint: Annotated[str, Field(max_length=40)] | None = None
    """What the admin has seen and compared: another one is refused."""


class HttpHeartbeat(BaseModel):
    """The state of a worker that has no session."""

    model_config = ConfigDict(
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [{"cpu_usage_percent": 12.5, "memory_usage_percent": 40, "disk_usage_percent": 71.2}]
        },
    )

    cpu_usage_percent: Percent
    memory_usage_percent: Percent
    disk_usage_percent: Percent | None = None


class Fleet:
    """Registers workers and carries out what admins decide about them."""

    def __init__(self, store: Store, on_decision: Callable[[str], None]) -> None:
        self._writer = store.writer
        self._on_decision = on_decision
        """Called with a worker's id, on the writer thread, once its rejection or revocation is durable."""

    def register(self, form: Registration, remote_address: str | None) -> Future[tuple[str, bool]]:
        """Make a worker known, or bring what is known of it up to date; gives its id and whether it is new.

        Fails with Unauthenticated unless it holds its identity key, Conflict if an approved worker's sealing key
        is another now, InvalidName for its pools, Unavailable if too many wait for approval.
        """
        return self._writer.write(lambda transaction: _register(transaction, form, remote_address))

    def decide(self, reference: str, verdict: Verdict, actor: str) -> Future[str]:
        """Approve a worker, reject it, or revoke its approval; gives its id.

        Fails with NotFound, Conflict if its fingerprint is another than the admin saw, InvalidName.
        """
        return self._writer.write(lambda transaction: self._decide(transaction, reference, verdict, actor))

    def drain(self, reference: str, reason: str, actor: str) -> Future[str]:
        """Have a worker take no more work, until it is resumed; what it runs goes on. Gives its id.

        Draining it again changes nothing. Fails with NotFound.
        """
        return self._writer.write(lambda transaction: _drain(transaction, reference, reason, actor))

    def resume(self, reference: str, reason: str, actor: str) -> Future[str]:
        """Have a drained worker take work again; gives its id. Fails with NotFound."""
        return self._writer.write(lambda transaction: _resume(transaction, reference, reason, actor))

    def heartbeat(self, reference: str, beat: HttpHeartbeat) -> Future[str]:
        """Note a worker's state; gives its id. Fails with NotFound, or WorkerRefused if it was turned away."""
        return self._writer.write(lambda transaction: _heartbeat(transaction, reference, beat))

    def _decide(self, transaction: Transaction, reference: str, verdict: Verdict, actor: str) -> str:
        worker = find_worker(transaction.connection, reference)
        if verdict.fingerprint is not None and verdict.fingerprint != worker.fingerprint:
            raise Conflict(
                "the worker's fingerprint is not the one that you saw",
                field="fingerprint",
                hint="compare its present fingerprint with the one that the worker itself shows",
            )
        changes = _changes(transaction, worker, verdict, actor)
        if changes:
            transaction.connection.execute(workers.update().where(workers.c.id == worker.id).values(changes))
            kind = "worker.approved" if verdict.is_approved else "worker.rejected"
            told = {name: value for name, value in changes.items() if name in ("approval", "group", "pools")}
            transaction.events.append(worker_event(kind, worker.id, {**told, "by": actor}))
            record(transaction, actor, kind, worker.id, {**told, "fingerprint": worker.fingerprint})
        if not verdict.is_approved:
            transaction.after_commit(partial(self._on_decision, worker.id))
        return str(worker.id)


def find_worker(connection: Connection, reference: str) -> Row[Any]:
    """Return the worker with this id or name; raises NotFound, or Conflict if several have the name."""
    found = connection.execute(sa.select(workers).where(workers.c.id == reference)).first()
    if found is not None:
        return found
    named = connection.execute(sa.select(workers).where(workers.c.name == reference).limit(2)).all()
    if not named:
        raise NotFound(f"there is no worker {reference[:128]!r}")
    if len(named) > 1:
        raise Conflict(f"several workers are named {reference[:128]!r}", hint="use the worker's id")
    return named[0]


def _register(transaction: Transaction, form: Registration, remote_address: str | None) -> tuple[str, bool]:
    facts = form.model_dump(include={"name", "max_agents", "cpu_cores", "memory_total_mb", "os_info", "version"})
    facts["hostname"] = form.hostname or form.name
    facts["ip_address"] = form.ip_address or remote_address
    if form.identity_key is None:
        random_id = "w-" + base64.b32encode(secrets.token_bytes(_RANDOM_ID_BYTES)).decode().lower()[:20]
        _insert(transaction, form, {"id": random_id, **facts})
        return random_id, True
    facts |= _proven_keys(form)
    known_id = worker_id(form.identity_key)
    known = transaction.connection.execute(sa.select(workers).where(workers.c.id == known_id)).first()
    if known is None:
        _insert(transaction, form, {"id": known_id, **facts})
        return known_id, True
    if known.approval == Approval.APPROVED.value and known.sealing_key != form.sealing_key:
        raise Conflict(
            "this worker was approved with another sealing key",
            hint="revoke it, register it again and approve its new fingerprint",
        )
    transaction.connection.execute(workers.update().where(workers.c.id == known_id).values(facts))
    return known_id, False


def _proven_keys(form: Registration) -> dict[str, Any]:
    """Return the columns of the worker's keys, once it has proved that they are its own."""
    identity_key, sealing_key = form.identity_key or b"", form.sealing_key or b""
    verify_registration(identity_key, form.signature or b"", sealing_key=sealing_key, hostname=form.hostname)
    return {
        "identity_key": identity_key,
        "sealing_key": sealing_key,
        "fingerprint": fingerprint(identity_key, sealing_key),
    }


def _insert(transaction: Transaction, form: Registration, facts: dict[str, Any]) -> None:
    pending = sa.select(sa.func.count()).where(workers.c.approval == Approval.PENDING.value)
    if transaction.connection.execute(pending).scalar_one() >= MAX_PENDING:
        raise Unavailable(
            f"{MAX_PENDING} workers wait for approval already", hint="approve or reject some: warren worker list"
        )
    row = {
        **facts,
        "approval": Approval.PENDING.value,
        # Later wishes are not heard: an admin must be able to trust what the list shows.
        "pools": _checked(form.pools, "pools"),
        "presence": Presence.OFFLINE.value,
        "epoch": 0,
        "actions": [],
        "slots": {},
        "registered_at": transaction.now,
    }
    transaction.connection.execute(workers.insert().values(row))
    told = {"name": form.name, "hostname": facts["hostname"], "fingerprint": facts.get("fingerprint")}
    transaction.events.append(worker_event("worker.registered", facts["id"], told))


def _changes(transaction: Transaction, worker: Row[Any], verdict: Verdict, actor: str) -> dict[str, Any]:
    """Return the columns that the decision changes."""
    wanted: dict[str, Any] = {"approval": _approval(worker, verdict).value}
    if verdict.group is not None:
        wanted["group"] = _checked([verdict.group], "group")[0]
    if verdict.pools is not None:
        wanted["pools"] = _checked(verdict.pools, "pools")
    changes = {name: value for name, value in wanted.items() if value != getattr(worker, name)}
    if changes.get("approval") == Approval.APPROVED.value:
        changes |= {"approved_at": transaction.now, "approved_by": actor}
    return changes


def _approval(worker: Row[Any], verdict: Verdict) -> Approval:
    if verdict.is_approved:
        return Approval.APPROVED
    was_trusted = worker.approval in (Approval.APPROVED.value, Approval.REVOKED.value)
    return Approval.REVOKED if was_trusted else Approval.REJECTED


def _drain(transaction: Transaction, reference: str, reason: str, actor: str) -> str:
    worker = find_worker(transaction.connection, reference)
    if worker.drained_at is None:
        changes = {"drained_at": transaction.now, "drained_by": actor}
        if worker.presence == Presence.ONLINE.value:
            changes["presence"] = Presence.DRAINING.value
        _change(transaction, worker.id, changes, "worker.draining", reason, actor)
    return str(worker.id)


def _resume(transaction: Transaction, reference: str, reason: str, actor: str) -> str:
    worker = find_worker(transaction.connection, reference)
    if worker.drained_at is not None:
        changes: dict[str, Any] = {"drained_at": None, "drained_by": None}
        # Unless it is leaving of its own accord.
        if worker.presence == Presence.DRAINING.value and not (worker.heartbeat or {}).get("draining"):
            changes["presence"] = Presence.ONLINE.value
        _change(transaction, worker.id, changes, "worker.resumed", reason, actor)
    return str(worker.id)


def _change(
    transaction: Transaction, worker_id: str, changes: dict[str, Any], kind: str, reason: str, actor: str
) -> None:
    transaction.connection.execute(workers.update().where(workers.c.id == worker_id).values(changes))
    transaction.events.append(worker_event(kind, worker_id, {"reason": reason, "by": actor}))
    record(transaction, actor, kind, worker_id, {"reason": reason})


def _heartbeat(transaction: Transaction, reference: str, beat: HttpHeartbeat) -> str:
    worker = find_worker(transaction.connection, reference)
    if worker.approval in (Approval.REJECTED.value, Approval.REVOKED.value):
        raise WorkerRefused(f"this worker was {worker.approval}")
    seen = {
        "cpu_percent": beat.cpu_usage_percent,
        "memory_percent": beat.memory_usage_percent,
        "disk_percent": beat.disk_usage_percent,
        "at": transaction.now,
    }
    transaction.connection.execute(
        workers.update().where(workers.c.id == worker.id).values(heartbeat=seen, last_seen_at=transaction.now)
    )
    return str(worker.id)
