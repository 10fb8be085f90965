import socket

class SystemdNotifier:
    debug: bool
    socket: socket.socket | None
    """None unless NOTIFY_SOCKET names a socket that could be connected."""

    def __init__(self, debug: bool = ...) -> None: ...
    def notify(self, state: str) -> None: ...
