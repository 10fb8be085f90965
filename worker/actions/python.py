"""Users' Python functions, each call in a child process that can be ended, and any action run in isolation."""

from dataclasses import asdict
from typing import Any

from protocols.outcome import Outcome
from worker.actions.seam import Invocation
from worker.children import Children, Job

PYTHON_STOP_S = 2.0
BUILTIN_STOP_S = 8.0
"""How long a child may take to end its work after SIGTERM. Built-in actions use it to end what they began."""


class PythonAction:
    """Calls one function, `module:attribute`, in a child process that is used again."""

    def __init__(self, source: str, children: Children) -> None:
        self._source = source
        self._children = children

    async def __call__(self, invocation: Invocation) -> Outcome:
        """Carry out the invocation."""
        job = Job(message(self._source, invocation), invocation.sink, PYTHON_STOP_S)
        return await self._children.perform(job)


class IsolatedAction:
    """Runs a whole action in a fresh child process: if the task ends its process, it ends only that one."""

    def __init__(self, source: str | None, children: Children) -> None:
        """`source` is None for a built-in action."""
        self._source = source
        self._children = children

    async def __call__(self, invocation: Invocation) -> Outcome:
        """Carry out the invocation."""
        stop_s = BUILTIN_STOP_S if self._source is None else PYTHON_STOP_S
        job = Job(message(self._source, invocation), invocation.sink, stop_s)
        return await self._children.perform(job, fresh=True)


def message(source: str | None, invocation: Invocation) -> dict[str, Any]:
    """Return what a child is told; it travels over a socket pair, so secrets are in no argument or environment."""
    return {
        "source": source,
        "task_id": invocation.task_id,
        "attempt": invocation.attempt,
        "execution_id": invocation.execution_id,
        "action": invocation.action,
        "args": list(invocation.args),
        "kwargs": dict(invocation.kwargs),
        "delivery": invocation.delivery.value,
        "timeout_s": invocation.timeout_s,
        "provider": asdict(invocation.provider) if invocation.provider else None,
        "connection": asdict(invocation.connection) if invocation.connection else None,
        "secrets": dict(invocation.secrets) if source is None else {},
    }
