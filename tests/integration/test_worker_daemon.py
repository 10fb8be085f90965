"""What `python -m worker` promises as a process: exit codes, signals, draining, and its spool."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocols.frames import Drain, Refused
from protocols.names import ExitCode
from protocols.states import Delivery, Effect, OutcomeKind
from tests.support.control_plane import API_KEY, ControlPlane
from tests.support.worker_agent import FUNCTIONS

ROOT = Path(__file__).parents[2]


class Worker:
    """One worker process and what it logged."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.state = folder / "state"
        self._log = folder / "log"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self, within_s: float = 60.0) -> int:
        """Return the exit status."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text())


def environment(plane: ControlPlane, folder: Path, **more: str) -> dict[str, str]:
    key = folder / "key"
    key.write_text(API_KEY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    functions = ",".join(f"{name}={source}" for name, source in FUNCTIONS.items())
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "WARREN_WORKER_URL": plane.url,
        "WARREN_WORKER_KEY_FILE": str(key),
        "WARREN_WORKER_STATE_DIR": str(folder / "state"),
        "WARREN_WORKER_ACTIONS": functions,
        "WARREN_WORKER_SLOTS_PYTHON": "3",
        **more,
    }


async def spawn(plane: ControlPlane, folder: Path, **more: str) -> Worker:
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", env=environment(plane, folder, **more), stderr=log, cwd=folder
        )
    return Worker(process, folder)


@contextlib.asynccontextmanager
async def running_worker(plane: ControlPlane, folder: Path, **more: str) -> AsyncIterator[Worker]:
    sessions = len(plane.hellos)
    worker = await spawn(plane, folder, **more)
    try:
        await plane.until(lambda: len(plane.hellos) > sessions or worker.process.returncode is not None)
        yield worker
    finally:
        if worker.process.returncode is None:
            worker.process.kill()
            await worker.process.wait()


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as plane:
        yield plane


def alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_it_shows_its_id_before_it_registers(plane: ControlPlane, tmp_path: Path) -> None:
    """worker.json names the id and fingerprint that an admin approves; both survive a restart."""
    async with running_worker(plane, tmp_path) as worker:
        shown = (worker.state / "worker.json").read_text()
        assert plane.hellos[0].worker_id in shown
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == ExitCode.OK
    async with running_worker(plane, tmp_path) as worker:
        assert (worker.state / "worker.json").read_text() == shown
        assert plane.hellos[1].worker_id == plane.hellos[0].worker_id
        assert plane.hellos[1].boot_id != plane.hellos[0].boot_id


async def test_sigterm_lets_running_work_finish(plane: ControlPlane, tmp_path: Path) -> None:
    """SIGTERM stops the claiming; what runs finishes, is stored, and the worker exits with 0."""
    go, started = tmp_path / "go", tmp_path / "started"
    async with running_worker(plane, tmp_path) as worker:
        task = plane.submit("wait_for_file", str(go), str(started))
        await plane.until(started.exists)
        worker.signal(signal.SIGTERM)
        await plane.until(lambda: plane.heartbeats[-1].draining)
        left = plane.submit("add", 1, 2)
        go.touch()
        assert await worker.ended() == ExitCode.OK
        report = plane.outcome(task)
        assert report is not None
        assert report.outcome.kind is OutcomeKind.SUCCEEDED
        handed_back = plane.outcome(left)
        assert handed_back is None or handed_back.outcome.effect is Effect.NONE
        assert "Traceback" not in worker.log


@pytest.mark.parametrize("by_frame", [False, True])
async def test_after_the_grace_work_is_interrupted(plane: ControlPlane, tmp_path: Path, by_frame: bool) -> None:
    """What does not finish within the grace is stopped and handed back, whoever asked for the drain."""
    started = tmp_path / "started"
    async with running_worker(plane, tmp_path, WARREN_WORKER_GRACE_S="0.5") as worker:
        task = plane.submit("touch_and_wait", str(started))
        await plane.until(lambda: started.exists() and bool(started.read_text()))
        if by_frame:
            plane.send(Drain(reason="a newer version"))
        else:
            worker.signal(signal.SIGTERM)
        outcome = (await plane.outcome_of(task)).outcome
        assert (outcome.kind, outcome.effect) == (OutcomeKind.INTERRUPTED, Effect.MAYBE)
        assert await worker.ended() == ExitCode.OK
        assert not alive(int(started.read_text()))


async def test_a_claim_without_an_answer_is_handed_back_by_a_drain(plane: ControlPlane, tmp_path: Path) -> None:
    """A draining worker waits two seconds for an answer, then says that nothing has happened."""
    plane.answer = lambda claim: None
    async with running_worker(plane, tmp_path) as worker:
        task = plane.submit("add", 1, 2)
        await plane.until(lambda: len(plane.claims) == 1)
        worker.signal(signal.SIGTERM)
        outcome = (await plane.outcome_of(task)).outcome
        assert (outcome.kind, outcome.effect) == (OutcomeKind.INTERRUPTED, Effect.NONE)
        assert await worker.ended() == ExitCode.OK


async def test_a_second_signal_ends_it_at_once(plane: ControlPlane, tmp_path: Path) -> None:
    """The second SIGTERM ends the worker and its children without waiting for the grace."""
    started = tmp_path / "started"
    async with running_worker(plane, tmp_path) as worker:
        plane.submit("spin", str(started))
        await plane.until(lambda: started.exists() and bool(started.read_text()))
        worker.signal(signal.SIGTERM)
        await plane.until(lambda: plane.heartbeats[-1].draining)
        worker.signal(signal.SIGTERM)
        assert await worker.ended(20) == 128 + signal.SIGTERM
        await plane.until(lambda: not alive(int(started.read_text())))


async def test_children_die_with_a_killed_worker(plane: ControlPlane, tmp_path: Path) -> None:
    """After SIGKILL of the worker no child goes on working."""
    started = tmp_path / "started"
    async with running_worker(plane, tmp_path) as worker:
        plane.submit("spin", str(started))
        await plane.until(lambda: started.exists() and bool(started.read_text()))
        worker.signal(signal.SIGKILL)
        await worker.ended()
        await plane.until(lambda: not alive(int(started.read_text())))


@pytest.mark.parametrize("delivery", list(Delivery))
async def test_an_outcome_survives_sigkill_before_its_answer(
    plane: ControlPlane, tmp_path: Path, delivery: Delivery
) -> None:
    """An outcome that nobody stored is sent again by the next start, byte for byte, with its output."""
    plane.stores = False
    async with running_worker(plane, tmp_path) as worker:
        task = plane.submit("say", "out", "err", delivery=delivery)
        first = await plane.outcome_of(task)
        spooled = worker.state / "spool" / f"{first.execution_id}.outcome"
        if delivery is Delivery.AT_MOST_ONCE:
            assert spooled.exists(), "it must be on disk before it is sent"
        await plane.until(spooled.exists)
        worker.signal(signal.SIGKILL)
        await worker.ended()
    plane.outcomes.clear()
    plane.kept.clear()
    plane.stores = True
    async with running_worker(plane, tmp_path):
        assert await plane.outcome_of(task) == first
        assert plane.kept_bytes(task, "stdout") == b"outand a child\n"
        await plane.until(lambda: not spooled.exists())


async def test_a_damaged_spool_entry_is_put_aside(plane: ControlPlane, tmp_path: Path) -> None:
    """A spool entry that cannot be read blocks nothing and is kept for a person to look at."""
    spool = tmp_path / "state" / "spool"
    spool.mkdir(parents=True, mode=0o700)
    (spool / "exec_bad.outcome").write_bytes(b"\xc1 no outcome")
    async with running_worker(plane, tmp_path):
        await plane.until((spool / "bad" / "exec_bad.outcome").exists)
        await plane.outcome_of(plane.submit("add", 1, 2))


def test_missing_settings_are_one_clear_line(tmp_path: Path) -> None:
    """Without a URL it exits with 78 and names the variable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=kept, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr == "error: WARREN_WORKER_URL: is not set\n"


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"WARREN_WORKER_URL": "http://example.org"}, ExitCode.CONFIG, "https://"),
        ({"WARREN_WORKER_URL": "localhost:8000"}, ExitCode.CONFIG, "http(s)://host:port"),
        ({"WARREN_WORKER_SLOTS_LLM": "many"}, ExitCode.CONFIG, "WARREN_WORKER_SLOTS_LLM"),
        ({"WARREN_WORKER_POOLS": "Not A Pool"}, ExitCode.CONFIG, "WARREN_WORKER_POOLS"),
        ({"WARREN_WORKER_ACTIONS": "nonsense"}, ExitCode.CONFIG, "name=module:attribute"),
        ({"WARREN_WORKER_ACTIONS": "llm.chat=a:b"}, ExitCode.CONFIG, "llm.chat"),
        ({"WARREN_WORKER_KEY_FILE": "/nonexistent/key"}, ExitCode.CONFIG, "KEY_FILE"),
        ({"WARREN_WORKER_STATE_DIR": "/proc/nothing/here"}, ExitCode.STORAGE, "state directory"),
    ],
)
async def test_bad_settings_are_one_clear_line(
    plane: ControlPlane, tmp_path: Path, more: dict[str, str], status: ExitCode, said: str
) -> None:
    """A wrong setting ends the worker at once with the documented status and one line that names it."""
    worker = await spawn(plane, tmp_path, **more)
    assert await worker.ended() == status
    assert worker.log.startswith("error: ")
    assert said in worker.log
    assert worker.log.count("\n") == 1


async def test_a_damaged_identity_is_never_replaced(plane: ControlPlane, tmp_path: Path) -> None:
    """An identity that cannot be read stops the worker; it does not become a new one silently."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "identity.json").write_text("{")
    (state / "identity.json").chmod(0o600)
    worker = await spawn(plane, tmp_path)
    assert await worker.ended() == ExitCode.CONFIG
    assert "is damaged" in worker.log
    assert (state / "identity.json").read_text() == "{"


async def test_one_process_per_state_directory(plane: ControlPlane, tmp_path: Path) -> None:
    """A second worker in the same state directory is refused; the first goes on."""
    async with running_worker(plane, tmp_path):
        second = await spawn(plane, tmp_path)
        assert await second.ended() == ExitCode.REFUSED
        assert "another worker uses" in second.log
        await plane.outcome_of(plane.submit("add", 1, 2))


async def test_a_revoked_worker_exits_with_77(plane: ControlPlane, tmp_path: Path) -> None:
    """systemd does not restart a worker that was revoked."""
    plane.refusal = Refused(code="worker_refused", message="revoked by an admin")
    worker = await spawn(plane, tmp_path)
    assert await worker.ended() == ExitCode.REVOKED
    assert "revoked by an admin" in worker.log
    assert "Traceback" not in worker.log


async def test_its_log_tells_no_key(plane: ControlPlane, tmp_path: Path) -> None:
    """Neither the API key nor a private key is in the log, however much it logs."""
    async with running_worker(
        plane, tmp_path, WARREN_WORKER_LOG_LEVEL="debug", WARREN_WORKER_LOG_FORMAT="json"
    ) as worker:
        await plane.outcome_of(plane.submit("add", 1, 2))
        worker.signal(signal.SIGTERM)
        await worker.ended()
        assert "session open" in worker.log
        assert API_KEY not in worker.log
        for key in re.findall(r'"([A-Za-z0-9+/=]{40,})"', (worker.state / "identity.json").read_text()):
            assert key not in worker.log


async def test_systemd_hears_ready_watchdog_and_stopping(plane: ControlPlane, tmp_path: Path) -> None:
    """A unit with Type=notify and WatchdogSec hears READY, regular signs of progress, and STOPPING."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.setblocking(False)
        heard: list[str] = []

        def hears(word: str) -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.append(notified.recv(4096).decode())
            return any(word in message for message in heard)

        systemd = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
        async with running_worker(plane, tmp_path, **systemd) as worker:
            await plane.until(lambda: hears("READY=1"))
            heard.clear()
            await plane.until(lambda: hears("WATCHDOG=1"))
            worker.signal(signal.SIGTERM)
            await plane.until(lambda: hears("STOPPING=1"))
            assert await worker.ended() == ExitCode.OK


async def test_a_unit_is_ready_without_a_control_plane(plane: ControlPlane, tmp_path: Path) -> None:
    """An outage of the control plane does not make the unit's start fail."""
    await plane.stop()
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.setblocking(False)
        worker = await spawn(plane, tmp_path, NOTIFY_SOCKET=str(path))
        try:
            async with asyncio.timeout(60):
                loop = asyncio.get_running_loop()
                while b"READY=1" not in await loop.sock_recv(notified, 4096):
                    pass
        finally:
            worker.signal(signal.SIGTERM)
        assert await worker.ended() == ExitCode.OK
