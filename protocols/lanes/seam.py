"""The lane seam: the `dramatiq.Broker` and `dramatiq.Consumer` that every lane transport provides.

A transport delivers envelopes at least once and in order of publishing, as far as it can; it counts nothing,
delays nothing and retries nothing, since the claim and the control plane's rows do that. The conformance suite
in `tests/integration/test_lanes.py` is written against this module.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from dramatiq import Message
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.middleware import Middleware, Retries, TimeLimit

from protocols.envelope import Envelope, decode_message
from protocols.errors import InvalidInput


class Delivery(MessageProxy):
    """A delivered message: its bytes as they came, and the tag that settles it."""

    def __init__(self, message: Message[Any], *, body: bytes, delivery_tag: int, redelivered: bool) -> None:
        super().__init__(message)
        self.body = body
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        """True if it was delivered before; the claim finds out what became of that."""

    @classmethod
    def decode(cls, body: bytes, *, delivery_tag: int, redelivered: bool) -> "Delivery":
        """Return the delivery of `body`; raises InvalidFrame or TooLarge for bytes that are no message."""
        return cls(decode_message(body), body=body, delivery_tag=delivery_tag, redelivered=redelivered)

    def envelope(self) -> Envelope:
        """Return the envelope inside; raises InvalidFrame for a message that is none of ours."""
        return Envelope.from_message(self._message)


class LaneConsumer(Consumer, ABC):
    """Iterates over one lane's deliveries, with at most `prefetch` of them unsettled.

    `__next__` blocks up to the consumer's timeout and then returns None. It raises LaneUnavailable when the
    transport is gone or the consumer was closed; the caller consumes again when the transport is back. What is
    unsettled by then comes again, to whoever consumes the lane. Other methods are safe from any thread.
    """

    @abstractmethod
    def __next__(self) -> Delivery | None:
        """Return the next delivery, or None after the timeout."""

    @abstractmethod
    def ack(self, message: MessageProxy) -> None:
        """Settle a delivery for good. Does nothing when its consumer is gone: it will be redelivered."""

    @abstractmethod
    def nack(self, message: MessageProxy) -> None:
        """Refuse a delivery that can never be processed; the control plane collects it."""

    @abstractmethod
    def close(self) -> None:
        """Take no more; what is unsettled goes back to the lane. Doing it again changes nothing."""


class LaneBroker(Broker):
    """A lane transport, seen from either end.

    Hooks fail closed: an exception in a before-hook refuses the run, whatever its type, since a check that
    cannot be made has not passed.
    """

    def __init__(self, middleware: Sequence[Middleware] = ()) -> None:
        super().__init__(middleware=list(middleware))
        self.queues = {}

    def publish(self, lane: str, bodies: Sequence[bytes]) -> Future[None]:
        """Hand encoded envelopes to a lane; the future is done when the transport has taken all of them.

        The future fails with LaneUnavailable if it took none or cannot tell; publishing again is safe.
        Raises InvalidInput at an end that only consumes.
        """
        raise InvalidInput("this end of the lanes publishes nothing: submit tasks to the control plane")

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> LaneConsumer:
        """Consume a lane with at most `prefetch` unsettled deliveries; `timeout` is in milliseconds.

        Raises LaneUnavailable while the transport is gone, InvalidInput at an end that only publishes.
        """
        raise InvalidInput("this end of the lanes consumes nothing")

    def depth(self, lane: str) -> int:
        """Return how many messages wait in `lane`, without those delivered and unsettled.

        Raises InvalidInput at an end that cannot see it.
        """
        raise InvalidInput("this end of the lanes cannot see how deep they are")

    def declare_queue(self, queue_name: str) -> None:
        """Make the lane known; doing it again changes nothing."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Publish one message and wait until the transport has it.

        Raises InvalidInput for a delay: due times are rows of the control plane.
        """
        if delay is not None:
            raise InvalidInput("a lane carries no delayed messages: submit a task with delay_s")
        self.emit_before("enqueue", message, None)
        self.publish(message.queue_name, [Envelope.from_message(message).encode()]).result()
        self.emit_after("enqueue", message, None)
        return message

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """Add a hook; raises InvalidInput for those that would take the control plane's decisions."""
        if isinstance(middleware, (Retries, TimeLimit)):
            raise InvalidInput(
                f"{type(middleware).__name__} has no place here: set max_attempts and timeout_s on the task"
            )
        super().add_middleware(middleware, before=before, after=after)

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the before-hooks in order; the first exception stops and propagates."""
        for middleware in self.middleware:
            getattr(middleware, f"before_{signal}")(self, *args, **kwargs)
