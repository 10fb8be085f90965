"""`/admin/audit`: who changed what."""

import asyncio
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter

from broker.api.auth import Admin, Control
from broker.api.paging import Windowed, read_page
from broker.store.tables import audit
from broker.views import Page, Time, View

router = APIRouter(tags=["audit"])


class AuditView(View):
    """An entry of the audit log."""

    id: int
    at: Time
    actor: str
    action: str
    object: str
    data: dict[str, Any]


@router.get("/admin/audit", operation_id="listAudit")
async def list_audit(control: Control, _: Admin, window: Windowed) -> Page[AuditView]:
    """List the audit log, newest first."""
    page = read_page(sa.select(audit), audit.c.id, window, AuditView.model_validate, newest_first=True)
    return await asyncio.wrap_future(control.store.read(page))
