"""Which control plane the command talks to, and with which key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from client.profile_store import Login, load_logins, resolve_config_dir
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
    url: str | None,
    key_file: Path | None,
    data_dir: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    profile: str | None = None,
) -> Profile:
    """Return the control plane and key that the options, the environment, a login or the data directory name.

    Options win over the environment, that over the current profile, and that over a local control plane. A key
    that belongs to a control plane, as that of a profile or the local administrator's, goes to no other.

    Raises Unreachable if no control plane is known, Unauthenticated if there is no key for it, InvalidInput for
    an unknown profile, InvalidSettings for a URL or key that cannot be one.
    """
    directory = resolve_data_dir(data_dir, environ)
    login = _login(profile, environ)
    local = recorded_url(directory)
    address = check_url(_address(url, profile, data_dir, environ, login, local), directory)
    key = _read_key(key_file) if key_file else None
    if key is None and profile is None:
        key = environ.get("WARREN_API_KEY") or None
    if key is None and login and _same_origin(address, login.url):
        key = login.key
    if key is None and _same_origin(address, local):
        key = _read_optional(directory / ADMIN_KEY_FILE)
    if key is None:
        raise Unauthenticated(
            f"there is no API key for {address}",
            hint="log in with `warren login`, set WARREN_API_KEY, or name a file with --key-file",
        )
    return Profile(url=address, key=check_key(key))


def resolve_url(
    url: str | None, data_dir: Path | None, environ: Mapping[str, str] = os.environ, *, profile: str | None = None
) -> str:
    """Return the control plane's URL alone, where no key is needed; raises as `resolve_profile` does."""
    directory = resolve_data_dir(data_dir, environ)
    login = _login(profile, environ)
    return check_url(_address(url, profile, data_dir, environ, login, recorded_url(directory)), directory)


def _login(profile: str | None, environ: Mapping[str, str]) -> Login | None:
    """Return the profile that was named, else the current one."""
    logins = load_logins(resolve_config_dir(environ))
    name = profile or environ.get("WARREN_PROFILE") or logins.current
    return logins.find(name) if name else None


def _address(
    url: str | None,
    profile: str | None,
    data_dir: Path | None,
    environ: Mapping[str, str],
    login: Login | None,
    local: str | None,
) -> str:
    """Return the URL that counts, empty if none is known."""
    saved = login.url if login else None
    if data_dir and not (url or profile):
        # Who names a data directory does not mean some other control plane that is the current profile.
        return local or environ.get("WARREN_URL") or ""
    named = url or (profile and saved) or environ.get("WARREN_URL") or (environ.get("WARREN_PROFILE") and saved)
    if named:
        return named
    if environ.get("WARREN_DATA_DIR"):
        return local or ""
    return saved or local or ""


def recorded_url(directory: Path) -> str | None:
    """Return where the control plane of this data directory listens, or last did."""
    return _read_optional(directory / URL_FILE)


def check_url(url: str, directory: Path) -> str:
    """Return `url` without a trailing slash; raises Unreachable if it is empty, InvalidSettings if it is none."""
    if not url:
        raise Unreachable(
            f"no control plane is known: there is no --url, no WARREN_URL, no login, and none has run in {directory}",
            hint="start one with `warren up`, or log in to one with `warren login`",
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


def _read_key(key_file: Path) -> str:
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
