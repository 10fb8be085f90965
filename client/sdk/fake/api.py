"""The part of the HTTP interface that the stand-in has, over what it knows."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from client.http import Json
from client.sdk.fake.book import Book
from client.sdk.fake.form import BulkForm, TaskChange, TaskForm, read_form
from client.sdk.fake.server import Reply, Request, event_bytes
from client.sdk.fake.task import Chunk, FakeTask
from protocols.errors import InvalidInput, NotFound
from protocols.states import TaskState

KEEPALIVE_S = 15.0
KEEPALIVE = b": keep-alive\n\n"
MAX_LIMIT = 500
_FILTERS = ("state", "action", "priority", "lane", "pool", "parent_id", "agent_id", "worker_id")
_LETTER_FILTERS = ("cause", "action", "lane")
_POSITION = re.compile(r"(\d{1,9})\.(\d{1,18})", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class FakeApi:
    """Answers requests."""

    def __init__(self, book: Book) -> None:
        self._book = book
        one_task, one_letter = r"/tasks/([^/]+)", r"/dead-letter/([^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("POST", r"/tasks", self._submit),
            ("POST", r"/tasks/bulk", self._submit_many),
            ("GET", r"/tasks", self._list),
            ("GET", one_task, self._show),
            ("PATCH", one_task, self._change),
            ("POST", one_task + "/cancel", self._cancel),
            ("POST", one_task + "/retry", self._retry),
            ("GET", one_task + "/events", self._events_of),
            ("GET", one_task + "/output", self._output),
            ("GET", r"/events", self._events),
            ("GET", r"/dead-letter", self._letters),
            ("POST", r"/dead-letter", self._give_up),
            ("GET", r"/dead-letter/stats", self._letter_stats),
            ("POST", r"/dead-letter/retry-all", self._retry_letters),
            ("GET", one_letter, self._letter),
            ("POST", one_letter + "/retry", self._retry_letter),
            ("DELETE", one_letter, self._discard),
        ]

    def answer(self, request: Request) -> Reply:
        """Return what a request is answered; raises WarrenError."""
        for method, pattern, handle in self._routes:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                return handle(request, *found.groups())
        raise NotFound(f"FakeWarren has no {request.method} {request.path[:200]}")

    def _submit(self, request: Request) -> Reply:
        ((task, created),) = self._book.submit([read_form(TaskForm, request.body)], _key(request))
        with self._book.changed:
            return Reply(task.view(), 201 if created else 200)

    def _submit_many(self, request: Request) -> Reply:
        made = self._book.submit(read_form(BulkForm, request.body).tasks, _key(request))
        created = any(new for _, new in made)
        return Reply({"data": [{"id": task.id} for task, _ in made]}, 201 if created else 200)

    def _list(self, request: Request) -> Reply:
        wanted = dict(request.query)
        wanted["state"] = wanted.get("state") or wanted.get("status") or wanted.get("status_filter") or ""
        if wanted["state"] not in ("", *TaskState):
            raise InvalidInput(f"state: there are {', '.join(TaskState)}", field="state")
        with self._book.changed:
            rows = [task.summary() for task in reversed(self._book.tasks.values())]
        return _page(request, _between(_matching(rows, wanted, _FILTERS), wanted, "created"))

    def _show(self, request: Request, task_id: str) -> Reply:
        del request
        with self._book.changed:
            return Reply(self._book.find(task_id).view())

    def _change(self, request: Request, task_id: str) -> Reply:
        with self._book.changed:
            return Reply(self._book.change(task_id, read_form(TaskChange, request.body)).view())

    def _cancel(self, request: Request, task_id: str) -> Reply:
        with self._book.changed:
            return Reply(self._book.cancel(task_id, str((request.body or {}).get("reason", ""))).view())

    def _retry(self, request: Request, task_id: str) -> Reply:
        del request
        with self._book.changed:
            return Reply(self._book.retry(task_id).view())

    def _events(self, request: Request) -> Reply:
        return Reply(self._follow_events(_after(request), None))

    def _events_of(self, request: Request, task_id: str) -> Reply:
        task, after = self._book.find(task_id), _after(request)
        if request.wants_stream:
            return Reply(self._follow_events(after, task))
        with self._book.changed:
            rows = [event for event in self._book.events if event["task_id"] == task_id and event["id"] > after]
        return _page(request, rows)

    def _output(self, request: Request, task_id: str) -> Reply:
        task = self._book.find(task_id)
        if request.wants_stream:
            place = request.headers.get("last-event-id") or request.query.get("after") or "0.0"
            found = _POSITION.fullmatch(place)
            if found is None:
                raise InvalidInput("write <attempt>.<offset>, as in the ids of the stream's events", field="after")
            return Reply(self._follow_output(task, int(found[1]), int(found[2])))
        with self._book.changed:
            last = max((chunk.attempt for chunk in task.output), default=0)
            return Reply(b"".join(chunk.data for chunk in task.output if chunk.attempt == last))

    def _letters(self, request: Request) -> Reply:
        return _page(request, self._open_letters(request.query))

    def _letter(self, request: Request, letter_id: str) -> Reply:
        del request
        return Reply(self._book.letter(letter_id))

    def _letter_stats(self, request: Request) -> Reply:
        del request
        rows = self._open_letters({})
        times = [row["dead_at"] for row in rows]
        return Reply(
            {
                "total": len(rows),
                "by_cause": _counted(rows, "cause"),
                "by_action": _counted(rows, "action"),
                "oldest_at": min(times, default=None),
                "newest_at": max(times, default=None),
                "counts_are_exact": True,
            }
        )

    def _retry_letter(self, request: Request, letter_id: str) -> Reply:
        with self._book.changed:
            return self._retry(request, str(self._book.open_letter(letter_id)["task_id"]))

    def _retry_letters(self, request: Request) -> Reply:
        with self._book.changed:
            rows = self._open_letters(request.body or {})
            for row in rows:
                self._book.retry(row["task_id"])
        return Reply({"retried": len(rows), "skipped": 0})

    def _discard(self, request: Request, letter_id: str) -> Reply:
        del request
        self._book.discard(letter_id)
        return Reply(None, 204)

    def _give_up(self, request: Request) -> Reply:
        return Reply(self._book.give_up(str((request.body or {}).get("task_id"))), 201)

    def _open_letters(self, wanted: Mapping[str, Any]) -> list[Json]:
        with self._book.changed:
            rows = [self._book.letter(letter_id) for letter_id in reversed(self._book.letters)]
        if code := wanted.get("error_code"):
            rows = [row for row in rows if (row["error"] or {}).get("code") == code]
        unresolved = [row for row in rows if row["resolved_at"] is None]
        return _between(_matching(unresolved, wanted, _LETTER_FILTERS), wanted, "dead")

    def _follow_events(self, after: int, task: FakeTask | None) -> Iterator[bytes]:
        while not self._book.closed:
            with self._book.changed:
                # Ids count from 1: those after `after` begin at that place.
                page = self._book.events[after:]
                over = task is not None and task.finished
                quiet = not page and not over and not self._news()
            if quiet:
                yield KEEPALIVE
            for event in page:
                after = event["id"]
                if task is None or event["task_id"] == task.id:
                    yield event_bytes(event["type"], event, str(after))
            if over:
                return

    def _follow_output(self, task: FakeTask, attempt: int, offset: int) -> Iterator[bytes]:
        while not self._book.closed:
            with self._book.changed:
                page = [chunk for chunk in task.output if (chunk.attempt, chunk.offset) >= (attempt, offset)]
                state = task.state if task.finished else None
                quiet = not page and state is None and not self._news()
            if quiet:
                yield KEEPALIVE
            for chunk in page:
                attempt, offset = chunk.attempt, chunk.offset + len(chunk.data)
                yield event_bytes("output", _told(chunk), f"{attempt}.{offset}")
            if state is not None:
                yield event_bytes("end", {"state": state.value})
                return

    def _news(self) -> bool:
        """Wait for a change; False if there was none for long. The caller holds `changed`."""
        return self._book.closed or self._book.changed.wait(KEEPALIVE_S)


def _told(chunk: Chunk) -> Json:
    told = {"attempt": chunk.attempt, "execution_id": chunk.execution_id, "stream": chunk.stream}
    try:
        return {**told, "offset": chunk.offset, "text": chunk.data.decode()}
    except UnicodeDecodeError:
        return {**told, "offset": chunk.offset, "base64": base64.b64encode(chunk.data).decode()}


def _matching(rows: Sequence[Json], wanted: Mapping[str, Any], names: Sequence[str]) -> list[Json]:
    chosen = {name: wanted[name] for name in names if wanted.get(name)}
    return [row for row in rows if all(row.get(name) == value for name, value in chosen.items())]


def _between(rows: Sequence[Json], wanted: Mapping[str, Any], what: str) -> list[Json]:
    """Return the rows from `<what>_after`, the first moment that counts, up to before `<what>_before`."""
    try:
        after, before = (
            datetime.fromisoformat(wanted[name]) if wanted.get(name) else None
            for name in (f"{what}_after", f"{what}_before")
        )
        timed = [(row, datetime.fromisoformat(row[f"{what}_at"])) for row in rows]
        return [row for row, at in timed if (not after or at >= after) and (not before or at < before)]
    except (ValueError, TypeError) as error:
        raise InvalidInput("write times as 2030-01-31T12:00:00Z", field=f"{what}_after") from error


def _page(request: Request, rows: Sequence[Json]) -> Reply:
    limit, offset = _number(request, "limit", 50, 1, MAX_LIMIT), _number(request, "offset", 0, 0, 10_000_000)
    cursor = request.query.get("cursor")
    places = [place for place, row in enumerate(rows, 1) if str(row["id"]) == cursor]
    start = offset + (places[0] if places else 0)
    shown = rows[start : start + limit]
    has_more = start + limit < len(rows)
    return Reply(
        {
            "data": list(shown),
            "total": len(rows),
            "total_is_exact": True,
            "limit": limit,
            "offset": offset,
            "next_cursor": str(shown[-1]["id"]) if has_more else None,
            "has_more": has_more,
        }
    )


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise InvalidInput(f"{name}: write a number from {least} to {most:,}", field=name)
    return int(text)


def _after(request: Request) -> int:
    text = request.headers.get("last-event-id") or request.query.get("after") or "0"
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput("after: write an event's id", field="after")
    return int(text)


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("write 1 to 255 visible characters", field="idempotency-key")
    return key


def _counted(rows: Sequence[Json], name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[row[name]] = found.get(row[name], 0) + 1
    return found
