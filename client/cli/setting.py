"""`warren setting`: what an admin may change while the control plane runs."""

import json
from typing import Annotated, Any

import typer

from client.cli.commands import group
from client.cli.noun import verb
from client.cli.options import ApiOptions
from client.render import Fit, field
from protocols.errors import InvalidInput, NotFound

app = group("setting", "warren setting list\nwarren setting set tasks.default_timeout_s 300")
Name = Annotated[str, typer.Argument(help="Category and key, such as tasks.default_timeout_s.")]


@verb(app, "list", "warren setting list")
def list_(api: ApiOptions) -> None:
    """List settings with their values."""
    rows = _rows(api)
    columns = [
        field("name"),
        field("value", fit=Fit.CUT),
        field("default", fit=Fit.SPARE),
        field("description", fit=Fit.FOLD),
    ]
    api.printer.rows(rows, columns, empty="no settings")


@verb(app, "show", "warren setting show tasks.default_timeout_s")
def show(api: ApiOptions, name: Name) -> None:
    """Show a setting, and who changed it when."""
    found = next((row for row in _rows(api) if row["name"] == name), None)
    if found is None:
        raise NotFound(f"there is no setting {name[:80]!r}", hint="`warren setting list` shows what there is")
    api.printer.record(found)


@verb(app, "set", "warren setting set tasks.default_timeout_s 300", also=("update",))
def set_(
    api: ApiOptions,
    name: Name,
    value: Annotated[str, typer.Argument(help="The value, as JSON or as a text; null takes a text away.")],
) -> None:
    """Change a setting, from now on."""
    category, dot, key = name.partition(".")
    if not dot:
        raise InvalidInput(f"{name[:80]!r} is no setting's name", hint="write category.key, as `setting list` does")
    from client.http import path_to

    with api.connect() as client:
        changed = client.put(path_to("settings", category, key), {"value": _value(value)})
    api.printer.done(f"{name} is {value}", changed)


@verb(app, "health", "warren setting health")
def health(api: ApiOptions) -> None:
    """Show how the parts of the control plane are."""
    with api.connect() as client:
        api.printer.record(client.get("/settings/health"))


def _rows(api: ApiOptions) -> list[dict[str, Any]]:
    with api.connect() as client:
        by_category = client.get("/settings")
    return [
        {"name": f"{category}.{key}", **entry} for category, keys in by_category.items() for key, entry in keys.items()
    ]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
