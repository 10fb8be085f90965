"""TCP ports of this machine."""

import socket

from protocols.errors import AddressInUse

LOOPBACK = "127.0.0.1"


def check_port_free(host: str, port: int) -> None:
    """Raise AddressInUse, which names a port that is free, if nothing can listen on this one."""
    try:
        _bind(host, port)
    except OSError as error:
        raise AddressInUse(
            f"{host}:{port} cannot be used: {error.strerror}", hint=f"choose another, such as --port {free_port()}"
        ) from error


def free_port() -> int:
    """Return a port on which nothing listens now."""
    return _bind(LOOPBACK, 0)


def accepts(port: int) -> bool | None:
    """Return True if something listens on this port of the loopback, else None."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return None


def _bind(host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return int(listener.getsockname()[1])
