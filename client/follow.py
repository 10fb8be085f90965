"""A task's output as it arises, until the task has finished."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from client.http import ApiClient, Json
from protocols.errors import InvalidFrame


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one attempt's output; `stream` is `stdout`, `stderr` or `text`."""

    attempt: int
    stream: str
    data: bytes = field(repr=False)


def follow(client: ApiClient, task_id: str, show: Callable[[Piece], None]) -> Json:
    """Hand every piece of the task's output to `show` and return the finished task."""
    for event in client.stream(f"/tasks/{task_id}/output"):
        if event.event == "output":
            show(_piece(event.data))
        elif event.event == "end":
            break
    return client.get(f"/tasks/{task_id}")


def _piece(data: str) -> Piece:
    try:
        fields = json.loads(data)
        content = base64.b64decode(fields["base64"]) if "base64" in fields else fields["text"].encode()
        return Piece(attempt=int(fields["attempt"]), stream=str(fields["stream"]), data=content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFrame("the control plane sent output that this version cannot read") from error
