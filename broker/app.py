"""The composition root of a control plane: names every concrete class, starts and stops them in order."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop

from broker.agents import Agents
from broker.api.app import create_api
from broker.artifacts import Artifacts
from broker.commands import Commands
from broker.control import ControlPlane
from broker.datadir import DataDir
from broker.dead_letters import DeadLetters
from broker.decide import RetryPolicy
from broker.dispatch import Dispatcher
from broker.due import DueTimer
from broker.events import Doorbell, Journal
from broker.fleet import Fleet
from broker.gate import Gate
from broker.intake import Intake
from broker.keeper import SessionKeeper
from broker.keys import Keys
from broker.leases import Leases
from broker.live import LiveOutput
from broker.preferences import PreferenceStore
from broker.queues import Queues
from broker.resources import Resources
from broker.roll import Roll
from broker.sessions import Sessions
from broker.settings import Settings, load, names
from broker.storage import LocalStorage
from broker.store.store import Store
from broker.submit import Submitter
from broker.sweeper import Sweeper
from broker.tasks import Tasks
from broker.vault import Vault
from protocols import ids
from protocols.clock import Clock, SystemClock
from protocols.errors import (
    AddressInUse,
    InstanceLocked,
    InvalidSettings,
    StorageUnavailable,
    Unavailable,
    WarrenError,
)
from protocols.frames import MAX_FRAME_BYTES
from protocols.lanes.direct import DirectBroker
from protocols.logs import configure_logs
from protocols.names import ExitCode
from protocols.systemd import notify

_REFRESH_LANES_S = 1.0
_SHUTDOWN_S = 5

_log = structlog.get_logger(__name__)


def main() -> int:
    """Run a control plane with the settings of the environment; returns the exit status."""
    try:
        settings = load()
        configure_logs(settings.log_level, settings.log_format)
        with (
            DataDir(settings.data_dir) as data_dir,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(_serve(settings, data_dir))
    except WarrenError as error:
        return _fail(error)


def check() -> int:
    """Print the settings that there are, as JSON; returns the exit status that `main` would end with for wrong ones."""
    try:
        load()
    except WarrenError as error:
        return _fail(error)
    sys.stdout.write(json.dumps({"names": names()}) + "\n")
    return ExitCode.OK


def _fail(error: WarrenError) -> ExitCode:
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return _exit_code(error)


def _exit_code(error: WarrenError) -> ExitCode:
    if isinstance(error, InvalidSettings):
        return ExitCode.CONFIG
    if isinstance(error, StorageUnavailable):
        return ExitCode.STORAGE
    if isinstance(error, (InstanceLocked, AddressInUse)):
        return ExitCode.REFUSED
    return ExitCode.FAILED


async def _serve(settings: Settings, data_dir: DataDir) -> int:
    listener = _listen(settings)
    async with running(settings, SystemClock()) as control:
        url = _url(settings, listener)
        server = _Server(_uvicorn_config(settings, control), control, url)
        data_dir.write_url(url)
        try:
            await server.serve(sockets=[listener])
        finally:
            data_dir.remove_url()
    return ExitCode.OK


@asynccontextmanager
async def running(settings: Settings, clock: Clock) -> AsyncIterator[ControlPlane]:
    """Yield a control plane whose parts are at work, but which nobody can reach yet; stop them at the end."""
    store = Store(settings.data_dir / "warren.db", clock)
    await asyncio.to_thread(store.start)
    try:
        control, watchers = _compose(settings, clock, store)
        await asyncio.to_thread(control.keys.bootstrap, settings.data_dir)
        await asyncio.to_thread(control.preferences.load)
        await asyncio.to_thread(control.artifacts.sweep)
        await watchers.prepare(store)
        async with watchers.at_work():
            yield control
    finally:
        await asyncio.to_thread(store.stop)


def _compose(settings: Settings, clock: Clock, store: Store) -> tuple[ControlPlane, "_Watchers"]:
    this = ids.new_id("cp")
    stopping = asyncio.Event()
    doorbell = Doorbell(asyncio.get_running_loop())
    journal = Journal(store, stopping, doorbell)
    vault = Vault.open(settings.data_dir)
    preferences = PreferenceStore(store)
    lanes = DirectBroker()
    due = DueTimer(store, clock)
    dispatcher = Dispatcher(lanes, clock, transport=this, on_due=due.expect)
    store.writer.before_commit(dispatcher.fill)
    store.writer.before_commit(journal.record)
    roll = Roll(store.writer, this)
    live = LiveOutput(store, stopping, doorbell)
    keeper = SessionKeeper(settings=settings, clock=clock, store=store, leases=Leases(store.writer), roll=roll)
    policy = RetryPolicy(base_s=settings.retry_base_s, cap_s=settings.retry_cap_s, max_wait_s=settings.max_wait_s)
    sessions = Sessions(
        settings=settings,
        clock=clock,
        store=store,
        gate=Gate(store.writer, dispatcher, vault),
        intake=Intake(store.writer, policy),
        roll=roll,
        live=live,
        lanes=lanes,
        keeper=keeper,
    )
    submitter = Submitter(store.writer, preferences)
    tasks = Tasks(store.writer, on_cancel=sessions.cancel)
    control = ControlPlane(
        settings=settings,
        clock=clock,
        store=store,
        vault=vault,
        keys=Keys(store),
        fleet=Fleet(store, on_decision=sessions.close_worker),
        resources=Resources(store, vault),
        artifacts=Artifacts(store, LocalStorage(settings.data_dir / "files"), clock, vault.derived_key("file URLs")),
        agents=Agents(store.writer),
        preferences=preferences,
        submitter=submitter,
        tasks=tasks,
        commands=Commands(store=store, clock=clock, submitter=submitter, tasks=tasks, journal=journal, live=live),
        dead_letters=DeadLetters(store),
        queues=Queues(store.writer, clock, lanes, dispatcher.starts),
        sessions=sessions,
        journal=journal,
        live=live,
        lanes=lanes,
        stopping=stopping,
        started_at=clock.now(),
    )
    sweeper = Sweeper(settings=settings, clock=clock, store=store, lanes=lanes, transport=this)
    return control, _Watchers(keeper, sweeper, due, sessions)


class _Watchers:
    """The loops that run beside the requests."""

    def __init__(self, keeper: SessionKeeper, sweeper: Sweeper, due: DueTimer, sessions: Sessions) -> None:
        self._keeper = keeper
        self._sweeper = sweeper
        self._due = due
        self._sessions = sessions

    async def prepare(self, store: Store) -> None:
        """Take over what an earlier control plane left, before any worker comes."""
        await asyncio.wrap_future(store.writer.write(self._sweeper.forget_other_transports))
        await self._keeper.adopt_orphans()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run the loops; one that fails ends the process, since nothing would do its work."""
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("keeper", self._keeper.run(self._sessions.online)),
                ("sweeper", self._sweeper.run()),
                ("due-timer", self._due.run()),
                ("lane-refresh", self._refresh_lanes()),
            )
        ]
        for loop in loops:
            loop.add_done_callback(_end_process_on_failure)
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _refresh_lanes(self) -> None:
        while True:
            with contextlib.suppress(StorageUnavailable):
                await self._sessions.refresh_lanes()
            await asyncio.sleep(_REFRESH_LANES_S)


def _end_process_on_failure(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled() and (error := loop.exception()) is not None:
        _log.critical("loop_failed", loop=loop.get_name(), error=repr(error), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


class _Server(uvicorn.Server):
    """Tells open streams to end when it is asked to stop, since uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, control: ControlPlane, url: str) -> None:
        super().__init__(config)
        self._control = control
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        notify("READY=1")
        _log.info("listening", url=self._url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        notify("STOPPING=1")
        _log.info("stopping", reason=signal.Signals(sig).name)
        self._control.stopping.set()
        # Not uvicorn's own way: it raises the signal again when the server has stopped, before the store has.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._control.stopping.set()
        self._control.sessions.close_all(Unavailable("the control plane is stopping"))
        await super().shutdown(sockets)


def _uvicorn_config(settings: Settings, control: ControlPlane) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if settings.tls_cert is not None:
        tls = {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    return uvicorn.Config(
        create_api(control),
        log_config=None,
        access_log=False,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        server_header=False,
        lifespan="off",
        proxy_headers=settings.behind_tls_proxy,
        **tls,
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, since asyncio turns Nagle's algorithm off only for sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except socket.gaierror as error:
        raise InvalidSettings(f"WARREN_HOST: {settings.host!r} is no address of this machine") from error
    except OSError as error:
        listener.close()
        raise AddressInUse(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            hint="choose another port with --port",
        ) from error
    listener.listen(1024)
    return listener


def _url(settings: Settings, listener: socket.socket) -> str:
    scheme = "https" if settings.tls_cert is not None else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"
