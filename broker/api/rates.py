"""How often one address may ask. Counted in memory: a restart forgets, and nothing waits for a database."""

import math
import time
from ipaddress import IPv6Address, ip_address, ip_network

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.api.errors import error_response
from broker.api.mounts import BASE_PATHS
from broker.control import ControlPlane
from protocols.errors import RateLimited

_PROBES = ("/health", "/healthz", "/livez", "/readyz")
EXEMPT_PATHS = frozenset({"/", *(base + probe for base in ("", *BASE_PATHS) for probe in _PROBES)})
"""What has to answer whoever asks, however often."""
_IPV6_PREFIX = 64
"""What one customer of a network has at the least: addresses within it are one."""


class FailureLimit:
    """Counts the unknown keys that each address shows in a minute."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, address: str) -> None:
        """Note a failure; raises RateLimited if it is one too many."""
        if self._limit is None or self._limiter.hit(self._limit, address):
            return
        reset_at = self._limiter.get_window_stats(self._limit, address).reset_time
        raise RateLimited("this address has shown too many unknown API keys", retry_after_s=_seconds_until(reset_at))


class RateLimit:
    """Refuses what an address asks beyond the preference `api.rate_limit_per_minute`, and tells each what is left."""

    def __init__(self, app: ASGIApp, control: ControlPlane) -> None:
        self._app = app
        self._control = control
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        per_minute = self._control.preferences.current.api.rate_limit_per_minute
        if not per_minute or scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"] in EXEMPT_PATHS:
            await self._app(scope, receive, send)
            return
        limit, address = RateLimitItemPerMinute(per_minute), address_of(HTTPConnection(scope))
        allowed = self._limiter.hit(limit, address)
        left = self._limiter.get_window_stats(limit, address)
        told = {
            "X-RateLimit-Limit": str(per_minute),
            "X-RateLimit-Remaining": str(left.remaining),
            "X-RateLimit-Reset": str(math.ceil(left.reset_time)),
        }

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        if allowed:
            await self._app(scope, receive, send_with_headers)
            return
        refusal = RateLimited(
            f"this address may ask {per_minute:,} times in a minute", retry_after_s=_seconds_until(left.reset_time)
        )
        await error_response(refusal, scope["request_id"])(scope, receive, send_with_headers)


def address_of(connection: HTTPConnection) -> str:
    """Return what requests of one client have in common: its IPv4 address, or the network of its IPv6 address."""
    host = connection.client.host if connection.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, _IPV6_PREFIX), strict=False))
    return host


def _seconds_until(moment: float) -> int:
    return max(1, math.ceil(moment - time.time()))
