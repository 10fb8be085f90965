"""The thread that iterates over one lane's deliveries."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from protocols.errors import LaneUnavailable
from protocols.lanes.seam import Delivery, LaneBroker, LaneConsumer
from worker.watchdog import Heart

POLL_MS = 1000
"""How long a consumer waits for a delivery before it shows that it is alive."""
RETRY_S = 0.2


@dataclass(slots=True)
class Arrival:
    """A delivery and the consumer that settles it."""

    lane: str
    consumer: LaneConsumer
    delivery: Delivery

    def ack(self) -> None:
        """Settle it for good."""
        self.consumer.ack(self.delivery)

    def refuse(self) -> None:
        """Refuse it: it can never be processed."""
        self.consumer.nack(self.delivery)


class LaneReader:
    """Consumes one lane while its gate is open; hands every delivery on, from its own thread.

    A reader is used once: start it, open and shut its gate as sessions come and go, stop it.
    """

    def __init__(
        self,
        lanes: LaneBroker,
        lane: str,
        prefetch: int,
        heart: Heart,
        *,
        arrived: Callable[[Arrival], None],
        crashed: Callable[[Exception], None],
    ) -> None:
        self._lanes = lanes
        self._lane = lane
        self._prefetch = prefetch
        self._heart = heart
        self._arrived = arrived
        self._crashed = crashed
        self._gate = threading.Event()
        self._stopping = threading.Event()
        self._consumer: LaneConsumer | None = None
        self._thread = threading.Thread(target=self._run, name=f"lane {lane}", daemon=True)

    def start(self) -> None:
        """Begin to wait for the gate."""
        self._heart.beat()
        self._thread.start()

    def open(self) -> None:
        """Consume from now on."""
        self._gate.set()

    def shut(self) -> None:
        """Stop consuming; the thread goes on waiting for the gate."""
        self._gate.clear()
        if (consumer := self._consumer) is not None:
            consumer.close()

    def stop(self) -> None:
        """Stop consuming and end the thread, within POLL_MS."""
        self._stopping.set()
        self.shut()
        self._gate.set()

    def join(self, timeout: float) -> bool:
        """Return whether the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._heart.beat()
                if not self._gate.wait(POLL_MS / 1000) or self._stopping.is_set():
                    continue
                try:
                    self._consume()
                except LaneUnavailable:
                    self._stopping.wait(RETRY_S)
        except Exception as error:
            self._crashed(error)
        finally:
            self._heart.stop()

    def _consume(self) -> None:
        consumer = self._lanes.consume(self._lane, self._prefetch, POLL_MS)
        self._consumer = consumer
        try:
            while self._gate.is_set() and not self._stopping.is_set():
                self._heart.beat()
                delivery = next(consumer)
                if delivery is not None:
                    self._arrived(Arrival(self._lane, consumer, delivery))
        finally:
            self._consumer = None
            consumer.close()
