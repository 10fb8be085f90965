"""Direct lanes: what one session's channel packs into frames, and queues under many threads."""

import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from dramatiq.broker import MessageProxy

from protocols.envelope import Envelope
from protocols.errors import InvalidFrame, InvalidInput, LaneUnavailable
from protocols.frames import MAX_BATCH, Consume, Deliver, Delivered, Settle, StopConsuming, UpFrame, down_codec
from protocols.lanes.direct import DirectBroker, DirectChannel, Parcel, SessionLanes
from protocols.states import Delivery as DeliveryPromise

LANE = "q.t.default.python"
PATIENCE_S = 60.0
BODY = Envelope(
    lane=LANE,
    action="add",
    args=(),
    kwargs={},
    task_id="task_1",
    attempt=1,
    delivery=DeliveryPromise.AT_LEAST_ONCE,
    published_at=0,
).encode()


def nothing() -> None:
    """Stand in for a session that needs no waking."""


@pytest.fixture
def broker() -> DirectBroker:
    return DirectBroker()


@pytest.fixture
def channel(broker: DirectBroker) -> DirectChannel:
    return DirectChannel(broker, nothing)


def taken(channel: DirectChannel) -> list[Delivered]:
    items: list[Delivered] = []
    while (frame := channel.take()) is not None:
        items += frame.items
    return items


def test_deliveries_of_one_moment_travel_together_up_to_the_batch(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"] * 250)
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1000))
    sizes = []
    while (frame := channel.take()) is not None:
        sizes.append(len(frame.items))
    assert sizes == [MAX_BATCH, MAX_BATCH, 50]


@pytest.mark.parametrize("size", [1, 100_000, 1024 * 1024])
def test_every_frame_of_deliveries_can_be_encoded(broker: DirectBroker, channel: DirectChannel, size: int) -> None:
    broker.publish(LANE, [b"x" * size] * 12)
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1000))
    count = 0
    while (frame := channel.take()) is not None:
        down_codec().encode(frame)
        count += len(frame.items)
    assert count == 12


def test_lanes_that_are_taken_away_get_back_what_they_delivered(broker: DirectBroker, channel: DirectChannel) -> None:
    """Also what no frame has carried yet; the other lanes deliver on, and settling the lost ones does nothing."""
    other = "q.t.default.ssh"
    for tag, lane in enumerate((LANE, other)):
        channel.on_frame(Consume(lane=lane, tag=tag, prefetch=2))
    assert (broker.consumers(LANE), broker.consumers(other), broker.consumers("q.t.none.ssh")) == (1, 1, 0)
    broker.publish(LANE, [b"1"])
    (carried,) = taken(channel)
    broker.publish(LANE, [b"2", b"3"])
    broker.publish(other, [b"x"])
    channel.limit_to({other})
    assert [item.body for item in taken(channel)] == [b"x"]
    assert (broker.depth(LANE), broker.consumers(LANE)) == (3, 0)
    channel.on_frame(Settle(acks=(carried.delivery_tag,)))
    channel.on_frame(StopConsuming(tag=0))
    channel.on_frame(Consume(lane=LANE, tag=2, prefetch=3))
    assert [(item.body, item.redelivered) for item in taken(channel)] == [(b"1", True), (b"2", True), (b"3", False)]


def test_the_session_is_woken_when_there_is_something_to_take(broker: DirectBroker) -> None:
    woken: list[str] = []
    channel = DirectChannel(broker, lambda: woken.append("woken"))
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1))
    assert (woken, channel.take()) == ([], None)
    broker.publish(LANE, [b"x"])
    assert woken == ["woken"]
    assert len(taken(channel)) == 1


def test_a_consumer_tag_in_use_is_refused(channel: DirectChannel) -> None:
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1))
    with pytest.raises(InvalidFrame, match="tag 1 is in use"):
        channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1))
    channel.on_frame(StopConsuming(tag=1))
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1))


def test_a_prefetch_of_nothing_delivers_nothing(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"])
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=0))
    assert taken(channel) == []
    assert broker.depth(LANE) == 1


def test_unknown_tags_harm_nobody(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"])
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=1))
    channel.on_frame(StopConsuming(tag=99))
    channel.on_frame(Settle(acks=(98, 99), rejects=(97,)))
    assert len(taken(channel)) == 1
    channel.close()
    assert broker.depth(LANE) == 1


def test_one_session_cannot_settle_what_another_holds(broker: DirectBroker, channel: DirectChannel) -> None:
    other = DirectChannel(broker, nothing)
    other.on_frame(Consume(lane=LANE, tag=1, prefetch=1))
    broker.publish(LANE, [b"x"])
    (held,) = taken(other)
    channel.on_frame(Settle(acks=(held.delivery_tag,), rejects=(held.delivery_tag,)))
    other.close()
    assert broker.depth(LANE) == 1


def test_what_waits_for_a_stopped_consumer_is_not_sent_any_more(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"] * 5)
    broker.publish("q.t.default.ssh", [b"y"])
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=5))
    channel.on_frame(Consume(lane="q.t.default.ssh", tag=2, prefetch=5))
    channel.on_frame(StopConsuming(tag=1))
    assert [item.body for item in taken(channel)] == [b"y"]
    assert broker.depth(LANE) == 5


def test_a_closed_channel_gives_everything_back_once(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"] * 5)
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=3))
    channel.close()
    channel.close()
    assert broker.depth(LANE) == 5
    assert taken(channel) == []


def test_flushing_forgets_what_waits_and_keeps_what_is_held(broker: DirectBroker, channel: DirectChannel) -> None:
    broker.publish(LANE, [b"x"] * 5)
    channel.on_frame(Consume(lane=LANE, tag=1, prefetch=2))
    broker.flush(LANE)
    assert broker.depth(LANE) == 0
    channel.close()
    assert broker.depth(LANE) == 2


def test_a_delivery_for_a_consumer_that_has_ended_is_sent_back() -> None:
    """A consumer may end while the control plane has just delivered to it."""
    lanes, sent = SessionLanes(), list[UpFrame]()
    lanes.connected(sent.append)
    lanes.on_deliver(Deliver(items=(Delivered(tag=5, delivery_tag=1, redelivered=False, body=BODY),)))
    assert sent == [StopConsuming(tag=5)]


def test_every_session_has_consumer_tags_of_its_own() -> None:
    """So a frame of the last session can never reach a consumer of this one."""
    lanes, sent = SessionLanes(), list[UpFrame]()
    for _ in range(2):
        lanes.connected(sent.append)
        lanes.consume(LANE)
        lanes.disconnected()
    tags = [frame.tag for frame in sent if isinstance(frame, Consume)]
    assert len(set(tags)) == 2


def test_a_worker_never_publishes() -> None:
    with pytest.raises(InvalidInput, match="publishes nothing"):
        SessionLanes().publish(LANE, [BODY])


def test_only_a_delivery_can_be_settled(broker: DirectBroker) -> None:
    foreign = MessageProxy(Envelope.decode(BODY).to_message())
    consumer = broker.consume(LANE)
    for settle in (consumer.ack, consumer.nack):
        with pytest.raises(InvalidFrame):
            settle(foreign)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can, so that a race is seldom missed."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_eight_threads_that_come_and_go_lose_and_repeat_nothing(broker: DirectBroker) -> None:
    """Consumers close with deliveries in hand, over and over; each message is settled once in the end."""
    settled: list[int] = []
    deadline = time.monotonic() + PATIENCE_S

    def consume(seed: int) -> None:
        chance = random.Random(seed)
        while len(settled) < 2000 and time.monotonic() < deadline:
            settled.extend(consume_for_a_while(broker, chance))

    def publish(start: int) -> None:
        for number in range(start, start + 500):
            broker.publish(LANE, [str(number).encode()])

    run_together(
        [partial(consume, seed) for seed in range(4)] + [partial(publish, start) for start in range(0, 2000, 500)]
    )
    assert sorted(settled) == list(range(2000))
    assert broker.depth(LANE) == 0


def consume_for_a_while(broker: DirectBroker, chance: random.Random) -> list[int]:
    """Return what was settled before the consumer left with the rest in its hands."""
    held: queue.SimpleQueue[tuple[int, Parcel]] = queue.SimpleQueue()
    subscription = broker.subscribe(LANE, chance.randint(1, 20), lambda tag, parcel: held.put((tag, parcel)))
    settled = []
    while not held.empty() and chance.random() < 0.9:
        tag, parcel = held.get()
        broker.settle(subscription, tag)
        settled.append(int(parcel.body))
    broker.unsubscribe(subscription)
    return settled


def run_together(jobs: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.usefixtures("hasty_threads")
def test_session_lanes_bear_consumers_that_come_and_go_while_the_session_does() -> None:
    """Whatever the moment, a consumer ends with LaneUnavailable or works, and nothing raises anything else."""
    lanes, broker = SessionLanes(), DirectBroker()
    ended = threading.Event()
    served: list[str] = []

    def consume() -> None:
        while not ended.is_set():
            try:
                consumer = lanes.consume(LANE, 2, 1)
                while (delivery := next(consumer)) is not None:
                    consumer.ack(delivery)
                    served.append("served")
                consumer.close()
            except LaneUnavailable:
                continue

    def connect_and_cut() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(served) < 300 and time.monotonic() < deadline:
            session(lanes, broker)
        ended.set()

    run_together([consume, consume, consume, connect_and_cut])
    assert len(served) >= 300


def session(lanes: SessionLanes, broker: DirectBroker) -> None:
    """Carry some frames both ways, then end in the middle of it."""
    up: list[UpFrame] = []
    channel = DirectChannel(broker, nothing)
    lanes.connected(up.append)
    broker.publish(LANE, [BODY] * 3)
    for _ in range(20):
        while up:
            frame = up.pop(0)
            assert isinstance(frame, (Consume, StopConsuming, Settle))
            channel.on_frame(frame)
        while (deliveries := channel.take()) is not None:
            lanes.on_deliver(deliveries)
    lanes.disconnected()
    channel.close()
