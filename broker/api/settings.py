"""`/settings`: preferences that an admin changes while Warren runs, and whether everything that it needs is well."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, RootModel

from broker.api.auth import Admin, Control
from broker.api.strict_json import StrictRoute
from broker.condition import Condition, examine
from broker.control import ControlPlane
from broker.views import Time, View

MAX_AT_ONCE = 100

router = APIRouter(prefix="/settings", tags=["settings"], route_class=StrictRoute)


class SettingView(View):
    """A setting as it is now."""

    value: Any = Field(description="What holds.")
    default: Any = Field(description="What holds while nobody has changed it.")
    type: Literal["string", "integer", "number", "boolean"]
    description: str
    updated_at: Time | None
    updated_by: str | None = Field(description="The name of the API key that changed it last.")


class SettingForm(BaseModel):
    """A new value."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"examples": [{"value": 5}, {"value": "high"}]}
    )

    value: Any = Field(description="In the setting's type, or as a text that can be read as that.")


class SettingsForm(BaseModel):
    """New values, which are set together or not at all."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [{"settings": {"tasks.default_max_attempts": 5, "tasks.default_priority": "high"}}]
        },
    )

    settings: Annotated[dict[str, Any], Field(min_length=1, max_length=MAX_AT_ONCE)] = Field(
        description="Values by `category.key`."
    )


class SettingsView(RootModel[dict[str, dict[str, SettingView]]]):
    """All settings, by category and key."""


@router.get("", operation_id="listSettings", summary="List settings")
async def list_settings(control: Control, _: Admin) -> SettingsView:
    """List all settings by category and key, with their defaults and who changed them last."""
    return _listed(control)


@router.get("/health", operation_id="systemHealth", summary="Check what Warren needs")
async def health(control: Control, _: Admin) -> Condition:
    """Tell how the database, the disk under the data directory and the workers are."""
    return await examine(control.store, control.settings.data_dir, control.clock.now())


@router.put("/bulk", operation_id="replaceSettings", summary="Change several settings")
@router.patch("/bulk", operation_id="changeSettings", summary="Change several settings")
async def change_several(control: Control, admin: Admin, form: SettingsForm) -> SettingsView:
    """Set several values, all of them or none; answers with all settings."""
    await asyncio.wrap_future(control.preferences.change(form.settings, admin.name))
    return _listed(control)


@router.put("/{category}/{key}", operation_id="replaceSetting", summary="Change a setting")
@router.patch("/{category}/{key}", operation_id="changeSetting", summary="Change a setting")
async def change(control: Control, admin: Admin, category: str, key: str, form: SettingForm) -> SettingView:
    """Set one value. It holds from the next request on."""
    await asyncio.wrap_future(control.preferences.change({f"{category}.{key}": form.value}, admin.name))
    return _listed(control).root[category][key]


def _listed(control: ControlPlane) -> SettingsView:
    listed: dict[str, dict[str, SettingView]] = {}
    for preference in control.preferences.listed():
        category, _, key = preference.name.partition(".")
        listed.setdefault(category, {})[key] = SettingView.model_validate(preference)
    return SettingsView(listed)
