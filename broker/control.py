"""What the parts of a running control plane know of each other."""

import asyncio
from dataclasses import dataclass

from broker.agents import Agents
from broker.artifacts import Artifacts
from broker.commands import Commands
from broker.dead_letters import DeadLetters
from broker.events import Journal
from broker.fleet import Fleet
from broker.keys import Keys
from broker.live import LiveOutput
from broker.preferences import PreferenceStore
from broker.queues import Queues
from broker.resources import Resources
from broker.sessions import Sessions
from broker.settings import Settings
from broker.store.store import Store
from broker.submit import Submitter
from broker.tasks import Tasks
from broker.vault import Vault
from protocols.clock import Clock
from protocols.lanes.direct import DirectBroker


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """One value with every part that the HTTP surface needs; made in `broker.app`."""

    settings: Settings
    clock: Clock
    store: Store
    vault: Vault
    keys: Keys
    fleet: Fleet
    resources: Resources
    artifacts: Artifacts
    agents: Agents
    preferences: PreferenceStore
    submitter: Submitter
    tasks: Tasks
    commands: Commands
    dead_letters: DeadLetters
    queues: Queues
    sessions: Sessions
    journal: Journal
    live: LiveOutput
    lanes: DirectBroker
    stopping: asyncio.Event
    started_at: int
    """Milliseconds since the epoch."""
