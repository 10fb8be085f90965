"""One task of the tour: submitted, shown as it runs, and judged by how it ends."""

from datetime import UTC, datetime, timedelta
from typing import Any

from client.follow import Piece, follow
from client.http import ApiClient, Json
from client.tour.screen import Screen
from protocols.errors import NotFound, WarrenError
from protocols.states import TaskState

TIMEOUT_S = 60.0
DEADLINE_S = 90.0


class Disappointment(WarrenError):
    """A step of the tour did not come out as it should."""

    code = "tour_failed"


def submit(client: ApiClient, screen: Screen, **form: Any) -> Json:
    """Submit a task, show its output as it arises, and return it when it has finished.

    It has a deadline, so that a tour ends whatever happens.
    """
    deadline = datetime.now(UTC) + timedelta(seconds=DEADLINE_S)
    limits = {"timeout_s": TIMEOUT_S, "deadline": deadline.isoformat(), "max_attempts": 1}
    task = client.create("/tasks", {**limits, **form})
    return watch(client, screen, str(task["id"]))


def watch(client: ApiClient, screen: Screen, task_id: str, *, after_attempt: int = 0) -> Json:
    """Show a task's output as it arises, without that of its earlier attempts, and return the finished task."""
    with screen.output() as live:

        def show(piece: Piece) -> None:
            if piece.attempt > after_attempt:
                live.write(piece.data)

        return follow(client, task_id, show)


def expect(task: Json, state: TaskState) -> None:
    """Raise Disappointment, which says why, unless the task ended in `state`."""
    if task["state"] != state:
        raise Disappointment(f"task {task['id']} is {task['state']}, not {state}: {reason(task)}")


def reason(task: Json) -> str:
    """Return why a task is where it is."""
    error = task.get("error") or {}
    cause, message = error.get("cause"), error.get("message")
    return ": ".join(str(part) for part in (cause, message) if part) or "no reason is known"


def put(client: ApiClient, path: str, form: Json) -> None:
    """Make the thing of this name be so, whether it exists or not."""
    try:
        client.put(f"{path}/{form['name']}", form)
    except NotFound:
        client.post(path, form)
