"""A worker that says whatever a test wants, over a session that it opened by the rules."""

import base64
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from protocols.frames import Challenge, Hello, Ping, Pong, Refused, UpFrame, Welcome, down_codec, up_codec
from protocols.identity import fingerprint, sign_registration, sign_session, worker_id
from protocols.ids import new_id
from protocols.names import SESSION_PATH
from tests.support.api import Api
from tests.support.processes import Broker

PATIENCE_S = 20.0
PINGS_OF_A_LIVING_SESSION = 5
"""One or two may have been on their way already."""

Frame = TypeVar("Frame")


class RawWorker:
    """Registered and approved; `open` opens a session. A context manager that closes it."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._signing = Ed25519PrivateKey.generate()
        self._up = up_codec()
        self._down = down_codec()
        self._connection = ExitStack()
        self._socket: ClientConnection | None = None
        identity_key = self._signing.public_key().public_bytes_raw()
        self.id = worker_id(identity_key)
        sealing_key = X25519PrivateKey.generate().public_key().public_bytes_raw()
        signature = sign_registration(self._signing, sealing_key=sealing_key, hostname=name)
        keys = {"identity_key": identity_key, "sealing_key": sealing_key, "signature": signature}
        encoded = {field: base64.b64encode(value).decode() for field, value in keys.items()}
        with Api(broker.url, broker.key("worker")) as api:
            api.call("POST", "/workers/register", {"name": name, "hostname": name, **encoded})
        with broker.api() as api:
            api.approve(self.id, fingerprint(identity_key, sealing_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go without a word that the protocol knows."""
        self._connection.close()
        self._socket = None

    def open(self, *, epoch: int = 0, running: Sequence[str] = ()) -> Welcome:
        """Open a session by the rules."""
        nonce = self.knock()
        boot_id = new_id("boot")
        signature = sign_session(self._signing, nonce=nonce, worker=self.id, boot_id=boot_id)
        self.send(
            Hello(
                worker_id=self.id,
                boot_id=boot_id,
                signature=signature,
                version="0",
                slots={"python": 1},
                epoch=epoch,
                running=tuple(running),
            )
        )
        return self.receive(Welcome)

    def knock(self) -> bytes:
        """Connect and return the challenge's nonce, without an answer to it."""
        self.close()
        headers = {"Authorization": f"Bearer {self._broker.key('worker')}"}
        url = self._broker.url.replace("http", "ws", 1) + SESSION_PATH
        opening = connect(url, additional_headers=headers, proxy=None, max_size=None, compression=None)
        self._socket = self._connection.enter_context(opening)
        return self.receive(Challenge).nonce

    def send(self, frame: UpFrame) -> None:
        """Send a frame."""
        self.send_raw(self._up.encode(frame))

    def send_raw(self, data: bytes | str) -> None:
        """Send what need not be a frame."""
        assert self._socket is not None
        self._socket.send(data)

    def receive(self, kind: type[Frame]) -> Frame:
        """Return the next frame of one kind; other kinds are passed over."""
        assert self._socket is not None
        while True:
            frame = self._down.decode(self._socket.recv(PATIENCE_S, decode=False))
            if isinstance(frame, kind):
                return frame
            assert not isinstance(frame, Refused), f"refused: {frame.message}"

    def is_thrown_out(self) -> bool:
        """Return whether the control plane ends the session, instead of going on to ping."""
        assert self._socket is not None
        pings = 0
        try:
            while pings < PINGS_OF_A_LIVING_SESSION:
                frame = self._down.decode(self._socket.recv(PATIENCE_S, decode=False))
                if isinstance(frame, Refused):
                    return True
                if isinstance(frame, Ping):
                    pings += 1
                    self.send(Pong(number=frame.number))
        except WebSocketException:
            return True
        return False
