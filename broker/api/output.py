"""`/tasks/{id}/output`: what a task has written, whole or as it arises."""

import json
import re
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from broker.api.auth import Control, Viewer
from broker.api.sse import STREAM, event_bytes, stream, wants_stream
from broker.api.tasks import require_task
from broker.control import ControlPlane
from broker.live import OutputEnd, OutputPiece
from broker.views import text_or_base64
from protocols.errors import InvalidInput

router = APIRouter(tags=["tasks"])
Position = Annotated[
    str | None, Query(max_length=40, description="`<attempt>.<offset>`, an event's id: the stream goes on after it.")
]
LastEventId = Annotated[
    str | None, Header(max_length=40, description="The same, as browsers send it when they connect again.")
]
_POSITION = re.compile(r"(\d{1,9})\.(\d{1,18})", re.ASCII)


@router.get(
    "/tasks/{task_id}/output",
    operation_id="getTaskOutput",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}, **STREAM}}},
)
async def show(
    control: Control,
    _: Viewer,
    request: Request,
    task_id: str,
    after: Position = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Return the bytes of the last execution, or stream output until the task has finished."""
    await require_task(control, task_id)
    if wants_stream(request):
        attempt, offset = _parsed(last_event_id or after)
        return stream(_lines(control, task_id, attempt, offset), control.stopping)
    pieces = await control.live.kept(task_id)
    return Response(b"".join(piece.data for piece in pieces), media_type="application/octet-stream")


def _parsed(position: str | None) -> tuple[int, int]:
    """Return (attempt, offset) of an event id; raises InvalidInput."""
    if position is None:
        return 0, 0
    match = _POSITION.fullmatch(position)
    if match is None:
        raise InvalidInput("write <attempt>.<offset>, as in the ids of the stream's events", field="after")
    return int(match[1]), int(match[2])


async def _lines(control: ControlPlane, task_id: str, attempt: int, offset: int) -> AsyncGenerator[bytes, None]:
    async for piece in control.live.follow(task_id, attempt, offset):
        if isinstance(piece, OutputEnd):
            yield event_bytes(event="end", data=json.dumps({"state": piece.state}))
        else:
            yield _line(piece)


def _line(piece: OutputPiece) -> bytes:
    fields = {
        "attempt": piece.attempt,
        "execution_id": piece.execution_id,
        "stream": piece.stream,
        "offset": piece.offset,
        **text_or_base64(piece.data),
    }
    event_id = f"{piece.attempt}.{piece.offset + len(piece.data)}"
    return event_bytes(event="output", data=json.dumps(fields), event_id=event_id)
