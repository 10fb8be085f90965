"""The one start and stop discipline of everything in the daemon that lives long."""

import asyncio
from collections.abc import Callable

import structlog

from protocols.errors import WarrenError

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 10.0


class Service:
    """Something with a beginning, a task that runs, and an end.

    `start` and `stop` may be called at any time, in any order, any number of times and concurrently: they are
    carried out one after another, and the last one decides. A service can be started again. Subclasses
    override `open`, `run` and `close`; `open` waits for nothing outside the process, so that a start never hangs.
    """

    def __init__(self) -> None:
        self._transition = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._on_crash: Callable[[Service, Exception], None] | None = None

    def report_crash_to(self, owner: "Callable[[Service, Exception], None]") -> None:
        """Call `owner` when `run` raises; the service stays started until it is stopped."""
        self._on_crash = owner

    @property
    def running(self) -> bool:
        """Whether it is started."""
        return self._task is not None

    async def start(self) -> None:
        """Open and run; does nothing if it runs already. What `open` raises is passed on."""
        async with self._transition:
            if self._task is not None:
                return
            try:
                await self.open()
            except BaseException:
                await self.close()
                raise
            self._task = asyncio.create_task(self._supervise(), name=type(self).__name__)

    async def stop(self) -> None:
        """End `run` and close, within STOP_TIMEOUT_S; does nothing if it does not run."""
        async with self._transition:
            task, self._task = self._task, None
            if task is None:
                return
            task.cancel()
            _, late = await asyncio.wait({task}, timeout=STOP_TIMEOUT_S)
            if late:
                log.error("a part of the worker did not stop in time", part=type(self).__name__)
            await self.close()

    async def open(self) -> None:
        """Prepare; must not wait for anything outside the process."""

    async def run(self) -> None:
        """Work until cancelled. Returning early is fine; an exception is a crash."""

    async def close(self) -> None:
        """Release everything; also called after a failed `open`."""

    async def _supervise(self) -> None:
        try:
            await self.run()
        except Exception as error:
            # An error of ours says all there is to say; anything else is a defect, of which the log tells where.
            trace = None if isinstance(error, WarrenError) else error
            log.critical("a part of the worker crashed", part=type(self).__name__, reason=str(error), exc_info=trace)
            if self._on_crash is not None:
                self._on_crash(self, error)
