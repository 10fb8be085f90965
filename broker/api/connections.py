"""`/ssh-connections`: hosts that commands run on."""

import asyncio
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control, Viewer
from broker.api.fields import Line, NewName, Reference, change_schema
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.fields import A_NUMBER
from broker.resources import CONNECTION, find
from broker.store.tables import connections, secrets
from broker.views import Page, Time, View

router = APIRouter(prefix="/ssh-connections", tags=["SSH connections"], route_class=StrictRoute)

Hostname = Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$")]
"""A host's name, or its IPv4 or IPv6 address."""
HostKey = Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}=?$")]
"""The fingerprint of a host's public key, as OpenSSH prints it."""


class ConnectionChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra=change_schema({"port": 2222}),
    )

    name: NewName = ""
    hostname: Hostname = ""
    port: Annotated[int, Field(ge=1, le=65535), A_NUMBER] = 22
    username: Line = ""
    auth_method: Literal["key", "password"] = "key"
    secret: Reference | None = None
    host_keys: Annotated[list[HostKey], Field(max_length=32)] = []


class ConnectionForm(ConnectionChange):
    """A new connection."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "web-1",
                    "hostname": "192.0.2.10",
                    "username": "deploy",
                    "auth_method": "key",
                    "secret": "deploy-key",
                }
            ]
        },
    )

    name: NewName
    hostname: Hostname
    username: Line


class ConnectionView(View):
    """A connection."""

    id: str
    name: str
    hostname: str
    port: int
    username: str
    auth_method: str
    secret: str | None
    host_keys: list[str]
    created_at: Time
    updated_at: Time


@router.get("", operation_id="listConnections")
async def list_connections(control: Control, _: Viewer, window: Windowed) -> Page[ConnectionView]:
    """List connections."""
    page = read_page(_connections(), connections.c.id, window, ConnectionView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


@router.post("", status_code=201, operation_id="createConnection")
async def create(control: Control, admin: Admin, form: ConnectionForm, response: Response) -> ConnectionView:
    """Add a connection."""
    created = control.resources.create(CONNECTION, form.model_dump(), admin.name)
    connection_id = await asyncio.wrap_future(created)
    response.headers["Location"] = f"/api/v1/ssh-connections/{connection_id}"
    return await _read(control, connection_id)


@router.get("/{reference}", operation_id="getConnection")
async def show(control: Control, _: Viewer, reference: str) -> ConnectionView:
    """Return one connection, by id or name."""
    return await _read(control, reference)


@router.put("/{reference}", operation_id="replaceConnection")
@router.patch("/{reference}", operation_id="changeConnection")
async def change(control: Control, admin: Admin, reference: str, form: ConnectionChange) -> ConnectionView:
    """Change what the form names."""
    fields = form.model_dump(exclude_unset=True)
    changed = control.resources.change(CONNECTION, reference, fields, admin.name)
    return await _read(control, await asyncio.wrap_future(changed))


@router.delete("/{reference}", status_code=204, operation_id="deleteConnection")
async def delete(control: Control, admin: Admin, reference: str) -> Response:
    """Delete a connection that no unfinished task uses."""
    await asyncio.wrap_future(control.resources.delete(CONNECTION, reference, admin.name))
    return Response(status_code=204)


async def _read(control: ControlPlane, reference: str) -> ConnectionView:
    def read(connection: Connection) -> ConnectionView:
        found = find(connection, CONNECTION, reference)
        return ConnectionView.model_validate(
            connection.execute(_connections().where(connections.c.id == found.id)).one()
        )

    return await asyncio.wrap_future(control.store.read(read))


def _connections() -> Select[Any]:
    return sa.select(connections, secrets.c.name.label("secret")).select_from(
        connections.outerjoin(secrets, secrets.c.id == connections.c.secret_id)
    )
