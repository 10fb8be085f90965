"""A live view of queues, workers and rates: what is read, and the frame that is made of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.http import ApiClient
from client.render import Column, Fit, Json, age, at_least, count, counted, field, is_least, queue_state, style, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

STATES = ("scheduled", "queued", "running", "succeeded", "dead", "cancelled")
RATES = ("succeeded", "dead", "cancelled")
_HEAD_LINES = 6
_TABLE_LINES = 3
"""Its title, its heading, and the empty line below."""
_MIN_ROWS = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a control plane said at one moment."""

    at: float
    """Monotonic seconds."""
    health: Json
    tasks: Json
    """Statistics."""
    queues: Sequence[Json]
    workers: Sequence[Json]

    @classmethod
    def take(cls, client: ApiClient) -> "Snapshot":
        """Ask for everything; raises WarrenError."""
        return cls(
            at=time.monotonic(),
            health=client.get("/health"),
            tasks=client.get("/tasks/stats"),
            queues=list(client.rows("/queues")),
            workers=list(client.rows("/workers")),
        )


def frame(url: str, now: Snapshot, before: Snapshot | None, *, width: int, height: int) -> "RenderableType":
    """Return the picture of `now`, with rates since `before`, in at most `height` lines of `width`."""
    from rich.console import Group
    from rich.text import Text

    busiest = sorted((queue for queue in now.queues if not _idle_pin(queue)), key=_load, reverse=True)
    liveliest = sorted(now.workers, key=lambda worker: (-int(worker["running"]), str(worker["name"])))
    room = max(2 * _MIN_ROWS, height - _HEAD_LINES - 2 * _TABLE_LINES)
    workers_room = max(_MIN_ROWS, min(len(liveliest), room // 2))
    queues_room = max(_MIN_ROWS, room - workers_room)
    return Group(
        _headline(url, now),
        Text(),
        _counts(now, before),
        Text(),
        _table("queue", busiest, _QUEUES, queues_room, width),
        Text(),
        _table("worker", liveliest, _WORKERS, workers_room, width),
    )


def _load(queue: Json) -> tuple[int, int]:
    return int(queue["running"]), int(queue["waiting"]) + int(queue["queued"])


def _headline(url: str, now: Snapshot) -> "RenderableType":
    from rich.text import Text

    status = str(now.health["status"])
    up = _duration(float(now.health["uptime_s"]))
    line = Text.assemble(
        ("warren ", "bold"),
        (f"{now.health['version']}  ", "dim"),
        f"{url}  ",
        (status, "green" if status == "healthy" else "red"),
        (f"  up {up}", "dim"),
    )
    line.no_wrap = True
    line.overflow = "ellipsis"
    return line


def _counts(now: Snapshot, before: Snapshot | None) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("TASKS")
    for state in STATES:
        table.add_column(state.upper(), justify="right")
    numbers = now.tasks["by_state"]
    shown = (at_least(now.tasks, numbers.get(state, 0), numbers.values()) for state in STATES)
    table.add_row("now", *(Text(text, style=style(state)) for state, text in zip(STATES, shown, strict=True)))
    if before is not None:
        table.add_row(Text("per second", style="dim"), *(_rate(state, now, before) for state in STATES))
    return table


def _rate(state: str, now: Snapshot, before: Snapshot) -> str:
    """Return how many tasks a second have come into a final state."""
    if state not in RATES or now.at <= before.at:
        return ""
    numbers = [snapshot.tasks["by_state"] for snapshot in (now, before)]
    if is_least(now.tasks, numbers[0].get(state, 0), numbers[0].values()):
        return ""
    change = numbers[0].get(state, 0) - numbers[1].get(state, 0)
    return f"{max(0, change) / (now.at - before.at):,.1f}"


def _percent(name: str) -> Callable[[Json], object]:
    def text(row: Json) -> str:
        value = (row.get("heartbeat") or {}).get(name)
        return "" if value is None else f"{float(value):.0f}%"

    return text


def _slots(row: Json) -> object:
    # Not how many are busy: that is as old as the heartbeat, and `running` is not.
    slots = (row.get("heartbeat") or {}).get("slots") or {}
    return sum(one["total"] for one in slots.values()) if slots else ""


_COUNTED = ("waiting", "delayed")
_QUEUES = (
    field("name", "queue", Fit.CUT),
    count("waiting", _COUNTED),
    field("running"),
    Column("starts/s", lambda row: f"{float(row['starts_per_s'] or 0):.1f}"),
    age("oldest_waiting_at", "oldest"),
    Column("state", queue_state),
    field("consumers", "workers", Fit.SPARE),
    field("queued", fit=Fit.SPARE),
    count("delayed", _COUNTED, Fit.SPARE),
)
_WORKERS = (
    field("name", "worker", Fit.CUT),
    field("status"),
    field("running"),
    Column("slots", _slots),
    Column("cpu", _percent("cpu_percent")),
    Column("memory", _percent("memory_percent")),
    age("last_seen_at", "seen", Fit.SPARE),
    field("pools", fit=Fit.SPARE),
)


def _idle_pin(queue: Json) -> bool:
    """Return whether this is a worker's own queue with nothing in it: every worker has one."""
    return queue["worker_id"] is not None and not (queue["paused"] or any(_load(queue)))


def _table(noun: str, rows: Sequence[Json], columns: Sequence[Column], room: int, width: int) -> "Table":
    """Return the first `room` rows; the title tells how many there are."""
    title = counted(len(rows), noun) + (f", the busiest {room}" if len(rows) > room else "")
    return table(rows[:room], columns, width, title)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
