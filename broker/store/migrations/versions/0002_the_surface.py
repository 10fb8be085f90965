"""What the surface needs: agents, artifacts, paused lanes, drained workers, and tasks that name each other."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TASK_INDEXES: tuple[tuple[str, list[str], str | None, str], ...] = (
    ("ix_tasks_action_id", ["action", "id"], None, "1000000 100000 1"),
    ("ix_tasks_priority_id", ["priority", "id"], None, "1000000 400000 1"),
    ("ix_tasks_lane_id", ["lane", "id"], None, "1000000 300000 1"),
    ("ix_tasks_pool_id", ["pool", "id"], None, "1000000 900000 1"),
    ("ix_tasks_worker_id_id", ["worker_id", "id"], "worker_id IS NOT NULL", "1000000 20000 1"),
    ("ix_tasks_agent_id_id", ["agent_id", "id"], "agent_id IS NOT NULL", "1000000 10000 1"),
    ("ix_tasks_parent_id_id", ["parent_id", "id"], "parent_id IS NOT NULL", "100000 10 1"),
    (
        "ix_tasks_agent_unfinished",
        ["agent_id", "id"],
        "agent_id IS NOT NULL AND finished_at IS NULL",
        "100000 10000 1",
    ),
    (
        "ix_tasks_pinned_unfinished",
        ["pinned_worker_id", "id"],
        "pinned_worker_id IS NOT NULL AND finished_at IS NULL",
        "100000 1000 1",
    ),
    ("ix_tasks_created_at", ["created_at"], None, "1000000 10"),
    ("ix_tasks_state_finished_at", ["state", "finished_at"], "finished_at IS NOT NULL", "1000000 300000 10"),
)
"""Name, columns, condition, and how a large table looks (see 0001)."""
_OPEN = "resolved_at IS NULL"
_LETTER_INDEXES: tuple[tuple[str, list[str], str | None, str], ...] = (
    ("ix_dead_letters_cause", ["cause", "id"], _OPEN, "1000000 200000 1"),
    ("ix_dead_letters_action", ["action", "id"], _OPEN, "1000000 100000 1"),
    ("ix_dead_letters_lane", ["lane", "id"], _OPEN, "1000000 100000 1"),
    ("ix_dead_letters_error_code", ["error_code", "id"], _OPEN, "1000000 50000 1"),
    ("ix_dead_letters_dead_at", ["dead_at", "id"], _OPEN, "1000000 10 1"),
)


def _where(condition: str | None) -> dict[str, Any]:
    return {} if condition is None else {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Apply."""
    op.add_column("tasks", sa.Column("agent_id", sa.String(length=80), nullable=True))
    op.add_column("tasks", sa.Column("agent_version", sa.Integer(), nullable=True))
    op.add_column("tasks", sa.Column("parent_id", sa.String(length=80), nullable=True))
    op.add_column("tasks", sa.Column("instructions", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("required_tools", sa.JSON(), nullable=True))
    op.add_column("tasks", sa.Column("then_blob", sa.LargeBinary(), nullable=True))
    for name, columns, condition, _ in _TASK_INDEXES:
        op.create_index(name, "tasks", columns, unique=False, **_where(condition))
    op.add_column("workers", sa.Column("drained_at", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("drained_by", sa.String(length=128), nullable=True))
    _name_action_and_lane()
    for name, columns, condition, _ in _LETTER_INDEXES:
        op.create_index(name, "dead_letters", columns, unique=False, **_where(condition))
    op.add_column("settings", sa.Column("updated_by", sa.String(length=128), nullable=True))
    op.create_table(
        "agents",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("role", sa.String(length=128), nullable=True),
        sa.Column("provider_id", sa.String(length=80), nullable=True),
        sa.Column("model", sa.String(length=256), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=True),
        sa.Column("enabled_tools", sa.JSON(), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("worker_id", sa.String(length=80), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_index("uq_agents_name", "agents", ["name"], unique=True, **_where("deleted_at IS NULL"))
    op.create_table(
        "agent_versions",
        sa.Column("agent_id", sa.String(length=80), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "version", name=op.f("pk_agent_versions")),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("task_id", sa.String(length=80), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_index(
        "ix_artifacts_task_id_id", "artifacts", ["task_id", "id"], unique=False, **_where("task_id IS NOT NULL")
    )
    op.create_table(
        "paused_lanes",
        sa.Column("lane", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("paused_at", sa.BigInteger(), nullable=False),
        sa.Column("paused_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("pk_paused_lanes")),
    )
    _tell_planner()


def _name_action_and_lane() -> None:
    """Have each dead letter name the action and the lane of its task."""
    op.add_column("dead_letters", sa.Column("action", sa.String(length=128), nullable=True))
    op.add_column("dead_letters", sa.Column("lane", sa.String(length=200), nullable=True))
    op.execute(
        "UPDATE dead_letters SET"
        " action = coalesce((SELECT action FROM tasks WHERE tasks.id = dead_letters.task_id), ''),"
        " lane = coalesce((SELECT lane FROM tasks WHERE tasks.id = dead_letters.task_id), '')"
    )
    with op.batch_alter_table("dead_letters") as batch_op:
        batch_op.alter_column("action", existing_type=sa.String(length=128), nullable=False)
        batch_op.alter_column("lane", existing_type=sa.String(length=200), nullable=False)


def _tell_planner() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    for table, indexes in (("tasks", _TASK_INDEXES), ("dead_letters", _LETTER_INDEXES)):
        for name, _, _, rows in indexes:
            connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", (table, name, rows))
    told = ("dead_letters", "ix_dead_letters_resolved_at_id", "1000000 500000 1")
    connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", told)
    connection.exec_driver_sql("ANALYZE sqlite_schema")


def downgrade() -> None:
    """Take back."""
    op.drop_table("paused_lanes")
    op.drop_table("artifacts")
    op.drop_table("agent_versions")
    op.drop_table("agents")
    for name, _, condition, _ in reversed(_LETTER_INDEXES):
        op.drop_index(name, "dead_letters", **_where(condition))
    op.drop_column("dead_letters", "lane")
    op.drop_column("dead_letters", "action")
    op.drop_column("settings", "updated_by")
    op.drop_column("workers", "drained_by")
    op.drop_column("workers", "drained_at")
    for name, _, condition, _ in reversed(_TASK_INDEXES):
        op.drop_index(name, "tasks", **_where(condition))
    for column in ("then_blob", "required_tools", "instructions", "parent_id", "agent_version", "agent_id"):
        op.drop_column("tasks", column)
