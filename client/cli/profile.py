"""`warren profile`: the control planes that the user has logged in to."""

from typing import Annotated, Any

import typer

from client.cli.commands import group
from client.cli.complete import profiles
from client.cli.noun import verb
from client.cli.options import Yes, confirm
from client.profile_store import Login, Logins, load_logins, resolve_config_dir, save_logins
from client.render import Column, Fit, Output, Printer, field

app = group("profile", "warren profile list\nwarren profile use prod")
Name = Annotated[str, typer.Argument(help="The profile's name.", autocompletion=profiles)]
Form = Annotated[Output, typer.Option("--output", "-o", help="How to print data.")]


@verb(app, "list", "warren profile list")
def list_(output: Form = Output.TABLE) -> None:
    """List profiles; the one with a star counts when none is named."""
    logins = load_logins(resolve_config_dir())
    rows = [_shown(logins, name, login) for name, login in logins.by_name.items()]
    columns = [
        Column("", lambda row: "*" if row["current"] else ""),
        field("name"),
        field("url", fit=Fit.CUT),
        field("logged_in"),
    ]
    Printer(output).rows(rows, columns, empty="no profile yet: `warren login --help`")


@verb(app, "show", "warren profile show prod")
def show(name: Name, output: Form = Output.TABLE) -> None:
    """Show a profile, without its key."""
    logins = load_logins(resolve_config_dir())
    Printer(output).record(_shown(logins, name, logins.find(name)))


@verb(app, "use", "warren profile use prod")
def use(name: Name, output: Form = Output.TABLE) -> None:
    """Make a profile the one that counts when none is named."""
    directory = resolve_config_dir()
    logins = load_logins(directory).with_current(name)
    save_logins(directory, logins)
    Printer(output).done(f"profile {name} is the current one", _shown(logins, name, logins.find(name)))


@verb(app, "delete", "warren profile delete old --yes", also=("rm",))
def delete(name: Name, yes: Yes = False, output: Form = Output.TABLE) -> None:
    """Forget a profile, with its key; the key itself is not revoked."""
    directory = resolve_config_dir()
    logins = load_logins(directory).without(name)
    confirm(f"Delete profile {name}?", yes=yes)
    save_logins(directory, logins)
    Printer(output).done(f"profile {name} deleted", {"deleted": name})


def _shown(logins: Logins, name: str, login: Login) -> dict[str, Any]:
    return {
        "name": name,
        "url": login.url,
        "current": name == logins.current,
        "logged_in": login.key is not None,
    }
