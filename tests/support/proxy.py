"""A TCP proxy that does to connections what networks do to them."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Direction = Literal["up", "down"]
_CHUNK = 64 * 1024
_RST = struct.pack("ii", 1, 0)
"""SO_LINGER on with no time: closing sends RST."""


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the proxy, both of its halves."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """Passes connections on to a port of this machine, and harms them on demand. A context manager.

    `up` is from the client to the target. What is held back is not lost: it arrives after `restore`, as TCP would
    repeat it, and so does the end of a connection that was closed meanwhile.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[_Link] = set()
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0
        self.bytes: dict[Direction, int] = {"up": 0, "down": 0}

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def reset(self) -> None:
        """End every connection with RST, to both sides."""
        self._do(lambda: self._end_all(rst=True))

    def finish(self) -> None:
        """End every connection with FIN, to both sides."""
        self._do(lambda: self._end_all(rst=False))

    def hold(self, *directions: Direction) -> None:
        """Let nothing through in these directions, of old connections or new ones, without closing any."""
        for direction in directions:
            self._do(self._open[direction].clear)

    def restore(self) -> None:
        """Be a good network again."""
        for gate in self._open.values():
            self._do(gate.set)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        pumps = [pump for link in self._links for pump in link.pumps]
        self._end_all(rst=True)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        # The accepting tasks end with their pumps; give the transports their turn to close.
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _end(writer, rst=True)
            return
        link = _Link((writer, target_writer))
        link.pumps = [
            asyncio.create_task(self._pump(reader, target_writer, "up")),
            asyncio.create_task(self._pump(target_reader, writer, "down")),
        ]
        self._links.add(link)
        await asyncio.gather(*link.pumps, return_exceptions=True)
        self._links.discard(link)
        for one in link.writers:
            one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        rst = False
        try:
            while data := await reader.read(_CHUNK):
                await self._open[direction].wait()
                writer.write(data)
                await writer.drain()
                self.bytes[direction] += len(data)
        except OSError:
            rst = True
        await self._open[direction].wait()
        if rst:
            _end(writer, rst=True)
        elif writer.can_write_eof() and not writer.is_closing():
            with suppress(OSError):
                writer.write_eof()

    def _end_all(self, *, rst: bool) -> None:
        for link in self._links:
            for writer in link.writers:
                _end(writer, rst=rst)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _do(self, act: Callable[[], None]) -> None:
        async def call() -> None:
            act()

        self._run(call())


def _end(writer: asyncio.StreamWriter, *, rst: bool) -> None:
    transport = writer.transport
    if rst:
        raw: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        transport.abort()
    else:
        transport.close()
