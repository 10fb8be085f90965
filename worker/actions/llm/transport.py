"""The HTTP client that all chats of a worker share, and what its errors mean."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from protocols.clock import Clock
from protocols.states import Effect, FailureClass
from worker.actions.llm.failures import ChatError, malformed, oversized

_KEPT_CONNECTIONS = 1000
_KEPT_S = 15.0
_MAX_RETRY_AFTER_S = 86_400.0
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a chat waits, in seconds, within the execution's own deadline."""

    connect_s: float = 5.0
    silence_s: float = 60.0
    """For the first byte of the answer, and between two pieces of it. An answer that does not stream has no sign
    of life before its end, so only the deadline bounds it."""
    close_s: float = 5.0
    """For what follows a finished answer: its usage, the end of the stream, an error's text."""


def open_client() -> httpx2.AsyncClient:
    """Return a client for any number of streams at once: the lanes' slots bound them.

    Raises ChatError (`tls`) when the certificates that the environment names cannot be read.
    """
    try:
        return httpx2.AsyncClient(
            headers={"User-Agent": "warren", "Accept-Encoding": "identity"},
            # One client serves many accounts, which a cookie would tie together.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS, keepalive_expiry=_KEPT_S
            ),
            # A proxy of the environment cannot reach this machine's loopback.
            mounts=dict.fromkeys(_LOOPBACK),
        )
    except OSError as error:
        raise ChatError(FailureClass.LOCAL, "tls", f"cannot read the trusted certificates: {error}") from error


def http_timeout(timeouts: Timeouts, *, streams: bool) -> httpx2.Timeout:
    """Return the client's form of `timeouts`."""
    return httpx2.Timeout(
        connect=timeouts.connect_s,
        read=timeouts.silence_s if streams else None,
        write=timeouts.silence_s,
        pool=None,
    )


async def read_body(response: httpx2.Response, limit: int) -> bytes:
    """Return the whole body; raises ChatError (`oversized_response`) beyond `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise oversized(f"the answer is longer than {limit:,} bytes")
    return bytes(body)


def transport_failure(error: Exception, url: httpx2.URL, *, received: bool) -> ChatError:
    """Return what it means that `error` ended the exchange; `received` if any of the body had come."""
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, UnicodeError)):
        code = _connect_code(error)
        where = f"{url.host}:{url.port or {'http': 80}.get(url.scheme, 443)}"
        # Nothing was sent, and the fault may well be this machine's.
        return ChatError(FailureClass.LOCAL, code, f"cannot connect to {where}: {_root(error)}")
    if isinstance(error, httpx2.DecodingError):
        return malformed("the answer's content encoding is broken")
    if isinstance(error, httpx2.LocalProtocolError):
        return ChatError(FailureClass.REQUEST, "invalid_request", "cannot be sent as an HTTP request")
    if isinstance(error, httpx2.TimeoutException):
        code, message = (
            ("idle_timeout", "the answer stopped coming")
            if received
            else ("first_byte_timeout", "no answer has begun to come")
        )
    elif received:
        code, message = "stream_cut", "the connection ended in the middle of the answer"
    else:
        code, message = "connection_lost", "the connection ended before the answer"
    return ChatError(FailureClass.PROVIDER, code, message, effect=Effect.MAYBE)


def retry_after(headers: httpx2.Headers, clock: Clock) -> float | None:
    """Return the seconds for which a provider asks to be left alone, at most a day, or None if it names none."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, _MAX_RETRY_AFTER_S)
    seconds = _number(headers.get("retry-after"))
    if seconds is None and (until := _date(headers.get("retry-after"))):
        # Against the provider's own clock, if it tells: this machine's may be wrong.
        now = _date(headers.get("date")) or datetime.fromtimestamp(clock.now() / 1000, UTC)
        seconds = max(0.0, (until - now).total_seconds())
    return None if seconds is None else min(seconds, _MAX_RETRY_AFTER_S)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value >= 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _connect_code(error: Exception) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return "connect_timeout"
    if isinstance(error, httpx2.ProxyError):
        return "proxy"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return "tls"
        if isinstance(cause, (socket.gaierror, UnicodeError)):
            return "name_resolution"
        if isinstance(cause, ConnectionRefusedError):
            return "connection_refused"
    return "connection_failed"


def _root(error: Exception) -> str:
    """Return what the operating system said, or the outermost words if it said nothing."""
    said = [str(cause) for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    return (said[-1] if said else str(error)) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and everything that led to it."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [inner for inner in (cause.__cause__, cause.__context__) if inner is not None]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
