"""`warren secret`: API keys, private keys and passwords, encrypted in the control plane."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from client.cli.options import ApiOptions, confirm, expanded
from client.render import age, field
from protocols.errors import InvalidInput

app = typer.Typer(help="Secrets: API keys, private keys, passwords.", no_args_is_help=True)


@app.command("add")
@expanded
def add(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="A new name: lower case letters, digits, hyphens.")],
    from_file: Annotated[
        Path | None, typer.Option(help="Read the value from this file; - for stdin. Otherwise it is asked for.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="A word to sort by.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Give an existing secret this value.")] = False,
) -> None:
    """Add a secret. Its value is never taken from the command line, where other users could see it."""
    form = {"name": name, "value": read_value(from_file), "category": category}
    with api.connect() as client:
        stored = client.put(f"/secrets/{name}", form) if replace else client.post("/secrets", form)
    api.printer.done(f"secret {name} {'replaced' if replace else 'added'}", stored)


@app.command("list")
@expanded
def list_(api: ApiOptions) -> None:
    """List secrets, without their values."""
    with api.connect() as client:
        rows = list(client.rows("/secrets"))
    columns = [field("name"), field("category"), field("version"), age("updated_at", "changed")]
    api.printer.rows(rows, columns, empty="no secret yet: `warren secret add --help`")


@app.command("rm")
@expanded
def remove(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="Name or id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a secret."""
    confirm(f"Remove secret {name}?", yes=yes)
    with api.connect() as client:
        client.delete(f"/secrets/{name}")
    api.printer.done(f"secret {name} removed", {"removed": name})


def read_value(source: Path | None) -> str:
    """Return a secret's value from a file, stdin or a hidden prompt; raises InvalidInput if there is none."""
    if source is None and sys.stdin.isatty():
        value = str(typer.prompt("Value", hide_input=True, err=True))
    elif source is None or str(source) == "-":
        value = sys.stdin.read()
    else:
        try:
            value = source.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{source} cannot be read as text: {error}") from error
    # A private key needs its last newline; an API key or password never has one.
    value = value if "\n" in value.strip() else value.strip()
    if not value:
        raise InvalidInput("the secret's value is empty", hint="name a file with --from-file, or pipe it in")
    return value
