"""What people see of the fleet: how each worker is, and all of it at a glance."""

import sqlalchemy as sa

from broker.store.tables import workers
from broker.views import REPORTING_MS
from protocols.states import Presence


def presence_of(now: int) -> sa.ColumnElement[str]:
    """Return a worker's presence; without a session it is what its last report is worth at `now` (milliseconds)."""
    reports = sa.and_(workers.c.identity_key.is_(None), workers.c.last_seen_at.is_not(None))
    return sa.case(
        (~reports, workers.c.presence),
        (workers.c.last_seen_at < now - REPORTING_MS, Presence.LOST.value),
        (workers.c.drained_at.is_not(None), Presence.DRAINING.value),
        else_=Presence.ONLINE.value,
    )
