"""The control plane's HTTP API as one synchronous client; every failure arrives as a WarrenError."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx2

from client.http_errors import error_of, unreachable
from protocols.errors import InvalidSettings, Unavailable, Unreachable, WarrenError

BASE_PATH = "/api/v1"
PAGE = 200
"""Rows asked for at once when a list is walked."""
RECONNECT_S = 0.5
SILENCE_S = 60.0
"""A stream on which nothing arrives for this long is taken up anew; the server sends keep-alives."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Json = dict[str, Any]
Params = Mapping[str, str | int | None]


class ApiClient:
    """Talks to one control plane with one API key, which appears in no representation and no error."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/").removesuffix(BASE_PATH)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.Client(
                base_url=self.url + BASE_PATH,
                headers=headers,
                timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
                # A proxy for the world outside must not be asked for this machine's own ports.
                mounts={f"all://{host}": None for host in LOOPBACK},
            )
        except httpx2.InvalidURL as error:
            raise InvalidSettings(f"{url!r} is no URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Return the successful answer to one request.

        Raises Unreachable when none came, and the error that the control plane named when it refused.
        """
        query = {name: value for name, value in (params or {}).items() if value is not None}
        with self._translated():
            response = self._http.request(method, path, json=json, params=query, headers=headers)
        if not response.is_success:
            raise error_of(response)
        return response

    def get(self, path: str, params: Params | None = None) -> Json:
        """Return the object at `path`."""
        return self._object(self.request("GET", path, params=params))

    def post(self, path: str, body: Any = None) -> Json:
        """Post `body` and return the object that came of it."""
        return self._object(self.request("POST", path, json=body))

    def put(self, path: str, body: Any) -> Json:
        """Replace what is at `path` and return it."""
        return self._object(self.request("PUT", path, json=body))

    def patch(self, path: str, body: Any) -> Json:
        """Change what is at `path` and return it."""
        return self._object(self.request("PATCH", path, json=body))

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self.request("DELETE", path)

    def create(self, path: str, body: Any, *, key: str | None = None) -> Json:
        """Post `body` once, whatever the connection does: a broken one is tried again under the same key.

        `key` is the Idempotency-Key, a new one by default.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        try:
            response = self.request("POST", path, json=body, headers=headers)
        except Unreachable:
            time.sleep(RECONNECT_S)
            response = self.request("POST", path, json=body, headers=headers)
        return self._object(response)

    def rows(self, path: str, params: Params | None = None) -> Iterator[Json]:
        """Yield a list's rows, page by page."""
        query: dict[str, str | int | None] = {"limit": PAGE, **(params or {})}
        while True:
            page = self.get(path, query)
            rows = page.get("data") or []
            yield from rows
            if not rows or not page.get("has_more"):
                return
            if page.get("next_cursor"):
                query["cursor"] = page["next_cursor"]
                query.pop("offset", None)
            else:
                query["offset"] = int(page.get("offset") or 0) + len(rows)

    def stream(self, path: str, *, patience_s: float = 60.0) -> Iterator[httpx2.ServerSentEvent]:
        """Yield a stream's events until the caller has seen the one that ends it.

        A connection that breaks is taken up after the last event. Raises Unreachable at once if the first one
        fails, later when none could be made for `patience_s`.
        """
        last_id: str | None = None
        reachable_at: float | None = None
        while True:
            try:
                for event in self._connected_stream(path, last_id):
                    last_id = event.id or last_id
                    reachable_at = time.monotonic()
                    yield event
                reachable_at = time.monotonic()
            except Unavailable:
                if reachable_at is None or time.monotonic() - reachable_at > patience_s:
                    raise
            time.sleep(RECONNECT_S)

    def _connected_stream(self, path: str, last_id: str | None) -> Iterator[httpx2.ServerSentEvent]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = httpx2.Timeout(10.0, read=SILENCE_S)
        with self._translated(), self._http.sse(path, headers=headers, timeout=timeout) as source:
            if not source.response.is_success:
                source.response.read()
                raise error_of(source.response)
            yield from source

    def _object(self, response: httpx2.Response) -> Json:
        if not response.content:
            return {}
        try:
            value = response.json()
        except ValueError as error:
            raise WarrenError(f"{self.url} answered, but not as a Warren control plane: check the URL") from error
        return value if isinstance(value, dict) else {"data": value}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            raise unreachable(self.url, error) from error
