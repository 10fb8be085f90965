"""What follows when an execution has ended."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from broker.decide import QUARANTINE_LOSSES, SUSPECT_LOSSES, Decision, RetryPolicy, TaskFacts, decide, decide_lost
from protocols.outcome import Failure, Outcome
from protocols.states import (
    FINISHED_STATES,
    LEGAL_TRANSITIONS,
    CauseOfDeath,
    Delivery,
    Effect,
    FailureClass,
    OutcomeKind,
    TaskState,
)

NOW = 1_800_000_000_000
POLICY = RetryPolicy(base_s=2.0, cap_s=300.0, max_wait_s=3600.0)
TASK = TaskFacts(
    state=TaskState.RUNNING,
    delivery=Delivery.AT_LEAST_ONCE,
    tries=0,
    max_attempts=3,
    losses=0,
    cancel_requested=False,
    eligible_at=NOW - 1000,
    deadline_at=None,
    isolated=False,
    lease_lost=False,
)
ONCE = replace(TASK, delivery=Delivery.AT_MOST_ONCE)
SUCCESS = Outcome.success({"ok": True})
HANDED_BACK = Outcome.interrupted("drained", "the worker stops", effect=Effect.NONE)
BROKEN_OFF = Outcome.interrupted("drained", "the worker stops", effect=Effect.MAYBE)
SPENT = [FailureClass.PROVIDER, FailureClass.LOCAL, FailureClass.TIMEOUT, FailureClass.EXIT]
NEVER_AGAIN = [FailureClass.REQUEST, FailureClass.CREDENTIAL, FailureClass.QUOTA]


def failed(kind: FailureClass, effect: Effect = Effect.MAYBE, retry_after_s: float | None = None) -> Outcome:
    return Outcome.failed(kind, "code", "message", effect=effect, retry_after_s=retry_after_s)


def after(task: TaskFacts, outcome: Outcome, chance: float = 0.5) -> Decision:
    return decide(task, outcome, now=NOW, policy=POLICY, random=lambda: chance)


STATES = st.sampled_from(sorted(set(TaskState) - {TaskState.AWAITING_APPROVAL}))
OUTCOMES = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    effect=st.sampled_from(Effect),
    failure=st.none()
    | st.builds(
        Failure,
        failure_class=st.sampled_from(FailureClass),
        code=st.just("code"),
        message=st.just("message"),
        retry_after_s=st.none() | st.floats(0, 86400),
    ),
)
CHANCES = st.floats(0, 1, exclude_max=True)
POLICIES = st.builds(
    RetryPolicy, base_s=st.floats(0.01, 60), cap_s=st.floats(0.01, 3600), max_wait_s=st.floats(1, 86400)
)


@st.composite
def tasks(draw: st.DrawFn, states: st.SearchStrategy[TaskState] = STATES) -> TaskFacts:
    max_attempts = draw(st.integers(1, 100))
    return TaskFacts(
        state=draw(states),
        delivery=draw(st.sampled_from(Delivery)),
        tries=draw(st.integers(0, max_attempts - 1)),
        max_attempts=max_attempts,
        losses=draw(st.integers(0, 6)),
        cancel_requested=draw(st.booleans()),
        eligible_at=NOW - draw(st.integers(0, 10**9)),
        deadline_at=draw(st.none() | st.integers(NOW - 10**6, NOW + 10**6)),
        isolated=draw(st.booleans()),
        lease_lost=draw(st.booleans()),
        due_at=draw(st.none() | st.integers(NOW - 10**9, NOW)),
    )


@st.composite
def decisions(draw: st.DrawFn) -> tuple[TaskFacts, Outcome, Decision]:
    task, outcome, chance = draw(tasks()), draw(OUTCOMES), draw(CHANCES)
    return task, outcome, decide(task, outcome, now=NOW, policy=draw(POLICIES), random=lambda: chance)


Case = tuple[TaskFacts, Outcome, Decision]
# Some promises are about rare combinations, which are found by throwing others away.
often = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@often
@given(decisions())
def test_every_decision_is_a_legal_transition(case: Case) -> None:
    task, _, decision = case
    still_dead = task.state is decision.state is TaskState.DEAD
    assert decision.state is None or still_dead or decision.state in LEGAL_TRANSITIONS[task.state]


@often
@given(decisions())
def test_at_most_once_work_that_may_have_had_an_effect_never_runs_again(case: Case) -> None:
    task, outcome, decision = case
    assume(task.delivery is Delivery.AT_MOST_ONCE)
    assume(outcome.effect is not Effect.NONE)
    assert decision.state is not TaskState.SCHEDULED


@often
@given(decisions())
def test_what_waits_has_tries_left(case: Case) -> None:
    task, _, decision = case
    assert task.tries <= decision.tries <= task.tries + 1
    if decision.state is TaskState.SCHEDULED:
        assert decision.tries < task.max_attempts


@often
@given(decisions())
def test_tries_are_spent_by_failures_of_the_work_only(case: Case) -> None:
    task, outcome, decision = case
    if decision.tries > task.tries:
        assert outcome.kind in {OutcomeKind.FAILED, OutcomeKind.REJECTED}
        assert outcome.failure is None or outcome.failure.failure_class in SPENT


@often
@given(decisions())
def test_success_settles_every_task_that_is_not_settled(case: Case) -> None:
    task, outcome, decision = case
    assume(outcome.kind is OutcomeKind.SUCCEEDED)
    settled = task.state in {TaskState.SUCCEEDED, TaskState.CANCELLED}
    assert decision.state is (None if settled else TaskState.SUCCEEDED)


@often
@given(decisions())
def test_what_was_asked_to_end_never_waits_again(case: Case) -> None:
    task, _, decision = case
    assume(task.cancel_requested)
    assert decision.state is not TaskState.SCHEDULED


@often
@given(decisions())
def test_nothing_is_scheduled_beyond_its_deadline(case: Case) -> None:
    task, _, decision = case
    if decision.state is TaskState.SCHEDULED:
        assert decision.due_at is not None
        assert task.deadline_at is None or max(NOW, decision.due_at) < task.deadline_at


@often
@given(decisions())
def test_what_waits_never_comes_before_its_place_and_after_a_failure_not_before_now(case: Case) -> None:
    task, outcome, decision = case
    if decision.due_at is not None:
        lost = outcome.failure is not None and outcome.failure.failure_class is FailureClass.LOST
        counted = outcome.kind in {OutcomeKind.FAILED, OutcomeKind.REJECTED} and not lost
        assert decision.due_at >= (NOW if counted or task.due_at is None else task.due_at)


@often
@given(decisions())
def test_only_the_dead_have_a_cause_and_only_what_waits_is_due(case: Case) -> None:
    task, _, decision = case
    if decision.state is TaskState.DEAD:
        assert decision.cause is not None or task.state is TaskState.DEAD
    else:
        assert decision.cause is None
    assert (decision.due_at is not None) == (decision.state is TaskState.SCHEDULED)


@often
@given(tasks(st.just(TaskState.RUNNING)))
def test_a_lost_worker_never_spends_tries(task: TaskFacts) -> None:
    decision = decide_lost(task, now=NOW)
    assert decision.tries == task.tries
    assert decision.losses == task.losses + 1
    assert decision.state in LEGAL_TRANSITIONS[TaskState.RUNNING]
    if task.delivery is Delivery.AT_MOST_ONCE:
        assert (decision.state, decision.cause) == (TaskState.DEAD, CauseOfDeath.LOST_UNKNOWN)
    if task.cancel_requested or decision.losses >= QUARANTINE_LOSSES:
        assert decision.state is not TaskState.SCHEDULED
    if decision.state is TaskState.SCHEDULED and task.deadline_at is not None:
        assert task.deadline_at > NOW


@often
@given(POLICIES, st.integers(0, 1000), CHANCES)
def test_jitter_stays_within_its_bounds(policy: RetryPolicy, tries: int, chance: float) -> None:
    delay = policy.delay_s(tries, lambda: chance)
    assert 0 <= delay <= policy.cap_s
    assert delay <= policy.base_s * 2.0 ** max(tries - 1, 0)


@pytest.mark.parametrize(("tries", "longest"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (100, 300)])
def test_the_wait_doubles_up_to_the_cap(tries: int, longest: float) -> None:
    assert POLICY.delay_s(tries, lambda: 1.0) == longest
    assert POLICY.delay_s(tries, lambda: 0.0) == 0.0


@pytest.mark.parametrize("kind", SPENT)
def test_a_failure_waits_and_then_the_last_try_dies(kind: FailureClass) -> None:
    again = after(TASK, failed(kind))
    assert (again.state, again.tries, again.due_at) == (TaskState.SCHEDULED, 1, NOW + 1000)
    dead = after(replace(TASK, tries=2), failed(kind))
    assert (dead.state, dead.cause, dead.tries) == (TaskState.DEAD, CauseOfDeath.MAX_ATTEMPTS, 3)


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("kind", NEVER_AGAIN)
def test_what_another_try_would_only_repeat_dies_at_once(kind: FailureClass, delivery: Delivery) -> None:
    decision = after(replace(TASK, delivery=delivery), failed(kind, Effect.NONE))
    assert (decision.state, decision.cause, decision.tries) == (TaskState.DEAD, CauseOfDeath.NOT_RETRYABLE, 0)


@pytest.mark.parametrize("delivery", Delivery)
def test_a_refused_envelope_dies_at_once(delivery: Delivery) -> None:
    decision = after(replace(TASK, delivery=delivery), Outcome.rejected("unknown_action", "no such action"))
    assert (decision.state, decision.cause) == (TaskState.DEAD, CauseOfDeath.NOT_RETRYABLE)


@pytest.mark.parametrize("effect", [Effect.MAYBE, Effect.DONE])
def test_at_most_once_work_dies_of_a_possible_effect(effect: Effect) -> None:
    decision = after(ONCE, failed(FailureClass.EXIT, effect))
    assert (decision.state, decision.cause, decision.tries) == (TaskState.DEAD, CauseOfDeath.EFFECT_POSSIBLE, 1)


def test_at_most_once_work_that_had_no_effect_is_tried_again() -> None:
    assert after(ONCE, failed(FailureClass.LOCAL, Effect.NONE)).state is TaskState.SCHEDULED


def test_at_most_once_work_whose_process_died_is_lost() -> None:
    decision = after(ONCE, failed(FailureClass.LOST))
    assert (decision.state, decision.cause) == (TaskState.DEAD, CauseOfDeath.LOST_UNKNOWN)


def test_throttling_spends_nothing_and_waits_as_long_as_the_provider_asked() -> None:
    decision = after(TASK, failed(FailureClass.THROTTLED, retry_after_s=90.0))
    assert (decision.state, decision.tries, decision.due_at) == (TaskState.SCHEDULED, 0, NOW + 90_000)


def test_throttling_without_a_word_backs_off() -> None:
    decision = after(TASK, failed(FailureClass.THROTTLED), chance=0.999)
    assert decision.due_at is not None
    assert NOW < decision.due_at <= NOW + POLICY.cap_s * 1000


def test_throttling_has_an_end() -> None:
    waited = replace(TASK, eligible_at=NOW - 3_600_001)
    decision = after(waited, failed(FailureClass.THROTTLED, retry_after_s=1.0))
    assert (decision.state, decision.cause) == (TaskState.DEAD, CauseOfDeath.UNAVAILABLE)


def test_a_wait_beyond_the_longest_is_cut() -> None:
    decision = after(TASK, failed(FailureClass.THROTTLED, retry_after_s=86_400.0))
    assert decision.due_at == NOW + 3_600_000


@pytest.mark.parametrize("outcome", [HANDED_BACK, BROKEN_OFF])
def test_handed_back_work_runs_again_at_once_and_uncounted(outcome: Outcome) -> None:
    decision = after(TASK, outcome)
    assert (decision.state, decision.due_at) == (TaskState.SCHEDULED, NOW)
    assert (decision.tries, decision.losses) == (0, 0)


@pytest.mark.parametrize("outcome", [HANDED_BACK, BROKEN_OFF, failed(FailureClass.LOST)])
def test_work_that_was_handed_back_or_lost_keeps_its_place(outcome: Outcome) -> None:
    task = replace(TASK, due_at=NOW - 5000)
    assert after(task, outcome).due_at == decide_lost(task, now=NOW).due_at == NOW - 5000


def test_at_most_once_work_broken_off_is_lost_and_handed_back_is_not() -> None:
    assert after(ONCE, BROKEN_OFF).cause is CauseOfDeath.LOST_UNKNOWN
    assert after(ONCE, HANDED_BACK).state is TaskState.SCHEDULED


@pytest.mark.parametrize(
    "outcome", [HANDED_BACK, BROKEN_OFF, failed(FailureClass.LOCAL), Outcome.cancelled("stopped", effect=Effect.MAYBE)]
)
@pytest.mark.parametrize("task", [TASK, ONCE])
def test_a_requested_cancel_wins_over_everything_but_success(task: TaskFacts, outcome: Outcome) -> None:
    assert after(replace(task, cancel_requested=True), outcome).state is TaskState.CANCELLED
    assert after(replace(task, cancel_requested=True), SUCCESS).state is TaskState.SUCCEEDED


def test_the_death_of_an_isolated_process_quarantines() -> None:
    decision = after(replace(TASK, losses=SUSPECT_LOSSES, isolated=True), failed(FailureClass.LOST))
    assert (decision.state, decision.cause) == (TaskState.DEAD, CauseOfDeath.QUARANTINED)


def test_the_death_of_a_shared_process_is_a_loss() -> None:
    decision = after(TASK, failed(FailureClass.LOST))
    assert (decision.state, decision.losses, decision.tries) == (TaskState.SCHEDULED, 1, 0)


def test_four_losses_quarantine() -> None:
    task = TASK
    for losses in range(1, QUARANTINE_LOSSES):
        decision = decide_lost(task, now=NOW)
        assert (decision.state, decision.losses) == (TaskState.SCHEDULED, losses)
        task = replace(task, losses=decision.losses)
    last = decide_lost(task, now=NOW)
    assert (last.state, last.cause, QUARANTINE_LOSSES) == (TaskState.DEAD, CauseOfDeath.QUARANTINED, 4)


LATE = replace(TASK, lease_lost=True, losses=2)


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.QUEUED, TaskState.DEAD])
def test_a_late_success_settles_and_gives_the_loss_back(state: TaskState) -> None:
    decision = after(replace(LATE, state=state), SUCCESS)
    assert (decision.state, decision.losses) == (TaskState.SUCCEEDED, 1)


@pytest.mark.parametrize(
    ("outcome", "state", "tries", "losses"),
    [
        (failed(FailureClass.PROVIDER), TaskState.SCHEDULED, 1, 1),
        (failed(FailureClass.REQUEST), TaskState.DEAD, 0, 1),
        (failed(FailureClass.LOST), TaskState.SCHEDULED, 0, 2),
        (HANDED_BACK, None, 0, 1),
        (BROKEN_OFF, None, 0, 1),
    ],
)
@pytest.mark.parametrize("waiting", [TaskState.SCHEDULED, TaskState.QUEUED])
def test_a_late_outcome_of_waiting_work_counts_as_if_it_had_come_in_time(
    waiting: TaskState, outcome: Outcome, state: TaskState | None, tries: int, losses: int
) -> None:
    decision = after(replace(LATE, state=waiting), outcome)
    assert (decision.state, decision.tries, decision.losses) == (state, tries, losses)


def test_lost_at_most_once_work_that_had_not_begun_lives_again() -> None:
    decision = after(replace(ONCE, state=TaskState.DEAD, lease_lost=True, losses=1), HANDED_BACK)
    assert (decision.state, decision.due_at, decision.losses) == (TaskState.SCHEDULED, NOW, 0)


@pytest.mark.parametrize("changes", [{}, {"cancel_requested": True}])
@pytest.mark.parametrize(
    "outcome", [failed(FailureClass.LOCAL, Effect.NONE), BROKEN_OFF, Outcome.cancelled("stopped", effect=Effect.MAYBE)]
)
@pytest.mark.parametrize("task", [TASK, ONCE])
def test_a_late_failure_leaves_a_dead_task_dead(task: TaskFacts, outcome: Outcome, changes: dict[str, Any]) -> None:
    assert after(replace(task, state=TaskState.DEAD, lease_lost=True, **changes), outcome).state is TaskState.DEAD


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.CANCELLED])
@pytest.mark.parametrize("outcome", [SUCCESS, HANDED_BACK, failed(FailureClass.PROVIDER)])
def test_what_is_settled_stays_settled(state: TaskState, outcome: Outcome) -> None:
    assert state in FINISHED_STATES
    assert after(replace(TASK, state=state), outcome).state is None


@pytest.mark.parametrize(("deadline_in_ms", "state"), [(1001, TaskState.SCHEDULED), (1000, TaskState.DEAD)])
def test_a_retry_that_would_come_too_late_dies_of_the_deadline(deadline_in_ms: int, state: TaskState) -> None:
    decision = after(replace(TASK, deadline_at=NOW + deadline_in_ms), failed(FailureClass.PROVIDER))
    assert decision.state is state
    assert decision.cause is (CauseOfDeath.DEADLINE if state is TaskState.DEAD else None)
