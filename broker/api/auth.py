"""Who is asking, and whether they may: dependencies of the handlers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from broker.control import ControlPlane
from broker.keys import Keys, Principal
from protocols.errors import Forbidden
from protocols.states import Role


async def control_plane(connection: HTTPConnection) -> ControlPlane:
    """Return the control plane that this API belongs to."""
    return _control_plane(connection)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the API key that came with a request, if any."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return headers.get("x-api-key")


def authorize(connection: HTTPConnection, role: Role) -> Principal:
    """Return whoever asks; raises Unauthenticated without a valid key, Forbidden without the role."""
    return admit(_control_plane(connection).keys, presented_key(connection.headers), role)


def admit(keys: Keys, presented: str | None, role: Role) -> Principal:
    """Return whose key was presented; raises Unauthenticated if nobody's, Forbidden without the role."""
    principal = keys.authenticate(presented)
    if not principal.may(role):
        raise Forbidden(
            f"this needs the role {role}; the key {principal.name!r} has the role {principal.role}",
            hint="use another API key",
        )
    return principal


def require(role: Role) -> Callable[[HTTPConnection], Awaitable[Principal]]:
    """Return a dependency that gives the principal, if it has `role`."""

    async def authorized(connection: HTTPConnection) -> Principal:
        return authorize(connection, role)

    return authorized


def _control_plane(connection: HTTPConnection) -> ControlPlane:
    control: ControlPlane = connection.app.state.control
    return control


Control = Annotated[ControlPlane, Depends(control_plane)]
Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Machine = Annotated[Principal, Depends(require(Role.WORKER))]
