"""The promises of `protocols/lanes/seam.py`, which every lane transport keeps."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.middleware import Middleware, Retries, TimeLimit

from protocols.envelope import MAX_ENVELOPE_BYTES, Envelope
from protocols.errors import InvalidFrame, InvalidInput, LaneUnavailable
from protocols.lanes.seam import Delivery, LaneBroker, LaneConsumer
from protocols.states import Delivery as DeliveryPromise
from tests.support.lane_transports import PATIENCE_S, DirectLocal, DirectSession, LaneTransport

LANE = "q.t.default.python"
OTHER = "q.t.default.ssh"
QUIET_MS = 300
"""How long a consumer listens before a test believes that nothing comes."""
JUNK = b"\xc1 no MessagePack"

TRANSPORTS: dict[str, Callable[[], LaneTransport]] = {"direct-local": DirectLocal, "direct-session": DirectSession}
LINKED = ["direct-session"]
"""Transports whose two ends can be parted."""


def started(name: str) -> Iterator[LaneTransport]:
    transport = TRANSPORTS[name]()
    yield transport
    transport.stop()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Iterator[LaneTransport]:
    yield from started(request.param)


@pytest.fixture(params=LINKED)
def linked(request: pytest.FixtureRequest) -> Iterator[LaneTransport]:
    yield from started(request.param)


def envelope(number: int, lane: str = LANE, padding: int = 0) -> Envelope:
    return Envelope(
        lane=lane,
        action="count",
        args=(number, "x" * padding),
        kwargs={},
        task_id=f"task_{number}",
        attempt=1,
        delivery=DeliveryPromise.AT_LEAST_ONCE,
        published_at=1_800_000_000_000,
    )


def publish(transport: LaneTransport, numbers: Sequence[int], lane: str = LANE, padding: int = 0) -> None:
    bodies = [envelope(number, lane, padding).encode() for number in numbers]
    transport.publisher.publish(lane, bodies).result(PATIENCE_S)


def number_of(delivery: Delivery) -> int:
    number: int = delivery.envelope().args[0]
    return number


def receive(consumer: LaneConsumer, count: int) -> list[Delivery]:
    """Return the next `count` deliveries, unsettled."""
    received: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(received) < count:
        assert time.monotonic() < deadline, f"{len(received)} of {count} deliveries came"
        if (delivery := next(consumer)) is not None:
            received.append(delivery)
    return received


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


def unavailable(consumer: LaneConsumer) -> bool:
    try:
        next(consumer)
    except LaneUnavailable:
        return True
    return False


def test_what_is_published_arrives_as_it_was(transport: LaneTransport) -> None:
    sent = envelope(7).encode()
    transport.publisher.publish(LANE, [sent]).result(PATIENCE_S)
    (delivery,) = receive(transport.worker().consume(LANE, 1, QUIET_MS), 1)
    assert delivery.body == sent
    assert delivery.envelope() == envelope(7)
    assert delivery.message_id == "task_7.1"
    assert not delivery.redelivered


def test_one_consumer_sees_a_lane_in_the_order_of_publishing(transport: LaneTransport) -> None:
    consumer = transport.worker().consume(LANE, 10, QUIET_MS)
    publish(transport, range(100))
    publish(transport, range(100, 200))
    seen = []
    for _ in range(200):
        (delivery,) = receive(consumer, 1)
        seen.append(number_of(delivery))
        consumer.ack(delivery)
    assert seen == list(range(200))


def test_no_more_than_the_prefetch_is_unsettled(transport: LaneTransport) -> None:
    publish(transport, range(10))
    consumer = transport.worker().consume(LANE, 3, QUIET_MS)
    held = receive(consumer, 3)
    assert next(consumer) is None
    assert transport.publisher.depth(LANE) == 7
    consumer.ack(held[1])
    assert number_of(receive(consumer, 1)[0]) == 3
    assert next(consumer) is None
    consumer.nack(held[0])
    assert number_of(receive(consumer, 1)[0]) == 4
    assert next(consumer) is None


def test_an_acknowledged_delivery_never_comes_again(transport: LaneTransport) -> None:
    publish(transport, range(5))
    worker = transport.worker()
    consumer = worker.consume(LANE, 5, QUIET_MS)
    held = receive(consumer, 5)
    for delivery in held[:4]:
        consumer.ack(delivery)
    consumer.close()
    again = worker.consume(LANE, 5, QUIET_MS)
    assert [number_of(delivery) for delivery in receive(again, 1)] == [4]
    assert next(again) is None
    assert transport.publisher.depth(LANE) == 0
    assert transport.collected() == []


def test_acknowledging_twice_settles_nothing_else(transport: LaneTransport) -> None:
    publish(transport, range(3))
    consumer = transport.worker().consume(LANE, 1, QUIET_MS)
    for number in range(3):
        (delivery,) = receive(consumer, 1)
        assert number_of(delivery) == number
        consumer.ack(delivery)
        consumer.ack(delivery)
    assert next(consumer) is None


def test_a_refused_delivery_goes_to_the_collector_and_not_back(transport: LaneTransport) -> None:
    publish(transport, range(2))
    worker = transport.worker()
    consumer = worker.consume(LANE, 2, QUIET_MS)
    first, second = receive(consumer, 2)
    consumer.nack(first)
    consumer.ack(second)
    eventually(lambda: transport.collected() == [(LANE, first.body)], "the refused body was not collected")
    consumer.close()
    assert next(worker.consume(LANE, 2, QUIET_MS)) is None


def test_what_a_closed_consumer_had_comes_again_flagged_and_in_order(transport: LaneTransport) -> None:
    """Whether it had taken a delivery or not."""
    publish(transport, range(6))
    worker = transport.worker()
    consumer = worker.consume(LANE, 4, QUIET_MS)
    assert not any(delivery.redelivered for delivery in receive(consumer, 2))
    consumer.close()
    again = receive(worker.consume(LANE, 6, QUIET_MS), 6)
    assert [number_of(delivery) for delivery in again] == list(range(6))
    assert all(delivery.redelivered for delivery in again[:2])
    assert not any(delivery.redelivered for delivery in again[4:])


def test_what_a_closed_consumer_had_goes_to_another_worker(transport: LaneTransport) -> None:
    publish(transport, range(3))
    closing = transport.worker().consume(LANE, 3, QUIET_MS)
    receive(closing, 3)
    waiting = transport.worker().consume(LANE, 3, QUIET_MS)
    closing.close()
    assert [number_of(delivery) for delivery in receive(waiting, 3)] == [0, 1, 2]


def test_a_closed_consumer_says_so_and_may_be_closed_again(transport: LaneTransport) -> None:
    publish(transport, [0])
    consumer = transport.worker().consume(LANE, 1, QUIET_MS)
    receive(consumer, 1)
    consumer.close()
    consumer.close()
    with pytest.raises(LaneUnavailable):
        next(consumer)
    eventually(lambda: transport.publisher.depth(LANE) == 1, "its delivery did not come back, or came back twice")


def test_closing_wakes_a_thread_that_waits_for_a_delivery(transport: LaneTransport) -> None:
    consumer = transport.worker().consume(LANE, 1, int(PATIENCE_S * 1000))
    waiting = threading.Thread(target=unavailable, args=(consumer,))
    waiting.start()
    consumer.close()
    waiting.join(PATIENCE_S / 2)
    assert not waiting.is_alive()


def test_an_acknowledgement_after_the_close_is_harmless(transport: LaneTransport) -> None:
    publish(transport, [0])
    worker = transport.worker()
    consumer = worker.consume(LANE, 1, QUIET_MS)
    (late,) = receive(consumer, 1)
    consumer.close()
    again = worker.consume(LANE, 1, QUIET_MS)
    assert receive(again, 1)[0].redelivered
    consumer.ack(late)
    consumer.nack(late)
    again.close()
    assert receive(worker.consume(LANE, 1, QUIET_MS), 1)[0].redelivered


def test_consumers_of_one_lane_share_fairly(transport: LaneTransport) -> None:
    consumers = [transport.worker().consume(LANE, 30, QUIET_MS) for _ in range(3)]
    heard = [0, 0, 0]
    while min(heard) == 0:
        publish(transport, [0])
        for place, consumer in enumerate(consumers):
            heard[place] += settle_what_came(consumer)
    publish(transport, range(30))
    counts = [settle_what_came(consumer) for consumer in consumers]
    assert sum(counts) == 30
    assert min(counts) >= 5


def settle_what_came(consumer: LaneConsumer) -> int:
    count = 0
    while (delivery := next(consumer)) is not None:
        consumer.ack(delivery)
        count += 1
    return count


@pytest.mark.parametrize("taken", [0, 1])
def test_a_blocked_lane_does_not_block_another(transport: LaneTransport, taken: int) -> None:
    """Whether its deliveries were taken and never settled, or nobody even takes them."""
    worker = transport.worker()
    blocked = worker.consume(LANE, 1, QUIET_MS)
    publish(transport, range(50))
    receive(blocked, taken)
    flowing = worker.consume(OTHER, 5, QUIET_MS)
    publish(transport, range(100), OTHER)
    for number in range(100):
        (delivery,) = receive(flowing, 1)
        assert number_of(delivery) == number
        flowing.ack(delivery)


@pytest.mark.parametrize("consumed_first", [True, False])
def test_undecodable_bytes_are_collected_and_do_not_stop_the_consumer(
    transport: LaneTransport, consumed_first: bool
) -> None:
    worker = transport.worker()
    bodies = [JUNK, envelope(1).encode(), JUNK, JUNK, envelope(2).encode()]
    if not consumed_first:
        transport.publisher.publish(LANE, bodies).result(PATIENCE_S)
    consumer = worker.consume(LANE, 1, QUIET_MS)
    if consumed_first:
        transport.publisher.publish(LANE, bodies).result(PATIENCE_S)
    for number in (1, 2):
        (delivery,) = receive(consumer, 1)
        assert number_of(delivery) == number
        consumer.ack(delivery)
    assert next(consumer) is None
    eventually(lambda: transport.collected() == [(LANE, JUNK)] * 3, "the junk was not collected")


def test_thousands_of_undecodable_bodies_do_not_stop_the_consumer(transport: LaneTransport) -> None:
    consumer = transport.worker().consume(LANE, 10, QUIET_MS)
    transport.publisher.publish(LANE, [JUNK] * 3000).result(PATIENCE_S)
    publish(transport, [1])
    assert number_of(receive(consumer, 1)[0]) == 1
    eventually(lambda: len(transport.collected()) == 3000, "not all junk was collected")


def test_a_message_of_another_program_is_delivered_so_that_the_worker_can_refuse_it(transport: LaneTransport) -> None:
    foreign = b"\x85\xaaqueue_name\xa1q\xaaactor_name\xa1a\xa4args\x90\xa6kwargs\x80\xa7options\x80"
    transport.publisher.publish(LANE, [foreign]).result(PATIENCE_S)
    consumer = transport.worker().consume(LANE, 1, QUIET_MS)
    (delivery,) = receive(consumer, 1)
    with pytest.raises(InvalidFrame):
        delivery.envelope()
    consumer.nack(delivery)
    eventually(lambda: transport.collected() == [(LANE, foreign)], "the foreign message was not collected")


def test_two_thousand_small_messages_arrive(transport: LaneTransport) -> None:
    consumer = transport.worker().consume(LANE, 250, QUIET_MS)
    publish(transport, range(2000), padding=1024)
    seen = []
    for _ in range(2000):
        (delivery,) = receive(consumer, 1)
        seen.append(number_of(delivery))
        consumer.ack(delivery)
    assert seen == list(range(2000))
    eventually(lambda: transport.publisher.depth(LANE) == 0, "the lane is not empty")


def test_the_largest_envelopes_arrive(transport: LaneTransport) -> None:
    padding = MAX_ENVELOPE_BYTES - len(envelope(0, padding=70_000).encode()) + 70_000
    assert len(envelope(0, padding=padding).encode()) == MAX_ENVELOPE_BYTES
    publish(transport, range(5), padding=padding)
    received = receive(transport.worker().consume(LANE, 5, QUIET_MS), 5)
    assert [number_of(delivery) for delivery in received] == list(range(5))
    assert {len(delivery.body) for delivery in received} == {MAX_ENVELOPE_BYTES}


def test_the_depth_is_what_waits(transport: LaneTransport) -> None:
    assert transport.publisher.depth(LANE) == 0
    publish(transport, range(4))
    assert transport.publisher.depth(LANE) == 4
    receive(transport.worker().consume(LANE, 1, QUIET_MS), 1)
    assert transport.publisher.depth(LANE) == 3


def test_publishing_nothing_is_allowed(transport: LaneTransport) -> None:
    transport.publisher.publish(LANE, []).result(PATIENCE_S)
    assert transport.publisher.depth(LANE) == 0


def test_a_consumer_waits_no_longer_than_its_timeout(transport: LaneTransport) -> None:
    consumer = transport.worker().consume(LANE, 1, 50)
    begun = time.monotonic()
    assert next(consumer) is None
    assert 0.04 < time.monotonic() - begun < PATIENCE_S


# What a transport is to programs that use dramatiq.


def test_a_message_can_be_enqueued_but_not_delayed(transport: LaneTransport) -> None:
    message = envelope(1).to_message()
    with pytest.raises(InvalidInput, match="delay_s"):
        transport.publisher.enqueue(message, delay=1000)
    assert transport.publisher.depth(LANE) == 0
    assert transport.publisher.enqueue(message) == message
    assert number_of(receive(transport.worker().consume(LANE, 1, QUIET_MS), 1)[0]) == 1


def test_a_message_of_another_program_cannot_be_enqueued(transport: LaneTransport) -> None:
    foreign: Message[Any] = Message(queue_name=LANE, actor_name="a", args=(), kwargs={}, options={})
    with pytest.raises(InvalidFrame):
        transport.publisher.enqueue(foreign)
    assert transport.publisher.depth(LANE) == 0


@pytest.mark.parametrize("middleware", [Retries(), TimeLimit()], ids=lambda one: type(one).__name__)
def test_middleware_that_decides_for_the_control_plane_is_refused(
    transport: LaneTransport, middleware: Middleware
) -> None:
    for end in (transport.publisher, transport.worker()):
        with pytest.raises(InvalidInput, match="max_attempts"):
            end.add_middleware(middleware)
        assert middleware not in end.middleware


class Refusing(Middleware):
    """Says no to everything, with an error that dramatiq would only log."""

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        raise ValueError("not this one")

    def before_process_message(self, broker: Any, message: Any) -> None:
        raise ValueError("not this one")


class Counting(Middleware):
    """Counts what it is asked about."""

    def __init__(self) -> None:
        self.asked = 0

    def before_process_message(self, broker: Any, message: Any) -> None:
        self.asked += 1


def test_a_before_hook_that_raises_refuses(transport: LaneTransport) -> None:
    transport.publisher.add_middleware(Refusing())
    with pytest.raises(ValueError, match="not this one"):
        transport.publisher.enqueue(envelope(1).to_message())
    assert transport.publisher.depth(LANE) == 0


def test_the_first_before_hook_that_raises_is_the_last_that_is_called(transport: LaneTransport) -> None:
    worker, first, last = transport.worker(), Counting(), Counting()
    for middleware in (first, Refusing(), last):
        worker.add_middleware(middleware)
    with pytest.raises(ValueError, match="not this one"):
        worker.emit_before("process_message", envelope(1).to_message())
    assert (first.asked, last.asked) == (1, 0)


# Threads.


def test_four_publishers_and_four_consumers_lose_and_repeat_nothing(transport: LaneTransport) -> None:
    seen: list[int] = []
    failures: list[BaseException] = []

    def publish_some(start: int) -> None:
        for number in range(start, start + 250, 5):
            publish(transport, range(number, number + 5))

    def consume_some(worker: LaneBroker) -> None:
        consumer = worker.consume(LANE, 7, 50)
        deadline = time.monotonic() + PATIENCE_S
        while len(seen) < 1000 and time.monotonic() < deadline:
            if (delivery := next(consumer)) is not None:
                seen.append(number_of(delivery))
                consumer.ack(delivery)

    def guarded(work: Callable[[Any], None], argument: Any) -> None:
        try:
            work(argument)
        except BaseException as error:
            failures.append(error)

    shared = transport.worker()
    jobs: list[tuple[Callable[[Any], None], Any]] = [(publish_some, start) for start in range(0, 1000, 250)]
    jobs += [(consume_some, worker) for worker in (shared, shared, transport.worker(), transport.worker())]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert failures == []
    assert sorted(seen) == list(range(1000))


def test_one_consumers_deliveries_may_be_settled_by_eight_threads(transport: LaneTransport) -> None:
    publish(transport, range(400))
    worker = transport.worker()
    consumer = worker.consume(LANE, 100, QUIET_MS)
    for _ in range(4):
        held = receive(consumer, 100)
        threads = [threading.Thread(target=settle_each, args=(consumer, held[place::8])) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert next(consumer) is None
    consumer.close()
    assert next(worker.consume(LANE, 1, QUIET_MS)) is None


def settle_each(consumer: LaneConsumer, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        consumer.ack(delivery)


# The link between the two ends.


def test_without_a_link_nothing_can_be_consumed(linked: LaneTransport) -> None:
    worker = linked.worker()
    linked.cut()
    with pytest.raises(LaneUnavailable):
        worker.consume(LANE, 1, QUIET_MS)
    linked.restore()
    publish(linked, [1])
    assert number_of(receive(worker.consume(LANE, 1, QUIET_MS), 1)[0]) == 1


def test_a_cut_ends_every_consumer(linked: LaneTransport) -> None:
    worker = linked.worker()
    consumers = [worker.consume(lane, 1, QUIET_MS) for lane in (LANE, OTHER)]
    linked.cut()
    for consumer in consumers:
        eventually(lambda consumer=consumer: unavailable(consumer), "the consumer did not notice")  # type: ignore[misc]


def test_a_cut_wakes_a_thread_that_waits_for_a_delivery(linked: LaneTransport) -> None:
    consumer = linked.worker().consume(LANE, 1, int(PATIENCE_S * 1000))
    waiting = threading.Thread(target=unavailable, args=(consumer,))
    waiting.start()
    linked.cut()
    waiting.join(PATIENCE_S / 2)
    assert not waiting.is_alive()


def test_what_was_unsettled_at_a_cut_comes_again_flagged_and_in_order(linked: LaneTransport) -> None:
    publish(linked, range(6))
    worker = linked.worker()
    consumer = worker.consume(LANE, 4, QUIET_MS)
    held = receive(consumer, 3)
    consumer.ack(held[0])
    assert number_of(receive(consumer, 1)[0]) == 3
    linked.cut()
    linked.restore()
    again = receive(worker.consume(LANE, 6, QUIET_MS), 5)
    assert sorted(number_of(delivery) for delivery in again) == [1, 2, 3, 4, 5]
    assert [number_of(delivery) for delivery in again] == [1, 2, 3, 4, 5]
    assert all(delivery.redelivered for delivery in again[:3])


def test_a_late_acknowledgement_after_a_cut_is_harmless(linked: LaneTransport) -> None:
    publish(linked, [0])
    worker = linked.worker()
    consumer = worker.consume(LANE, 1, QUIET_MS)
    (late,) = receive(consumer, 1)
    linked.cut()
    consumer.ack(late)
    linked.restore()
    again = worker.consume(LANE, 1, QUIET_MS)
    assert receive(again, 1)[0].redelivered
    consumer.ack(late)
    consumer.nack(late)
    consumer.close()
    again.close()
    assert receive(worker.consume(LANE, 1, QUIET_MS), 1)[0].redelivered
    assert linked.collected() == []


def test_ten_cuts_in_a_row_lose_nothing(linked: LaneTransport) -> None:
    publish(linked, range(300))
    worker = linked.worker()
    seen: set[int] = set()
    for _ in range(10):
        consumer = worker.consume(LANE, 20, QUIET_MS)
        for delivery in receive(consumer, 10):
            seen.add(number_of(delivery))
            consumer.ack(delivery)
        linked.cut()
        linked.restore()
    consumer = worker.consume(LANE, 50, QUIET_MS)
    while (last := next(consumer)) is not None:
        seen.add(number_of(last))
        consumer.ack(last)
    assert seen == set(range(300))
