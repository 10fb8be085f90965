"""Start the shop: `python -m examples.dramatiq_app.<this file> FOLDER` sends the work for all orders."""

import sys

import dramatiq

from warren.dramatiq import WarrenBroker

dramatiq.set_broker(WarrenBroker())

# Only now: an actor belongs to the broker that is set when it is declared.
from examples.dramatiq_app.orders import order_all  # noqa: E402

if __name__ == "__main__":
    order_all(sys.argv[1])
