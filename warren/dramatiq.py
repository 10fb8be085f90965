"""Let a dramatiq program submit to Warren: `dramatiq.set_broker(WarrenBroker())`, and nothing else changes."""

from client.dramatiq_broker import WarrenBroker

__all__ = ["WarrenBroker"]
