"""What tasks did to the world, as lines of a file: written by the actions under test, counted by the tests."""

import os
from collections import Counter
from pathlib import Path


def append_line(path: str | Path, line: str) -> None:
    """Add a line in one write and return when it is on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Effects:
    """Reads what was done, by key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counts(self) -> Counter[str]:
        """Return how often each key was done."""
        return Counter(self.path.read_text().split()) if self.path.exists() else Counter()

    def count(self, key: str) -> int:
        """Return how often one key was done."""
        return self.counts()[key]
