"""`python -m worker`: one worker daemon, configured by its environment; with `--check` it only looks at that."""

import asyncio
import importlib.util
import json
import logging
import os
import sys

import structlog

from protocols.errors import (
    Forbidden,
    InstanceLocked,
    InvalidInput,
    StorageUnavailable,
    Unauthenticated,
    WarrenError,
    WorkerRefused,
)
from protocols.logs import configure_logs
from protocols.names import ExitCode
from worker.agent import Agent
from worker.identity import StateDir
from worker.session import SessionRefused
from worker.settings import Settings, load_settings, names

log = structlog.get_logger(__name__)

EXIT_CODES: tuple[tuple[type[WarrenError], ExitCode], ...] = (
    (WorkerRefused, ExitCode.REVOKED),
    (SessionRefused, ExitCode.REVOKED),
    (StorageUnavailable, ExitCode.STORAGE),
    (InstanceLocked, ExitCode.REFUSED),
    (Unauthenticated, ExitCode.CONFIG),
    (Forbidden, ExitCode.CONFIG),
    (InvalidInput, ExitCode.CONFIG),
)


def main() -> int:
    """Run a worker until it is told to leave; return its exit status."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        with StateDir(settings.state_dir) as state:
            settings.api_key()
            _run(settings, state)
    except WarrenError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return exit_code(error)
    except Exception:
        log.critical("the worker failed", exc_info=True)
        return ExitCode.FAILED
    return ExitCode.OK


def check() -> int:
    """Print the settings that there are, as JSON; return the exit status that `main` would end with for wrong ones."""
    try:
        load_settings().api_key()
    except WarrenError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return exit_code(error)
    sys.stdout.write(json.dumps({"names": names()}) + "\n")
    return ExitCode.OK


def exit_code(error: WarrenError) -> ExitCode:
    """Return the exit status that tells a supervisor whether to start the worker again."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


def _run(settings: Settings, state: StateDir) -> None:
    identity = state.identity()

    async def work() -> None:
        await Agent(settings, state, identity).run()

    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(work())


def _new_event_loop() -> asyncio.AbstractEventLoop:
    name = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    loop: asyncio.AbstractEventLoop = importlib.import_module(name).new_event_loop()
    return loop


if __name__ == "__main__":
    status = check() if sys.argv[1:] == ["--check"] else main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the thread of an action that was given up as unstoppable must not keep the process.
    os._exit(status)
