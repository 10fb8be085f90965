"""`warren provider`: where LLM calls go."""

from typing import Annotated

import typer

from client.cli.options import ApiOptions, confirm, expanded
from client.render import Fit, field

app = typer.Typer(help="LLM providers: where calls go, and with which secret.", no_args_is_help=True)


@app.command("add")
@expanded
def add(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="A new name: lower case letters, digits, hyphens.")],
    base_url: Annotated[str, typer.Option(help="Its API's base, such as https://api.openai.com/v1.")],
    kind: Annotated[str, typer.Option(help="The protocol it speaks.")] = "openai",
    secret: Annotated[str | None, typer.Option(help="The secret that holds its API key.")] = None,
) -> None:
    """Add a provider."""
    form = {"name": name, "kind": kind, "base_url": base_url, "secret": secret}
    with api.connect() as client:
        added = client.post("/providers", form)
    api.printer.done(f"provider {name} added", added)


@app.command("list")
@expanded
def list_(api: ApiOptions) -> None:
    """List providers."""
    with api.connect() as client:
        rows = list(client.rows("/providers"))
    columns = [field("name"), field("kind"), field("base_url", fit=Fit.CUT), field("secret")]
    api.printer.rows(rows, columns, empty="no provider yet: `warren provider add --help`")


@app.command("rm")
@expanded
def remove(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="Name or id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a provider."""
    confirm(f"Remove provider {name}?", yes=yes)
    with api.connect() as client:
        client.delete(f"/providers/{name}")
    api.printer.done(f"provider {name} removed", {"removed": name})
