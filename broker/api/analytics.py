"""`/analytics`: figures over some days, for people and for charts."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.engine import Connection

from broker import analytics
from broker.analytics import AgentActivity, Overview, Period, Timeline, WorkerUse
from broker.api.auth import Control, Viewer
from broker.api.paging import Windowed, read_page
from broker.control import ControlPlane
from broker.store.tables import agents, workers
from broker.views import Page

router = APIRouter(prefix="/analytics", tags=["analytics"])
Days = Annotated[int, Query(ge=1, le=365, description="How many days back, of 24 hours each.")]


@router.get("/overview", operation_id="analyticsOverview", summary="Everything at a glance")
async def overview(control: Control, _: Viewer, days: Days = 7) -> Overview:
    """Count tasks, workers, agents and dead letters. Durations and tokens are of the newest tasks (`sample`)."""
    period = _period(control, days)
    return await asyncio.wrap_future(control.store.read(lambda connection: analytics.overview(connection, period)))


@router.get("/tasks/timeline", operation_id="analyticsTaskTimeline", summary="Tasks over time")
async def task_timeline(control: Control, _: Viewer, days: Days = 7) -> Timeline:
    """Count the tasks that were created and that finished in each hour (up to 2 days) or day, UTC."""
    period = _period(control, days)
    return await asyncio.wrap_future(control.store.read(lambda connection: analytics.timeline(connection, period)))


@router.get("/agents", operation_id="analyticsAgents", summary="What agents did")
async def agent_activity(control: Control, _: Viewer, window: Windowed, days: Days = 7) -> Page[AgentActivity]:
    """List agents with their tasks and, of the newest of those (`sample`), how they ended."""
    period = _period(control, days)
    sample = max(1, analytics.SAMPLE // window.limit)

    def read(connection: Connection) -> Page[AgentActivity]:
        page = read_page(
            analytics.LISTED_AGENTS,
            agents.c.id,
            window,
            lambda row: analytics.agent_activity(connection, row, period, sample),
        )
        return page(connection)

    return await asyncio.wrap_future(control.store.read(read))


@router.get("/workers/utilization", operation_id="analyticsWorkerUtilization", summary="How busy workers are")
async def worker_utilization(control: Control, _: Viewer, window: Windowed, days: Days = 7) -> Page[WorkerUse]:
    """List approved workers with their last heartbeat and their part in the newest tasks (`sample`)."""
    period = _period(control, days)

    def read(connection: Connection) -> Page[WorkerUse]:
        figures = analytics.figures_by_worker(connection, period)
        page = read_page(
            analytics.listed_workers(period.now),
            workers.c.id,
            window,
            lambda row: analytics.worker_use(row, figures.get(row["id"])),
        )
        return page(connection)

    return await asyncio.wrap_future(control.store.read(read))


def _period(control: ControlPlane, days: int) -> Period:
    return Period(days=days, now=control.clock.now())
