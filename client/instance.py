"""A control plane and its workers on this machine, as children of this process."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from client import programs
from client.http import ApiClient, Json
from client.local_worker import LocalWorker
from client.ports import check_port_free
from client.processes import GRACE_S, Child, ChildEnded, stop
from client.profile import ADMIN_KEY_FILE, WORKER_KEY_FILE, recorded_url
from protocols.errors import (
    Conflict,
    InstanceLocked,
    InvalidSettings,
    NotFound,
    StorageUnavailable,
    Unreachable,
    WarrenError,
)
from protocols.names import ExitCode
from protocols.states import Approval, Presence

START_S = 60.0
WATCH_S = 0.5
_REFUSALS: dict[int, type[WarrenError]] = {
    ExitCode.REFUSED: InstanceLocked,
    ExitCode.CONFIG: InvalidSettings,
    ExitCode.STORAGE: StorageUnavailable,
}
"""What a control plane that does not start means by its status; it says why in its last line."""


class Instance:
    """One data directory's control plane, and the workers that this process started for it."""

    def __init__(self, data_dir: Path, host: str, port: int) -> None:
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self.url = _url(host, port)
        self.workers: list[LocalWorker] = []
        self._broker: Child | None = None

    def start_control_plane(self) -> ApiClient:
        """Start the control plane and return a client of it, as its administrator, when it is ready.

        Raises InstanceLocked or AddressInUse if something else has the directory or the port.
        """
        _make_private(self.data_dir)
        check_unused(self.data_dir)
        check_port_free(self.host, self.port)
        environ = programs.broker_environ(self.data_dir, self.host, self.port)
        self._broker = self._child("control plane", "broker", environ, "broker.log")
        self._broker.start()
        try:
            self._broker.wait_for("control plane", self._ready, START_S)
        except ChildEnded as error:
            raise _refusal(self._broker, error) from error
        key = (self.data_dir / ADMIN_KEY_FILE).read_text(encoding="utf-8").strip()
        return ApiClient(self.url, key)

    def start_worker(self) -> LocalWorker:
        """Start one more worker."""
        number = len(self.workers) + 1
        state_dir = self.data_dir / "workers" / str(number)
        _make_private(state_dir)
        name = f"local-{number}"
        environ = programs.worker_environ(self.url, self.data_dir / WORKER_KEY_FILE, state_dir, name)
        environ.setdefault("WARREN_WORKER_GRACE_S", str(GRACE_S - 2))
        worker = LocalWorker(self._child(f"worker {name}", "worker", environ, f"worker-{number}.log"), state_dir)
        self.workers.append(worker)
        worker.start()
        return worker

    def admit(self, client: ApiClient, worker: LocalWorker) -> Json:
        """Approve exactly this worker, by the fingerprint it wrote on this machine; return it when it is online.

        Raises Conflict if an admin has turned it away before.
        """
        identity = worker.child.wait_for("the worker's identity", worker.identity, START_S)
        path = f"/workers/{identity['worker_id']}"
        found = worker.child.wait_for("the worker's registration", lambda: _optional(client, path), START_S)
        if found["approval"] == Approval.PENDING:
            form = {"is_approved": True, "fingerprint": identity["fingerprint"]}
            client.patch(f"/admin{path}/approve", form)
        elif found["approval"] != Approval.APPROVED:
            raise Conflict(
                f"worker {found['name']} was {found['approval']} before",
                hint=f"approve it with `warren worker approve {found['name']}`",
            )
        return worker.child.wait_for("the worker's session", lambda: _online(client, path), START_S)

    def supervise(self, report: Callable[[str], None]) -> NoReturn:
        """Watch the children for ever: a worker that falls is started again.

        Raises ChildEnded when the control plane is gone.
        """
        while True:
            if self._broker:
                self._broker.check()
            for worker in self.workers:
                worker.tend(report)
            time.sleep(WATCH_S)

    def obituaries(self) -> list[str]:
        """Return how each child ended that should be running."""
        children = [self._broker, *(worker.child for worker in self.workers)]
        return [child.obituary() for child in children if child and child.exit_status is not None]

    def stop(self) -> None:
        """End the workers, then the control plane that they report to."""
        try:
            stop([worker.child for worker in self.workers])
        finally:
            stop([self._broker] if self._broker else [])

    def _child(self, name: str, part: str, environ: dict[str, str], log: str) -> Child:
        return Child(name, programs.command(part), log=self.data_dir / "logs" / log, environ=environ)

    def _ready(self) -> bool | None:
        if self._broker:
            self._broker.check()
        with ApiClient(self.url, timeout_s=2.0, retry_for_s=0.0) as client:
            try:
                client.get("/healthz")
            except Unreachable:
                return None
        return True


def _refusal(broker: Child, error: ChildEnded) -> WarrenError:
    """Return what a control plane that did not start has said, as the error that its status means."""
    said = {word: rest for word, _, rest in (line.partition(": ") for line in broker.last_lines().splitlines())}
    kind = _REFUSALS.get(broker.exit_status or 0)
    return kind(said["error"], hint=said.get("hint")) if kind and "error" in said else error


def check_unused(data_dir: Path) -> None:
    """Raise InstanceLocked, with its URL, if a control plane runs on this directory."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        where = recorded_url(data_dir)
        raise InstanceLocked(
            f"Warren is already running on {data_dir}" + (f", at {where}" if where else ""),
            hint="use that one from here, or start another with --data-dir and --port",
        ) from None
    finally:
        os.close(descriptor)


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"{directory} cannot be made: {error.strerror}") from error


def _optional(client: ApiClient, path: str) -> Json | None:
    try:
        return client.get(path)
    except NotFound:
        return None


def _online(client: ApiClient, path: str) -> Json | None:
    worker = client.get(path)
    return worker if worker.get("presence") == Presence.ONLINE else None
