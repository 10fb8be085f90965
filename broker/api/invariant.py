"""`/admin/invariant`: the proof that every unfinished task has an owner, on demand."""

import asyncio

from fastapi import APIRouter
from sqlalchemy.engine import Connection

from broker.api.auth import Admin, Control
from broker.invariant import violations
from broker.views import Time, View

MAX_SHOWN = 1000

router = APIRouter(prefix="/admin/invariant", tags=["administration"])


class ViolationView(View):
    """A task that nobody owns, or that two own."""

    task_id: str
    problem: str


class InvariantView(View):
    """What a look at the whole database said."""

    ok: bool
    total: int
    violations: list[ViolationView]
    """At most a thousand of them."""
    checked_at: Time


@router.get("", operation_id="checkInvariant")
async def check(control: Control, _: Admin) -> InvariantView:
    """Check that every unfinished task has one owner. Reads the whole database; a busy one is seen as a snapshot."""
    now = control.clock.now()
    settings = control.settings
    # What is overdue is mended in the sweeper's next round.
    confirm_ms = int((settings.confirm_s + settings.sweep_s) * 1000)
    at_most_once_ms = int((settings.at_most_once_s + settings.sweep_s) * 1000)

    def look(connection: Connection) -> InvariantView:
        found = violations(connection, now=now, confirm_ms=confirm_ms, at_most_once_ms=at_most_once_ms)
        return InvariantView(
            ok=not found,
            total=len(found),
            violations=[ViolationView.model_validate(violation) for violation in found[:MAX_SHOWN]],
            checked_at=now,
        )

    return await asyncio.wrap_future(control.store.read(look))
