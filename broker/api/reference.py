"""`/openapi.json`, and `/docs` or `/redoc`: what this API offers. Without scripts, since none may be loaded here."""

import asyncio
from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse

from broker.api.auth import Require
from broker.control import ControlPlane
from broker.keys import Principal
from protocols.states import Role

router = APIRouter(include_in_schema=False)

_STYLE = "body{font:16px sans-serif;max-width:60em;margin:2em auto}code{background:#eee}dt{margin-top:.8em}"


def _is_public(connection: HTTPConnection) -> bool:
    control: ControlPlane = connection.app.state.control
    return control.preferences.current.api.public_docs


Reader = Annotated[Principal | None, Depends(Require(Role.VIEWER, unless=_is_public))]


@router.get("/openapi.json")
async def openapi(_: Reader, request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs")
@router.get("/redoc")
async def docs(_: Reader, request: Request) -> HTMLResponse:
    """Return a page that lists every operation."""
    document = await asyncio.to_thread(request.app.openapi)
    entries = "\n".join(
        f"<dt><code>{method.upper()} {escape(path)}</code> {escape(', '.join(operation.get('x-roles', [])))}</dt>"
        f"<dd>{escape(operation.get('description', ''))}</dd>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>Machine-readable: <code>/openapi.json</code></p><dl>{entries}</dl></html>"
    )
