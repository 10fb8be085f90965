"""Queues: the lanes that tasks wait in."""

from dataclasses import dataclass
from datetime import datetime

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Record):
    """A lane, and what is in it."""

    name: str
    kind: str
    waiting: int
    delayed: int
    queued: int
    running: int
    paused: bool
    consumers: int = 0
    counts_are_exact: bool = True
    """If not, the larger one of `waiting` and `delayed` is more than it says."""
    pool: str | None = None
    provider: str | None = None
    worker_id: str | None = None
    starts_per_s: float | None = None
    oldest_waiting_at: datetime | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    reason: str | None = None


class Queues(Noun[Queue]):
    """The queues of the control plane, each by its lane's name, such as `q.t.default.ssh`."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "queues", Queue)

    def pause(self, lane: str, reason: str | None = None) -> Queue:
        """Stop it: when this returns nothing more of it starts, and what runs goes on."""
        return self._tell(lane, "pause", {"reason": reason})

    def resume(self, lane: str) -> Queue:
        """Let its tasks start again."""
        return self._tell(lane, "resume")
