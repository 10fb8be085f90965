"""Subscriptions: which of the journal's events somebody wants to hear of, and under which names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.events import EVENT_TYPES
from protocols.errors import InvalidInput

EVERYTHING = "*"
PUBLIC_TYPES = frozenset(
    {
        "agent.status",
        "task.created",
        "task.updated",
        "task.completed",
        "task.failed",
        "worker.online",
        "worker.offline",
        "message.new",
        "notification",
        "system.alert",
    }
)
"""The names that other programs know; the journal tells more exactly what happened. Nothing sends the two without a
source yet: `message.new` and `notification`."""
_PUBLIC = {
    "agent.status": ("agent.status",),
    "task.created": ("task.created",),
    "task.succeeded": ("task.completed",),
    "task.dead": ("task.failed",),
    "worker.online": ("worker.online",),
    "worker.offline": ("worker.offline",),
    "worker.lost": ("worker.offline", "system.alert"),
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """One wish: an event by either of its names, or all, and of one task or one agent's tasks only."""

    event: str
    task_id: str | None = None
    agent_id: str | None = None

    def takes(self, event: Mapping[str, Any], agent_id: str | None) -> bool:
        """Return whether an entry of the journal is about what was asked for; `agent_id` is whose task it is about."""
        return self.task_id in (None, event["task_id"]) and self.agent_id in (None, agent_id)

    def contains(self, other: "Subscription") -> bool:
        """Return whether ending this one ends `other` too: what it leaves open may be anything."""
        return (
            self.event == other.event
            and self.task_id in (None, other.task_id)
            and self.agent_id in (None, other.agent_id)
        )


def check_event(name: str) -> str:
    """Return the name of an event that can be subscribed to; raises InvalidInput for any other."""
    if name != EVERYTHING and name not in PUBLIC_TYPES and name not in EVENT_TYPES:
        known = ", ".join(sorted(PUBLIC_TYPES | EVENT_TYPES))
        raise InvalidInput(f"there is no event {name[:80]!r}", field="event", hint=f"there are: {EVERYTHING}, {known}")
    return name


def public_names(kind: str) -> tuple[str, ...]:
    """Return the names under which an entry of the journal is known to other programs, its own if to none."""
    return _PUBLIC.get(kind, ("task.updated",) if kind.startswith("task.") else (kind,))


def names_for(wanted: set[Subscription], event: Mapping[str, Any], agent_id: str | None) -> list[str]:
    """Return the names under which an entry of the journal is wanted, each once."""
    kind = event["type"]
    known = public_names(kind)
    asked = {one.event for one in wanted if one.takes(event, agent_id)}
    offered = dict.fromkeys((*known, kind))
    return [name for name in offered if name in asked or (EVERYTHING in asked and name in known)]
