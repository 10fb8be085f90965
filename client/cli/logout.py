"""`warren logout`: forget a key."""

from typing import Annotated

import typer

from client.cli.commands import alone
from client.cli.complete import profiles
from client.render import Printer
from protocols.errors import InvalidInput


def logout(
    profile: Annotated[
        str | None,
        typer.Option(envvar="WARREN_PROFILE", help="The profile; the current one by default.", autocompletion=profiles),
    ] = None,
) -> None:
    """Forget the key of a profile. Its URL stays, for the next login; the key itself is not revoked."""
    from client.profile_store import load_logins, resolve_config_dir, save_logins

    directory = resolve_config_dir()
    logins = load_logins(directory)
    name = profile or logins.current
    if name is None:
        raise InvalidInput("you are not logged in", hint="`warren profile list` shows where you were")
    save_logins(directory, logins.without_key(name))
    Printer().done(f"logged out of {logins.find(name).url}, profile {name}", None)


app = alone(logout, "warren logout")
