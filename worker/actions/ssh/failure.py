"""The failures that come before anything has run on the host."""

from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass


class NotStarted(Exception):
    """Nothing has run on the host, and why; it is safe to try again."""

    def __init__(self, failure_class: FailureClass, code: str, message: str) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.code = code
        self.message = message

    def outcome(self) -> Outcome:
        """Return the outcome that tells it, effect none."""
        return Outcome.failed(
            self.failure_class, self.code, self.message, effect=Effect.NONE, result={"outcome": "not_started"}
        )


class ConnectionUnusable(NotStarted):
    """The connection turned out to be dead; another one may do."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.PROVIDER, "connection_lost", message)


class ChannelRefused(NotStarted):
    """The host allows no further session on this connection; another one may do."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.PROVIDER, "channel_refused", message)


def no_thread(error: RuntimeError) -> NotStarted:
    """Return the failure of a machine that cannot start another thread."""
    return NotStarted(FailureClass.LOCAL, "local_resources", f"this machine cannot start a thread: {error}")
