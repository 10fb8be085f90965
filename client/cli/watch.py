"""Following a task on the terminal, and ending as it ends."""

import json
import sys

from client.cli.errors import TaskEnded
from client.documents import to_json
from client.follow import Piece, follow
from client.http import ApiClient, Json
from client.render import Printer
from protocols.names import ExitCode
from protocols.states import FINISHED_STATES, TaskState


def watch(client: ApiClient, printer: Printer, task_id: str, *, after_attempt: int = 0) -> None:
    """Pass the task's output on as it arises; raises TaskEnded if the task does not succeed.

    What attempts up to `after_attempt` wrote is left out. For programs all output is, and the finished task printed.
    """
    if printer.for_programs:
        task = follow(client, task_id, lambda piece: None)
        printer.record(task)
    else:
        relay = _Relay(printer, after_attempt)
        task = follow(client, task_id, relay)
        relay.finish(task)
    raise_unless_succeeded(task)


def watch_events(client: ApiClient, printer: Printer, task_path: str) -> None:
    """Print the events of a task as they happen, until it has finished."""
    path = f"{task_path}/events"
    last = 0
    for sent in client.stream(path):
        event = json.loads(sent.data)
        last = event["id"]
        _print_event(printer, event)
        # It may have finished once before, and live again.
        if event["type"].removeprefix("task.") in FINISHED_STATES and client.get(task_path)["state"] in FINISHED_STATES:
            break
    for event in client.rows(path, {"after": last}):
        _print_event(printer, event)


def _print_event(printer: Printer, event: Json) -> None:
    if printer.for_programs:
        printer.item(event)
    else:
        printer.done(f"{event['at']}  {event['type']}  {json.dumps(event['data'], ensure_ascii=False)}", event)


class _Relay:
    """Writes pieces to stdout and stderr as they come, byte for byte."""

    def __init__(self, printer: Printer, after_attempt: int) -> None:
        self._printer = printer
        self._after = after_attempt
        self._attempt: int | None = None
        self._last = b"\n"

    def __call__(self, piece: Piece) -> None:
        if piece.attempt <= self._after:
            return
        if self._attempt is not None and piece.attempt != self._attempt:
            self._printer.remark(f"[attempt {piece.attempt}]")
        self._attempt = piece.attempt
        stream = sys.stderr if piece.stream == "stderr" else sys.stdout
        stream.flush()
        stream.buffer.write(piece.data)
        stream.buffer.flush()
        self._last = piece.data[-1:] or self._last

    def finish(self, task: Json) -> None:
        """End the last line on a terminal; print the result of a task that has one and wrote nothing."""
        if self._attempt is None and task["state"] == TaskState.SUCCEEDED and task.get("result") is not None:
            print(to_json(task["result"]))
        elif self._last != b"\n" and sys.stdout.isatty():
            print()


def raise_unless_succeeded(task: Json) -> None:
    """Raise TaskEnded, with the exit status that says how, if a finished task has not succeeded."""
    state = task.get("state")
    if state == TaskState.SUCCEEDED:
        return
    error = task.get("error") or {}
    detail = f": {error['message']}" if error.get("message") else ""
    if state == TaskState.CANCELLED:
        raise TaskEnded(f"{task['id']} was cancelled{detail}", ExitCode.TASK_CANCELLED)
    cause = f" ({error['cause']})" if error.get("cause") else ""
    raise TaskEnded(
        f"{task['id']} is dead{cause}{detail}",
        ExitCode.TASK_DEAD,
        hint=f"mend the cause, then give it a new life with `warren task retry {task['id']}`",
    )
