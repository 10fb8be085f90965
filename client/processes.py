"""Child processes that write to a log, are waited for until they are ready, and never outlive their parent."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from client.programs import command
from protocols.errors import StorageUnavailable, Unavailable, WarrenError

GRACE_S = 10.0
POLL_S = 0.05
MAX_LOG_BYTES = 10_000_000
Found = TypeVar("Found")


class ChildEnded(WarrenError):
    """A child process ended before it was asked to."""

    code = "child_ended"


class Child:
    """One child process and its log."""

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self._argv = command("client.leash", str(os.getpid()), *argv)
        self._environ = dict(os.environ if environ is None else environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0

    def start(self) -> None:
        """Start the process; raises StorageUnavailable if its log cannot be written."""
        try:
            self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"{self.log} cannot be written: {error.strerror}") from error
        try:
            self._logged_before = os.fstat(descriptor).st_size
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._environ,
                # Ctrl-C reaches the parent alone, which ends its children in order.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """The status it ended with (negative: the signal), None while it runs or before its start."""
        return self._process.poll() if self._process else None

    def last_lines(self, count: int = 8) -> str:
        """Return the last lines that this run of the process logged."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._logged_before, self.log.stat().st_size - 16_384))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-count:])

    def check(self) -> None:
        """Raise ChildEnded, with the end of the log, if the process is gone."""
        if self.exit_status is not None:
            raise ChildEnded(self.obituary(), hint=f"its log: {self.log}")

    def obituary(self) -> str:
        """Return how the process ended, and the last that it logged."""
        status = self.exit_status or 0
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        said = self.last_lines()
        return f"{self.name} {how}" + (f":\n{said}" if said else "")

    def wait_for(self, what: str, probe: Callable[[], Found | None], timeout_s: float) -> Found:
        """Return what `probe` finds, asking until it finds something.

        Raises ChildEnded if the process ends meanwhile, Unavailable after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (found := probe()) is None:
            self.check()
            if time.monotonic() > deadline:
                said = self.last_lines()
                raise Unavailable(f"{what}: not within {timeout_s:.0f} s" + (f"\n{said}" if said else ""))
            time.sleep(POLL_S)
        return found

    def ask_to_end(self) -> None:
        """Send SIGTERM if it runs."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the process has ended within `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL if it runs, and take its status."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def stop(children: Sequence[Child], grace_s: float = GRACE_S) -> None:
    """End these children together: SIGTERM, and SIGKILL for those that are left after the grace."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + grace_s
    try:
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.kill()
