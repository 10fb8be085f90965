"""Making the worker known to its control plane. An admin approves it; registering again changes nothing."""

import base64
import contextlib
import platform
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from protocols.errors import (
    Forbidden,
    InvalidInput,
    Unauthenticated,
    Unreachable,
    WarrenError,
    WorkerRefused,
)
from protocols.identity import sign_registration
from protocols.states import Approval
from worker.identity import Identity
from worker.resources import Machine
from worker.settings import Settings

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Registration:
    """What the control plane knows of this worker."""

    worker_id: str
    approval: Approval


async def register(settings: Settings, identity: Identity, machine: Machine, version: str) -> Registration:
    """Register the worker.

    Raises Unreachable, WorkerRefused, Unauthenticated and Forbidden (the API key), InvalidInput (what the
    control plane says about the name or the pools), InvalidSettings (the key file).
    """
    form = _form(settings, identity, machine, version)
    headers = {"Authorization": f"Bearer {settings.api_key()}"}
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=not settings.is_local) as client:
            response = await client.post(settings.register_url, json=form, headers=headers)
        body = response.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise Unreachable(f"{settings.url} does not answer: {_reason(error)}") from error
    if not response.is_success:
        raise _refusal(response.status_code, body)
    try:
        return Registration(worker_id=str(body["id"]), approval=Approval(body["approval"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"{settings.url} is no Warren control plane: unexpected answer") from error


def _form(settings: Settings, identity: Identity, machine: Machine, version: str) -> dict[str, Any]:
    hostname = socket.gethostname()
    signature = sign_registration(identity.signing, sealing_key=identity.sealing_key, hostname=hostname)
    return {
        "name": settings.name,
        "hostname": hostname,
        "ip_address": own_address(settings.url),
        "max_agents": sum(settings.slots.values()),
        "cpu_cores": machine.cpu_cores,
        "memory_total_mb": machine.memory_total_bytes // (1024 * 1024),
        "os_info": platform.platform(),
        "version": version,
        "pools": list(settings.pools),
        "identity_key": base64.b64encode(identity.identity_key).decode(),
        "sealing_key": base64.b64encode(identity.sealing_key).decode(),
        "signature": base64.b64encode(signature).decode(),
    }


def own_address(url: str) -> str:
    """Return the address that this machine has on its way to `url`; nothing is sent."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError):
        family, kind, protocol, _, address = socket.getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def _refusal(status: int, body: Any) -> WarrenError:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    message = str(error.get("message"))[:500] if isinstance(error, dict) else f"HTTP status {status}"
    if code == WorkerRefused.code:
        return WorkerRefused(message)
    if status == Unauthenticated.status:
        return Unauthenticated(message)
    if status == Forbidden.status:
        return Forbidden(message)
    if status in {400, 409, 413, 422}:
        return InvalidInput(message)
    return Unreachable(f"the control plane answered: {message}")


def _reason(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__
