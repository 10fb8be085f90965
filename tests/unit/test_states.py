"""The tables of a task's life are complete and agree with each other."""

from dataclasses import replace

import pytest

from broker.decide import RetryPolicy, TaskFacts, decide
from protocols.outcome import Outcome
from protocols.states import (
    FINISHED_STATES,
    LEGAL_TRANSITIONS,
    PRIORITY_WEIGHTS,
    CauseOfDeath,
    Delivery,
    Effect,
    FailureClass,
    OutcomeKind,
    Priority,
    TaskState,
)

POLICY = RetryPolicy(base_s=1.0, cap_s=60.0, max_wait_s=3600.0)
RUNNING = TaskFacts(
    state=TaskState.RUNNING,
    delivery=Delivery.AT_LEAST_ONCE,
    tries=0,
    max_attempts=3,
    losses=0,
    cancel_requested=False,
    eligible_at=0,
    deadline_at=None,
    isolated=False,
    lease_lost=False,
)


def test_every_state_has_its_transitions() -> None:
    assert set(LEGAL_TRANSITIONS) == set(TaskState)


def test_finished_states_are_those_that_nothing_but_a_redrive_or_a_late_success_leaves() -> None:
    assert {state for state, following in LEGAL_TRANSITIONS.items() if not following} < FINISHED_STATES
    assert LEGAL_TRANSITIONS[TaskState.DEAD] == {TaskState.SCHEDULED, TaskState.SUCCEEDED}
    assert LEGAL_TRANSITIONS[TaskState.SUCCEEDED] == LEGAL_TRANSITIONS[TaskState.CANCELLED] == frozenset()


def test_every_unfinished_state_may_be_cancelled_and_may_die() -> None:
    for state in set(TaskState) - FINISHED_STATES:
        assert {TaskState.CANCELLED, TaskState.DEAD} <= LEGAL_TRANSITIONS[state]


def test_only_what_was_published_is_claimed_and_only_what_waits_is_published() -> None:
    assert {state for state in TaskState if TaskState.RUNNING in LEGAL_TRANSITIONS[state]} == {TaskState.QUEUED}
    assert {state for state in TaskState if TaskState.QUEUED in LEGAL_TRANSITIONS[state]} == {TaskState.SCHEDULED}


def test_every_state_can_be_reached_and_every_unfinished_one_can_succeed() -> None:
    first = {TaskState.AWAITING_APPROVAL, TaskState.SCHEDULED}
    assert first.union(*LEGAL_TRANSITIONS.values()) == set(TaskState)
    for state in set(TaskState) - FINISHED_STATES:
        reached, found = {state}, {state}
        while found:
            found = set().union(*(LEGAL_TRANSITIONS[one] for one in found)) - reached
            reached |= found
        assert TaskState.SUCCEEDED in reached


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        LEGAL_TRANSITIONS[TaskState.DEAD] = frozenset()  # type: ignore[index] # what is tested


def test_every_priority_has_a_weight_and_a_higher_one_more_of_it() -> None:
    weights = [PRIORITY_WEIGHTS[priority] for priority in sorted(Priority)]
    assert weights == sorted(set(weights))
    assert weights[0] >= 1


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("failure_class", FailureClass)
def test_every_class_of_failure_has_a_decision(failure_class: FailureClass, effect: Effect, delivery: Delivery) -> None:
    facts = replace(RUNNING, delivery=delivery)
    outcome = Outcome.failed(failure_class, "code", "message", effect=effect)
    decision = decide(facts, outcome, now=0, policy=POLICY, random=lambda: 0.5)
    assert decision.state in {TaskState.SCHEDULED, TaskState.DEAD}
    assert (decision.cause is not None) == (decision.state is TaskState.DEAD)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("kind", OutcomeKind)
def test_every_kind_of_outcome_has_a_decision(kind: OutcomeKind, effect: Effect) -> None:
    decision = decide(RUNNING, Outcome(kind=kind, effect=effect), now=0, policy=POLICY, random=lambda: 0.5)
    assert decision.state in LEGAL_TRANSITIONS[TaskState.RUNNING]


def test_words_that_are_stored_fit_their_columns() -> None:
    assert max(map(len, [*TaskState, *Delivery, *OutcomeKind, *FailureClass])) <= 20
    assert max(map(len, CauseOfDeath)) <= 30
