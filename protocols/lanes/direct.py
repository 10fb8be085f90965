"""Direct lanes: queues in the control plane's memory, reached over the workers' sessions.

`DirectBroker` holds the queues. `DirectChannel` is one session's way into them on the control plane's side,
`SessionLanes` the worker's end of it. A control plane that stops forgets its queues; its rows know what was in
them, and it publishes that anew.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from dramatiq.broker import MessageProxy

from protocols.errors import InvalidFrame, LaneUnavailable, WarrenError
from protocols.frames import MAX_BATCH, Consume, Deliver, Delivered, Settle, StopConsuming, UpFrame
from protocols.lanes.seam import Delivery, LaneBroker, LaneConsumer

MAX_DELIVER_BYTES = 3 * 1024 * 1024
"""Bodies of one `Deliver` frame, well inside the frame's limit."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message on its way through a direct lane."""

    body: bytes
    redelivered: bool


class Subscription:
    """One consumer of one lane: its credit, and what it has not settled."""

    def __init__(self, lane: str, prefetch: int, deliver: Callable[[int, Parcel], None]) -> None:
        self.lane = lane
        self.prefetch = prefetch
        self.deliver = deliver
        self.unsettled: dict[int, Parcel] = {}
        self.active = True

    def has_credit(self) -> bool:
        """Return whether another message may be delivered."""
        return self.active and len(self.unsettled) < self.prefetch


@dataclass(slots=True)
class _Queue:
    ready: deque[Parcel] = field(default_factory=deque)
    subscriptions: deque[Subscription] = field(default_factory=deque)

    def next_with_credit(self) -> Subscription | None:
        for _ in range(len(self.subscriptions)):
            self.subscriptions.rotate(-1)
            if self.subscriptions[-1].has_credit():
                return self.subscriptions[-1]
        return None


class DirectBroker(LaneBroker):
    """Lanes in this process's memory. Safe from any thread."""

    def __init__(self, on_rejected: Callable[[str, bytes], None] | None = None) -> None:
        super().__init__()
        self._on_rejected = on_rejected
        self._lock = threading.RLock()
        self._lanes: dict[str, _Queue] = {}
        self._tags = itertools.count(1)

    def publish(self, lane: str, bodies: Sequence[bytes]) -> Future[None]:
        """Append to the lane; this transport takes everything at once."""
        self.declare_queue(lane)
        with self._lock:
            self._lane(lane).ready.extend(Parcel(body, redelivered=False) for body in bodies)
            self._dispatch(lane)
        taken: Future[None] = Future()
        taken.set_result(None)
        return taken

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> LaneConsumer:
        """Consume a lane inside this process."""
        return _LocalConsumer(self, queue_name, prefetch, timeout / 1000)

    def depth(self, lane: str) -> int:
        """Return how many messages wait in `lane`."""
        with self._lock:
            return len(self._lane(lane).ready)

    def consumers(self, lane: str) -> int:
        """Return how many consumers `lane` has."""
        with self._lock:
            found = self._lanes.get(lane)
            return 0 if found is None else len(found.subscriptions)

    def flush(self, queue_name: str) -> None:
        """Forget what waits in the lane."""
        with self._lock:
            self._lane(queue_name).ready.clear()

    def subscribe(self, lane: str, prefetch: int, deliver: Callable[[int, Parcel], None]) -> Subscription:
        """Deliver from `lane` by calling `deliver(delivery tag, parcel)`, which must not block."""
        subscription = Subscription(lane, prefetch, deliver)
        self.declare_queue(lane)
        with self._lock:
            self._lane(lane).subscriptions.append(subscription)
            self._dispatch(lane)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Deliver no more, and put what is unsettled back at the head of the lane."""
        with self._lock:
            lane = self._lane(subscription.lane)
            if subscription.active:
                subscription.active = False
                lane.subscriptions.remove(subscription)
            for parcel in reversed(subscription.unsettled.values()):
                lane.ready.appendleft(Parcel(parcel.body, redelivered=True))
            subscription.unsettled.clear()
            self._dispatch(subscription.lane)

    def settle(self, subscription: Subscription, tag: int, *, reject: bool = False) -> None:
        """Forget a delivery; a rejected one goes to the collector."""
        with self._lock:
            parcel = subscription.unsettled.pop(tag, None)
            self._dispatch(subscription.lane)
        if parcel is not None and reject and self._on_rejected is not None:
            self._on_rejected(subscription.lane, parcel.body)

    def _lane(self, lane: str) -> _Queue:
        return self._lanes.setdefault(lane, _Queue())

    def _dispatch(self, lane: str) -> None:
        waiting = self._lane(lane)
        while waiting.ready and (subscription := waiting.next_with_credit()) is not None:
            parcel = waiting.ready.popleft()
            tag = next(self._tags)
            subscription.unsettled[tag] = parcel
            subscription.deliver(tag, parcel)


class _LocalConsumer(LaneConsumer):
    def __init__(self, broker: DirectBroker, lane: str, prefetch: int, timeout: float) -> None:
        self._broker = broker
        self._timeout = timeout
        self._closed = False
        self._arrived: queue.SimpleQueue[tuple[int, Parcel] | None] = queue.SimpleQueue()
        self._subscription = broker.subscribe(lane, prefetch, lambda tag, parcel: self._arrived.put((tag, parcel)))

    def __next__(self) -> Delivery | None:
        while not self._closed:
            try:
                arrived = self._arrived.get(timeout=self._timeout)
            except queue.Empty:
                return None
            if arrived is None:
                break
            tag, parcel = arrived
            try:
                return Delivery.decode(parcel.body, delivery_tag=tag, redelivered=parcel.redelivered)
            except WarrenError:
                self._broker.settle(self._subscription, tag, reject=True)
        raise LaneUnavailable("this consumer is closed")

    def ack(self, message: MessageProxy) -> None:
        self._broker.settle(self._subscription, _tag(message))

    def nack(self, message: MessageProxy) -> None:
        self._broker.settle(self._subscription, _tag(message), reject=True)

    def close(self) -> None:
        self._closed = True
        self._arrived.put(None)
        self._broker.unsubscribe(self._subscription)


def _tag(message: MessageProxy) -> int:
    if not isinstance(message, Delivery):
        raise InvalidFrame("only a delivery of this consumer can be settled")
    return message.delivery_tag


class DirectChannel:
    """One session's subscriptions, on the control plane's side.

    Deliveries that arise at the same moment travel in one frame: `request_flush` tells the session, from any
    thread and without blocking, that `take` has something for it.
    """

    def __init__(self, broker: DirectBroker, request_flush: Callable[[], None]) -> None:
        self._broker = broker
        self._request_flush = request_flush
        self._subscriptions: dict[int, Subscription] = {}
        self._waiting: deque[Delivered] = deque()
        self._lock = threading.Lock()

    def on_frame(self, frame: Consume | StopConsuming | Settle) -> None:
        """Carry out what the worker asks; raises InvalidFrame for a tag that is in use."""
        if isinstance(frame, Consume):
            self._consume(frame)
        elif isinstance(frame, StopConsuming):
            self._stop(frame.tag)
        else:
            self._settle(frame)

    def take(self) -> Deliver | None:
        """Return the next frame of deliveries, or None when there is nothing to send."""
        items: list[Delivered] = []
        size = 0
        with self._lock:
            while self._waiting and len(items) < MAX_BATCH:
                size += len(self._waiting[0].body)
                if items and size > MAX_DELIVER_BYTES:
                    break
                items.append(self._waiting.popleft())
        return Deliver(items=tuple(items)) if items else None

    def limit_to(self, lanes: Collection[str]) -> None:
        """Deliver from no other lanes any more; what they delivered and is not settled goes back to them."""
        for tag, subscription in list(self._subscriptions.items()):
            if subscription.lane not in lanes:
                self._stop(tag)

    def close(self) -> None:
        """The session is gone: what it has not settled goes back to the lanes, marked as redelivered."""
        self.limit_to(())

    def _consume(self, frame: Consume) -> None:
        if frame.tag in self._subscriptions:
            raise InvalidFrame(f"consumer tag {frame.tag} is in use")

        def deliver(delivery_tag: int, parcel: Parcel) -> None:
            with self._lock:
                self._waiting.append(
                    Delivered(
                        tag=frame.tag,
                        delivery_tag=delivery_tag,
                        redelivered=parcel.redelivered,
                        body=parcel.body,
                    )
                )
            self._request_flush()

        self._subscriptions[frame.tag] = self._broker.subscribe(frame.lane, frame.prefetch, deliver)

    def _stop(self, tag: int) -> None:
        subscription = self._subscriptions.pop(tag, None)
        if subscription is not None:
            self._broker.unsubscribe(subscription)
            with self._lock:
                self._waiting = deque(item for item in self._waiting if item.tag != tag)

    def _settle(self, frame: Settle) -> None:
        for tags, reject in ((frame.acks, False), (frame.rejects, True)):
            for tag in tags:
                for subscription in self._subscriptions.values():
                    if tag in subscription.unsettled:
                        self._broker.settle(subscription, tag, reject=reject)
                        break


class SessionLanes(LaneBroker):
    """The worker's end of direct lanes: consumes over the session, publishes nothing.

    The session calls `connected` with a thread-safe `send`, `on_deliver` for each frame, and `disconnected`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._send: Callable[[UpFrame], None] | None = None
        self._consumers: dict[int, _SessionConsumer] = {}
        self._tags = itertools.count(1)

    def connected(self, send: Callable[[UpFrame], None]) -> None:
        """A session is open: lanes can be consumed."""
        with self._lock:
            self._send = send

    def disconnected(self) -> None:
        """The session is gone: every consumer ends, what they had delivered will come again."""
        with self._lock:
            consumers, self._consumers = self._consumers, {}
            self._send = None
        for consumer in consumers.values():
            consumer.end()

    def on_deliver(self, frame: Deliver) -> None:
        """Hand deliveries to their consumers."""
        for item in frame.items:
            with self._lock:
                consumer, send = self._consumers.get(item.tag), self._send
            if consumer is not None:
                consumer.arrive(item)
            elif send is not None:
                # Its consumer ended on the way: what it holds goes back to the lane.
                send(StopConsuming(tag=item.tag))

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> LaneConsumer:
        """Consume a lane over the session; raises LaneUnavailable while there is none."""
        self.declare_queue(queue_name)
        with self._lock:
            send = self._send
            if send is None:
                raise LaneUnavailable("no session with the control plane")
            tag = next(self._tags)
            consumer = _SessionConsumer(self, send, tag, timeout / 1000)
            self._consumers[tag] = consumer
        send(Consume(lane=queue_name, tag=tag, prefetch=prefetch))
        return consumer

    def forget(self, tag: int) -> None:
        """A consumer has closed."""
        with self._lock:
            self._consumers.pop(tag, None)


class _SessionConsumer(LaneConsumer):
    def __init__(self, lanes: SessionLanes, send: Callable[[UpFrame], None], tag: int, timeout: float) -> None:
        self._lanes = lanes
        self._send = send
        self._tag = tag
        self._timeout = timeout
        self._arrived: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._ended = False

    def arrive(self, item: Delivered) -> None:
        try:
            delivery = Delivery.decode(item.body, delivery_tag=item.delivery_tag, redelivered=item.redelivered)
        except WarrenError:
            self._send(Settle(rejects=(item.delivery_tag,)))
        else:
            self._arrived.put(delivery)

    def end(self) -> None:
        self._ended = True
        self._arrived.put(None)

    def __next__(self) -> Delivery | None:
        if not self._ended:
            try:
                delivery = self._arrived.get(timeout=self._timeout)
            except queue.Empty:
                return None
            if delivery is not None:
                return delivery
        raise LaneUnavailable("this consumer is closed, or its session is gone")

    def ack(self, message: MessageProxy) -> None:
        if not self._ended:
            self._send(Settle(acks=(_tag(message),)))

    def nack(self, message: MessageProxy) -> None:
        if not self._ended:
            self._send(Settle(rejects=(_tag(message),)))

    def close(self) -> None:
        if not self._ended:
            self._lanes.forget(self._tag)
            self._send(StopConsuming(tag=self._tag))
            self.end()
