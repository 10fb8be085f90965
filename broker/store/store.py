"""The store: one writer, several readers, one database."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import Connection

from broker.store.database import open_sqlite, translated
from broker.store.migrate import upgrade
from broker.store.writer import Writer
from protocols.clock import Clock

T = TypeVar("T")

READERS = 4


class Store:
    """Opens, migrates and closes the database; `writer` changes it, `read` looks at it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._write_engine = open_sqlite(path, write=True)
        self._read_engine = open_sqlite(path, write=False)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self.writer = Writer(self._write_engine, clock)

    def start(self) -> None:
        """Bring the schema up to date and begin to work; raises StorageUnavailable."""
        with translated():
            upgrade(self._write_engine)
        self.writer.start()

    def stop(self) -> None:
        """Finish what was submitted and close the database."""
        self.writer.stop()
        self._readers.shutdown()
        self._read_engine.dispose()
        self._write_engine.dispose()

    def read(self, query: Callable[[Connection], T]) -> Future[T]:
        """Run `query` on a consistent snapshot, on a reader thread."""
        return self._readers.submit(self._read, query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        with translated(), self._read_engine.begin() as connection:
            return query(connection)
