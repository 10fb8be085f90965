"""The audit log: who changed what, in the same transaction as the change. No value of a secret is ever in it."""

from collections.abc import Mapping
from typing import Any

from broker.store.tables import audit
from broker.store.writer import Transaction


def record(transaction: Transaction, actor: str, action: str, subject: str, data: Mapping[str, Any]) -> None:
    """Note that `actor` did `action` (such as `secret.delete`) to `subject` (an id)."""
    transaction.connection.execute(
        audit.insert().values(at=transaction.now, actor=actor, action=action, object=subject, data=dict(data))
    )
