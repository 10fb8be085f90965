"""Task forms: what to submit, for many at once and for tasks that follow others."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from protocols.names import BuiltinAction

Form = dict[str, Any]


class TaskOptions(TypedDict, total=False):
    """What can be said about a task of any kind; what is None or left out is up to the control plane."""

    title: str | None
    description: str | None
    pool: str | None
    """The workers that may run it."""
    worker: str | None
    """The one worker that may run it, by name or id."""
    priority: Literal["low", "normal", "high", "critical"] | None
    delivery: Literal["at_least_once", "at_most_once"] | None
    max_attempts: int | None
    timeout_s: float | None
    """Seconds that one attempt may take."""
    deadline: datetime | str | None
    """After this moment it is not begun any more; with its time zone."""
    delay_s: float | None
    concurrency_key: str | None
    concurrency_limit: int | None
    """How many tasks of the same key may run at once."""
    agent_id: str | None
    required_tools: Sequence[str] | None
    parent_id: str | None
    then: Sequence[Mapping[str, Any]] | None
    """Forms of Python functions that follow its success, one after the other, each with the result before."""


class CallOptions(TaskOptions, total=False):
    """What can be said about a call of a Python function."""

    args: Sequence[Any] | None
    """Its positional arguments, as JSON can carry them."""
    input: Mapping[str, Any] | None
    """Its keyword arguments. They have a place of their own, so that none is taken for an option."""


class ChatOptions(TaskOptions, total=False):
    """What can be said about a question to a model."""

    system: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    stream: bool | None
    extra: Mapping[str, Any] | None
    """Further fields for the provider, passed on as they are."""


class CommandOptions(TaskOptions, total=False):
    """What can be said about a command on a host."""

    stdin: str | None
    env: Mapping[str, str] | None
    cwd: str | None


_CHAT = ChatOptions.__optional_keys__ - TaskOptions.__optional_keys__
_COMMAND = CommandOptions.__optional_keys__ - TaskOptions.__optional_keys__


def call(action: str, **options: Unpack[CallOptions]) -> Form:
    """Return the form of a call of a Python function that workers have installed, or of any other action."""
    return {"action": action, **_said(options)}


def llm(provider: str, model: str, prompt: str | Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]) -> Form:
    """Return the form of a question to a model; `prompt` is a text, or a conversation's messages."""
    said = _said(options)
    chat = {"model": model, "prompt" if isinstance(prompt, str) else "messages": prompt, **_taken(said, _CHAT)}
    return {"action": BuiltinAction.LLM_CHAT.value, "provider": provider, "input": chat, **said}


def ssh(connection: str, command: str | Sequence[str], **options: Unpack[CommandOptions]) -> Form:
    """Return the form of a command on a host: a line for its shell, or a list of exactly these words."""
    said = _said(options)
    line = command if isinstance(command, str) else shlex.join(command)
    task_input = {"command": line, **_taken(said, _COMMAND)}
    return {"action": BuiltinAction.SSH_EXEC.value, "connection": connection, "input": task_input, **said}


def agent(agent: str, instructions: str, **options: Unpack[TaskOptions]) -> Form:
    """Return the form of a task for an agent, by its id or name."""
    return {**_said(options), "agent_id": agent, "instructions": instructions}


def _said(options: Mapping[str, Any]) -> Form:
    plain = {name: value for name, value in options.items() if value is not None}
    if isinstance(plain.get("deadline"), datetime):
        plain["deadline"] = plain["deadline"].isoformat()
    return plain


def _taken(said: Form, names: frozenset[str]) -> Form:
    return {name: said.pop(name) for name in sorted(names & said.keys())}
