"""Connects direct lanes to the session that carries them."""

from protocols.frames import Deliver, DownFrame, Welcome
from protocols.lanes.direct import SessionLanes
from worker.outbox import Outbox
from worker.session import SessionListener


class SessionLanesLink(SessionListener):
    """Passes the session's life and deliveries on to the lanes' consumers."""

    def __init__(self, lanes: SessionLanes, outbox: Outbox) -> None:
        self._lanes = lanes
        self._outbox = outbox

    def connected(self, welcome: Welcome) -> None:
        """Lanes can be consumed."""
        del welcome
        self._lanes.connected(self._outbox.send)

    def disconnected(self) -> None:
        """Every consumer ends."""
        self._lanes.disconnected()

    def received(self, frame: DownFrame) -> None:
        """Hand deliveries to their consumers."""
        if isinstance(frame, Deliver):
            self._lanes.on_deliver(frame)
