"""Why a chat failed: one table from what a provider answered to the class, the code and the effect."""

from dataclasses import dataclass
from types import MappingProxyType

from protocols.states import Effect, FailureClass

PROVIDER, THROTTLED, QUOTA = FailureClass.PROVIDER, FailureClass.THROTTLED, FailureClass.QUOTA
CREDENTIAL, REQUEST, LOCAL = FailureClass.CREDENTIAL, FailureClass.REQUEST, FailureClass.LOCAL

Kind = tuple[FailureClass, str]


class ChatError(Exception):
    """A chat that ended without an answer; becomes the execution's outcome."""

    def __init__(
        self,
        failure_class: FailureClass,
        code: str,
        message: str,
        *,
        effect: Effect = Effect.NONE,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.code = code
        self.message = message
        self.effect = effect
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """What a provider said about an error: its words for it (most telling first) and a text for people."""

    words: tuple[str, ...] = ()
    message: str = ""


_QUOTA_WORDS = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
_QUOTA_SUFFIX = "_spend_limit_exceeded"
_THROTTLE_WORDS = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "ramp_limit_exceeded",
        "slow_down",
        "too_many_requests",
        "resource_exhausted",
    }
)
_CREDENTIAL_WORDS = frozenset(
    {
        "invalid_api_key",
        "api_key_invalid",
        "authentication_error",
        "permission_error",
        "account_deactivated",
    }
)
_OTHER_WORDS = MappingProxyType(
    {
        "context_length_exceeded": (REQUEST, "context_length_exceeded"),
        "string_above_max_length": (REQUEST, "context_length_exceeded"),
        "model_not_found": (REQUEST, "model_not_found"),
        "content_filter": (REQUEST, "content_filter"),
        "content_policy_violation": (REQUEST, "content_filter"),
        "invalid_request_error": (REQUEST, "invalid_request"),
        "invalid_prompt": (REQUEST, "invalid_request"),
        "badrequesterror": (REQUEST, "invalid_request"),
        "not_found_error": (REQUEST, "not_found"),
        "request_too_large": (REQUEST, "request_too_large"),
        "overloaded_error": (PROVIDER, "overloaded"),
        "server_is_overloaded": (PROVIDER, "overloaded"),
        "api_error": (PROVIDER, "server_error"),
        "server_error": (PROVIDER, "server_error"),
    }
)
_STATUSES = MappingProxyType(
    {
        400: (REQUEST, "invalid_request"),
        401: (CREDENTIAL, "authentication_failed"),
        402: (QUOTA, "quota_exhausted"),
        403: (CREDENTIAL, "permission_denied"),
        404: (REQUEST, "not_found"),
        407: (LOCAL, "proxy"),
        408: (PROVIDER, "request_timeout"),
        409: (PROVIDER, "conflict"),
        413: (REQUEST, "request_too_large"),
        415: (REQUEST, "unsupported_media_type"),
        422: (REQUEST, "invalid_request"),
        429: (THROTTLED, "rate_limited"),
        502: (PROVIDER, "bad_gateway"),
        503: (PROVIDER, "unavailable"),
        504: (PROVIDER, "gateway_timeout"),
        529: (PROVIDER, "overloaded"),
    }
)
_UNSURE_STATUSES = frozenset({408, 502, 504, *range(520, 525)})
"""Said by something in front of the provider, which may have done the work all the same."""


def classify(status: int | None, words: tuple[str, ...]) -> Kind:
    """Return the failure class and code for an HTTP status, or None inside a stream, and the provider's words.

    Words about quota, throttling and credentials say more than the status that carries them: providers send
    the first two under 429, 403 or 503 alike.
    """
    known = tuple(word.lower() for word in words)
    if any(word in _QUOTA_WORDS or word.endswith(_QUOTA_SUFFIX) for word in known):
        return QUOTA, "quota_exhausted"
    if status in {None, 429, 503} and not _THROTTLE_WORDS.isdisjoint(known):
        return THROTTLED, "rate_limited"
    if (status is None or 400 <= status < 500) and not _CREDENTIAL_WORDS.isdisjoint(known):
        return CREDENTIAL, "permission_denied" if status == 403 else "authentication_failed"
    by_word = next((_OTHER_WORDS[word] for word in known if word in _OTHER_WORDS), None)
    if status is None:
        return by_word or (PROVIDER, "provider_error")
    by_status = _by_status(status)
    return by_word if by_word and by_word[0] is by_status[0] else by_status


def refused(status: int, detail: ErrorDetail, retry_after_s: float | None) -> ChatError:
    """Return the failure for an answer whose HTTP status is no success."""
    failure_class, code = classify(status, detail.words)
    effect = Effect.MAYBE if status in _UNSURE_STATUSES else Effect.NONE
    message = _describe(f"HTTP {status}", detail)
    return ChatError(failure_class, code, message, effect=effect, retry_after_s=retry_after_s)


def failed_inside(detail: ErrorDetail) -> ChatError:
    """Return the failure for an error that came inside an answer of status 200."""
    # Gateways put the status of the provider behind them there.
    statuses = [int(word) for word in detail.words if word.isascii() and word.isdigit() and len(word) == 3]
    status = next((number for number in statuses if 400 <= number <= 599), None)
    failure_class, code = classify(status, detail.words)
    message = _describe("error inside the answer", detail)
    return ChatError(failure_class, code, message, effect=Effect.MAYBE)


def malformed(what: str) -> ChatError:
    """Return the failure for an answer that cannot be understood."""
    return ChatError(PROVIDER, "malformed_response", what, effect=Effect.MAYBE)


def oversized(what: str) -> ChatError:
    """Return the failure for an answer beyond a size limit."""
    return ChatError(PROVIDER, "oversized_response", what, effect=Effect.MAYBE)


def _by_status(status: int) -> Kind:
    if status in _STATUSES:
        return _STATUSES[status]
    if status < 400:
        return REQUEST, "unexpected_redirect"
    return (REQUEST, "invalid_request") if status < 500 else (PROVIDER, "server_error")


def _describe(where: str, detail: ErrorDetail) -> str:
    word = next((word for word in detail.words if not word.isdigit()), None)
    named = f"{where} ({word[:80]})" if word else where
    return f"{named}: {detail.message}" if detail.message else named
