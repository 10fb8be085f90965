"""The worker's composition root: every concrete class is named here, started in order and stopped in reverse."""

import asyncio
import os
import signal
from collections.abc import Sequence
from importlib.metadata import version as installed_version

import structlog

from protocols.errors import InvalidSettings
from protocols.frames import DownFrame, Drain, Hello
from protocols.identity import sign_session
from protocols.ids import new_id
from protocols.lanes.direct import SessionLanes
from protocols.names import BuiltinAction
from protocols.states import Approval
from worker.actions.llm import LlmChat
from worker.actions.python import IsolatedAction, PythonAction
from worker.actions.registry import Registry, python_sources
from worker.actions.ssh import SshExec
from worker.children import Children
from worker.claims import ClaimGate
from worker.execute import Executor
from worker.heartbeat import HeartbeatSender
from worker.identity import Identity, StateDir
from worker.intake import Intake
from worker.outbox import Outbox
from worker.output import LiveOutput
from worker.registration import register
from worker.resources import ResourceMeter
from worker.service import Service
from worker.session import Session, SessionListener
from worker.session_lanes import SessionLanesLink
from worker.settings import Settings
from worker.settle import Settler
from worker.slots import SlotTable
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

FLUSH_S = 5.0
BOOT = "boot"


class Agent(SessionListener):
    """One worker: its parts, and what happens when it is told to leave or one of them fails."""

    def __init__(self, settings: Settings, state: StateDir, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._version = installed_version("warren")
        self._boot_id = new_id(BOOT)
        self._leave: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        lanes = SessionLanes()
        outbox = Outbox()
        self._meter = ResourceMeter(state.path)
        self._slots = SlotTable(settings.slots)
        self._children = Children()
        self._llm = LlmChat()
        self._ssh = SshExec()
        self._approval: Approval | None = None
        self._registry = self._actions(lanes)
        self._watchdog = Watchdog(settings.watchdog_usec)
        gate = ClaimGate(outbox)
        self._settler = Settler(outbox, state.spool, settings.unsettled_max)
        executor = Executor(identity, lanes, self._registry, LiveOutput(outbox, asyncio.get_running_loop()))
        self._intake = Intake(lanes, self._slots, gate, executor, self._settler, self._watchdog)
        self._heartbeat = HeartbeatSender(
            outbox,
            self._meter,
            self._slots,
            version=self._version,
            unsettled=lambda: len(self._settler.unsettled),
            draining=lambda: self._intake.draining,
        )
        self._session = Session(
            settings,
            outbox,
            self._watchdog.heart("session"),
            register=self._register,
            hello=self._hello,
            attempted=self._watchdog.report,
        )
        # Cancels and repeated claims go first, then what is consumed and sent.
        self._session.listen(
            [SessionLanesLink(lanes, outbox), gate, self._intake, self._settler, self._heartbeat, self]
        )

    @property
    def services(self) -> Sequence[Service]:
        """The parts that are started, in this order."""
        return (self._watchdog, self._children, self._settler, self._intake, self._heartbeat, self._session)

    async def run(self) -> None:
        """Work until told to leave; raises what made a part of it fail."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            for service in self.services:
                service.report_crash_to(self._crashed)
                await service.start()
            reason = await self._leave
            log.info("draining", reason=reason, grace_s=self._settings.grace_s)
            await self._drain()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop every part, whatever has been started."""
        for service in reversed(self.services):
            await service.stop()
        await self._llm.close()
        await self._ssh.close()

    def received(self, frame: DownFrame) -> None:
        """Obey a drain."""
        if isinstance(frame, Drain):
            self.leave(frame.reason or "told by the control plane")

    async def _drain(self) -> None:
        self._watchdog.stopping()
        drained = asyncio.ensure_future(self._intake.drain(self._settings.grace_s))
        self._heartbeat.send_now()
        await drained
        await self._settler.flush(FLUSH_S)

    def leave(self, reason: str) -> None:
        """Drain, then end `run`."""
        if not self._leave.done():
            self._leave.set_result(reason)

    def _signalled(self, number: signal.Signals) -> None:
        if self._leave.done():
            # The second signal: whoever sends it wants an end now, and the spool is durable at any moment.
            self._children.kill_now()
            os._exit(128 + number)
        self.leave(number.name)

    def _crashed(self, service: Service, error: Exception) -> None:
        if not self._leave.done():
            self._leave.set_exception(error)

    async def _register(self) -> None:
        registration = await register(self._settings, self._identity, self._meter.machine(), self._version)
        if registration.approval is self._approval:
            return
        self._approval = registration.approval
        told = log.info if registration.approval is Approval.APPROVED else log.warning
        told(
            "registered",
            worker_id=registration.worker_id,
            approval=registration.approval.value,
            fingerprint=self._identity.fingerprint,
        )

    def _hello(self, nonce: bytes, epoch: int) -> Hello:
        identity = self._identity
        signature = sign_session(identity.signing, nonce=nonce, worker=identity.worker_id, boot_id=self._boot_id)
        return Hello(
            worker_id=identity.worker_id,
            boot_id=self._boot_id,
            signature=signature,
            version=self._version,
            slots={kind.value: slots for kind, slots in self._settings.slots.items()},
            actions=self._registry.names,
            epoch=epoch,
            running=self._intake.claimed,
        )

    def _actions(self, lanes: SessionLanes) -> Registry:
        sources = python_sources(self._settings.actions)
        registry = Registry(lanes, lambda name: IsolatedAction(sources.get(name), self._children))
        registry.declare(BuiltinAction.LLM_CHAT, self._llm)
        registry.declare(BuiltinAction.SSH_EXEC, self._ssh)
        for name, source in sources.items():
            if name in registry.names:
                raise InvalidSettings(f"an action may not be called {name!r}: that is a built-in one")
            registry.declare(name, PythonAction(source, self._children))
        return registry
