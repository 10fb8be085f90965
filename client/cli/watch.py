"""Following a task on the terminal, and ending as it ends."""

import json
import sys

from client.cli.errors import TaskEnded
from client.follow import Piece, follow
from client.http import ApiClient, Json
from client.render import Output, Printer
from protocols.names import ExitCode
from protocols.states import TaskState


def watch(client: ApiClient, printer: Printer, task_id: str) -> None:
    """Pass the task's output on as it arises; raises TaskEnded if the task does not succeed.

    With JSON the output is left out and the finished task printed.
    """
    if printer.output is Output.JSON:
        task = follow(client, task_id, lambda piece: None)
        printer.record(task)
    else:
        relay = _Relay(printer)
        task = follow(client, task_id, relay)
        relay.finish(task)
    _raise_unless_succeeded(task)


class _Relay:
    """Writes pieces to stdout and stderr as they come, byte for byte."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._attempt: int | None = None
        self._last = b"\n"

    def __call__(self, piece: Piece) -> None:
        if self._attempt is not None and piece.attempt != self._attempt:
            self._printer.remark(f"[attempt {piece.attempt}]")
        self._attempt = piece.attempt
        stream = sys.stderr if piece.stream == "stderr" else sys.stdout
        stream.flush()
        stream.buffer.write(piece.data)
        stream.buffer.flush()
        self._last = piece.data[-1:] or self._last

    def finish(self, task: Json) -> None:
        """End the last line on a terminal; print the result of a task that wrote nothing."""
        if self._attempt is None and task.get("result") is not None:
            print(json.dumps(task["result"], indent=2, ensure_ascii=False))
        elif self._last != b"\n" and sys.stdout.isatty():
            print()


def _raise_unless_succeeded(task: Json) -> None:
    state = task.get("state")
    if state == TaskState.SUCCEEDED:
        return
    error = task.get("error") or {}
    detail = f": {error['message']}" if error.get("message") else ""
    if state == TaskState.CANCELLED:
        raise TaskEnded(f"task {task['id']} was cancelled{detail}", ExitCode.TASK_CANCELLED)
    cause = f" ({error['cause']})" if error.get("cause") else ""
    raise TaskEnded(
        f"task {task['id']} is dead{cause}{detail}",
        ExitCode.TASK_DEAD,
        hint="`warren dead-letter list` shows it; mend the cause, then `warren dead-letter retry ID`",
    )
