"""A small file system of its own, to be filled and emptied."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

_CHUNK = 64 * 1024


class SmallDisk:
    """A tmpfs of a few megabytes, mounted for the length of a `with`; skips the test where that is not allowed."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._megabytes = megabytes
        self._ballast = path / "ballast"

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700)
        size = f"size={self._megabytes}m,mode=0700"
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.path)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("a small disk needs root and the right to mount")
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: a process that is about to end may still have a file open.
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            for size in (_CHUNK, 512, 1):
                with suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)
