"""The control plane's settings: one frozen value, read from the environment once."""

from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from protocols.codec import first_problem
from protocols.errors import InvalidSettings


def _separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Origin = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$")]
"""Scheme, host and port of a web page, as browsers send them in the header Origin."""


class Settings(BaseSettings):
    """Each field is the environment variable `WARREN_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="WARREN_", frozen=True, extra="ignore")

    data_dir: Path = Field(default_factory=lambda: user_data_path("warren"))
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_tls_proxy: bool = False
    """Allows an address beyond loopback without TLS of our own."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_separated)] = ()
    """Web pages of other origins that may call the API, separated by commas."""
    auth_failures_per_minute: int = Field(default=10, ge=0)
    """Unknown keys that one address may present before it is told to wait; 0: no limit. Valid keys always pass."""

    heartbeat_s: float = Field(default=10.0, gt=0)
    ping_s: float = Field(default=3.0, gt=0)
    silence_s: float = Field(default=15.0, gt=0)
    """A session without any frame for this long has ended."""
    resume_s: float = Field(default=3.0, ge=0)
    """A closed session may be resumed for this long before its leases end."""
    orphan_s: float = Field(default=60.0, ge=0)
    """The same for sessions of a control plane that stopped, and when most of a pool vanishes at once."""
    at_most_once_s: float = Field(default=60.0, ge=0)
    """at_most_once work is given up this long after its lease ended."""

    retry_base_s: float = Field(default=2.0, gt=0)
    retry_cap_s: float = Field(default=600.0, gt=0)
    max_wait_s: float = Field(default=86_400.0, gt=0)
    """A task that only ever gets throttled is dead after this long."""
    confirm_s: float = Field(default=30.0, gt=0)
    """A batch that its lane has not confirmed by then is published anew."""
    lost_in_lane_s: float = Field(default=10.0, gt=0)
    sweep_s: float = Field(default=5.0, gt=0)
    reveal_secrets: bool = False
    """Allows admins to read the values of secrets."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    def check(self) -> None:
        """Raise InvalidSettings for values that are wrong together."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidSettings("WARREN_TLS_CERT and WARREN_TLS_KEY go together: set both or none")
        if not self.loopback and self.tls_cert is None and not self.behind_tls_proxy:
            raise InvalidSettings(
                f"{self.host} is reachable from other machines, and keys and output would travel in the clear: "
                "set WARREN_TLS_CERT and WARREN_TLS_KEY (--tls-cert, --tls-key), "
                "or WARREN_BEHIND_TLS_PROXY=true if a proxy in front ends TLS"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in {"127.0.0.1", "::1", "localhost"}


def names() -> list[str]:
    """Return the environment variables that are settings of a control plane."""
    return sorted(f"WARREN_{field.upper()}" for field in Settings.model_fields)


def load() -> Settings:
    """Return the settings of this process; raises InvalidSettings with the first problem."""
    try:
        settings = Settings()
    except ValidationError as error:
        field, _, problem = first_problem(error).partition(": ")
        raise InvalidSettings(f"WARREN_{field.upper()}: {problem}") from error
    settings.check()
    return settings
