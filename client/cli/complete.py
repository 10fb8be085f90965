"""What the shell offers when the user presses the tab key: names that exist. Whatever goes wrong, it offers nothing."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import typer

from protocols.errors import WarrenError

PATIENCE_S = 1.0
AT_MOST = 200


def names(path: str) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion by the names in a list of the API."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return _fitting(_names(context, path), incomplete)

    return complete


def profiles(incomplete: str) -> list[str]:
    """Complete the name of a profile."""
    from client.profile_store import load_logins, resolve_config_dir

    with suppress(WarrenError):
        return _fitting(load_logins(resolve_config_dir()).by_name, incomplete)
    return []


def _names(context: typer.Context, path: str) -> list[str]:
    from client.http import ApiClient
    from client.profile import resolve_profile

    said = context.params
    with suppress(WarrenError):
        found = resolve_profile(
            said.get("url"), said.get("key_file"), said.get("data_dir"), profile=said.get("profile")
        )
        with ApiClient(found.url, found.key, timeout_s=PATIENCE_S) as client:
            return [str(row.get("name")) for row in client.get(path, {"limit": AT_MOST}).get("data", [])]
    return []


def _fitting(found: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in found if name.startswith(incomplete))
