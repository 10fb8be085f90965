"""The one seam between executing a task and what the task does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocols.claim import ConnectionAccess, ProviderAccess
from protocols.errors import InvalidInput
from protocols.outcome import Outcome
from protocols.states import Delivery


class OutputSink(Protocol):
    """Takes an action's output as it arises. Never blocks, never raises; safe from any thread."""

    def write(self, stream: str, data: bytes) -> None:
        """Append `data` to `stream` (`stdout`, `stderr` or `text`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """Everything that an action may know about the execution it carries out.

    The deadline and a cancel end the action by cancelling the coroutine that runs it (asyncio), from outside:
    see `Action`.
    """

    task_id: str
    attempt: int
    execution_id: str
    action: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    delivery: Delivery
    timeout_s: float
    """Time left for the execution. The caller enforces it; an action uses it to bound its own waits."""
    sink: OutputSink = field(repr=False)
    provider: ProviderAccess | None = None
    connection: ConnectionAccess | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Opened secrets by name. Never log, never put into an outcome."""

    def secret(self, name: str | None) -> str | None:
        """Return the secret that a provider or connection names, or None if it names none.

        Raises InvalidInput if it was not released with the claim.
        """
        if name is None:
            return None
        try:
            return self.secrets[name]
        except KeyError:
            raise InvalidInput(f"secret {name!r} did not come with the claim") from None


class Stopped(Exception):
    """Raised by an action that was cancelled, to tell what it could find out about its effect."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.kind.value)
        self.outcome = outcome


class Action(Protocol):
    """Does one task's work and returns how it ended.

    It returns an Outcome for every end that it can foresee and never raises for one. When its deadline passes
    or a cancel arrives it is cancelled (`asyncio.CancelledError` at its next await); it then stops the work
    within a few seconds and either lets CancelledError pass (effect: maybe) or raises Stopped with an outcome
    that knows more (for SSH: whether the remote process is gone). The caller turns that into `timeout` or
    `cancelled`.
    """

    async def __call__(self, invocation: Invocation) -> Outcome:
        """Carry out the invocation."""
        ...
