"""Where the API is found: one router under several bases, with and without a tenant, slash or no slash."""

from starlette.types import ASGIApp, Receive, Scope, Send

BASE_PATH = "/api/v1"
"""What the document and every Location say."""
BASE_PATHS = (BASE_PATH, "/v1")
_TENANT = "/tenants/default"
"""The one tenant that there is."""


class TrailingSlash:
    """Makes one slash at a path's end mean nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = scope.get("path", "")
        if len(path) > 1 and path.endswith("/"):
            scope = {**scope, "path": path[:-1]}
        await self._app(scope, receive, send)


class TenantPrefix:
    """Takes `/tenants/default` out of a path. Under any other tenant there is nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = scope.get("path", "")
        base = next((base for base in BASE_PATHS if path.startswith(f"{base}{_TENANT}/")), None)
        if base is not None:
            scope = {**scope, "path": base + path.removeprefix(base + _TENANT)}
        await self._app(scope, receive, send)


def within_base(path: str) -> str:
    """Return a path without the base that it begins with, `path` itself if it begins with none."""
    base = next((base for base in BASE_PATHS if path.startswith(f"{base}/")), "")
    return path.removeprefix(base)
