"""Subscriptions: the names of events, and who hears of which."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import broker
from broker.events import EVENT_TYPES
from broker.subscriptions import EVERYTHING, PUBLIC_TYPES, Subscription, check_event, names_for, public_names
from protocols.errors import InvalidInput

SOURCES = Path(broker.__file__).parent
KIND = re.compile(r"(task|worker|agent|queue)\.[a-z_]+")


def event(kind: str, task_id: str | None = None) -> dict[str, Any]:
    """Return the part of a journal entry that decides who hears of it."""
    return {"type": kind, "task_id": task_id}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("task.created", ("task.created",)),
        ("task.succeeded", ("task.completed",)),
        ("task.dead", ("task.failed",)),
        ("task.cancelled", ("task.updated",)),
        ("task.queued", ("task.updated",)),
        ("task.late_outcome", ("task.updated",)),
        ("worker.online", ("worker.online",)),
        ("worker.offline", ("worker.offline",)),
        ("worker.lost", ("worker.offline", "system.alert")),
        ("worker.registered", ("worker.registered",)),
        ("agent.status", ("agent.status",)),
        ("queue.paused", ("queue.paused",)),
    ],
)
def test_what_the_journal_tells_has_public_names(kind: str, names: tuple[str, ...]) -> None:
    """What other programs wait for comes under the names that they know."""
    assert public_names(kind) == names


@pytest.mark.parametrize(
    ("asked", "kind", "names"),
    [
        ({"task.completed"}, "task.succeeded", ["task.completed"]),
        ({"task.succeeded"}, "task.succeeded", ["task.succeeded"]),
        ({"task.completed", "task.succeeded"}, "task.succeeded", ["task.completed", "task.succeeded"]),
        ({"task.completed", EVERYTHING}, "task.succeeded", ["task.completed"]),
        ({EVERYTHING}, "worker.lost", ["worker.offline", "system.alert"]),
        ({EVERYTHING}, "worker.registered", ["worker.registered"]),
        ({"task.updated"}, "task.updated", ["task.updated"]),
        ({"task.created", "task.failed"}, "task.succeeded", []),
        (set(), "task.created", []),
    ],
)
def test_an_event_is_told_once_under_each_name_that_was_asked_for(asked: set[str], kind: str, names: list[str]) -> None:
    """Several subscriptions that take an event do not make it come several times."""
    wanted = {Subscription(name, task_id) for name in asked for task_id in (None, "task_1")}
    assert names_for(wanted, event(kind, "task_1"), None) == names


@pytest.mark.parametrize(
    ("subscription", "told"),
    [
        (Subscription("task.created"), True),
        (Subscription("task.created", task_id="task_1"), True),
        (Subscription("task.created", task_id="task_2"), False),
        (Subscription("task.created", agent_id="agent_1"), True),
        (Subscription("task.created", agent_id="agent_2"), False),
        (Subscription("task.created", task_id="task_1", agent_id="agent_1"), True),
        (Subscription("task.created", task_id="task_2", agent_id="agent_1"), False),
    ],
)
def test_a_subscription_may_be_limited_to_a_task_or_an_agent(subscription: Subscription, told: bool) -> None:
    """Both limits hold if both are given."""
    assert bool(names_for({subscription}, event("task.created", "task_1"), "agent_1")) is told


def test_a_limited_subscription_hears_nothing_without_a_task() -> None:
    """A worker's events belong to no task and no agent."""
    wanted = {Subscription(EVERYTHING, task_id="task_1"), Subscription(EVERYTHING, agent_id="agent_1")}
    assert names_for(wanted, event("worker.online"), None) == []


def test_ending_a_subscription_ends_what_it_contains() -> None:
    """Without a limit it ends every subscription of the event, with one those that have it."""
    whole, of_task, of_both = (
        Subscription("task.created"),
        Subscription("task.created", task_id="task_1"),
        Subscription("task.created", task_id="task_1", agent_id="agent_1"),
    )
    assert [whole.contains(one) for one in (whole, of_task, of_both)] == [True, True, True]
    assert [of_task.contains(one) for one in (whole, of_task, of_both)] == [False, True, True]
    assert not whole.contains(Subscription("task.failed"))


@pytest.mark.parametrize("name", [EVERYTHING, *sorted(PUBLIC_TYPES), "task.dead", "worker.registered"])
def test_every_name_can_be_asked_for(name: str) -> None:
    """Public names, the journal's own, and all of them at once."""
    assert check_event(name) == name


@pytest.mark.parametrize("name", ["", "task", "task.", "task.finished", "TASK.CREATED", "task.*", "x" * 1000])
def test_any_other_name_is_refused(name: str) -> None:
    """The hint lists the names that there are."""
    with pytest.raises(InvalidInput) as refusal:
        check_event(name)
    assert refusal.value.field == "event"
    assert "task.completed" in (refusal.value.hint or "")


def test_the_journal_tells_of_nothing_that_cannot_be_asked_for() -> None:
    """Every type that the control plane writes is listed."""
    written = {kind for path in SOURCES.glob("*.py") for kind in kinds_in(ast.parse(path.read_text()))}
    assert "task.requeued" in written
    assert written <= EVENT_TYPES | PUBLIC_TYPES


def kinds_in(tree: ast.AST) -> set[str]:
    """Return the texts in a program that look like types of events, except the actions of audit entries."""
    audited = {id(part) for node in ast.walk(tree) if is_audit(node) for part in ast.walk(node)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and KIND.fullmatch(node.value)
        and id(node) not in audited
    }


def is_audit(node: ast.AST) -> bool:
    """Return whether a part of a program is `record(…)` or `action = …`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "record"
    return isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "action" for to in node.targets)
