"""`/secrets`: API keys, private keys and passwords.

Their values go in and come out masked, unless an admin asks for one and the process was started to allow it.
"""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control
from broker.api.fields import Line, NewName, change_schema
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.fields import Moment
from broker.resources import SECRET, find
from broker.store.tables import secrets
from broker.views import Page, Time, View
from protocols.errors import Forbidden, InvalidInput

MAX_VALUE_BYTES = 64 * 1024
MASK = "********"
_LAST_YEAR = 9000
_DAY_MS = 86_400_000
_LONG = 10**15
"""Milliseconds; added to a time, it makes all of them as long as each other, so that they sort as text."""

router = APIRouter(prefix="/secrets", tags=["secrets"], route_class=StrictRoute)


def _bounded(value: SecretStr) -> SecretStr:
    size = len(value.get_secret_value().encode())
    if not 1 <= size <= MAX_VALUE_BYTES:
        raise ValueError(f"write 1 to {MAX_VALUE_BYTES:,} bytes")
    return value


Value = Annotated[SecretStr, AfterValidator(_bounded)]
Days = Annotated[int, Query(ge=0, le=3650, description="Those that expire within so many days from now.")]
Reveal = Annotated[bool, Query(description="Answer with the value in place of its mask.")]


class SecretChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra=change_schema({"expires_at": "2031-01-31T12:00:00Z"}),
    )

    name: NewName = ""
    value: Value = SecretStr("")
    category: Annotated[Line, Field(max_length=64)] | None = None
    expires_at: Moment | None = None


class SecretForm(SecretChange):
    """A new secret."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "openai-key", "value": "sk-…", "category": "llm"}]},
    )

    name: NewName
    value: Value


class RotateForm(BaseModel):
    """A secret's new value."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"examples": [{"value": "sk-…"}]}
    )

    value: Value


class SecretView(View):
    """A secret, its value masked unless it was asked for."""

    id: str
    name: str
    value: str = MASK
    category: str | None
    version: int
    expires_at: Time | None
    created_at: Time
    updated_at: Time


@router.get("", operation_id="listSecrets")
async def list_secrets(control: Control, _: Admin, window: Windowed) -> Page[SecretView]:
    """List secrets."""
    page = read_page(sa.select(secrets), secrets.c.id, window, SecretView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


@router.post("", status_code=201, operation_id="createSecret")
async def create(control: Control, admin: Admin, form: SecretForm, response: Response) -> SecretView:
    """Add a secret."""
    secret_id = await asyncio.wrap_future(control.resources.create(SECRET, _fields(form), admin.name))
    response.headers["Location"] = f"/api/v1/secrets/{secret_id}"
    return await _read(control, secret_id)


@router.get("/expiring", operation_id="listExpiringSecrets")
async def list_expiring(control: Control, _: Admin, window: Windowed, days: Days = 30) -> Page[SecretView]:
    """List secrets that expire within so many days or have expired, soonest first."""
    # Times are not unique, and a list needs a place of its own for each row.
    place = (sa.cast(secrets.c.expires_at + _LONG, sa.String) + secrets.c.id).label("place")
    expiring = sa.select(secrets, place).where(secrets.c.expires_at <= control.clock.now() + days * _DAY_MS)
    page = read_page(expiring, place, window, SecretView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


@router.get("/{reference}", operation_id="getSecret")
async def show(control: Control, admin: Admin, reference: str, reveal: Reveal = False) -> SecretView:
    """Return a secret by id or name; `reveal` asks for its value, which the audit log notes."""
    if not reveal:
        return await _read(control, reference)
    allowed = control.settings.reveal_secrets
    revealed = await asyncio.wrap_future(control.resources.reveal(reference, admin.name, allowed=allowed))
    if revealed is None:
        hint = "start the control plane with WARREN_REVEAL_SECRETS=true"
        raise Forbidden("this control plane does not reveal secrets", field="reveal", hint=hint)
    return SecretView.model_validate(revealed)


@router.put("/{reference}", operation_id="replaceSecret")
@router.patch("/{reference}", operation_id="changeSecret")
async def change(control: Control, admin: Admin, reference: str, form: SecretChange) -> SecretView:
    """Change what the form names; a new value makes a new version."""
    changed = control.resources.change(SECRET, reference, _fields(form), admin.name)
    return await _read(control, await asyncio.wrap_future(changed))


@router.post("/{reference}/rotate", operation_id="rotateSecret")
async def rotate(control: Control, admin: Admin, reference: str, form: RotateForm) -> SecretView:
    """Give a secret a new value, which becomes its next version."""
    fields = {"value": form.value.get_secret_value().encode()}
    changed = control.resources.change(SECRET, reference, fields, admin.name)
    return await _read(control, await asyncio.wrap_future(changed))


@router.delete("/{reference}", status_code=204, operation_id="deleteSecret")
async def delete(control: Control, admin: Admin, reference: str) -> Response:
    """Delete a secret that no provider or connection uses."""
    await asyncio.wrap_future(control.resources.delete(SECRET, reference, admin.name))
    return Response(status_code=204)


def _fields(form: SecretChange) -> dict[str, Any]:
    """Return what the form names, as it is stored."""
    fields = form.model_dump(include=form.model_fields_set)
    if "value" in fields:
        fields["value"] = form.value.get_secret_value().encode()
    if form.expires_at is not None:
        if form.expires_at.year > _LAST_YEAR or form.expires_at.timestamp() < 0:
            raise InvalidInput("that time is out of range", field="expires_at")
        fields["expires_at"] = int(form.expires_at.timestamp() * 1000)
    return fields


async def _read(control: ControlPlane, reference: str) -> SecretView:
    def read(connection: Connection) -> SecretView:
        return SecretView.model_validate(find(connection, SECRET, reference))

    return await asyncio.wrap_future(control.store.read(read))
