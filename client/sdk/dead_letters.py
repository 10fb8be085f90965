"""Dead letters: tasks that failed for good, and their second chance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypedDict, Unpack

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record, query
from client.sdk.task import Task, TaskFailure, task_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Record):
    """A task that failed for good."""

    id: str
    task_id: str
    action: str
    lane: str
    cause: str
    attempts: int
    tries: int
    dead_at: datetime
    task_state: str
    error: TaskFailure | None = None
    resolved_at: datetime | None = None
    resolution: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterStats(Record):
    """How many dead letters nobody has dealt with; if not exact, the largest numbers and the total are more."""

    total: int
    by_cause: Mapping[str, int]
    by_action: Mapping[str, int]
    oldest_at: datetime | None = None
    newest_at: datetime | None = None
    counts_are_exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriedAll(Record):
    """How many tasks run again, and how many had changed meanwhile."""

    retried: int
    skipped: int


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters are meant."""

    cause: str | None
    action: str | None
    lane: str | None
    error_code: str | None
    dead_after: datetime | None
    dead_before: datetime | None


class DeadLetters(Noun[DeadLetter]):
    """The dead letters that nobody has dealt with."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "dead-letter", DeadLetter)

    def list(self, *, limit: int | None = None, **where: Unpack[DeadLetterFilter]) -> Iterator[DeadLetter]:
        """Yield them, newest first, page by page, at most `limit` of them."""
        return islice(self._rows(query(where)), limit)

    def retry(self, dead_letter_id: str) -> Task[Any]:
        """Run the task again, with all of its tries; raises Conflict if someone has dealt with it."""
        return task_of(self._client)(self._client.post(self._path(dead_letter_id, "retry")))

    def retry_all(self, **where: Unpack[DeadLetterFilter]) -> RetriedAll:
        """Run the tasks of all that match again."""
        return RetriedAll.of(self._client.post(self._path("retry-all"), query(where)))

    def delete(self, dead_letter_id: str) -> None:
        """Take it off the list; its task stays dead."""
        self._delete(dead_letter_id)

    def stats(self) -> DeadLetterStats:
        """Return how many there are, by cause and action."""
        return DeadLetterStats.of(self._client.get(self._path("stats")))

    def give_up(self, task_id: str, reason: str) -> DeadLetter:
        """Make an unfinished task that nobody runs a dead letter."""
        return self._create({"task_id": task_id, "reason": reason})
