"""What follows when an execution has ended: the one place where retries and deaths are decided.

Pure functions over values; `transitions` carries the decision out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from protocols.outcome import Outcome
from protocols.states import CauseOfDeath, Delivery, Effect, FailureClass, OutcomeKind, TaskState

SUSPECT_LOSSES = 2
"""Losses after which a task runs alone in a child process."""
QUARANTINE_LOSSES = 4
"""Losses after which it never runs again, even if nobody saw it kill anything."""

_NEVER_RETRIED = frozenset({FailureClass.REQUEST, FailureClass.CREDENTIAL, FailureClass.QUOTA})
_SPENDS_TRIES = frozenset({FailureClass.PROVIDER, FailureClass.LOCAL, FailureClass.TIMEOUT, FailureClass.EXIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What a decision depends on."""

    state: TaskState
    delivery: Delivery
    tries: int
    max_attempts: int
    losses: int
    cancel_requested: bool
    eligible_at: int
    """When it might first have run, or was redriven: `max_wait` counts from here."""
    deadline_at: int | None
    isolated: bool
    """Whether this execution ran alone in a child process."""
    lease_lost: bool
    """Whether this execution's lease has ended before its outcome came."""
    due_at: int | None = None
    """Since when it might have run; work that was lost or handed back keeps its place before later work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a task waits before its next try."""

    base_s: float
    cap_s: float
    max_wait_s: float

    def delay_s(self, tries: int, random: Callable[[], float]) -> float:
        """Return exponential backoff with full jitter: uniform between 0 and min(cap, base * 2^(tries-1)).

        Full jitter spreads clients that failed together best (Brooker, "Exponential Backoff And Jitter", 2015).
        """
        return random() * min(self.cap_s, self.base_s * 2.0 ** min(max(tries - 1, 0), 40))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What shall become of the task. `state` None: nothing changes, the outcome is only stored."""

    state: TaskState | None
    event: str
    due_at: int | None = None
    tries: int
    losses: int
    cause: CauseOfDeath | None = None
    wait_reason: str | None = None


def decide(
    task: TaskFacts, outcome: Outcome, *, now: int, policy: RetryPolicy, random: Callable[[], float]
) -> Decision:
    """Return what follows from the outcome of the task's current execution. Times in milliseconds."""
    if task.state in (TaskState.SUCCEEDED, TaskState.CANCELLED):
        return _keep(task)
    if task.lease_lost:
        # It was charged a loss when the lease ended; now that its outcome has come it was none.
        task = replace(task, losses=max(0, task.losses - 1))
    if outcome.kind is OutcomeKind.SUCCEEDED:
        return Decision(state=TaskState.SUCCEEDED, event="task.succeeded", tries=task.tries, losses=task.losses)
    if task.state is TaskState.DEAD and not _reopens(task, outcome):
        return Decision(state=TaskState.DEAD, event="task.late_outcome", tries=task.tries, losses=task.losses)
    if task.cancel_requested:
        return Decision(state=TaskState.CANCELLED, event="task.cancelled", tries=task.tries, losses=task.losses)
    if outcome.kind in (OutcomeKind.INTERRUPTED, OutcomeKind.CANCELLED):
        return _interrupted(task, outcome, now)
    return _failed(task, outcome, now=now, policy=policy, random=random)


def decide_lost(task: TaskFacts, *, now: int) -> Decision:
    """Return what follows when the lease of the task's current execution ends without an outcome."""
    losses = task.losses + 1
    if task.cancel_requested and task.delivery is Delivery.AT_LEAST_ONCE:
        return Decision(state=TaskState.CANCELLED, event="task.cancelled", tries=task.tries, losses=losses)
    if task.delivery is Delivery.AT_MOST_ONCE:
        return _dead(task, CauseOfDeath.LOST_UNKNOWN, losses=losses)
    if losses >= QUARANTINE_LOSSES:
        return _dead(task, CauseOfDeath.QUARANTINED, losses=losses)
    return _again(task, _place(task, now), event="task.lost", losses=losses, now=now)


def _failed(
    task: TaskFacts, outcome: Outcome, *, now: int, policy: RetryPolicy, random: Callable[[], float]
) -> Decision:
    failure = outcome.failure
    kind = FailureClass.LOCAL if failure is None else failure.failure_class
    if task.delivery is Delivery.AT_MOST_ONCE and outcome.effect is not Effect.NONE:
        cause = CauseOfDeath.LOST_UNKNOWN if kind is FailureClass.LOST else CauseOfDeath.EFFECT_POSSIBLE
        return _dead(task, cause, tries=task.tries + (kind in _SPENDS_TRIES))
    if outcome.kind is OutcomeKind.REJECTED or kind in _NEVER_RETRIED:
        return _dead(task, CauseOfDeath.NOT_RETRYABLE)
    if kind is FailureClass.LOST:
        return _process_died(task, now)
    if kind is FailureClass.THROTTLED:
        return _throttled(task, outcome, now=now, policy=policy, random=random)
    tries = task.tries + 1
    if tries >= task.max_attempts:
        return _dead(task, CauseOfDeath.MAX_ATTEMPTS, tries=tries)
    due_at = now + int(policy.delay_s(tries, random) * 1000)
    return _again(task, due_at, event="task.retrying", tries=tries, now=now, wait_reason="backoff after a failure")


def _process_died(task: TaskFacts, now: int) -> Decision:
    losses = task.losses + 1
    if task.isolated:
        return _dead(task, CauseOfDeath.QUARANTINED, losses=losses)
    return _again(task, _place(task, now), event="task.lost", losses=losses, now=now)


def _throttled(
    task: TaskFacts, outcome: Outcome, *, now: int, policy: RetryPolicy, random: Callable[[], float]
) -> Decision:
    if now - task.eligible_at > policy.max_wait_s * 1000:
        return _dead(task, CauseOfDeath.UNAVAILABLE)
    asked = outcome.failure.retry_after_s if outcome.failure else None
    wait_s = policy.delay_s(task.tries + 3, random) if asked is None else min(asked, policy.max_wait_s)
    due_at = now + int(wait_s * 1000)
    return _again(task, due_at, event="task.retrying", now=now, wait_reason="the provider asked to wait")


def _interrupted(task: TaskFacts, outcome: Outcome, now: int) -> Decision:
    if outcome.effect is Effect.NONE:
        if task.state in (TaskState.SCHEDULED, TaskState.QUEUED):
            return _keep(task)
        return _again(task, _place(task, now), event="task.interrupted", now=now)
    if task.delivery is Delivery.AT_MOST_ONCE:
        return _dead(task, CauseOfDeath.LOST_UNKNOWN)
    if task.state is not TaskState.RUNNING:
        return _keep(task)
    return _again(task, _place(task, now), event="task.interrupted", now=now)


def _reopens(task: TaskFacts, outcome: Outcome) -> bool:
    """Return whether a dead task lives again: its last execution, given up as lost, had not begun."""
    handed_back = outcome.kind in (OutcomeKind.INTERRUPTED, OutcomeKind.CANCELLED)
    return handed_back and outcome.effect is Effect.NONE and not task.cancel_requested


def _place(task: TaskFacts, now: int) -> int:
    return now if task.due_at is None else min(task.due_at, now)


def _keep(task: TaskFacts) -> Decision:
    return Decision(state=None, event="task.late_outcome", tries=task.tries, losses=task.losses)


def _again(
    task: TaskFacts,
    due_at: int,
    *,
    event: str,
    now: int,
    tries: int | None = None,
    losses: int | None = None,
    wait_reason: str | None = None,
) -> Decision:
    tries = task.tries if tries is None else tries
    losses = task.losses if losses is None else losses
    if task.deadline_at is not None and max(due_at, now) >= task.deadline_at:
        return _dead(task, CauseOfDeath.DEADLINE, tries=tries, losses=losses)
    return Decision(
        state=TaskState.SCHEDULED,
        event=event,
        due_at=due_at,
        tries=tries,
        losses=losses,
        wait_reason=wait_reason,
    )


def _dead(task: TaskFacts, cause: CauseOfDeath, *, tries: int | None = None, losses: int | None = None) -> Decision:
    return Decision(
        state=TaskState.DEAD,
        event="task.dead",
        tries=task.tries if tries is None else tries,
        losses=task.losses if losses is None else losses,
        cause=cause,
    )
