"""The table of failures: what a provider's answer means."""

import pytest
from httpx2 import Headers

from protocols.clock import ManualClock
from protocols.states import Effect, FailureClass
from worker.actions.llm.failures import ErrorDetail, classify, failed_inside, refused
from worker.actions.llm.openai_chat import OpenAiChat
from worker.actions.llm.transport import retry_after

PROVIDER, THROTTLED, QUOTA = FailureClass.PROVIDER, FailureClass.THROTTLED, FailureClass.QUOTA
CREDENTIAL, REQUEST, LOCAL = FailureClass.CREDENTIAL, FailureClass.REQUEST, FailureClass.LOCAL


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (500, (), (PROVIDER, "server_error")),
        (502, (), (PROVIDER, "bad_gateway")),
        (503, ("server_is_overloaded",), (PROVIDER, "overloaded")),
        (504, (), (PROVIDER, "gateway_timeout")),
        (522, (), (PROVIDER, "server_error")),
        (529, ("overloaded_error",), (PROVIDER, "overloaded")),
        (408, (), (PROVIDER, "request_timeout")),
        (409, (), (PROVIDER, "conflict")),
        (429, ("rate_limit_exceeded", "requests"), (THROTTLED, "rate_limited")),
        (429, ("tokens",), (THROTTLED, "rate_limited")),
        (429, (), (THROTTLED, "rate_limited")),
        (429, ("slow_down",), (THROTTLED, "rate_limited")),
        (503, ("slow_down",), (THROTTLED, "rate_limited")),
        (429, ("rate_limit_error",), (THROTTLED, "rate_limited")),
        (429, ("ramp_limit_exceeded",), (THROTTLED, "rate_limited")),
        (429, ("429", "RESOURCE_EXHAUSTED"), (THROTTLED, "rate_limited")),
        (429, ("insufficient_quota", "insufficient_quota"), (QUOTA, "quota_exhausted")),
        (429, ("credit_balance_exhausted",), (QUOTA, "quota_exhausted")),
        (429, ("project_spend_limit_exceeded",), (QUOTA, "quota_exhausted")),
        (429, ("organization_usage_limit_exceeded",), (QUOTA, "quota_exhausted")),
        (429, ("enforced_spend_limit_reached", "rate_limit_error"), (QUOTA, "quota_exhausted")),
        (429, ("contract_spend_limit_reached",), (QUOTA, "quota_exhausted")),
        (402, ("billing_error",), (QUOTA, "quota_exhausted")),
        (402, (), (QUOTA, "quota_exhausted")),
        (403, ("insufficient_quota",), (QUOTA, "quota_exhausted")),
        (401, ("invalid_api_key", "invalid_request_error"), (CREDENTIAL, "authentication_failed")),
        (401, (), (CREDENTIAL, "authentication_failed")),
        (403, (), (CREDENTIAL, "permission_denied")),
        (400, ("invalid_api_key",), (CREDENTIAL, "authentication_failed")),
        (400, ("context_length_exceeded", "invalid_request_error"), (REQUEST, "context_length_exceeded")),
        (400, ("content_policy_violation",), (REQUEST, "content_filter")),
        (400, ("api_error",), (REQUEST, "invalid_request")),
        (404, ("model_not_found", "invalid_request_error"), (REQUEST, "model_not_found")),
        (404, (), (REQUEST, "not_found")),
        (413, (), (REQUEST, "request_too_large")),
        (415, (), (REQUEST, "unsupported_media_type")),
        (422, (), (REQUEST, "invalid_request")),
        (418, (), (REQUEST, "invalid_request")),
        (302, (), (REQUEST, "unexpected_redirect")),
        (407, (), (LOCAL, "proxy")),
        (500, ("invalid_request_error",), (PROVIDER, "server_error")),
        (None, ("server_error",), (PROVIDER, "server_error")),
        (None, ("overloaded_error",), (PROVIDER, "overloaded")),
        (None, ("rate_limit_exceeded",), (THROTTLED, "rate_limited")),
        (None, ("insufficient_quota",), (QUOTA, "quota_exhausted")),
        (None, ("authentication_error",), (CREDENTIAL, "authentication_failed")),
        (None, ("invalid_request_error",), (REQUEST, "invalid_request")),
        (None, ("never_heard_of",), (PROVIDER, "provider_error")),
        (None, (), (PROVIDER, "provider_error")),
    ],
)
def test_each_answer_has_its_class(status: int | None, words: tuple[str, ...], kind: tuple[FailureClass, str]) -> None:
    """Status and words together decide, so that a quota is no throttle and a throttle no outage."""
    assert classify(status, words) == kind


@pytest.mark.parametrize(
    ("status", "effect"),
    [(400, Effect.NONE), (429, Effect.NONE), (500, Effect.NONE), (503, Effect.NONE), (504, Effect.MAYBE)],
)
def test_only_a_gateway_leaves_the_effect_open(status: int, effect: Effect) -> None:
    """A provider that refuses has done nothing; what stands before it cannot know."""
    assert refused(status, ErrorDetail(), None).effect is effect


@pytest.mark.parametrize(
    ("code", "failure_class"), [("429", THROTTLED), ("502", PROVIDER), ("402", QUOTA), ("7", PROVIDER)]
)
def test_a_gateway_may_put_the_status_inside_the_answer(code: str, failure_class: FailureClass) -> None:
    """An error inside a 200 is classified by the status that it quotes, and may have had an effect."""
    error = failed_inside(ErrorDetail(words=(code,)))
    assert (error.failure_class, error.effect) == (failure_class, Effect.MAYBE)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT", "date": "Fri, 15 Jan 2027 08:00:25 GMT"}, 5.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"retry-after": "99999999999999"}, 86_400.0),
        ({"retry-after": "inf"}, 86_400.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "after lunch"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds, seconds and dates are understood, nonsense is none, and no wait is longer than a day."""
    assert retry_after(Headers(headers), ManualClock(1_800_000_000_000)) == seconds


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        (b'{"error":{"message":"No.","type":"t","code":"c"}}', ("c", "t"), "No."),
        (b'{"error":"model is loading"}', (), "model is loading"),
        (b'{"object":"error","message":"No.","type":"BadRequestError","code":400}', ("400", "BadRequestError"), "No."),
        (b'[{"error":{"code":400,"message":"No.","status":"INVALID"}}]', ("400", "INVALID"), "No."),
        (b'{"detail":"Not Found"}', (), "Not Found"),
        (b"<html>Bad gateway</html>", (), "<html>Bad gateway</html>"),
        (b"\xff\xfe", (), "\ufffd\ufffd"),
        (b"[" * 100_000, (), "[" * 100_000),
        (b"", (), ""),
        (b"null", (), "None"),
    ],
)
def test_errors_of_every_shape_are_understood(body: bytes, words: tuple[str, ...], message: str) -> None:
    """Compatible servers write their errors differently; each gives its words and its text."""
    assert OpenAiChat().error_detail(body) == ErrorDetail(words, message)
