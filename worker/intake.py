"""A delivery's way through the worker: lane, slot, claim, execution, settlement."""

import asyncio
from dataclasses import dataclass

import structlog

from protocols.claim import Claim, Verdict
from protocols.envelope import Envelope
from protocols.errors import InvalidName, WarrenError
from protocols.frames import Cancel, DownFrame, Lanes, Welcome
from protocols.ids import EXECUTION, new_id
from protocols.lanes.seam import LaneBroker
from protocols.names import lane_kind
from protocols.states import Delivery
from worker.claims import ClaimGate, HandBack
from worker.execute import DRAINED, LEASE_ENDED, STOP_S, Done, Executor, StopReason, Work, cancelled, handed_back
from worker.lane_reader import Arrival, LaneReader
from worker.service import Service
from worker.session import SessionListener
from worker.settle import Settler
from worker.slots import SlotTable
from worker.watchdog import Heart, Watchdog

log = structlog.get_logger(__name__)

SESSION_GONE_S = 5.0
"""Without a session for so long the worker stops consuming, so that it hoards nothing."""
JOIN_S = 3.0
DRAIN_ANSWERS_S = 2.0
"""How long a draining worker waits for answers, to hand back what they grant."""


@dataclass(slots=True)
class _Reading:
    reader: LaneReader
    heart: Heart


class Intake(Service, SessionListener):
    """Consumes the lanes that the control plane names and brings each delivery to its end."""

    def __init__(
        self,
        lanes: LaneBroker,
        slots: SlotTable,
        gate: ClaimGate,
        executor: Executor,
        settler: Settler,
        watchdog: Watchdog,
    ) -> None:
        super().__init__()
        self._lanes = lanes
        self._slots = slots
        self._gate = gate
        self._executor = executor
        self._settler = settler
        self._watchdog = watchdog
        self._readers: dict[str, _Reading] = {}
        self._claiming: dict[tuple[str, int], Arrival] = {}
        self._open: dict[str, asyncio.Future[StopReason]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shutting: asyncio.TimerHandle | None = None
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.draining = False

    @property
    def claimed(self) -> tuple[str, ...]:
        """Executions that were claimed and are not settled."""
        return tuple(dict.fromkeys((*self._open, *self._settler.unsettled)))

    def connected(self, welcome: Welcome) -> None:
        """Cancel what has lost its lease, and consume."""
        if self._shutting is not None:
            self._shutting.cancel()
            self._shutting = None
        for execution_id in welcome.ended:
            self._stop_execution(execution_id, LEASE_ENDED)
        self._consume(welcome.lanes)
        for reading in self._readers.values():
            reading.reader.open()

    def disconnected(self) -> None:
        """Go on for a moment: a session that comes back soon changes nothing."""
        self._shutting = asyncio.get_running_loop().call_later(SESSION_GONE_S, self._shut)

    def received(self, frame: DownFrame) -> None:
        """Obey cancels and changes of lanes."""
        if isinstance(frame, Cancel):
            self._stop_execution(frame.execution_id, cancelled(frame.reason))
        elif isinstance(frame, Lanes):
            self._consume(frame.lanes)
            for reading in self._readers.values():
                reading.reader.open()

    async def drain(self, grace_s: float) -> None:
        """Take no more work, hand back what has not begun, let the rest run for `grace_s`, then stop it."""
        self.draining = True
        self._consume(())
        await self._gate.answers(DRAIN_ANSWERS_S)
        self._gate.give_up(DRAINED.code, "the worker stopped before it began")
        await self._finish(grace_s)
        for execution_id in self._open:
            self._stop_execution(execution_id, DRAINED)
        self._gate.give_up(DRAINED.code, "the worker stopped before it began")
        await self._finish(STOP_S + 2)

    async def run(self) -> None:
        """Report the crash of a lane or of a delivery's way as one's own."""
        await asyncio.shield(self._crashed)

    async def close(self) -> None:
        """Stop consuming, and abandon what still runs."""
        if self._shutting is not None:
            self._shutting.cancel()
        readings = list(self._readers.values())
        self._consume(())
        for reading in readings:
            await asyncio.to_thread(reading.reader.join, JOIN_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _consume(self, names: tuple[str, ...]) -> None:
        wanted = frozenset() if self.draining else frozenset(name for name in names if _is_lane(name))
        for name in [name for name in self._readers if name not in wanted]:
            reading = self._readers.pop(name)
            reading.reader.stop()
            self._watchdog.forget(reading.heart)
        self._slots.consume(wanted)
        loop = asyncio.get_running_loop()
        for name in wanted - self._readers.keys():
            heart = self._watchdog.heart(f"lane {name}")
            reader = LaneReader(
                self._lanes,
                name,
                self._slots.lane(name).total,
                heart,
                arrived=lambda arrival: _ignore(loop.call_soon_threadsafe(self._accept, arrival)),
                crashed=lambda error: _ignore(loop.call_soon_threadsafe(self._crash, error)),
            )
            self._readers[name] = _Reading(reader, heart)
            reader.start()

    def _shut(self) -> None:
        for reading in self._readers.values():
            reading.reader.shut()

    def _accept(self, arrival: Arrival) -> None:
        try:
            envelope = arrival.delivery.envelope()
        except WarrenError as error:
            log.warning("a delivery is refused", lane=arrival.lane, reason=error.message)
            arrival.refuse()
            return
        waiting = self._claiming.get((envelope.task_id, envelope.attempt))
        if waiting is not None:
            # The same delivery again, after a break: the claim that waits for its answer is for this one.
            waiting.consumer, waiting.delivery = arrival.consumer, arrival.delivery
            return
        self._claiming[envelope.task_id, envelope.attempt] = arrival
        task = asyncio.create_task(self._process(envelope, arrival))
        self._tasks.add(task)
        task.add_done_callback(self._processed)

    def _processed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        if not self._crashed.done():
            self._crashed.set_exception(error)

    async def _process(self, envelope: Envelope, arrival: Arrival) -> None:
        execution_id = new_id(EXECUTION)
        try:
            async with self._slots.lane(arrival.lane).taken():
                await self._settler.room()
                done = await self._claim(envelope, arrival, execution_id)
            if done is None:
                arrival.ack()
                return
            at_most_once = envelope.delivery is Delivery.AT_MOST_ONCE
            await self._settler.settle(done.report, done.kept, arrival.ack, durable_first=at_most_once)
        finally:
            self._open.pop(execution_id, None)
            self._answered(envelope, arrival)

    async def _claim(self, envelope: Envelope, arrival: Arrival, execution_id: str) -> Done | None:
        stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self._open[execution_id] = stop
        claim = Claim(
            task_id=envelope.task_id,
            attempt=envelope.attempt,
            execution_id=execution_id,
            redelivered=arrival.delivery.redelivered,
        )
        try:
            answer = await self._gate.ask(claim)
            if answer.verdict is Verdict.DROP:
                return None
            if self.draining:
                raise HandBack(DRAINED.code, "the worker stopped before it began")
        except HandBack as reason:
            return Done(handed_back(envelope, execution_id, reason.code, reason.message), ())
        finally:
            self._answered(envelope, arrival)
        # Decoded again: the delivery may be another one by now, and the hash is checked against its bytes.
        work = Work(
            envelope=arrival.delivery.envelope(),
            delivery=arrival.delivery,
            execution_id=execution_id,
            answer=answer,
            stop=stop,
        )
        return await self._executor.execute(work)

    def _answered(self, envelope: Envelope, arrival: Arrival) -> None:
        """From here on another delivery of the same attempt is a new one, for the gate to judge."""
        key = (envelope.task_id, envelope.attempt)
        if self._claiming.get(key) is arrival:
            del self._claiming[key]

    def _stop_execution(self, execution_id: str, reason: StopReason) -> None:
        stop = self._open.get(execution_id)
        if stop is not None and not stop.done():
            stop.set_result(reason)

    async def _finish(self, timeout_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)


def _is_lane(name: str) -> bool:
    try:
        lane_kind(name)
    except InvalidName as error:
        log.warning("a lane that cannot be one is not consumed", reason=error.message)
        return False
    return True


def _ignore(_: object) -> None:
    """Take a handle that nobody needs."""
