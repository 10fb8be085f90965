"""Ports for tests: none of them is ever given to anything else, also when several test processes run side by side."""

import itertools
import os
import socket

FIRST, LAST = 20_000, 32_000
"""Below those that the kernel hands out by itself (ip_local_port_range), so that no connection takes one as its own."""
WORKERS = 16
"""Test processes side by side, each with a share of its own."""
_SHARE = (LAST - FIRST) // WORKERS
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
# Runs that follow or overlap each other begin in different places.
_begin = os.getpid() % _SHARE
_ports = itertools.cycle(FIRST + _number * _SHARE + (_begin + step) % _SHARE for step in range(_SHARE))


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens and which was not given out lately."""
    for port in itertools.islice(_ports, _SHARE):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of the tests is taken")
