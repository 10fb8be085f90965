"""Tasks: submitted, found, listed."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, TypedDict, Unpack

from client.http import ApiClient, path_to
from client.sdk.record import query
from client.sdk.task import Task, task_of


class TaskFilter(TypedDict, total=False):
    """Which tasks to list."""

    state: str | None
    action: str | None
    priority: str | None
    agent_id: str | None
    lane: str | None
    pool: str | None
    worker_id: str | None
    parent_id: str | None
    created_after: datetime | None
    created_before: datetime | None


class Tasks:
    """The control plane's tasks."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._task = task_of(client)

    def get(self, task_id: str) -> Task[Any]:
        """Return the task with this id; raises NotFound."""
        return self._task(self._client.get(path_to("tasks", task_id)))

    def list(self, *, limit: int | None = None, **where: Unpack[TaskFilter]) -> Iterator[Task[Any]]:
        """Yield tasks, newest first, without what went in and came out; page by page, at most `limit` of them."""
        return islice(map(self._task, self._client.rows("/tasks", query(where))), limit)

    def stats(self) -> Mapping[str, Any]:
        """Return how many tasks there are: `total`, `by_state`, `by_priority`, and whether the counts are exact."""
        return self._client.get("/tasks/stats")

    def submit(self, form: Mapping[str, Any], idempotency_key: str | None = None) -> Task[Any]:
        """Submit the task of a form (see `warren.forms`) and return it. It is durable then, and exists once."""
        return self._task(self._client.create("/tasks", form, key=idempotency_key))
