"""Which control plane the command talks to, and with which key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from protocols.errors import InvalidSettings, Unauthenticated, Unreachable

URL_FILE = "url"
ADMIN_KEY_FILE = "admin.key"
WORKER_KEY_FILE = "worker.key"


@dataclass(frozen=True, slots=True)
class Profile:
    """A control plane's URL and the API key for it."""

    url: str
    key: str = field(repr=False)


def resolve_data_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the data directory: as given, else WARREN_DATA_DIR, else the user's own."""
    if given is not None:
        return given.expanduser().absolute()
    if environ.get("WARREN_DATA_DIR"):
        return Path(environ["WARREN_DATA_DIR"]).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("warren")


def resolve_profile(
    url: str | None, key_file: Path | None, data_dir: Path | None, environ: Mapping[str, str] = os.environ
) -> Profile:
    """Return the control plane and key that the options, the environment or the data directory name.

    Raises Unreachable if no control plane is known, Unauthenticated if there is no key for it, InvalidSettings
    for a URL or key that cannot be one.
    """
    directory = resolve_data_dir(data_dir, environ)
    named = url or environ.get("WARREN_URL")
    local = recorded_url(directory)
    address = check_url(named or local or "", directory)
    key = _named_key(key_file, environ)
    if key is None and _same_origin(address, local):
        # The local administrator's key belongs to the local control plane; it goes nowhere else.
        key = _read_optional(directory / ADMIN_KEY_FILE)
    if key is None:
        raise Unauthenticated(
            f"there is no API key for {address}", hint="set WARREN_API_KEY, or name a file with --key-file"
        )
    return Profile(url=address, key=check_key(key))


def recorded_url(directory: Path) -> str | None:
    """Return where the control plane of this data directory listens, or last did."""
    return _read_optional(directory / URL_FILE)


def check_url(url: str, directory: Path) -> str:
    """Return `url` without a trailing slash; raises Unreachable if it is empty, InvalidSettings if it is none."""
    if not url:
        raise Unreachable(
            f"no control plane is known: there is no --url, no WARREN_URL, and none has run in {directory}",
            hint="start one with `warren up`, or name one with --url",
        )
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidSettings(f"{url!r} is no URL of a control plane: write http://host:port or https://host:port")
    if parts.username or parts.password:
        raise InvalidSettings("a URL with a password in it shows up in process lists: use WARREN_API_KEY")
    return url.rstrip("/")


def check_key(key: str) -> str:
    """Return `key` if it can be one; raises InvalidSettings without showing it."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidSettings("the API key is empty or has characters that no key has")
    return key


def _named_key(key_file: Path | None, environ: Mapping[str, str]) -> str | None:
    if key_file is None:
        return environ.get("WARREN_API_KEY") or None
    try:
        return key_file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"the key file {key_file} cannot be read: {_reason(error)}") from error


def _read_optional(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read: {_reason(error)}") from error


def _same_origin(url: str, other: str | None) -> bool:
    return other is not None and urlsplit(url)[:2] == urlsplit(other)[:2]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
