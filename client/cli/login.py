"""`warren login`: remember a control plane, and a key for it."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from client.cli.commands import alone
from client.cli.complete import profiles
from client.cli.hidden import read_hidden
from client.render import Output, Printer
from protocols.errors import InvalidInput
from protocols.names import check_name

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def login(
    url: Annotated[str | None, typer.Option(envvar="WARREN_URL", help="The control plane's URL.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="A file with the API key; - for stdin. Otherwise it is asked for.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            envvar="WARREN_PROFILE", help="What to call this control plane from now on.", autocompletion=profiles
        ),
    ] = "default",
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print data.")] = Output.TABLE,
) -> None:
    """Log in to a control plane, and remember it.

    The key is tried out before anything is kept, in a file that only you can read. It is never taken from the
    command line, where other users could see it. The profile becomes the current one.
    """
    from client.http import ApiClient
    from client.profile import check_key, check_url, resolve_data_dir
    from client.profile_store import Login, load_logins, resolve_config_dir, save_logins

    directory = resolve_config_dir()
    logins = load_logins(directory)
    known = logins.by_name.get(check_name(profile, "profile"))
    address = check_url(url or (known.url if known else _ask_url()), resolve_data_dir(None))
    printer = Printer(output)
    _warn_if_readable(printer, address)
    key = check_key(read_hidden(key_file, "API key", "--key-file"))
    with ApiClient(address, key) as client:
        me = client.get("/auth/whoami")
    save_logins(directory, logins.with_login(profile, Login(address, key)))
    printer.done(
        f"logged in to {address} as {me['name']} ({me['role']}), profile {profile}", {"profile": profile, **me}
    )


def _ask_url() -> str:
    if not sys.stdin.isatty():
        raise InvalidInput("say which control plane", hint="name it with --url")
    return str(typer.prompt("URL of the control plane", err=True))


def _warn_if_readable(printer: Printer, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        printer.remark("warning: over http the key can be read on its way; use https outside of this machine")


app = alone(login, "warren login --url https://warren.example:8000 --key-file admin.key")
