"""`/security/api-keys`, under other names too: who else may come in."""

import asyncio
from typing import Literal

import sqlalchemy as sa
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from broker.api.auth import Admin, Control
from broker.api.fields import Line
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.store.tables import api_keys
from broker.views import Page, Time, View
from protocols.states import Role

router = APIRouter(tags=["API keys"], route_class=StrictRoute)


class KeyForm(BaseModel):
    """A new key."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"name": "ci", "role": "operator"}]},
    )

    name: Line
    role: Literal["viewer", "operator", "admin", "worker"]


class KeyView(View):
    """A key, without its text."""

    id: str
    name: str
    role: str
    created_at: Time
    revoked_at: Time | None


class NewKeyView(BaseModel):
    """A new key, with its text, which is shown this once."""

    id: str
    name: str
    role: str
    key: str


@router.get("", operation_id="listKeys")
async def list_keys(control: Control, _: Admin, window: Windowed) -> Page[KeyView]:
    """List keys, also those that were revoked."""
    page = read_page(sa.select(api_keys), api_keys.c.id, window, KeyView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


@router.post("", status_code=201, operation_id="createKey")
async def create(control: Control, admin: Admin, form: KeyForm, response: Response) -> NewKeyView:
    """Make a key. Its text is in this answer and nowhere else."""
    made = await asyncio.wrap_future(control.keys.create(form.name, Role(form.role), admin.name))
    response.headers["Location"] = f"/api/v1/security/api-keys/{made.principal.key_id}"
    return NewKeyView(id=made.principal.key_id, name=made.principal.name, role=made.principal.role.value, key=made.text)


@router.delete("/{key_id}", status_code=204, operation_id="revokeKey")
async def revoke(control: Control, admin: Admin, key_id: str) -> Response:
    """Make a key useless at once."""
    await asyncio.wrap_future(control.keys.revoke(key_id, admin.name))
    return Response(status_code=204)
