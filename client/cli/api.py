"""`warren api`: any request, for what has no verb of its own."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli.commands import alone
from client.cli.options import ApiOptions, expanded
from protocols.errors import InvalidInput


@expanded
def call(
    api: ApiOptions,
    method: Annotated[str, typer.Argument(help="GET, POST, PUT, PATCH or DELETE.")],
    path: Annotated[str, typer.Argument(help="Such as /workers; the base /api/v1 may be left out.")],
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="The body as JSON; @FILE for a file's, - for stdin's.")
    ] = None,
) -> None:
    """Send a request to the API and print the answer.

    For what has no verb of its own. The answer is printed as JSON unless YAML is asked for.
    """
    body = None if data is None else _body(data)
    from client.http import BASE_PATH

    with api.connect() as client:
        answer = client.request(method.upper(), "/" + path.removeprefix(BASE_PATH).lstrip("/"), json=body)
    if not answer.content:
        return
    if answer.headers.get("content-type", "").startswith("application/json"):
        api.printer.data(answer.json())
    else:
        sys.stdout.buffer.write(answer.content)


def _body(data: str) -> Any:
    try:
        if data == "-":
            return json.load(sys.stdin)
        if data.startswith("@"):
            return json.loads(Path(data[1:]).expanduser().read_text(encoding="utf-8"))
        return json.loads(data)
    except OSError as error:
        raise InvalidInput(f"{data[1:]} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"--data is no JSON: {error}") from error


app = alone(call, "warren api GET '/tasks?state=dead&limit=5'\nwarren api POST /tasks --data @task.json")
