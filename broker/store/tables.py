"""The tables. Times are milliseconds since the epoch, UTC; blobs named so hold MessagePack."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from protocols import ids
from protocols.states import TaskState

_SKEW_MS = 60_000
"""How far the time in an id may be from the time in its row, which is when its transaction began."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by themselves only in a column declared INTEGER.
_SERIAL = BigInteger().with_variant(Integer, "sqlite")


def _where(condition: str) -> dict[str, Any]:
    """Index only some rows: what has finished far outnumbers what is looked for."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


tasks = Table(
    "tasks",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("action", String(128), nullable=False),
    Column("lane", String(200), nullable=False),
    Column("pool", String(64), nullable=False),
    Column("provider_id", String(80)),
    Column("connection_id", String(80)),
    Column("pinned_worker_id", String(80)),
    Column("agent_id", String(80)),
    Column("agent_version", Integer),
    # The task whose success made this one, or that whoever submitted it named.
    Column("parent_id", String(80)),
    Column("input_blob", LargeBinary, nullable=False),
    Column("title", Text),
    Column("description", Text),
    Column("instructions", Text),
    Column("required_tools", sa.JSON(none_as_null=True)),
    # The forms of the tasks that follow its success, in order.
    Column("then_blob", LargeBinary),
    Column("priority", Integer, nullable=False),
    Column("delivery", String(20), nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("deadline_at", BigInteger),
    # Since when it may run; None while it waits for its concurrency key.
    Column("due_at", BigInteger),
    # When it might first have run, or was redriven: how long it may be throttled counts from here.
    Column("eligible_at", BigInteger, nullable=False),
    Column("wait_reason", Text),
    Column("concurrency_key", String(200)),
    Column("concurrency_limit", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("execution_id", String(80)),
    Column("worker_id", String(80)),
    Column("batch_id", String(80)),
    Column("cancel_requested", Boolean, nullable=False),
    Column("result_blob", LargeBinary),
    Column("usage_blob", LargeBinary),
    Column("error_class", String(20)),
    Column("error_code", String(128)),
    Column("error_message", Text),
    Column("cause", String(30)),
    Column("idempotency_key", String(300)),
    Column("request_sha256", LargeBinary(32)),
    Column("created_by", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    sa.UniqueConstraint("created_by", "idempotency_key"),
    Index("ix_tasks_state_id", "state", "id"),
    Index("ix_tasks_waiting", "lane", "priority", "due_at", "id", **_where("state = 'scheduled'")),
    Index("ix_tasks_due", "due_at", "lane", **_where("state = 'scheduled'")),
    Index("ix_tasks_window", "lane", "batch_id", **_where("state = 'queued'")),
    Index("ix_tasks_concurrency", "concurrency_key", "state", **_where("concurrency_key IS NOT NULL")),
    Index("ix_tasks_provider", "provider_id", "state", **_where("provider_id IS NOT NULL")),
    Index("ix_tasks_connection", "connection_id", "state", **_where("connection_id IS NOT NULL")),
    Index("ix_tasks_deadline", "state", "deadline_at", **_where("deadline_at IS NOT NULL")),
    Index("ix_tasks_action_id", "action", "id"),
    Index("ix_tasks_priority_id", "priority", "id"),
    Index("ix_tasks_lane_id", "lane", "id"),
    Index("ix_tasks_pool_id", "pool", "id"),
    Index("ix_tasks_worker_id_id", "worker_id", "id", **_where("worker_id IS NOT NULL")),
    Index("ix_tasks_agent_id_id", "agent_id", "id", **_where("agent_id IS NOT NULL")),
    Index("ix_tasks_parent_id_id", "parent_id", "id", **_where("parent_id IS NOT NULL")),
    Index("ix_tasks_agent_unfinished", "agent_id", "id", **_where("agent_id IS NOT NULL AND finished_at IS NULL")),
    Index(
        "ix_tasks_pinned_unfinished",
        "pinned_worker_id",
        "id",
        **_where("pinned_worker_id IS NOT NULL AND finished_at IS NULL"),
    ),
    Index("ix_tasks_created_at", "created_at"),
    Index("ix_tasks_state_finished_at", "state", "finished_at", **_where("finished_at IS NOT NULL")),
)


def in_state(state: TaskState) -> sa.ColumnElement[bool]:
    """Return the condition that a task is in this state, in the form that SQLite's partial indexes need.

    It uses one only if it can read from the statement itself, without its parameters, that the rows are in it.
    """
    return tasks.c.state == sa.literal_column(f"'{state.value}'")


def in_period(
    at: Column[Any], key: Column[Any], prefix: str, after: datetime | None, before: datetime | None
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that the time `at` is `after` or later, and before `before`.

    They are also about the ids (`key`), which tell when they were made: every index has ids in order.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if after is not None:
        since = int(after.timestamp() * 1000)
        conditions += [at >= since, key >= ids.first_id(prefix, since - _SKEW_MS)]
    if before is not None:
        until = int(before.timestamp() * 1000)
        conditions += [at < until, key < ids.first_id(prefix, until + _SKEW_MS)]
    return conditions


def name_of(table: Table, reference: Column[Any]) -> sa.ColumnElement[str | None]:
    """Return the name of the row of `table` that the column `reference` names by id; the id itself if it is gone.

    It is no join, so that a list's total is counted without looking up a name for every row.
    """
    name = sa.select(table.c.name).where(table.c.id == reference).scalar_subquery()
    return sa.func.coalesce(name, reference)


attempts = Table(
    "attempts",
    metadata,
    Column("task_id", String(80), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("lane", String(200), nullable=False),
    Column("batch_id", String(80), nullable=False),
    Column("envelope_sha256", LargeBinary(32), nullable=False),
    Column("published_at", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("lane", String(200), nullable=False),
    Column("transport", String(80), nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("confirmed_at", BigInteger),
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("task_id", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", String(80), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("isolated", Boolean, nullable=False),
    Column("claimed_at", BigInteger, nullable=False),
    Column("lease_ended_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("late", Boolean, nullable=False),
    Column("outcome_kind", String(20)),
    Column("outcome_blob", LargeBinary),
    Index("ix_executions_task_id", "task_id"),
    Index("ix_executions_leased", "worker_id", "epoch", **_where("ended_at IS NULL")),
)

events = Table(
    "events",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("type", String(40), nullable=False),
    Column("task_id", String(80)),
    Column("attempt", Integer),
    Column("execution_id", String(80)),
    Column("worker_id", String(80)),
    Column("data", sa.JSON, nullable=False),
    Index("ix_events_task_id_id", "task_id", "id"),
    # A rising id is never given twice, also after the newest rows were deleted.
    sqlite_autoincrement=True,
)

outputs = Table(
    "outputs",
    metadata,
    Column("execution_id", String(80), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("task_id", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("last", Boolean, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("chunks_blob", LargeBinary, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("task_id", String(80), nullable=False),
    # The task's, so that nobody has to look at a million tasks to choose or to count.
    Column("action", String(128), nullable=False),
    Column("lane", String(200), nullable=False),
    Column("cause", String(30), nullable=False),
    Column("error_class", String(20)),
    Column("error_code", String(128)),
    Column("error_message", Text),
    Column("attempts", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("dead_at", BigInteger, nullable=False),
    Column("resolved_at", BigInteger),
    Column("resolution", String(20)),
    Index("ix_dead_letters_task_id", "task_id"),
    Index("ix_dead_letters_resolved_at_id", "resolved_at", "id"),
    Index("ix_dead_letters_cause", "cause", "id", **_where("resolved_at IS NULL")),
    Index("ix_dead_letters_action", "action", "id", **_where("resolved_at IS NULL")),
    Index("ix_dead_letters_lane", "lane", "id", **_where("resolved_at IS NULL")),
    Index("ix_dead_letters_error_code", "error_code", "id", **_where("resolved_at IS NULL")),
    Index("ix_dead_letters_dead_at", "dead_at", "id", **_where("resolved_at IS NULL")),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("ip_address", String(64)),
    Column("identity_key", LargeBinary(32)),
    Column("sealing_key", LargeBinary(32)),
    Column("fingerprint", String(40)),
    Column("approval", String(20), nullable=False),
    Column("group", String(128)),
    Column("pools", sa.JSON, nullable=False),
    Column("presence", String(20), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("version", String(64)),
    Column("os_info", Text),
    Column("cpu_cores", Integer),
    Column("memory_total_mb", Integer),
    Column("max_agents", Integer),
    Column("actions", sa.JSON, nullable=False),
    Column("slots", sa.JSON, nullable=False),
    Column("heartbeat", sa.JSON),
    Column("last_seen_at", BigInteger),
    Column("registered_at", BigInteger, nullable=False),
    Column("approved_at", BigInteger),
    Column("approved_by", String(128)),
    # Since when it shall take no work, and who said so.
    Column("drained_at", BigInteger),
    Column("drained_by", String(128)),
)

sessions = Table(
    "sessions",
    metadata,
    Column("worker_id", String(80), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("boot_id", String(80), nullable=False),
    Column("control_plane", String(80), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
    Column("lease_ended_at", BigInteger),
    Index("ix_sessions_live", "control_plane", **_where("lease_ended_at IS NULL")),
)

providers = Table(
    "providers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("base_url", Text, nullable=False),
    Column("secret_id", String(80)),
    Column("models", sa.JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

connections = Table(
    "connections",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("hostname", String(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("username", String(128), nullable=False),
    Column("auth_method", String(20), nullable=False),
    Column("secret_id", String(80)),
    Column("host_keys", sa.JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("category", String(64)),
    Column("version", Integer, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("role", String(20), nullable=False),
    Column("key_sha256", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(200), nullable=False),
    Column("data", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("value", sa.JSON, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", String(128)),
)

agents = Table(
    "agents",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("description", Text),
    Column("role", String(128)),
    Column("provider_id", String(80)),
    Column("model", String(256)),
    Column("system_prompt", Text),
    Column("enabled_tools", sa.JSON, nullable=False),
    Column("pool", String(64), nullable=False),
    Column("worker_id", String(80)),
    Column("status", String(20), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Index("uq_agents_name", "name", unique=True, **_where("deleted_at IS NULL")),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    Column("agent_id", String(80), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("profile", sa.JSON, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("task_id", String(80)),
    Column("name", String(255), nullable=False),
    Column("content_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index("ix_artifacts_task_id_id", "task_id", "id", **_where("task_id IS NOT NULL")),
)

paused_lanes = Table(
    "paused_lanes",
    metadata,
    Column("lane", String(200), primary_key=True),
    Column("reason", Text),
    Column("paused_at", BigInteger, nullable=False),
    Column("paused_by", String(128), nullable=False),
)
