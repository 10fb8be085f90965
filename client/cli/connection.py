"""`warren connection`: hosts that SSH tasks run on."""

from typing import Annotated

import typer

from client.cli.options import ApiOptions, confirm, expanded
from client.render import Fit, field

app = typer.Typer(help="SSH connections: hosts that commands run on.", no_args_is_help=True)


@app.command("add")
@expanded
def add(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="A new name: lower case letters, digits, hyphens.")],
    hostname: Annotated[str, typer.Argument(help="Host name or address.")],
    user: Annotated[str, typer.Option("--user", "-u", help="Whom to log in as.")],
    secret: Annotated[str, typer.Option(help="The secret that holds the private key or password.")],
    host_key: Annotated[
        list[str],
        typer.Option(help="The host's key fingerprint, `SHA256:…`; `ssh-keyscan HOST | ssh-keygen -lf -` prints it."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 22,
    auth: Annotated[str, typer.Option(help="What the secret is: key or password.")] = "key",
) -> None:
    """Add a host."""
    form = {
        "name": name,
        "hostname": hostname,
        "port": port,
        "username": user,
        "auth_method": auth,
        "secret": secret,
        "host_keys": host_key,
    }
    with api.connect() as client:
        added = client.post("/ssh-connections", form)
    api.printer.done(f"connection {name} added", added)


@app.command("list")
@expanded
def list_(api: ApiOptions) -> None:
    """List hosts."""
    with api.connect() as client:
        rows = list(client.rows("/ssh-connections"))
    columns = [
        field("name"),
        field("hostname", fit=Fit.CUT),
        field("port"),
        field("username", "user"),
        field("auth_method", "auth"),
        field("secret"),
    ]
    api.printer.rows(rows, columns, empty="no connection yet: `warren connection add --help`")


@app.command("rm")
@expanded
def remove(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="Name or id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a host."""
    confirm(f"Remove connection {name}?", yes=yes)
    with api.connect() as client:
        client.delete(f"/ssh-connections/{name}")
    api.printer.done(f"connection {name} removed", {"removed": name})
