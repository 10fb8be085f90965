"""Workers: who they are, what they are at, and whether they may."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypedDict, Unpack

from client.http import ApiClient, path_to
from client.sdk.noun import Noun, said
from client.sdk.record import Record, query
from client.sdk.task import Task, task_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Record):
    """A machine that carries out tasks; `status` is its presence, or its approval while that is not `approved`."""

    id: str
    name: str
    hostname: str
    approval: str
    presence: str
    status: str
    pools: tuple[str, ...]
    actions: tuple[str, ...]
    running: int
    registered_at: datetime
    group: str | None = None
    fingerprint: str | None = None
    version: str | None = None
    ip_address: str | None = None
    os_info: str | None = None
    cpu_cores: int | None = None
    memory_total_mb: int | None = None
    heartbeat: Mapping[str, Any] | None = None
    last_seen_at: datetime | None = None
    approved_at: datetime | None = None
    drained_at: datetime | None = None
    drained_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview(Record):
    """The fleet in numbers; `slots` has `busy` and `total` of each kind."""

    total: int
    by_status: Mapping[str, int]
    by_presence: Mapping[str, int]
    by_approval: Mapping[str, int]
    running: int
    slots: Mapping[str, Mapping[str, int]]
    pools: Mapping[str, int]
    cpu_percent: float | None = None
    memory_percent: float | None = None


class WorkerFilter(TypedDict, total=False):
    """Which workers to list."""

    status: str | None
    pool: str | None
    group: str | None


class Workers(Noun[Worker]):
    """The workers of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "workers", Worker)

    def list(self, *, limit: int | None = None, **where: Unpack[WorkerFilter]) -> Iterator[Worker]:
        """Yield workers, page by page, at most `limit` of them."""
        return islice(self._rows(query(where)), limit)

    def approve(
        self, worker: str, fingerprint: str, *, group: str | None = None, pools: Sequence[str] | None = None
    ) -> Worker:
        """Let a worker in whose fingerprint you have seen on its machine; raises Conflict if it is another."""
        return self._decide(worker, {"is_approved": True, "fingerprint": fingerprint, "group": group, "pools": pools})

    def reject(self, worker: str) -> Worker:
        """Turn a worker away; one that was approved is revoked, and its session ends."""
        return self._decide(worker, {"is_approved": False})

    def drain(self, worker: str, reason: str | None = None) -> Worker:
        """Give it nothing new; it finishes what runs."""
        return self._tell(worker, "drain", {"reason": reason})

    def resume(self, worker: str) -> Worker:
        """Give it work again."""
        return self._tell(worker, "resume")

    def overview(self) -> Overview:
        """Return the fleet in numbers."""
        return Overview.of(self._client.get(self._path("overview")))

    def tasks(self, worker: str) -> Iterator[Task[Any]]:
        """Yield the unfinished tasks that only this worker may run."""
        return map(task_of(self._client), self._client.rows(self._path(worker, "tasks")))

    def _decide(self, worker: str, decision: Mapping[str, Any]) -> Worker:
        return Worker.of(self._client.patch(path_to("admin", "workers", worker, "approve"), said(decision)))
