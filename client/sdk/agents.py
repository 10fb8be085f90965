"""Agents: in whose name models are asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypedDict, Unpack

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record, query


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent(Record):
    """A profile for questions to a model, and whether it takes work."""

    id: str
    name: str
    status: str
    version: int
    pool: str
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    role: str | None = None
    llm_provider: str | None = None
    llm_model: str | None = None
    system_prompt: str | None = None
    enabled_tools: tuple[str, ...] = ()
    worker_id: str | None = None
    worker: str | None = None
    created_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentVersion(Record):
    """An agent's profile as it was at a time."""

    version: int
    at: datetime
    profile: Mapping[str, Any]
    actor: str | None = None


class AgentProfile(TypedDict, total=False):
    """What can be said of an agent."""

    description: str | None
    role: str | None
    llm_provider: str | None
    llm_model: str | None
    system_prompt: str | None
    enabled_tools: Sequence[str]
    worker_id: str | None
    pool: str


class AgentFilter(TypedDict, total=False):
    """Which agents to list."""

    status: str | None
    role: str | None


class Agents(Noun[Agent]):
    """The agents of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "agents", Agent)

    def list(self, *, limit: int | None = None, **where: Unpack[AgentFilter]) -> Iterator[Agent]:
        """Yield agents, page by page, at most `limit` of them."""
        return islice(self._rows(query(where)), limit)

    def create(self, name: str, **profile: Unpack[AgentProfile]) -> Agent:
        """Add an agent, which takes work at once; raises Conflict if the name is taken."""
        return self._create({"name": name, **profile})

    def update(self, agent: str, *, name: str | None = None, **profile: Unpack[AgentProfile]) -> Agent:
        """Change what is named, and call it `name` if that is given; the profile gets a new version."""
        return self._change(agent, {**profile, **({"name": name} if name else {})})

    def delete(self, agent: str) -> None:
        """Delete an agent; its tasks stay."""
        self._delete(agent)

    def start(self, agent: str) -> Agent:
        """Let it take work."""
        return self._tell(agent, "start")

    def stop(self, agent: str) -> Agent:
        """Have new work for it refused."""
        return self._tell(agent, "stop")

    def versions(self, agent: str) -> Iterator[AgentVersion]:
        """Yield the versions of its profile."""
        return map(AgentVersion.of, self._client.rows(self._path(agent, "versions")))

    def version(self, agent: str, number: int) -> AgentVersion:
        """Return its profile as it was in one version."""
        return AgentVersion.of(self._client.get(self._path(agent, "versions", str(number))))
