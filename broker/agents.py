"""Agents: in whose name an LLM is asked, with which model, prompt and tools. A profile's changes are its versions."""

from collections.abc import Mapping
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row, Select
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.events import agent_event
from broker.fleet import find_worker
from broker.resources import PROVIDER, find
from broker.store.tables import agent_versions, agents, name_of, providers, tasks, workers
from broker.store.writer import Transaction, Writer
from protocols import ids
from protocols.errors import Conflict, NotFound
from protocols.states import TaskState

RESERVED_NAMES = frozenset({"tools", "actions", "tasks", "memories", ".", ".."})
"""Words that stand, or will stand, in the place of an agent's name in a path."""
_DELETED = "deleted"
_PROFILE = (
    "name",
    "description",
    "role",
    "llm_provider",
    "llm_provider_id",
    "llm_model",
    "system_prompt",
    "enabled_tools",
    "pool",
    "worker",
    "worker_id",
)


class AgentStatus(StrEnum):
    """Whether an agent takes work."""

    IDLE = "idle"
    BUSY = "busy"
    """It is idle by its row, and a task of its runs. Never stored."""
    OFFLINE = "offline"


# The running tasks are few and looked up once, by their state; an agent's tasks may be a million.
_BUSY_IDS = sa.select(tasks.c.agent_id).where(tasks.c.state == TaskState.RUNNING.value, tasks.c.agent_id.is_not(None))


def shown_status() -> sa.ColumnElement[str]:
    """Return an agent's status as people see it."""
    busy = sa.and_(agents.c.status == AgentStatus.IDLE.value, agents.c.id.in_(_BUSY_IDS))
    return sa.case((busy, AgentStatus.BUSY.value), else_=agents.c.status)


def living_agents() -> Select[Any]:
    """Return the query of all agents that are not deleted, with the names that people know their columns by."""
    return sa.select(
        agents,
        name_of(providers, agents.c.provider_id).label("llm_provider"),
        agents.c.provider_id.label("llm_provider_id"),
        agents.c.model.label("llm_model"),
        name_of(workers, agents.c.worker_id).label("worker"),
        shown_status().label("shown_status"),
    ).where(agents.c.deleted_at.is_(None))


_ONE = living_agents().where(
    sa.or_(agents.c.id == sa.bindparam("reference"), agents.c.name == sa.bindparam("reference"))
)


def find_agent(connection: Connection, reference: str) -> Row[Any]:
    """Return the row of `living_agents` with this id or name; raises NotFound."""
    found = connection.execute(_ONE, {"reference": reference}).first()
    if found is None:
        raise NotFound(f"there is no agent {reference[:128]!r}")
    return found


class Agents:
    """Creates, changes, starts, stops and deletes agents.

    Fields arrive validated; `llm_provider` and `worker_id` name what they mean by id or name.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def create(self, fields: Mapping[str, Any], actor: str) -> Future[str]:
        """Store a new agent, which is idle; gives its id.

        Fails with Conflict for a name in use, NotFound for an unknown provider or worker.
        """
        return self._writer.write(lambda transaction: _create(transaction, fields, actor))

    def change(self, reference: str, fields: Mapping[str, Any], actor: str) -> Future[str]:
        """Change what `fields` names and nothing else; gives its id. Tasks that exist keep what they were made with.

        Fails as `create` does, and with NotFound for an unknown agent.
        """
        return self._writer.write(lambda transaction: _change(transaction, reference, fields, actor))

    def start(self, reference: str, actor: str) -> Future[str]:
        """Let it take work again; gives its id. Fails with NotFound."""
        return self._writer.write(lambda transaction: _set_status(transaction, reference, AgentStatus.IDLE, actor))

    def stop(self, reference: str, actor: str) -> Future[str]:
        """Refuse new work for it; what it has already is carried out. Gives its id. Fails with NotFound."""
        return self._writer.write(lambda transaction: _set_status(transaction, reference, AgentStatus.OFFLINE, actor))

    def delete(self, reference: str, actor: str) -> Future[None]:
        """Take it away, and keep its row for the tasks that name it. Its name is free again. Fails with NotFound."""
        return self._writer.write(lambda transaction: _delete(transaction, reference, actor))


def _create(transaction: Transaction, fields: Mapping[str, Any], actor: str) -> str:
    columns = _columns(transaction.connection, fields)
    _refuse_taken_name(transaction.connection, columns["name"])
    agent_id = ids.new_id(ids.AGENT)
    row = {
        **columns,
        "id": agent_id,
        "status": AgentStatus.IDLE.value,
        "version": 1,
        "created_at": transaction.now,
        "created_by": actor,
        "updated_at": transaction.now,
    }
    transaction.connection.execute(agents.insert().values(row))
    _keep_version(transaction, agent_id, actor)
    transaction.events.append(agent_event(agent_id, columns["name"], AgentStatus.IDLE, actor))
    record(transaction, actor, "agent.create", agent_id, {"name": columns["name"]})
    return agent_id


def _change(transaction: Transaction, reference: str, fields: Mapping[str, Any], actor: str) -> str:
    agent = find_agent(transaction.connection, reference)
    wanted = _columns(transaction.connection, fields)
    columns = {column: value for column, value in wanted.items() if value != agent._mapping[agents.c[column]]}
    if not columns:
        return str(agent.id)
    if "name" in columns:
        _refuse_taken_name(transaction.connection, columns["name"])
    _update(transaction, agent.id, {**columns, "version": agent.version + 1})
    _keep_version(transaction, agent.id, actor)
    record(transaction, actor, "agent.change", agent.id, {"name": agent.name, "fields": sorted(columns)})
    return str(agent.id)


def _set_status(transaction: Transaction, reference: str, status: AgentStatus, actor: str) -> str:
    agent = find_agent(transaction.connection, reference)
    if agent.status != status.value:
        _update(transaction, agent.id, {"status": status.value})
        transaction.events.append(agent_event(agent.id, agent.name, status, actor))
        action = "agent.stop" if status is AgentStatus.OFFLINE else "agent.start"
        record(transaction, actor, action, agent.id, {"name": agent.name})
    return str(agent.id)


def _delete(transaction: Transaction, reference: str, actor: str) -> None:
    agent = find_agent(transaction.connection, reference)
    _update(transaction, agent.id, {"deleted_at": transaction.now, "status": AgentStatus.OFFLINE.value})
    transaction.events.append(agent_event(agent.id, agent.name, _DELETED, actor))
    record(transaction, actor, "agent.delete", agent.id, {"name": agent.name})


def _columns(connection: Connection, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns for `fields`; raises NotFound for a provider or worker that does not exist."""
    columns = dict(fields)
    if "llm_model" in columns:
        columns["model"] = columns.pop("llm_model")
    if "llm_provider" in columns:
        reference = columns.pop("llm_provider")
        columns["provider_id"] = None if reference is None else _provider_id(connection, reference)
    if columns.get("worker_id") is not None:
        columns["worker_id"] = _worker_id(connection, columns["worker_id"])
    return columns


def _provider_id(connection: Connection, reference: str) -> str:
    try:
        return str(find(connection, PROVIDER, reference).id)
    except NotFound as error:
        raise NotFound(error.message, field="llm_provider", hint="add it first: POST /providers") from error


def _worker_id(connection: Connection, reference: str) -> str:
    try:
        return str(find_worker(connection, reference).id)
    except NotFound as error:
        raise NotFound(error.message, field="worker_id", hint="GET /workers lists those that exist") from error


def _refuse_taken_name(connection: Connection, name: str) -> None:
    taken = sa.select(agents.c.id).where(agents.c.name == name, agents.c.deleted_at.is_(None))
    if connection.execute(taken).first() is not None:
        raise Conflict(f"there is an agent named {name!r}", field="name", hint="choose another name")


def _update(transaction: Transaction, agent_id: str, columns: Mapping[str, Any]) -> None:
    changed = {**columns, "updated_at": transaction.now}
    transaction.connection.execute(agents.update().where(agents.c.id == agent_id).values(changed))


def _keep_version(transaction: Transaction, agent_id: str, actor: str) -> None:
    """Keep the profile as it is now: with ids for programs, and with the names of this moment for people."""
    agent = find_agent(transaction.connection, agent_id)
    transaction.connection.execute(
        agent_versions.insert().values(
            agent_id=agent_id,
            version=agent.version,
            profile={field: agent._mapping[field] for field in _PROFILE},
            at=transaction.now,
            actor=actor,
        )
    )
