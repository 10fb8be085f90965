"""Lane transports as the conformance suite sees them: both ends, the link between them, and the collector."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from protocols.frames import Consume, Deliver, Settle, StopConsuming, UpFrame, down_codec, up_codec
from protocols.lanes.direct import DirectBroker, DirectChannel, SessionLanes
from protocols.lanes.seam import LaneBroker

PATIENCE_S = 30.0
"""How long a test waits for what must happen, on a busy machine."""


class LaneTransport(Protocol):
    """A running transport. Everything that it made ends with `stop`."""

    @property
    def publisher(self) -> LaneBroker:
        """The control plane's end."""
        ...

    def worker(self) -> LaneBroker:
        """Return the end of one more worker, connected."""
        ...

    def collected(self) -> list[tuple[str, bytes]]:
        """Return the (lane, body) of all that was refused so far."""
        ...

    def cut(self) -> None:
        """Break the workers' links; returns when both sides know."""
        ...

    def restore(self) -> None:
        """Connect the workers again."""
        ...

    def stop(self) -> None:
        """End everything."""
        ...


class DirectLocal:
    """Direct lanes consumed inside the control plane's process: there is no link."""

    def __init__(self) -> None:
        self._collected: list[tuple[str, bytes]] = []
        self.publisher = DirectBroker(on_rejected=lambda lane, body: self._collected.append((lane, body)))

    def worker(self) -> LaneBroker:
        return self.publisher

    def collected(self) -> list[tuple[str, bytes]]:
        return list(self._collected)

    def cut(self) -> None:
        raise NotImplementedError("there is no link")

    def restore(self) -> None:
        raise NotImplementedError("there is no link")

    def stop(self) -> None:
        self.publisher.close()


class DirectSession:
    """Direct lanes over one real WebSocket per worker."""

    def __init__(self) -> None:
        self._collected: list[tuple[str, bytes]] = []
        self.publisher = DirectBroker(on_rejected=lambda lane, body: self._collected.append((lane, body)))
        self._ended = threading.Semaphore(0)
        self._server: Server = serve(self._serve, "127.0.0.1", 0, max_size=None, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever, name="sessions")
        self._thread.start()
        self._workers: list[_Worker] = []

    def worker(self) -> LaneBroker:
        worker = _Worker(self._server.socket.getsockname()[1])
        worker.connect()
        self._workers.append(worker)
        return worker.lanes

    def collected(self) -> list[tuple[str, bytes]]:
        return list(self._collected)

    def cut(self) -> None:
        for worker in self._workers:
            worker.cut()
        for _ in self._workers:
            assert self._ended.acquire(timeout=PATIENCE_S), "the control plane never saw the cut"

    def restore(self) -> None:
        for worker in self._workers:
            worker.connect()

    def stop(self) -> None:
        for worker in self._workers:
            worker.cut()
        self._server.shutdown()
        self._thread.join(PATIENCE_S)

    def _serve(self, connection: ServerConnection) -> None:
        """Do for one worker what a session of the control plane does."""
        frames, flush = up_codec(), threading.Event()
        channel = DirectChannel(self.publisher, flush.set)
        over = threading.Event()
        sender = threading.Thread(target=_send_deliveries, args=(connection, channel, flush, over), name="sender")
        sender.start()
        try:
            while True:
                frame = frames.decode(connection.recv(decode=False))
                assert isinstance(frame, (Consume, StopConsuming, Settle))
                channel.on_frame(frame)
        except ConnectionClosed:
            channel.close()
        finally:
            over.set()
            flush.set()
            sender.join(PATIENCE_S)
            self._ended.release()


def _send_deliveries(
    connection: ServerConnection, channel: DirectChannel, flush: threading.Event, over: threading.Event
) -> None:
    frames = down_codec()
    with contextlib.suppress(ConnectionClosed):
        while not over.is_set():
            flush.wait()
            flush.clear()
            while (deliveries := channel.take()) is not None:
                connection.send(frames.encode(deliveries))


class _Worker:
    """A worker's end of a session, as far as its lanes go."""

    def __init__(self, port: int) -> None:
        self.lanes = SessionLanes()
        self._port = port
        self._session = threading.Thread()
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        opened = threading.Event()
        self._session = threading.Thread(target=self._run, args=(opened,), name="worker session")
        self._session.start()
        assert opened.wait(PATIENCE_S), "the worker could not connect"

    def cut(self) -> None:
        """Break the connection without a goodbye."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._session.join(PATIENCE_S)
            self._socket = None

    def _run(self, opened: threading.Event) -> None:
        frames = down_codec()
        with connect(f"ws://127.0.0.1:{self._port}", max_size=None, compression=None, proxy=None) as connection:
            self._socket = connection.socket
            self.lanes.connected(_sender(connection))
            opened.set()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    frame = frames.decode(connection.recv(decode=False))
                    assert isinstance(frame, Deliver)
                    self.lanes.on_deliver(frame)
            self.lanes.disconnected()


def _sender(connection: ClientConnection) -> Callable[[UpFrame], None]:
    frames = up_codec()

    def send(frame: UpFrame) -> None:
        with contextlib.suppress(ConnectionClosed):
            connection.send(frames.encode(frame))

    return send
