"""The one error tree: each error has a stable code, an HTTP status where it has one, and is retryable or not.

Exceptions of other libraries are translated into these where they enter. The message says what was wrong,
where, and what would be right; it never contains a secret.
"""

from typing import ClassVar


class WarrenError(Exception):
    """Something went wrong in Warren."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    retry_after_s: float | None = None
    """How long whoever refused asks to be left alone, if it does."""

    def __init__(self, message: str | None = None, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)
        self.message = message or (type(self).__doc__ or "")
        self.field = field
        self.hint = hint


class InvalidInput(WarrenError):
    """The request cannot be understood."""

    code = "invalid_input"
    status = 422


class InvalidName(InvalidInput):
    """A name has characters that it may not have."""

    code = "invalid_name"


class InvalidFrame(InvalidInput):
    """Received bytes are no valid message of this protocol."""

    code = "invalid_frame"
    status = 400


class InvalidSettings(InvalidInput):
    """A setting is missing or wrong."""

    code = "invalid_settings"


class TooLarge(InvalidInput):
    """The input is larger than its limit."""

    code = "too_large"
    status = 413


class RangeNotSatisfiable(InvalidInput):
    """The part that was asked for lies beyond the end."""

    code = "range_not_satisfiable"
    status = 416


class Unauthenticated(WarrenError):
    """No valid API key came with the request."""

    code = "unauthenticated"
    status = 401


class Forbidden(WarrenError):
    """The key is valid, but its role may not do this."""

    code = "forbidden"
    status = 403


class NotFound(WarrenError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class MethodNotAllowed(WarrenError):
    """This path does not take that method."""

    code = "method_not_allowed"
    status = 405


class Conflict(WarrenError):
    """The thing is in a state that does not allow this."""

    code = "conflict"
    status = 409


class IdempotencyMismatch(Conflict):
    """The Idempotency-Key was used before for another request."""

    code = "idempotency_mismatch"


class RateLimited(WarrenError):
    """Too many requests came from this address."""

    code = "rate_limited"
    status = 429
    retryable = True

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.retry_after_s = retry_after_s
        """Whole seconds until it is worth trying again."""


class WorkerPending(WarrenError):
    """The worker waits for an admin's approval."""

    code = "worker_pending"
    status = 403
    retryable = True


class WorkerRefused(WarrenError):
    """The worker was rejected or revoked."""

    code = "worker_refused"
    status = 403


class SessionStale(WarrenError):
    """The session's epoch is not the worker's current one."""

    code = "session_stale"
    status = 409
    retryable = True


class Unavailable(WarrenError):
    """Warren cannot do this right now."""

    code = "unavailable"
    status = 503
    retryable = True


class StorageUnavailable(Unavailable):
    """The database cannot be written or read."""

    code = "storage_unavailable"


class StorageFull(StorageUnavailable):
    """The disk under the database or the spool is full."""

    code = "storage_full"
    status = 507


class Unreachable(Unavailable):
    """The other side does not answer."""

    code = "unreachable"


class LaneUnavailable(Unavailable):
    """The lane transport took no message."""

    code = "lane_unavailable"


class MissingExtra(WarrenError):
    """A part of Warren is not installed."""

    code = "missing_extra"


class InstanceLocked(WarrenError):
    """Another process uses this data directory."""

    code = "instance_locked"


class AddressInUse(WarrenError):
    """The port is taken."""

    code = "address_in_use"


class SealBroken(WarrenError):
    """A sealed value was not made for this recipient and context."""

    code = "seal_broken"
