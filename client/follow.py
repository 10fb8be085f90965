"""A task's output as it arises, until the task has finished."""

import base64
import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from client.http import ApiClient, Json, path_to
from protocols.errors import InvalidFrame

_UTF_8 = codecs.getincrementaldecoder("utf-8")
FAR_END = "999999999.0"
"""A place behind all output: what is left to be told from there is how the task ends."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one attempt's output; `stream` is `stdout`, `stderr` or `text`.

    `text` is `data` decoded; a character that is cut in two is in the later piece.
    """

    attempt: int
    stream: str
    data: bytes = field(repr=False)
    text: str = ""


def follow(client: ApiClient, task_id: str, show: Callable[[Piece], None]) -> Json:
    """Hand every piece of the task's output to `show` and return the finished task."""
    for piece in pieces(client, task_id):
        show(piece)
    return client.get(path_to("tasks", task_id))


def pieces(client: ApiClient, task_id: str) -> Iterator[Piece]:
    """Yield the task's output as it arises, through all attempts, until the task has finished."""
    decoders: dict[tuple[int, str], codecs.IncrementalDecoder] = {}
    for event in client.stream(path_to("tasks", task_id, "output")):
        if event.event == "output":
            piece = _piece(event.data)
            decoder = decoders.setdefault((piece.attempt, piece.stream), _UTF_8("replace"))
            yield replace(piece, text=decoder.decode(piece.data))
        elif event.event == "end":
            return


def wait(client: ApiClient, task_id: str, until: float | None = None) -> bool:
    """Wait until the task has finished, or to the moment `until` (monotonic); return whether it has."""
    stream = client.stream(path_to("tasks", task_id, "output"), after=FAR_END, until=until)
    return any(event.event == "end" for event in stream)


def _piece(data: str) -> Piece:
    try:
        fields = json.loads(data)
        content = base64.b64decode(fields["base64"]) if "base64" in fields else fields["text"].encode()
        return Piece(attempt=int(fields["attempt"]), stream=str(fields["stream"]), data=content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFrame("the control plane sent output that this version cannot read") from error
