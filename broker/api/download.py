"""Downloads: a file as an attachment, whole or a part of it, so that one that broke off can go on."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, BinaryIO
from urllib.parse import quote

from sqlalchemy import Row
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker.api.errors import error_response, request_id
from broker.control import ControlPlane
from protocols.errors import RangeNotSatisfiable

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_NOT_IN_QUOTES = re.compile(r"[^ !#-\[\]-~]|%")


async def download(control: ControlPlane, request: Request, file: Row[Any]) -> Response:
    """Return the answer with the bytes of `file`, which `artifacts.find` gave, or the part that `request` asks for.

    A range that is no single one of bytes counts as none (RFC 9110, 14.2). Raises StorageUnavailable.
    """
    wanted = _wanted(request, file)
    if not wanted and file.size_bytes:
        problem = RangeNotSatisfiable(f"the file has {file.size_bytes:,} bytes", field="Range")
        refusal = error_response(problem, request_id(request))
        refusal.headers["Content-Range"] = f"bytes */{file.size_bytes}"
        return refusal
    headers = {
        "Content-Type": file.content_type,
        "Content-Length": str(len(wanted)),
        "Content-Disposition": attachment(file.name),
        "Accept-Ranges": "bytes",
        "ETag": _etag(file),
    }
    status = 200
    if len(wanted) < file.size_bytes:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{file.size_bytes}"
        status = 206
    source = await control.artifacts.open(file.id)
    return StreamingResponse(_chunks(source, wanted), status, headers)


def attachment(name: str) -> str:
    """Return the header that has a browser save what comes under `name` (RFC 6266), not show it."""
    plain = _NOT_IN_QUOTES.sub("_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def _wanted(request: Request, file: Row[Any]) -> range:
    """Return the positions of the bytes that are asked for; none if they lie beyond the end."""
    size: int = file.size_bytes
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or request.headers.get("if-range", _etag(file)) != _etag(file):
        return range(size)
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else range(size)
    if last and int(last) < int(first):
        return range(size)
    return range(int(first), min(int(last) + 1, size) if last else size)


def _etag(file: Row[Any]) -> str:
    return f'"{file.sha256.hex()}"'


async def _chunks(source: BinaryIO, wanted: range) -> AsyncGenerator[bytes, None]:
    try:
        await asyncio.to_thread(source.seek, wanted.start)
        left = len(wanted)
        while left and (chunk := await asyncio.to_thread(source.read, min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
    finally:
        source.close()
