"""The profiles of `warren login`: control planes by name, each with its key, in a file that only the user can read."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from protocols.errors import InvalidInput, InvalidSettings
from protocols.names import check_name

FILE = "profiles.json"
DEFAULT_NAME = "default"
MAX_BYTES = 1024 * 1024
_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Login:
    """A control plane's URL, and the key for it unless the user has logged out."""

    url: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Logins:
    """All profiles by name, and the one that counts when none is named."""

    by_name: Mapping[str, Login] = field(default_factory=dict)
    current: str | None = None

    def find(self, name: str) -> Login:
        """Return a profile; raises InvalidInput if there is none of this name."""
        if name not in self.by_name:
            raise InvalidInput(
                f"there is no profile {name[:80]!r}",
                hint=f"`warren profile list` shows what there is; `warren login --profile {name[:80]}` makes it",
            )
        return self.by_name[name]

    def with_login(self, name: str, login: Login) -> "Logins":
        """Return these with a new or changed profile, which becomes the current one."""
        return Logins({**self.by_name, check_name(name, "profile"): login}, name)

    def without_key(self, name: str) -> "Logins":
        """Return these after logging out of a profile."""
        return replace(self, by_name={**self.by_name, name: Login(self.find(name).url)})

    def without(self, name: str) -> "Logins":
        """Return these without a profile."""
        self.find(name)
        left = {other: login for other, login in self.by_name.items() if other != name}
        return Logins(left, None if name == self.current else self.current)

    def with_current(self, name: str) -> "Logins":
        """Return these with another current profile."""
        self.find(name)
        return replace(self, current=name)


def resolve_config_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's configuration is: WARREN_CONFIG_DIR, else where the system keeps it."""
    if environ.get("WARREN_CONFIG_DIR"):
        return Path(environ["WARREN_CONFIG_DIR"]).expanduser().absolute()
    import platformdirs

    return platformdirs.user_config_path("warren")


def load_logins(directory: Path) -> Logins:
    """Return the profiles kept in `directory`, none if there is no file.

    Raises InvalidSettings for a file that others can read, or that is no file of profiles.
    """
    path = directory / FILE
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _OTHERS:
                raise InvalidSettings(
                    f"others can read {path}, which holds API keys", hint=f"make it private: chmod 600 {path}"
                )
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Logins()
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parsed(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidSettings(
            f"{path} is no file of profiles", hint="move it away and log in again with `warren login`"
        ) from error


def save_logins(directory: Path, logins: Logins) -> None:
    """Keep the profiles in `directory`: all of them or, after a crash, those from before.

    Raises InvalidSettings if that cannot be.
    """
    value = {
        "current": logins.current,
        "profiles": {name: {"url": login.url, "key": login.key} for name, login in logins.by_name.items()},
    }
    path = (directory / FILE).resolve()  # the link stays a link
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, content: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # private from the start
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _parsed(value: Any) -> Logins:
    by_name = {
        str(name): Login(str(entry["url"]), None if entry.get("key") is None else str(entry["key"]))
        for name, entry in value["profiles"].items()
    }
    return Logins(by_name, value["current"] if value.get("current") in by_name else None)
