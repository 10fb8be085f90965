"""`/openapi.json` and `/docs`: what this API offers. A page without scripts, since none may be loaded here."""

from html import escape

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from broker.api.auth import Viewer

router = APIRouter(include_in_schema=False)

_STYLE = "body{font:16px sans-serif;max-width:60em;margin:2em auto}code{background:#eee}dt{margin-top:.8em}"


@router.get("/openapi.json")
async def openapi(_: Viewer, request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(_: Viewer, request: Request) -> HTMLResponse:
    """Return a page that lists every operation."""
    document = request.app.openapi()
    entries = "\n".join(
        f"<dt><code>{method.upper()} {escape(path)}</code></dt><dd>{escape(operation.get('description', ''))}</dd>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>Machine-readable: <code>/openapi.json</code></p><dl>{entries}</dl></html>"
    )
