"""`/agents`: in whose name LLMs are asked, their profiles' versions, and whether they take work."""

import asyncio
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.engine import Connection

from broker.agents import RESERVED_NAMES, AgentStatus, find_agent, living_agents, shown_status
from broker.api.auth import Control, Operator, Viewer
from broker.api.fields import Line, Reference, change_schema
from broker.api.filters import one_state
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.fields import PoolName, named, unless_reserved
from broker.store.tables import agent_versions, agents
from broker.views import AgentVersionView, AgentView, Page, agent_view
from protocols.errors import NotFound
from protocols.names import DEFAULT_POOL

router = APIRouter(prefix="/agents", tags=["agents"], route_class=StrictRoute)


AgentName = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^\s/\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?$")
]
"""Some words that can stand in a path: no slash, no control character, no space at either end."""
NewAgentName = Annotated[AgentName, named(unless_reserved(RESERVED_NAMES))]
Description = Annotated[str, Field(max_length=10_000)]
SystemPrompt = Annotated[str, Field(max_length=32_768)]
Model = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="From 1.")]


def _distinct(tools: list[str]) -> list[str]:
    return list(dict.fromkeys(tools))


Tools = Annotated[list[Line], Field(max_length=100), AfterValidator(_distinct)]


class AgentChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra=change_schema({"llm_model": "gpt-5", "enabled_tools": ["search"]}),
    )

    name: NewAgentName = ""
    description: Description | None = None
    role: Line | None = None
    llm_provider: Reference | None = None
    llm_model: Model | None = None
    system_prompt: SystemPrompt | None = None
    enabled_tools: Tools = []
    worker_id: Reference | None = None
    pool: PoolName = DEFAULT_POOL


class AgentForm(AgentChange):
    """A new agent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Researcher",
                    "role": "research",
                    "llm_provider": "openai",
                    "llm_model": "gpt-5-mini",
                    "system_prompt": "You answer briefly, and name your sources.",
                }
            ]
        },
    )

    name: NewAgentName


@router.get("", operation_id="listAgents")
async def list_agents(
    control: Control,
    _: Viewer,
    window: Windowed,
    state: Annotated[AgentStatus | None, Depends(one_state(AgentStatus))],
    role: Annotated[str | None, Query(max_length=128, description="Only those with this role.")] = None,
) -> Page[AgentView]:
    """List agents, oldest first."""
    query = living_agents()
    if state is not None:
        query = query.where(shown_status() == state.value)
    if role is not None:
        query = query.where(agents.c.role == role)
    return await asyncio.wrap_future(control.store.read(read_page(query, agents.c.id, window, agent_view)))


@router.post("", status_code=201, operation_id="createAgent")
async def create(control: Control, operator: Operator, form: AgentForm, response: Response) -> AgentView:
    """Add an agent. It is idle: it takes work at once."""
    agent_id = await asyncio.wrap_future(control.agents.create(form.model_dump(), operator.name))
    response.headers["Location"] = f"/api/v1/agents/{agent_id}"
    return await _read(control, agent_id)


@router.get("/{reference}", operation_id="getAgent")
async def show(control: Control, _: Viewer, reference: str) -> AgentView:
    """Return one agent, by id or name."""
    return await _read(control, reference)


@router.put("/{reference}", operation_id="replaceAgent")
@router.patch("/{reference}", operation_id="changeAgent")
async def change(control: Control, operator: Operator, reference: str, form: AgentChange) -> AgentView:
    """Change what the form names. A change that changes something makes a new version of the profile."""
    changed = control.agents.change(reference, form.model_dump(exclude_unset=True), operator.name)
    return await _read(control, await asyncio.wrap_future(changed))


@router.delete("/{reference}", status_code=204, operation_id="deleteAgent")
async def delete(control: Control, operator: Operator, reference: str) -> Response:
    """Delete an agent. Its tasks stay, go on, and keep its name."""
    await asyncio.wrap_future(control.agents.delete(reference, operator.name))
    return Response(status_code=204)


@router.post("/{reference}/start", operation_id="startAgent")
async def start(control: Control, operator: Operator, reference: str) -> AgentView:
    """Let an agent take work again."""
    return await _read(control, await asyncio.wrap_future(control.agents.start(reference, operator.name)))


@router.post("/{reference}/stop", operation_id="stopAgent")
async def stop(control: Control, operator: Operator, reference: str) -> AgentView:
    """Stop an agent: new tasks for it are refused, those that it has are carried out."""
    return await _read(control, await asyncio.wrap_future(control.agents.stop(reference, operator.name)))


@router.get("/{reference}/versions", operation_id="listAgentVersions")
async def list_versions(control: Control, _: Viewer, reference: str, window: Windowed) -> Page[AgentVersionView]:
    """List the versions of an agent's profile, newest first."""

    def read(connection: Connection) -> Page[AgentVersionView]:
        agent_id = find_agent(connection, reference).id
        query = sa.select(agent_versions).where(agent_versions.c.agent_id == agent_id)
        number = agent_versions.c.version
        return read_page(query, number, window, AgentVersionView.model_validate, newest_first=True)(connection)

    return await asyncio.wrap_future(control.store.read(read))


@router.get("/{reference}/versions/{version}", operation_id="getAgentVersion")
async def show_version(control: Control, _: Viewer, reference: str, version: VersionNumber) -> AgentVersionView:
    """Return an agent's profile as it was in one version."""

    def read(connection: Connection) -> AgentVersionView:
        agent = find_agent(connection, reference)
        query = sa.select(agent_versions).where(
            agent_versions.c.agent_id == agent.id, agent_versions.c.version == version
        )
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"agent {agent.name!r} has no version {version}; its newest is {agent.version}")
        return AgentVersionView.model_validate(row)

    return await asyncio.wrap_future(control.store.read(read))


async def _read(control: ControlPlane, reference: str) -> AgentView:
    return await asyncio.wrap_future(
        control.store.read(lambda connection: agent_view(find_agent(connection, reference)._asdict()))
    )
