"""The control plane's HTTP API as one synchronous client; every failure arrives as a WarrenError."""

import math
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Timer
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import httpx2

from client.http_errors import error_of, unreachable
from client.retry import Patience, RetryPolicy
from protocols.errors import InvalidSettings, NotFound, Unreachable, WarrenError

BASE_PATH = "/api/v1"
PAGE = 200
"""Rows asked for at once when a list is walked."""
RECONNECT_S = 0.5
SILENCE_S = 60.0
"""A stream on which nothing arrives for this long is taken up anew; the server sends keep-alives."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
BRIEFLY_S = 0.5
"""How long a person at a terminal waits for the next try without noticing."""
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
"""Repeating one changes nothing. Of PATCH that is so with Warren: it sets what the body names."""
_KEY_HEADER = "Idempotency-Key"

Json = dict[str, Any]
Params = Mapping[str, str | int | None]
T = TypeVar("T")


def path_to(*segments: str) -> str:
    """Return the path of a thing, such as `/queues/q.t.default.ssh/pause`, whatever is in its name."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


class ApiClient:
    """Talks to one control plane with one API key, which appears in no representation and no error.

    What can be repeated without harm is tried again for `retry_for_s` after it first failed in passing: no answer,
    unavailable, too many requests. A POST is such only under an Idempotency-Key. Safe for use from many threads.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry_for_s: float = BRIEFLY_S,
        patience_s: float = 60.0,
    ) -> None:
        """`patience_s` is for streams: how long one that was open is waited for when its connection breaks."""
        self._retry = RetryPolicy(for_s=retry_for_s)
        self._reopen = RetryPolicy(for_s=patience_s)
        self._timeout_s = timeout_s
        self.url = url.rstrip("/").removesuffix(BASE_PATH)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.Client(
                base_url=self.url + BASE_PATH,
                headers=headers,
                timeout=self._timeout(timeout_s),
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
        if method in _IDEMPOTENT or _KEY_HEADER in (headers or {}):
            return self._retry.run(lambda: self._once(method, path, json=json, params=params, headers=headers))
        return self._once(method, path, json=json, params=params, headers=headers)

    def _once(self, method: str, path: str, *, params: Params | None = None, **more: Any) -> httpx2.Response:
        query = {name: value for name, value in (params or {}).items() if value is not None}
        with self._translated():
            response = self._http.request(method, path, params=query, **more)
        if not response.is_success:
            raise error_of(response)
        return response

    def get(self, path: str, params: Params | None = None) -> Json:
        """Return the object at `path`."""
        return self._object(self.request("GET", path, params=params))

    def post(self, path: str, body: Any = None, *, takes_s: float = 0.0) -> Json:
        """Post `body` and return the object that came of it; the other side may be at it for `takes_s`."""
        return self._object(self._once("POST", path, json=body, timeout=self._timeout(self._timeout_s + takes_s)))

    def put(self, path: str, body: Any) -> Json:
        """Replace what is at `path` and return it."""
        return self._object(self.request("PUT", path, json=body))

    def patch(self, path: str, body: Any) -> Json:
        """Change what is at `path` and return it."""
        return self._object(self.request("PATCH", path, json=body))

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        unsure = False

        def once() -> None:
            nonlocal unsure
            try:
                self._once("DELETE", path)
            except Unreachable:
                unsure = True
                raise
            except NotFound:
                # An earlier try, whose answer was lost, has deleted it.
                if not unsure:
                    raise

        self._retry.run(once)

    def create(self, path: str, body: Any, *, key: str | None = None) -> Json:
        """Post `body` once, whatever the connection does: every try has the same Idempotency-Key, `key` if given."""
        headers = {_KEY_HEADER: key or str(uuid.uuid4())}
        return self._object(self.request("POST", path, json=body, headers=headers))

    def upload(self, path: str, file: IO[bytes], name: str, content_type: str, params: Params | None = None) -> Json:
        """Post a file, read as it is sent, and return what came of it."""
        files = {"file": (name, file, content_type)}
        return self._object(self._once("POST", path, params=params, files=files))

    def download(self, path: str, take: Callable[[Iterator[bytes]], T]) -> T:
        """Return what `take` makes of the bytes at `path`, which it gets anew if the connection breaks."""

        def once() -> T:
            with self._translated(), self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                return take(response.iter_bytes())

        return self._retry.run(once)

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
            else:
                query["offset"] = int(page.get("offset") or 0) + len(rows)

    def stream(
        self, path: str, *, after: str | None = None, until: float | None = None
    ) -> Iterator[httpx2.ServerSentEvent]:
        """Yield a stream's events, from behind the one with the id `after`.

        A connection that breaks is taken up after the last event. It goes on until the caller has seen the event
        that ends it, or to the moment `until` (monotonic). Raises Unreachable when nothing answers: at first as
        for any request, later when no connection could be made for this client's `patience_s`.
        """
        patience = Patience(self._retry)
        while until is None or time.monotonic() < until:
            try:
                for event in self._connected_stream(path, after, until):
                    patience = Patience(self._reopen)
                    if event is not None:
                        after = event.id or after
                        yield event
            except WarrenError as error:
                if until is None or time.monotonic() < until:
                    patience.bear(error, until)
            else:
                time.sleep(min(RECONNECT_S, _left(until)))

    def _connected_stream(
        self, path: str, after: str | None, until: float | None
    ) -> Iterator[httpx2.ServerSentEvent | None]:
        """Yield None when the stream is open, then its events until it ends or breaks."""
        # A connection of its own: one that was cut must not go back to where other requests find it.
        headers = {"Connection": "close"} | ({"Last-Event-ID": after} if after else {})
        timeout = httpx2.Timeout(min(10.0, _left(until)), read=min(SILENCE_S, _left(until)))
        with self._translated(), self._http.sse(path, headers=headers, timeout=timeout) as source:
            if not source.response.is_success:
                source.response.read()
                raise error_of(source.response)
            with _cut_off(source.response, until):
                yield None
                yield from source

    @staticmethod
    def _timeout(seconds: float) -> httpx2.Timeout:
        return httpx2.Timeout(seconds, connect=min(seconds, 10.0))

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


@contextmanager
def _cut_off(response: httpx2.Response, until: float | None) -> Iterator[None]:
    """Cut the connection at this moment: the time that a read may take begins anew with every keep-alive."""
    if until is None:
        yield
        return
    connected: socket.socket = response.extensions["network_stream"].get_extra_info("socket")

    def cut() -> None:
        with suppress(OSError):
            # Closing would wake nobody. TLS has a `shutdown` of its own, which is not for a socket that is being read.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = Timer(_left(until), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _left(until: float | None) -> float:
    """Return the seconds until this moment (monotonic), never quite none; infinitely many without one."""
    return math.inf if until is None else max(0.001, until - time.monotonic())
