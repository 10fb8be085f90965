"""Many tasks at once: submitted in chunks, and waited for together."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from client.http import ApiClient, path_to
from client.sdk.errors import WaitTimeout
from client.sdk.task import Event, Task

MAX_FORMS = 1000
MAX_FORM_BYTES = 8 * 1024 * 1024
"""What one request of many may hold; half of what the control plane takes."""
_ENDINGS = frozenset({"task.succeeded", "task.dead", "task.cancelled"})
AnyTask = TypeVar("AnyTask", bound=Task[Any])


def submit_many(
    client: ApiClient,
    forms: Iterable[Mapping[str, Any]],
    idempotency_key: str | None,
    progress: Callable[[int], object] | None,
) -> Sequence[Task[Any]]:
    """Submit forms in chunks under keys that follow from `idempotency_key`; return their tasks, in order."""
    key = idempotency_key or str(uuid.uuid4())
    tasks: list[Task[Any]] = []
    for number, chunk in enumerate(_chunks(forms)):
        told = client.create("/tasks/bulk", {"tasks": chunk}, key=f"{key}/{number}")
        tasks += [Task(client, str(one["id"])) for one in told["data"]]
        if progress:
            progress(len(tasks))
    return tasks


def as_completed(client: ApiClient, tasks: Iterable[AnyTask], timeout_s: float | None) -> Iterator[AnyTask]:
    """Yield tasks as they finish, each once; raises WaitTimeout if some have not after `timeout_s`."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    waiting = {task.id: task for task in tasks}
    if waiting:
        # Ids sort by time: what happens to any of them comes after the first event of the oldest.
        yield from _finishing(client, waiting, _before(client, min(waiting)), until)
    if waiting:
        raise WaitTimeout(f"{len(waiting):,} tasks had not finished after {timeout_s:g} s")


def _finishing(client: ApiClient, waiting: dict[str, AnyTask], after: str, until: float | None) -> Iterator[AnyTask]:
    for told in client.stream("/events", after=after, until=until):
        task_id = Event.parse(told.data).task_id if told.event in _ENDINGS else None
        # One that was dead may have been retried since.
        if task_id in waiting and waiting[task_id].refresh().finished:
            yield waiting.pop(task_id)
            if not waiting:
                return


def _before(client: ApiClient, task_id: str) -> str:
    """Return the place in the journal just before the first event of a task."""
    first = client.get(path_to("tasks", task_id, "events"), {"limit": 1})
    return str(Event.of(first["data"][0]).id - 1)


def _chunks(forms: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    size = 0
    for form in forms:
        length = len(json.dumps(form))
        if chunk and (len(chunk) == MAX_FORMS or size + length > MAX_FORM_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(form)
        size += length
    if chunk:
        yield chunk
