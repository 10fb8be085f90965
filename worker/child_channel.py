"""How a worker and its child process talk: MessagePack with a length before it, over a socket pair."""

import socket
import struct
from typing import Any

from pydantic import TypeAdapter

from protocols.codec import pack, unpack
from protocols.outcome import Outcome

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
HEADER = struct.Struct("!I")
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def frame(message: dict[str, Any]) -> bytes:
    """Return the bytes of a message; raises InvalidFrame or TooLarge."""
    body = pack(message, MAX_MESSAGE_BYTES)
    return HEADER.pack(len(body)) + body


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next message, or None when the other side has closed."""
    header = _exactly(channel, HEADER.size)
    body = _exactly(channel, HEADER.unpack(header)[0]) if header is not None else None
    if body is None:
        return None
    message: dict[str, Any] = unpack(body, MAX_MESSAGE_BYTES)
    return message


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return data
