"""The closed vocabularies of a task's life, each in one table: states, outcomes, causes, deliveries."""

from enum import IntEnum, StrEnum
from types import MappingProxyType


class TaskState(StrEnum):
    """Where a task is in its life."""

    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    """A row that waits: for its due time, a gate, or a place in its lane's window."""
    QUEUED = "queued"
    """In its lane's window: published, not yet claimed."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


FINISHED_STATES = frozenset({TaskState.SUCCEEDED, TaskState.DEAD, TaskState.CANCELLED})

LEGAL_TRANSITIONS = MappingProxyType(
    {
        TaskState.AWAITING_APPROVAL: frozenset({TaskState.SCHEDULED, TaskState.CANCELLED, TaskState.DEAD}),
        TaskState.SCHEDULED: frozenset(
            # A late outcome of the execution that lost its lease settles a task that waits again, or delays it.
            {TaskState.QUEUED, TaskState.SCHEDULED, TaskState.SUCCEEDED, TaskState.CANCELLED, TaskState.DEAD}
        ),
        TaskState.QUEUED: frozenset(
            {TaskState.RUNNING, TaskState.SCHEDULED, TaskState.SUCCEEDED, TaskState.CANCELLED, TaskState.DEAD}
        ),
        TaskState.RUNNING: frozenset({TaskState.SUCCEEDED, TaskState.SCHEDULED, TaskState.CANCELLED, TaskState.DEAD}),
        TaskState.DEAD: frozenset({TaskState.SCHEDULED, TaskState.SUCCEEDED}),
        TaskState.SUCCEEDED: frozenset(),
        TaskState.CANCELLED: frozenset(),
    }
)
"""From each state, the states that may follow. `dead -> scheduled` is a redrive of the same task."""


class Priority(IntEnum):
    """How soon a task's lane takes it, against others of the same lane."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


PRIORITY_WEIGHTS = MappingProxyType({Priority.LOW: 1, Priority.NORMAL: 3, Priority.HIGH: 9, Priority.CRITICAL: 27})
"""Places of a window that each priority gets while all of them wait; `low` always advances."""


class Delivery(StrEnum):
    """What Warren promises about a task's effects when a worker is lost."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class OutcomeKind(StrEnum):
    """How an execution ended, as its worker tells it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """The worker refused the envelope: wrong hash, unknown action, undecodable."""
    INTERRUPTED = "interrupted"
    """Handed back without being counted: drain, or the lease ended before the start."""


class FailureClass(StrEnum):
    """What a failure says about where to look and what may follow."""

    PROVIDER = "provider"
    THROTTLED = "throttled"
    QUOTA = "quota"
    CREDENTIAL = "credential"
    REQUEST = "request"
    LOCAL = "local"
    TIMEOUT = "timeout"
    EXIT = "exit"
    LOST = "lost"


class Effect(StrEnum):
    """Whether the execution can have changed anything outside Warren."""

    NONE = "none"
    MAYBE = "maybe"
    DONE = "done"


class CauseOfDeath(StrEnum):
    """Why a task is in the dead letters."""

    MAX_ATTEMPTS = "max_attempts"
    """It failed as often as it may."""
    NOT_RETRYABLE = "not_retryable"
    """A failure that another try would only repeat: request, credential, quota, rejected."""
    EFFECT_POSSIBLE = "effect_possible"
    """An at_most_once task failed when it had, or may have, changed something."""
    LOST_UNKNOWN = "lost_unknown"
    """An at_most_once task's worker was lost while it ran."""
    QUARANTINED = "quarantined"
    """It kept ending the processes that ran it."""
    DEADLINE = "deadline"
    UNAVAILABLE = "unavailable"
    """It waited longer than `max_wait` for a provider that throttled it."""
    MANUAL = "manual"
    """An admin put it there."""


class Approval(StrEnum):
    """An admin's decision about a worker."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVOKED = "revoked"


class Presence(StrEnum):
    """What the control plane last saw of a worker."""

    ONLINE = "online"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    OFFLINE = "offline"


class Role(StrEnum):
    """What an API key may do; each of viewer, operator, admin includes the one before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    WORKER = "worker"
