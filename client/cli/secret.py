"""`warren secret`: API keys, private keys and passwords, encrypted in the control plane."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.hidden import read_hidden
from client.cli.noun import NewName, Noun, verb
from client.cli.options import ApiOptions, given
from client.render import age, field

FromFile = Annotated[
    Path | None, typer.Option(help="Read the value from this file; - for stdin. Otherwise it is asked for.")
]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What can be said about a secret, besides its value."""

    category: Annotated[str | None, typer.Option(help="A word to sort by.")] = None
    expires_at: Annotated[str | None, typer.Option(help="When it stops being valid, such as 2030-01-31T00:00:00Z.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class Changes(Form):
    """What can be changed."""

    name: Annotated[str | None, typer.Option(help="Another name.")] = None


app = group("secret", "warren secret create openai-key --from-file openai.key")
secret = Noun(
    app=app,
    name="secret",
    path="/secrets",
    columns=[
        field("name"),
        field("category"),
        field("version"),
        age("updated_at", "changed"),
        field("expires_at", "expires"),
    ],
    empty="no secret yet: `warren secret create --help`",
    sample="openai-key",
    many="secrets, without their values",
)
secret.lists()
secret.shows()


@verb(app, "create", "warren secret create openai-key --from-file openai.key", also=("add",))
def create(
    api: ApiOptions,
    name: NewName,
    form: Form,
    from_file: FromFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Give an existing secret this value.")] = False,
) -> None:
    """Create a secret. Its value is never taken from the command line, where other users could see it."""
    fields = {"name": name, "value": read_hidden(from_file, "Value"), **given(form)}
    with api.connect() as client:
        stored = client.put(secret.at(name), fields) if replace else client.post("/secrets", fields)
    api.printer.done(f"secret {name} {'replaced' if replace else 'created'}", stored)


secret.updates(Changes, "--expires-at 2030-01-31T00:00:00Z")


@secret.verb("rotate", "--from-file new.key")
def rotate(api: ApiOptions, reference: str, from_file: FromFile = None) -> None:
    """Give it a new value. It is the next version, which all that starts from now on gets."""
    value = read_hidden(from_file, "New value")
    with api.connect() as client:
        rotated = client.post(secret.at(reference, "rotate"), {"value": value})
    api.printer.done(f"secret {reference} is at version {rotated['version']}", rotated)


@verb(app, "expiring", "warren secret expiring --days 7")
def expiring(
    api: ApiOptions, days: Annotated[int, typer.Option(min=0, max=3650, help="Within so many days.")] = 30
) -> None:
    """List secrets that expire soon, and those that have."""
    with api.connect() as client:
        rows = list(client.rows("/secrets/expiring", {"days": days}))
    columns = [field("name"), field("category"), field("expires_at", "expires"), field("version")]
    api.printer.rows(rows, columns, empty=f"no secret expires within {days} days")


@secret.verb("reveal")
def reveal(api: ApiOptions, reference: str) -> None:
    """Print its value. The audit log says so, and only a control plane that was started to allow it does."""
    with api.connect() as client:
        revealed = client.get(secret.at(reference), {"reveal": "true"})
    if api.printer.for_programs:
        api.printer.record(revealed)
    else:
        print(revealed["value"])


secret.deletes("Providers and connections that use it keep it from being deleted.")
