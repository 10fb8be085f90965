"""What this worker can do, by name. dramatiq's registry is the registry: every action is one of its actors."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import dramatiq
from dramatiq import Actor
from dramatiq.errors import ActorNotFound

from protocols.errors import NotFound
from protocols.lanes.seam import LaneBroker
from protocols.names import ACTION_ENTRY_POINTS
from worker.actions.seam import Action


class UnknownAction(NotFound):
    """No such action is installed on this worker."""

    code = "unknown_action"


class ActionActor(Actor[Any, Any]):
    """A dramatiq actor whose work is done by an action."""

    def __init__(self, fn: Action, **declaration: Any) -> None:
        super().__init__(fn, **declaration)
        self.action = fn


class Registry:
    """Finds the action for an envelope."""

    def __init__(self, broker: LaneBroker, isolate: Callable[[str], Action]) -> None:
        """`isolate` makes the action that runs a named one in a fresh child process."""
        self._broker = broker
        self._isolate = isolate

    def declare(self, name: str, action: Action) -> None:
        """Make an action known; raises ValueError if the name is taken."""
        declare = dramatiq.actor(actor_name=name, broker=self._broker, actor_class=ActionActor)
        declare(action)

    @property
    def names(self) -> tuple[str, ...]:
        """Every action that this worker has."""
        return tuple(sorted(self._broker.get_declared_actors()))

    def action(self, name: str) -> Action:
        """Return the action of this name; raises UnknownAction."""
        try:
            actor = self._broker.get_actor(name)
        except ActorNotFound:
            actor = None
        if not isinstance(actor, ActionActor):
            raise UnknownAction(f"action {name[:80]!r} is not installed on this worker")
        return actor.action

    def isolated(self, name: str) -> Action:
        """Return the action of this name, to be run in a child process of its own; raises UnknownAction."""
        self.action(name)
        return self._isolate(name)


def python_sources(configured: Mapping[str, str]) -> dict[str, str]:
    """Return where the users' functions are, as `module:attribute` by name, without importing any of them.

    Installed packages declare them as entry points of the group `warren.actions`; `configured` ones win.
    """
    installed = {point.name: point.value for point in entry_points(group=ACTION_ENTRY_POINTS)}
    return {**installed, **configured}
