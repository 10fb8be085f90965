"""Start the shop: `python -m examples.dramatiq_app.<this file> FOLDER` sends the work for all orders."""

import sys

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

dramatiq.set_broker(RabbitmqBroker(url="amqp://127.0.0.1:5672"))

# Only now: an actor belongs to the broker that is set when it is declared.
from examples.dramatiq_app.orders import order_all  # noqa: E402

if __name__ == "__main__":
    order_all(sys.argv[1])
