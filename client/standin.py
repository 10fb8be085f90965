"""A stand-in for an LLM provider on this machine, for trying Warren without one.

`python -m client.standin --port N` speaks enough of OpenAI's chat completions interface for a tour: it streams
a canned text that says what it is. A prompt with `fail-once` in it gets a 500 the first time and an answer from
then on; the model `refuse` gets a 400.
"""

import argparse
import asyncio
import contextlib
import hashlib
import ipaddress
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

_MAX_HEAD_BYTES = 32 * 1024
_MAX_BODY_BYTES = 4 * 1024 * 1024
_PIECES = 20
_PIECE_S = 0.05
_ECHO = 60
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 500: "Internal Server Error"}
_TEXT = (
    "This is Warren's stand-in, a small program on this machine and no language model: it answers every prompt "
    "with this same text. What you see is real in all other respects. The task waited in its lane, a worker "
    "claimed it, and these words came through the stream one by one. Your prompt began with “{echo}”. "
    "Add a provider to get real answers."
)


class StandIn:
    """Answers chat completions with one canned text."""

    def __init__(self) -> None:
        self._failed: set[bytes] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        # A cancel comes only when the program ends, and asyncio would report it with a traceback.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                method, path, body = await _read_request(reader)
            except (ValueError, asyncio.LimitOverrunError):
                await _send_json(writer, 413, _error("the request is malformed or too large"))
            else:
                await self._answer(method, path, body, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if (method, path) == ("GET", "/v1/models"):
            await _send_json(writer, 200, _models())
        elif (method, path) == ("POST", "/v1/chat/completions"):
            await self._complete(body, writer)
        else:
            await _send_json(writer, 404, _error(f"there is no {method} {path[:100]} here"))

    async def _complete(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(body)
            model, streams = str(request["model"]), bool(request.get("stream"))
            prompt = _last_prompt(request["messages"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            await _send_json(writer, 400, _error("a chat needs a model and messages"))
            return
        if model == "refuse":
            await _send_json(writer, 400, _error("the model “refuse” refuses every request"))
        elif self._fails_now(prompt):
            await _send_json(writer, 500, _error("this prompt fails once; it works from now on", "server_error"))
        elif streams:
            await _stream(writer, model, prompt)
        else:
            await _send_json(writer, 200, _completion(model, prompt))

    def _fails_now(self, prompt: str) -> bool:
        mark = hashlib.sha256(prompt.encode("utf-8", "replace")).digest()
        if "fail-once" not in prompt or mark in self._failed:
            return False
        self._failed.add(mark)
        return True


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *fields = head.split("\r\n")
    method, path, _version = request_line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _MAX_BODY_BYTES:
        raise ValueError("too large")
    return method, path.partition("?")[0], await reader.readexactly(length)


async def _send_json(writer: asyncio.StreamWriter, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    writer.write(_head(status, "application/json", f"Content-Length: {len(body)}") + body)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, model: str, prompt: str) -> None:
    writer.write(_head(200, "text/event-stream", "Transfer-Encoding: chunked"))
    for piece in _pieces(_text(prompt)):
        writer.write(_event(_chunk(model, [{"index": 0, "delta": {"content": piece}, "finish_reason": None}])))
        await writer.drain()
        await asyncio.sleep(_PIECE_S)
    writer.write(_event(_chunk(model, [{"index": 0, "delta": {}, "finish_reason": "stop"}])))
    writer.write(_event(_chunk(model, [], usage=_usage(prompt))))
    writer.write(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await writer.drain()


def _head(status: int, content_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n{framing}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def _event(document: dict[str, Any]) -> bytes:
    return _framed(b"data: " + json.dumps(document).encode() + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _pieces(text: str) -> Iterator[str]:
    words = text.split(" ")
    step = -(-len(words) // _PIECES)
    for start in range(0, len(words), step):
        yield ("" if start == 0 else " ") + " ".join(words[start : start + step])


def _text(prompt: str) -> str:
    return _TEXT.format(echo=" ".join(prompt.split())[:_ECHO])


def _last_prompt(messages: list[dict[str, Any]]) -> str:
    prompts = (str(message["content"]) for message in reversed(messages) if message["role"] == "user")
    return next(prompts, "")


def _completion(model: str, prompt: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": _text(prompt)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _stamp("chat.completion", model) | {"choices": [choice], "usage": _usage(prompt)}


def _chunk(model: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
    return _stamp("chat.completion.chunk", model) | {"choices": choices, "usage": usage}


def _stamp(kind: str, model: str) -> dict[str, Any]:
    return {"id": "standin", "object": kind, "created": int(time.time()), "model": model}


def _usage(prompt: str) -> dict[str, int]:
    """Return a count of words, the nearest thing to tokens that this program has."""
    asked, said = len(prompt.split()), len(_text(prompt).split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _models() -> dict[str, Any]:
    names = ("stand-in", "refuse")
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "warren"} for name in names]}


def _error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": None, "param": None}}


async def _run(host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await asyncio.start_server(StandIn().serve, host, port, limit=_MAX_HEAD_BYTES)
    bound_host, bound_port = server.sockets[0].getsockname()[:2]
    shown = f"[{bound_host}]" if ":" in bound_host else bound_host
    sys.stdout.write(f"listening on http://{shown}:{bound_port}/v1\n")
    sys.stdout.flush()
    await stopped.wait()
    server.close()


def _loopback(host: str) -> str:
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{host!r} is no loopback address: the stand-in serves this machine only")


def main() -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m client.standin", description="Warren's stand-in LLM provider.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", type=_loopback, default="127.0.0.1", help="loopback address to listen on")
    options = parser.parse_args()
    try:
        asyncio.run(_run(options.host, options.port))
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"cannot listen on {options.host}:{options.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
