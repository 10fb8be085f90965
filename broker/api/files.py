"""`/files`: what people and tasks leave with Warren, and URLs to fetch it without a key."""

import asyncio
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import PlainSerializer
from starlette.requests import HTTPConnection

from broker.api.auth import Control, Operator, Require, Viewer
from broker.api.download import download
from broker.api.errors import Refusal
from broker.api.multipart import FIELD, read_upload
from broker.api.paging import Windowed, read_page
from broker.api.tasks import require_task
from broker.artifacts import Arriving, Signature
from broker.keys import Principal
from broker.store.tables import artifacts
from broker.views import Page, Time, View
from protocols.states import Role

router = APIRouter(prefix="/files", tags=["files"])
v1_router = APIRouter(prefix="/files", include_in_schema=False)
"""Where `/v1` differs from `/api/v1` (contract 001): a POST uploads, and a file's own path is its content."""

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                    "examples": [{FIELD: "the bytes of report.pdf"}],
                }
            }
        },
    }
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file, in the type that it was uploaded with.", "content": {"*/*": {}}},
    206: {"description": "The part of the file that `Range` names.", "content": {"*/*": {}}},
    416: {"description": "The file ends before that part begins.", "model": Refusal},
}
TaskReference = Annotated[str | None, Query(min_length=1, max_length=80, description="The task that it belongs to.")]


def _is_signed(connection: HTTPConnection) -> bool:
    """Return whether a URL from `/files/{id}/url` is asked for, whose signature stands for a key."""
    return "signature" in connection.query_params


Reader = Annotated[Principal | None, Depends(Require(Role.VIEWER, unless=_is_signed))]


class FileView(View):
    """What is known of a file."""

    id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: Annotated[bytes, PlainSerializer(bytes.hex, return_type=str)]
    task_id: str | None
    created_at: Time
    created_by: str


class FileUrl(View):
    """Where a file can be fetched for some time, without a key."""

    url: str
    expires_at: Time
    expires_in: int
    """Seconds."""


@router.post("/upload", status_code=201, operation_id="uploadFile", openapi_extra=_UPLOAD_BODY)
@v1_router.post("", status_code=201)
async def upload(
    control: Control, operator: Operator, request: Request, response: Response, task_id: TaskReference = None
) -> FileView:
    """Keep a file, which may belong to a task. 201 means that it is durable."""
    if task_id is not None:
        await require_task(control, task_id)
    max_bytes = control.preferences.current.files.max_bytes
    coming = await read_upload(request, max_bytes)
    arriving = Arriving(
        name=coming.name,
        content_type=coming.content_type,
        task_id=task_id,
        created_by=operator.name,
        max_bytes=max_bytes,
    )
    file_id = await control.artifacts.add(arriving, coming.chunks)
    response.headers["Location"] = f"/api/v1/files/{file_id}"
    return FileView.model_validate(await control.artifacts.find(file_id))


@router.get("", operation_id="listFiles")
async def list_files(control: Control, _: Viewer, window: Windowed, task_id: TaskReference = None) -> Page[FileView]:
    """List files, newest first."""
    query = sa.select(artifacts)
    if task_id is not None:
        query = query.where(artifacts.c.task_id == task_id)
    page = read_page(query, artifacts.c.id, window, FileView.model_validate, newest_first=True)
    return await asyncio.wrap_future(control.store.read(page))


@router.get("/{file_id}", operation_id="getFile")
async def show(control: Control, _: Viewer, file_id: str) -> FileView:
    """Return what is known of a file."""
    return FileView.model_validate(await control.artifacts.find(file_id))


@router.get("/{file_id}/download", operation_id="downloadFile", response_class=Response, responses=_BYTES)
@v1_router.get("/{file_id}", response_class=Response)
async def fetch(control: Control, _: Viewer, request: Request, file_id: str) -> Response:
    """Return a file's bytes as an attachment; `Range` asks for a part, and `ETag` is their SHA-256."""
    return await download(control, request, await control.artifacts.find(file_id))


@router.get("/{file_id}/url", operation_id="getFileUrl")
async def sign(control: Control, _: Viewer, request: Request, file_id: str) -> FileUrl:
    """Return a URL that gives the bytes to whoever has it, until it expires."""
    seconds = control.preferences.current.files.url_expires_s
    await control.artifacts.find(file_id)
    signature = control.artifacts.sign(file_id, seconds)
    query = f"expires={signature.expires}&signature={signature.text}"
    url = f"{request.base_url}api/v1/files/{file_id}/content?{query}"
    return FileUrl(url=url, expires_at=signature.expires * 1000, expires_in=seconds)


@router.get("/{file_id}/content", operation_id="getFileContent", response_class=Response, responses=_BYTES)
async def fetch_signed(
    control: Control,
    _: Reader,
    request: Request,
    file_id: str,
    expires: Annotated[int, Query(ge=0, le=2**53, description="Until when, in seconds since 1970.")],
    signature: Annotated[str, Query(max_length=100, description="What proves that the URL is Warren's own.")],
) -> Response:
    """Return a file's bytes to whoever has a URL from `/files/{id}/url`; no key is needed."""
    control.artifacts.check(file_id, Signature(expires, signature))
    return await download(control, request, await control.artifacts.find(file_id))


@router.delete("/{file_id}", status_code=204, operation_id="deleteFile")
async def delete(control: Control, operator: Operator, file_id: str) -> Response:
    """Delete a file and its bytes."""
    await control.artifacts.delete(file_id, operator.name)
    return Response(status_code=204)
