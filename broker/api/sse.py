"""Server-sent events: streams that stay alive while nothing happens, and end when the control plane stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.sse import format_sse_event
from starlette.requests import Request
from starlette.responses import StreamingResponse

KEEPALIVE_S = 15.0
MEDIA_TYPE = "text/event-stream"
STREAM: dict[str, Any] = {MEDIA_TYPE: {"schema": {"type": "string"}}}
"""How a handler's `responses` declare that its answer may be a stream."""


def wants_stream(request: Request) -> bool:
    """Return whether the client asks for events in place of a document."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def event_bytes(*, event: str, data: str, event_id: str | None = None) -> bytes:
    """Return one event as it travels; `data` is JSON."""
    return format_sse_event(event=event, data_str=data, id=event_id)


def stream(events: AsyncGenerator[bytes, None], stopping: asyncio.Event) -> StreamingResponse:
    """Return the answer that sends `events` until they end, the client leaves or `stopping` is set."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_kept_alive(events, stopping), media_type=MEDIA_TYPE, headers=headers)


async def _kept_alive(events: AsyncGenerator[bytes, None], stopping: asyncio.Event) -> AsyncIterator[bytes]:
    stop = asyncio.ensure_future(stopping.wait())
    following = asyncio.ensure_future(anext(events, None))
    try:
        # The headers leave with the first bytes: a client learns at once that its stream is open.
        yield b": open\n\n"
        while True:
            await asyncio.wait({stop, following}, timeout=KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                chunk = following.result()
                if chunk is None:
                    return
                yield chunk
                following = asyncio.ensure_future(anext(events, None))
            elif stop.done():
                return
            else:
                yield b": keep-alive\n\n"
    finally:
        stop.cancel()
        following.cancel()
        await asyncio.gather(stop, following, return_exceptions=True)
        await events.aclose()
