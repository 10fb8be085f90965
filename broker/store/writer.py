"""The one writer: a thread that gathers what is waiting into one transaction and commits it once.

While one commit runs (an fsync), work gathers for the next; so the busier Warren is, the less a claim or an
outcome costs. Whoever submits work gets a `concurrent.futures.Future`, which threads wait for and coroutines
await through `asyncio.wrap_future`.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy.engine import Connection, Engine

from broker.store.database import rows_changed, translated
from protocols.clock import Clock
from protocols.errors import StorageUnavailable, Unavailable

MAX_GROUP = 256
"""Most pieces of work of one transaction: keeps it well under 50 ms."""

T = TypeVar("T")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


class Transaction:
    """What work sees of the database: a connection, one `now`, and what shall follow the commit.

    Work may run twice (see `Writer`), so it has no other effect than through this object.
    """

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection = connection
        self.now = now
        self.events: list[dict[str, Any]] = []
        self.lanes: set[str] = set()
        """Lanes in which a place of the window may have become free, or a task has become due."""
        self.next_due: int | None = None
        """The earliest due time in the future that this transaction set."""
        self._after: list[Callable[[], None]] = []

    def wake(self, lane: str, due_at: int | None = None) -> None:
        """Have the lane's window filled, now or when `due_at` comes."""
        if due_at is None or due_at <= self.now:
            self.lanes.add(lane)
        elif self.next_due is None or due_at < self.next_due:
            self.next_due = due_at

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the writer thread once this transaction is durable; it must be quick."""
        self._after.append(callback)

    def run_after_commit(self) -> None:
        """Call what was left with `after_commit`; one that fails does not keep the others from running."""
        for callback in self._after:
            try:
                callback()
            except Exception:
                _log.exception("after_commit_failed")


class BatchHandler(Protocol[Item_contra, Result_co]):
    """Applies many items of one kind in one transaction, with one result for each, in order."""

    def __call__(self, transaction: Transaction, items: Sequence[Item_contra], /) -> Sequence[Result_co]:
        """Apply the items."""
        ...


@dataclass(slots=True)
class _Work:
    handler: Callable[[Transaction, Sequence[Any]], Sequence[Any]]
    item: Any
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """Runs work in transactions, on its own thread.

    A group is tried as one transaction. If any piece of it raises, all of it is rolled back and each piece runs
    alone, so that one bad request costs its neighbours some time and nothing else.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._before_commit: list[Callable[[Transaction], None]] = []
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._failing_since: float | None = None
        self._submitting = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._submitting:
            self._stopped = True
            self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def before_commit(self, hook: Callable[[Transaction], None]) -> None:
        """Call `hook` in every transaction, after its work and before its commit."""
        self._before_commit.append(hook)

    def write(self, work: Callable[[Transaction], T]) -> Future[T]:
        """Run `work` in a transaction; the future is done when its effects are durable.

        It fails with what `work` raised, or with StorageUnavailable or StorageFull if it could not be committed.
        Cancelling it changes nothing: what was submitted is carried out, whether or not somebody still waits.
        """
        return self._submit(_Work(_each_alone, work))

    def gather(self, handler: BatchHandler[Item, Result], item: Item) -> Future[Result]:
        """Apply `item` together with others that wait for the same `handler`."""
        return self._submit(_Work(handler, item))

    def failing_for(self) -> float:
        """Return for how many seconds commits have been failing; 0.0 when the last one succeeded."""
        since = self._failing_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def _submit(self, work: _Work) -> Future[Any]:
        # A future that runs cannot be cancelled, so the writer thread can always give it its result.
        work.future.set_running_or_notify_cancel()
        with self._submitting:
            if not self._stopped:
                self._waiting.put(work)
                return work.future
        work.future.set_exception(Unavailable("the control plane is stopping"))
        return work.future

    def _run(self) -> None:
        running = True
        while running:
            group: list[_Work] = []
            work = self._waiting.get()
            while work is not None:
                group.append(work)
                if len(group) >= MAX_GROUP or self._waiting.empty():
                    break
                work = self._waiting.get()
            running = work is not None
            if group:
                self._run_group(group)

    def _run_group(self, group: list[_Work]) -> None:
        try:
            self._commit(group)
        except Exception as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
                return
            for work in group:
                self._run_group([work])

    def _commit(self, group: list[_Work]) -> None:
        try:
            with translated(), self._engine.begin() as connection:
                before = rows_changed(connection)
                transaction = Transaction(connection, self._clock.now())
                settled = list(zip(group, _apply(transaction, group), strict=True))
                for hook in self._before_commit:
                    hook(transaction)
                wrote = rows_changed(connection) != before
        except StorageUnavailable:
            if self._failing_since is None:
                self._failing_since = self._clock.monotonic()
            raise
        if wrote:
            # A transaction that changed nothing commits on a full disk too, and proves nothing.
            self._failing_since = None
        transaction.run_after_commit()
        for work, result in settled:
            work.future.set_result(result)


def _each_alone(transaction: Transaction, items: Sequence[Callable[[Transaction], Any]]) -> Sequence[Any]:
    return [item(transaction) for item in items]


def _apply(transaction: Transaction, group: list[_Work]) -> list[Any]:
    """Apply runs of equal handlers together; the order of submission is kept."""
    results: list[Any] = []
    start = 0
    while start < len(group):
        end = start
        while end < len(group) and group[end].handler == group[start].handler:
            end += 1
        results.extend(group[start].handler(transaction, [work.item for work in group[start:end]]))
        start = end
    return results
