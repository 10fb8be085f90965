"""A dramatiq program that uses WarrenBroker, imported by the tests that send and by the worker that runs it."""

import dramatiq

from tests.support import worker_functions
from warren.dramatiq import WarrenBroker

broker = WarrenBroker()
ACTIONS = {name: f"tests.support.dramatiq_program:{name}" for name in ("add", "fail", "wait_for_file", "relay")}


@dramatiq.actor(broker=broker, store_results=True)
def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


@dramatiq.actor(broker=broker, max_retries=0)
def fail() -> None:
    """Raise."""
    worker_functions.fail()


@dramatiq.actor(broker=broker)
def wait_for_file(path: str, started: str) -> str:
    """Show that it has begun, then wait for a file."""
    return worker_functions.wait_for_file(path, started)


@dramatiq.actor(broker=broker)
def relay(left: int, right: int) -> str:
    """Send further work from inside a worker, and return the message's id."""
    return add.send(left, right).message_id
