"""How the other two processes of Warren are started: `python -m broker` and `python -m worker`."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from protocols.errors import MissingExtra

NEEDED = {
    "broker": ("fastapi", "sqlalchemy", "uvicorn", "alembic"),
    "worker": ("paramiko", "psutil", "websockets", "pybreaker"),
}
_NOT_FOR_CHILDREN = frozenset({"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WARREN_API_KEY"})
"""Keys reach workers as secrets, with a claim, and in no other way."""


def require(part: str) -> None:
    """Raise MissingExtra if what `part` (`broker` or `worker`) needs is not installed."""
    missing = [name for name in NEEDED[part] if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the {part} is not installed here ({', '.join(missing)} missing)",
            hint=f"install warren[{part}], such as with `uv tool install 'warren[broker,worker]'`",
        )


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module with this Python, never one from the working directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def inherited() -> dict[str, str]:
    """Return this process's environment without what must not reach a child."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}


def broker_environ(
    data_dir: Path, host: str, port: int, tls_cert: Path | None = None, tls_key: Path | None = None
) -> dict[str, str]:
    """Return the environment of a control plane."""
    settings = {
        "WARREN_DATA_DIR": data_dir,
        "WARREN_HOST": host,
        "WARREN_PORT": port,
        "WARREN_TLS_CERT": tls_cert and tls_cert.absolute(),
        "WARREN_TLS_KEY": tls_key and tls_key.absolute(),
    }
    return inherited() | _texts(settings)


def worker_environ(
    url: str, key_file: Path, state_dir: Path | None = None, name: str | None = None, pools: Sequence[str] = ()
) -> dict[str, str]:
    """Return the environment of a worker."""
    settings = {
        "WARREN_WORKER_URL": url,
        "WARREN_WORKER_KEY_FILE": key_file.absolute(),
        "WARREN_WORKER_STATE_DIR": state_dir and state_dir.absolute(),
        "WARREN_WORKER_NAME": name,
        "WARREN_WORKER_POOLS": ",".join(pools) or None,
    }
    return inherited() | _texts(settings)


def become(part: str, environ: Mapping[str, str]) -> None:
    """Replace this process by `part`; does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command(part), dict(environ))


def _texts(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items() if value is not None}
