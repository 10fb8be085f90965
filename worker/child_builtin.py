"""Built-in actions inside a child process, for a task that is suspected of ending the process that runs it."""

import asyncio
import signal
import socket
from typing import Any

from pydantic import TypeAdapter

from protocols.claim import ConnectionAccess, ProviderAccess
from protocols.names import BuiltinAction
from protocols.outcome import Outcome
from protocols.states import Delivery, Effect
from worker.actions.llm import LlmChat
from worker.actions.seam import Invocation, Stopped
from worker.actions.ssh import SshExec
from worker.child_channel import OUTCOME, frame

PROVIDER: TypeAdapter[ProviderAccess | None] = TypeAdapter(ProviderAccess | None)
CONNECTION: TypeAdapter[ConnectionAccess | None] = TypeAdapter(ConnectionAccess | None)
PIECE_BYTES = 256 * 1024


class ChannelSink:
    """Sends an action's output to the worker."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def write(self, stream: str, data: bytes) -> None:
        """Append `data` to `stream`."""
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self._channel.sendall(frame({"k": "output", "stream": stream, "data": piece}))


def run(job: dict[str, Any], channel: socket.socket) -> dict[str, Any]:
    """Return the answer to a job."""
    return asyncio.run(_act(job, ChannelSink(channel)))


async def _act(job: dict[str, Any], sink: ChannelSink) -> dict[str, Any]:
    """Run a built-in action; SIGTERM cancels it, as its deadline in the worker would."""
    work = asyncio.ensure_future(_builtin(job, sink))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        return {"k": "outcome", "outcome": OUTCOME.dump_python(await work)}
    except Stopped as stopped:
        return {"k": "stopped", "outcome": OUTCOME.dump_python(stopped.outcome)}
    except asyncio.CancelledError:
        outcome = Outcome.cancelled("stopped", effect=Effect.MAYBE)
        return {"k": "stopped", "outcome": OUTCOME.dump_python(outcome)}


async def _builtin(job: dict[str, Any], sink: ChannelSink) -> Outcome:
    invocation = Invocation(
        task_id=job["task_id"],
        attempt=job["attempt"],
        execution_id=job["execution_id"],
        action=job["action"],
        args=tuple(job["args"]),
        kwargs=job["kwargs"],
        delivery=Delivery(job["delivery"]),
        timeout_s=job["timeout_s"],
        sink=sink,
        provider=PROVIDER.validate_python(job["provider"]),
        connection=CONNECTION.validate_python(job["connection"]),
        secrets=job["secrets"],
    )
    if job["action"] == BuiltinAction.LLM_CHAT:
        chat = LlmChat()
        try:
            return await chat(invocation)
        finally:
            await chat.close()
    ssh = SshExec()
    try:
        return await ssh(invocation)
    finally:
        await ssh.close()
