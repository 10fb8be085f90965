"""What went wrong with a request, as a WarrenError."""

import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from protocols.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidSettings,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
    Unreachable,
    WarrenError,
)

_BY_STATUS: dict[int, type[WarrenError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
"""For answers that carry no code of Warren's, such as a proxy's."""


class Untrusted(Unreachable):
    """The other side shows a certificate that this one does not trust."""


def unreachable(url: str, error: httpx2.TransportError) -> WarrenError:
    """Return the error for a request that got no answer."""
    if isinstance(error, httpx2.UnsupportedProtocol):
        return InvalidSettings(f"{url!r} is no URL of a control plane: write http://host:port or https://host:port")
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable(f"{url} did not answer in time")
    if _certificate_problem(error):
        return Untrusted(
            f"the certificate of {url} is not trusted",
            hint="if it is your own, set SSL_CERT_FILE to the certificate of the authority that signed it",
        )
    return Unreachable(f"{url} cannot be reached ({str(error) or type(error).__name__})")


def error_of(response: httpx2.Response) -> WarrenError:
    """Return the error that an unsuccessful answer carries."""
    body = _error_body(response)
    message = str(body.get("message") or f"{response.url.host} answered with HTTP status {response.status_code}")
    if response.status_code >= 500 and body.get("request_id"):
        message += f" (request {body['request_id']})"
    kind = _class_of(WarrenError, str(body.get("code"))) or _BY_STATUS.get(response.status_code, WarrenError)
    error = kind(message, field=body.get("field"), hint=body.get("hint"))
    error.retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
    return error


def _error_body(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header means: a number of them, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _class_of(root: type[WarrenError], code: str) -> type[WarrenError] | None:
    if root.code == code:
        return root
    return next(filter(None, (_class_of(kind, code) for kind in root.__subclasses__())), None)


def _certificate_problem(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
