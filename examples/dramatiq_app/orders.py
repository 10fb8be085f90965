"""A small shop that works with dramatiq: each order is priced, taxed, and gets a receipt."""

from collections.abc import Iterable
from pathlib import Path

import dramatiq

PRICES = {"tea": 450, "coffee": 690, "cocoa": 520}
VAT_PERCENT = 7
ORDERS = (("Ada", "tea", 3), ("Grace", "coffee", 1), ("Edsger", "cocoa", 12))


@dramatiq.actor(max_retries=3)
def price(item: str, quantity: int) -> int:
    """Return what it costs, in cents."""
    return PRICES[item] * quantity


@dramatiq.actor(priority=-1)
def add_vat(cents: int) -> int:
    """Return what it costs with tax."""
    return round(cents * (100 + VAT_PERCENT) / 100)


@dramatiq.actor(queue_name="mail", time_limit=60_000)
def write_receipt(folder: str, customer: str, cents: int) -> None:
    """Write the receipt; doing it again changes nothing."""
    Path(folder, f"{customer}.txt").write_text(f"{customer} owes {cents / 100:.2f}\n")


@dramatiq.actor(queue_name="mail")
def remind(folder: str, customers: list[str]) -> None:
    """Write whom to remind."""
    Path(folder, "reminders.txt").write_text("".join(f"{name}\n" for name in sorted(customers)))


def order_all(folder: str, orders: Iterable[tuple[str, str, int]] = ORDERS) -> None:
    """Send the work for all orders."""
    orders = list(orders)
    dramatiq.group(
        dramatiq.pipeline(
            [
                price.message(item, quantity),
                # Their last argument is the result of the one before.
                add_vat.message_with_options(),
                write_receipt.message_with_options(args=(folder, customer)),
            ]
        )
        for customer, item, quantity in orders
    ).run()
    remind.send_with_options(args=(folder, [customer for customer, _, _ in orders]), delay=200)
