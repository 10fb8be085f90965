"""Who is asking, and whether they may: dependencies of the handlers."""

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from broker.api.rates import FailureLimit, address_of
from broker.control import ControlPlane
from broker.keys import Keys, Principal
from protocols.errors import Forbidden, Unauthenticated
from protocols.states import Role

KEY_HEADERS = ("x-api-key", "x-mao-api-key")
"""Where a key may be, the first one counting, if there is no `Authorization: Bearer`."""


class Doorkeeper:
    """Tells whose key a request shows. Whoever keeps showing unknown ones has to wait."""

    def __init__(self, keys: Keys, failures: FailureLimit) -> None:
        self._keys = keys
        self._failures = failures

    def identify(self, connection: HTTPConnection) -> Principal:
        """Return whose key came with a request; raises Unauthenticated, or RateLimited after too many failures."""
        return self.identify_key(presented_key(connection.headers), connection)

    def identify_key(self, presented: str | None, connection: HTTPConnection) -> Principal:
        """Do the same for a key that came in another way than in a header."""
        try:
            return self._keys.authenticate(presented)
        except Unauthenticated:
            # Whoever shows no key at all guesses nothing.
            if presented:
                self._failures.count(address_of(connection))
            raise


async def control_plane(connection: HTTPConnection) -> ControlPlane:
    """Return the control plane that this API belongs to."""
    return _control_plane(connection)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the API key that came with a request, if any."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return next((headers[name] for name in KEY_HEADERS if name in headers), None)


def authorize(connection: HTTPConnection, *roles: Role) -> Principal:
    """Return whoever asks; raises Unauthenticated without a valid key, Forbidden without one of these roles."""
    doorkeeper: Doorkeeper = connection.app.state.doorkeeper
    return permitted(doorkeeper.identify(connection), *roles)


def permitted(principal: Principal, *roles: Role) -> Principal:
    """Return the principal if it has one of these roles; raises Forbidden."""
    if not any(principal.may(role) for role in roles):
        raise Forbidden(
            f"this needs the role {' or '.join(roles)}; the key {principal.name!r} has the role {principal.role}",
            hint="use another API key",
        )
    return principal


class Require:
    """A dependency that gives the principal, if it has one of `roles`; the API's document shows what is required."""

    def __init__(self, *roles: Role, unless: Callable[[HTTPConnection], bool] | None = None) -> None:
        """Let those in without a key for whom `unless` holds."""
        self.roles = roles
        self._unless = unless

    @property
    def optional(self) -> bool:
        """Whether some may come in without a key."""
        return self._unless is not None

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        """Return whoever asks, None if nobody needs to know."""
        if self._unless is not None and self._unless(connection):
            return None
        return authorize(connection, *self.roles)


def _control_plane(connection: HTTPConnection) -> ControlPlane:
    control: ControlPlane = connection.app.state.control
    return control


Control = Annotated[ControlPlane, Depends(control_plane)]
Viewer = Annotated[Principal, Depends(Require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(Require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(Require(Role.ADMIN))]
Machine = Annotated[Principal, Depends(Require(Role.WORKER))]
Anyone = Annotated[Principal, Depends(Require(Role.VIEWER, Role.WORKER))]
