"""`llm.chat`: one request, its answer streamed to the sink, and how it ended. Never tried twice here."""

import asyncio

import httpx2

from protocols.clock import Clock, SystemClock
from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass
from worker.actions.llm.call import Call, failure_outcome, prepare_call
from worker.actions.llm.failures import ChatError, malformed, oversized, refused
from worker.actions.llm.reply import MAX_TEXT_BYTES
from worker.actions.llm.sse import MAX_EVENT_BYTES, EventTooLarge, SseParser
from worker.actions.llm.transport import (
    Timeouts,
    http_timeout,
    open_client,
    read_body,
    retry_after,
    transport_failure,
)
from worker.actions.seam import Invocation, Stopped

_MAX_ERROR_BYTES = 64 * 1024


class LlmChat:
    """The action. One object holds one HTTP client, made in the loop that first calls it."""

    def __init__(self, *, timeouts: Timeouts = Timeouts(), clock: Clock | None = None) -> None:
        self._timeouts = timeouts
        self._clock = clock or SystemClock()
        self._client: httpx2.AsyncClient | None = None

    async def __call__(self, invocation: Invocation) -> Outcome:
        """Carry out the invocation; a cancel closes the connection at once."""
        try:
            call = prepare_call(invocation)
        except ChatError as error:
            return failure_outcome(error, error.message)
        try:
            async with asyncio.timeout(invocation.timeout_s) as deadline:
                await self._exchange(call, deadline)
        except asyncio.CancelledError:
            if call.reply.begun:
                raise Stopped(call.cancelled()) from None
            raise
        except (ChatError, TimeoutError) as error:
            # A finished answer stays one, whatever happens to the rest of its stream.
            if call.reply.finish_reason is None:
                return call.failed(error if isinstance(error, ChatError) else _too_late())
        return call.finished()

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _exchange(self, call: Call, deadline: asyncio.Timeout) -> None:
        """Send the request and read the whole answer; raises ChatError unless it is complete."""
        if self._client is None:
            self._client = open_client()
        request = call.request
        try:
            async with self._client.stream(
                "POST",
                request.url,
                headers=request.headers,
                content=request.body,
                timeout=http_timeout(self._timeouts, streams=call.chat.stream),
            ) as response:
                await self._read_answer(call, response, deadline)
        except (httpx2.HTTPError, UnicodeError) as error:
            raise transport_failure(error, request.url, received=call.reply.received) from error

    async def _read_answer(self, call: Call, response: httpx2.Response, deadline: asyncio.Timeout) -> None:
        if not response.is_success:
            raise await self._refusal(call, response)
        content_type = response.headers.get("content-type", "")
        if content_type.startswith("text/html"):
            raise malformed("the answer is a web page: is the provider's base URL right?")
        if call.chat.stream and not content_type.startswith("application/json"):
            await self._read_events(call, response, deadline)
            return
        call.wire.read_document(await read_body(response, MAX_TEXT_BYTES), call.reply)
        if call.reply.finish_reason is None:
            raise malformed("the answer has no finish_reason")

    async def _read_events(self, call: Call, response: httpx2.Response, deadline: asyncio.Timeout) -> None:
        parser, reply, wire = SseParser(), call.reply, call.wire
        try:
            async for chunk in response.aiter_bytes():
                reply.received = True
                for data in parser.feed(chunk):
                    if not reply.ended:
                        wire.read_event(data, reply)
                if reply.finish_reason is not None:
                    _bring_forward(deadline, self._timeouts.close_s)
        except EventTooLarge as error:
            raise oversized(f"an event of the stream is longer than {MAX_EVENT_BYTES:,} bytes") from error
        if reply.finish_reason is None:
            message = "the stream ended in the middle of the answer"
            raise ChatError(FailureClass.PROVIDER, "stream_cut", message, effect=Effect.MAYBE)

    async def _refusal(self, call: Call, response: httpx2.Response) -> ChatError:
        body = b""
        try:
            async with asyncio.timeout(self._timeouts.close_s):
                body = await read_body(response, _MAX_ERROR_BYTES)
        except (ChatError, TimeoutError, httpx2.HTTPError):
            pass  # the status alone says enough
        wait_s = retry_after(response.headers, self._clock)
        return refused(response.status_code, call.wire.error_detail(body), wait_s)


def _bring_forward(deadline: asyncio.Timeout, seconds: float) -> None:
    """Let `deadline` end in `seconds` at the latest."""
    when = deadline.when()
    soon = asyncio.get_running_loop().time() + seconds
    if not deadline.expired() and (when is None or soon < when):
        deadline.reschedule(soon)


def _too_late() -> ChatError:
    message = "the execution's time was over before the answer was complete"
    return ChatError(FailureClass.TIMEOUT, "deadline", message, effect=Effect.MAYBE)
