"""What a worker is told by its environment, read and checked once, here."""

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from protocols.codec import first_problem
from protocols.errors import InvalidName, InvalidSettings
from protocols.names import DEFAULT_POOL, SESSION_PATH, LaneKind, check_name

PREFIX = "WARREN_WORKER_"
REGISTER_PATH = "/api/v1/workers/register"


def _host_name() -> str:
    words = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")
    return words[:63].strip("-") or "worker"


def _words(value: Any) -> Any:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """A worker's settings, one environment variable each, with the prefix WARREN_WORKER_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    url: str
    """Of the control plane, `https://host:port`; plain http only on this machine."""
    key_file: Path
    """Holds an API key of the role worker."""
    state_dir: Path
    name: str = Field(default_factory=_host_name, min_length=1, max_length=128)
    pools: Annotated[tuple[str, ...], NoDecode] = (DEFAULT_POOL,)
    """The pools that it wishes to serve; an admin decides."""
    slots_llm: int = Field(default=32, ge=1, le=2000)
    """Slots are per lane: a lane that hangs takes none from another."""
    slots_ssh: int = Field(default=16, ge=1, le=2000)
    slots_python: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    slots_pinned: int = Field(default=4, ge=1, le=2000)
    grace_s: float = Field(default=30.0, ge=0, le=86400)
    """How long running work may go on after SIGTERM."""
    unsettled_max: int = Field(default=1000, ge=1, le=5000)
    """Outcomes that may wait for their answer before no more work is claimed."""
    actions: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Python functions besides those of installed packages: `name=module:attribute,…`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "console"
    watchdog_usec: int = Field(default=0, ge=0, validation_alias="WATCHDOG_USEC")
    """Set by systemd for a unit with WatchdogSec."""

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("write http(s)://host:port")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError("plain http is for this machine only: write https://")
        return url.rstrip("/")

    @field_validator("pools", mode="before")
    @classmethod
    def _pools(cls, value: Any) -> Any:
        return _words(value)

    @field_validator("pools")
    @classmethod
    def _pool_names(cls, pools: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(check_name(pool, "pool") for pool in pools)
        except InvalidName as error:
            raise ValueError(error.message) from error

    @field_validator("actions", mode="before")
    @classmethod
    def _actions(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [word.partition("=") for word in _words(value)]
        if not all(name and re.fullmatch(r"[\w.]+:[\w.]+", source) for name, _, source in pairs):
            raise ValueError("write name=module:attribute, separated by commas")
        return {name: source for name, _, source in pairs}

    @property
    def slots(self) -> dict[LaneKind, int]:
        """Slots of each lane, by the lane's kind."""
        return {
            LaneKind.LLM: self.slots_llm,
            LaneKind.SSH: self.slots_ssh,
            LaneKind.PYTHON: self.slots_python,
            LaneKind.PINNED: self.slots_pinned,
        }

    @property
    def register_url(self) -> str:
        """Where the worker makes itself known."""
        return self.url + REGISTER_PATH

    @property
    def session_url(self) -> str:
        """Where its session is."""
        return re.sub(r"^http", "ws", self.url) + SESSION_PATH

    @property
    def is_local(self) -> bool:
        """Whether the control plane is on this machine, which no proxy stands between."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def api_key(self) -> str:
        """Return the API key, read anew each time so that it can be replaced; raises InvalidSettings."""
        try:
            key = self.key_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise InvalidSettings(f"{PREFIX}KEY_FILE: {self.key_file} cannot be read: {reason}") from error
        if not key or not key.isprintable():
            raise InvalidSettings(f"{PREFIX}KEY_FILE: {self.key_file} holds no API key")
        return key


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names() -> list[str]:
    """Return the environment variables that are settings of a worker."""
    return sorted(PREFIX + field.upper() for field in Settings.model_fields)


def load_settings() -> Settings:
    """Return the settings in the environment; raises InvalidSettings, which names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        where, _, what = first_problem(error).partition(": ")
        variable = where if where.isupper() else PREFIX + where.upper()
        if what == "Field required":
            what = "is not set"
        raise InvalidSettings(f"{variable}: {what.removeprefix('Value error, ')}") from error
