"""A worker inside the test's process, connected to a scripted control plane."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import FunctionType
from typing import Any

import dramatiq

from tests.support import worker_functions
from tests.support.control_plane import API_KEY, ControlPlane
from worker.agent import Agent
from worker.identity import StateDir
from worker.settings import Settings

FUNCTIONS = {
    name: f"{worker_functions.__name__}:{name}"
    for name, value in vars(worker_functions).items()
    if isinstance(value, (FunctionType, dramatiq.Actor)) and not name.startswith("_")
}
"""Actions of a worker under test, and where their functions are."""


def settings_for(plane: ControlPlane, folder: Path, **more: Any) -> Settings:
    """Return settings for a worker whose files are in `folder`."""
    key = folder / "key"
    key.write_text(API_KEY + "\n")
    values = {"slots_python": 4, "grace_s": 20.0, **more}
    return Settings(url=plane.url, key_file=key, state_dir=folder / "state", actions=FUNCTIONS, **values)


@contextlib.asynccontextmanager
async def running_agent(plane: ControlPlane, folder: Path, **more: Any) -> AsyncIterator[Agent]:
    """Run a worker and wait for its session; drain it at the end."""
    settings = settings_for(plane, folder, **more)
    with StateDir(settings.state_dir) as state:
        agent = Agent(settings, state, state.identity())
        work = asyncio.create_task(agent.run())
        try:
            await plane.until(lambda: plane.connected or work.done())
            if work.done():
                await work
            yield agent
        finally:
            agent.leave("the test is over")
            with contextlib.suppress(Exception):
                await work
