"""`/providers`: where LLM calls go."""

import asyncio
from typing import Annotated, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control, Viewer
from broker.api.fields import Line, NewName, Reference, change_schema
from broker.api.paging import Windowed, read_page
from broker.api.strict_json import StrictRoute
from broker.control import ControlPlane
from broker.resources import PROVIDER, find
from broker.store.tables import providers, secrets
from broker.views import Page, Time, View

KINDS = ("openai",)

router = APIRouter(prefix="/providers", tags=["providers"], route_class=StrictRoute)


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"write one of {', '.join(KINDS)}: other providers are reached by their OpenAI-compatible URL")
    return kind


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("write a URL such as https://api.openai.com/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("leave out user, query and fragment; the API key belongs into a secret")
    return url


class ProviderChange(BaseModel):
    """What shall change; the rest stays."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra=change_schema({"models": ["gpt-5-mini", "gpt-5"]}),
    )

    name: NewName = ""
    kind: Annotated[str, AfterValidator(_known_kind)] = KINDS[0]
    base_url: Annotated[str, Field(max_length=2000), AfterValidator(_http_url)] = ""
    secret: Reference | None = None
    models: Annotated[list[Line], Field(max_length=1000)] = []


class ProviderForm(ProviderChange):
    """A new provider."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "openai",
                    "base_url": "https://api.openai.com/v1",
                    "secret": "openai-key",
                    "models": ["gpt-5-mini"],
                }
            ]
        },
    )

    name: NewName
    base_url: Annotated[str, Field(max_length=2000), AfterValidator(_http_url)]


class ProviderView(View):
    """A provider."""

    id: str
    name: str
    kind: str
    base_url: str
    secret: str | None
    models: list[str]
    created_at: Time
    updated_at: Time


@router.get("", operation_id="listProviders")
async def list_providers(control: Control, _: Viewer, window: Windowed) -> Page[ProviderView]:
    """List providers."""
    page = read_page(_providers(), providers.c.id, window, ProviderView.model_validate)
    return await asyncio.wrap_future(control.store.read(page))


@router.post("", status_code=201, operation_id="createProvider")
async def create(control: Control, admin: Admin, form: ProviderForm, response: Response) -> ProviderView:
    """Add a provider."""
    created = control.resources.create(PROVIDER, form.model_dump(), admin.name)
    provider_id = await asyncio.wrap_future(created)
    response.headers["Location"] = f"/api/v1/providers/{provider_id}"
    return await _read(control, provider_id)


@router.get("/{reference}", operation_id="getProvider")
async def show(control: Control, _: Viewer, reference: str) -> ProviderView:
    """Return one provider, by id or name."""
    return await _read(control, reference)


@router.put("/{reference}", operation_id="replaceProvider")
@router.patch("/{reference}", operation_id="changeProvider")
async def change(control: Control, admin: Admin, reference: str, form: ProviderChange) -> ProviderView:
    """Change what the form names."""
    fields = form.model_dump(exclude_unset=True)
    changed = control.resources.change(PROVIDER, reference, fields, admin.name)
    return await _read(control, await asyncio.wrap_future(changed))


@router.delete("/{reference}", status_code=204, operation_id="deleteProvider")
async def delete(control: Control, admin: Admin, reference: str) -> Response:
    """Delete a provider that no unfinished task uses."""
    await asyncio.wrap_future(control.resources.delete(PROVIDER, reference, admin.name))
    return Response(status_code=204)


async def _read(control: ControlPlane, reference: str) -> ProviderView:
    def read(connection: Connection) -> ProviderView:
        provider_id = find(connection, PROVIDER, reference).id
        return ProviderView.model_validate(connection.execute(_providers().where(providers.c.id == provider_id)).one())

    return await asyncio.wrap_future(control.store.read(read))


def _providers() -> Select[Any]:
    return sa.select(providers, secrets.c.name.label("secret")).select_from(
        providers.outerjoin(secrets, secrets.c.id == providers.c.secret_id)
    )
