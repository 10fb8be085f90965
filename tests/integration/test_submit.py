"""Submission: what the preferences decide when the form does not say it, and what a repeated request gives."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.history import tree_of
from broker.resources import PROVIDER
from broker.submit import Submission, Submitted, TaskForm
from protocols.errors import Conflict, IdempotencyMismatch, NotFound
from protocols.states import Priority
from tests.support.kernel import Kernel, kernel

LATER = {"action": "noop", "delay_s": 3600}


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[Kernel]:
    """A kernel."""
    async with kernel(tmp_path) as running:
        yield running


async def prefer(subject: Kernel, **changes: Any) -> None:
    """Change preferences of tasks."""
    named = {f"tasks.{name}": value for name, value in changes.items()}
    await asyncio.wrap_future(subject.control.preferences.change(named, "test"))


async def submit(subject: Kernel, form: dict[str, Any], key: str | None = None) -> Submitted:
    """Submit one form, with an Idempotency-Key if there is one."""
    submission = Submission(forms=(TaskForm.model_validate(form),), created_by="test", idempotency_key=key)
    (submitted,) = await asyncio.wrap_future(subject.control.submitter.submit(submission))
    return submitted


async def agent(subject: Kernel, name: str) -> str:
    """Make an agent with a provider and a model, and return its id."""
    provider = {"name": "models", "kind": "openai", "base_url": "http://127.0.0.1:9", "models": []}
    await asyncio.wrap_future(subject.control.resources.create(PROVIDER, provider, "test"))
    fields = {"name": name, "llm_provider": "models", "llm_model": "m", "enabled_tools": [], "pool": "default"}
    return await asyncio.wrap_future(subject.control.agents.create(fields, "test"))


async def test_the_preferences_of_the_moment_fill_a_form(subject: Kernel) -> None:
    """Tries, time and priority come from them, unless the form says them."""
    before = await subject.task((await submit(subject, LATER)).task_id)
    assert (before.max_attempts, before.timeout_s, before.priority) == (3, 600.0, Priority.NORMAL)
    await prefer(subject, default_max_attempts=7, default_timeout_s=1.5, default_priority="high")
    after = await subject.task((await submit(subject, LATER)).task_id)
    assert (after.max_attempts, after.timeout_s, after.priority) == (7, 1.5, Priority.HIGH)
    said = {**LATER, "max_attempts": 1, "timeout_s": 9, "priority": "low"}
    own = await subject.task((await submit(subject, said)).task_id)
    assert (own.max_attempts, own.timeout_s, own.priority) == (1, 9.0, Priority.LOW)


async def test_a_form_without_an_action_goes_to_the_default_agent(subject: Kernel) -> None:
    """Whoever tasks.default_agent names, by name or id, gets it, while it takes work; a plain action is nobody's."""
    agent_id = await agent(subject, "clerk")
    for reference in ("clerk", agent_id):
        await prefer(subject, default_agent=reference)
        given = await subject.task((await submit(subject, {"title": "t", "delay_s": 3600})).task_id)
        assert (given.agent_id, given.action, given.instructions) == (agent_id, "llm.chat", "t")
    plain = await subject.task((await submit(subject, {"title": "t", **LATER})).task_id)
    assert plain.agent_id is None
    await prefer(subject, default_agent="nobody")
    with pytest.raises(NotFound) as unknown:
        await submit(subject, {"title": "t"})
    assert unknown.value.field == "agent_id"
    await prefer(subject, default_agent=agent_id)
    await asyncio.wrap_future(subject.control.agents.stop(agent_id, "test"))
    with pytest.raises(Conflict):
        await submit(subject, {"title": "t"})


async def test_a_repeated_request_gives_the_same_task_under_other_preferences(subject: Kernel) -> None:
    """What the preferences say is no part of a request; what the form says is."""
    first = await submit(subject, LATER, key="once")
    await prefer(subject, default_max_attempts=7, default_priority="high")
    assert await submit(subject, LATER, key="once") == Submitted(first.task_id, created=False)
    with pytest.raises(IdempotencyMismatch):
        await submit(subject, {**LATER, "priority": "normal"}, key="once")


async def test_a_ring_of_parents_ends(subject: Kernel) -> None:
    """No request can make one; were there one in the database, its tree shows each task once."""
    first = await subject.submit(delay_s=3600)
    second = await subject.submit(delay_s=3600, parent_id=first)
    third = await subject.submit(delay_s=3600, parent_id=second)
    await subject.change(first, parent_id=third)
    tree = await asyncio.wrap_future(subject.control.store.read(lambda connection: tree_of(connection, second)))
    assert tree is not None
    shown, node = [], tree.root
    while node.children:
        shown.append(node.task.id)
        (node,) = node.children
    assert sorted([*shown, node.task.id]) == sorted([first, second, third])
