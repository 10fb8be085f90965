"""Outcomes on disk: durable, whole, and never in the way."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.codec import pack
from protocols.errors import StorageFull
from protocols.frames import Kept, Outcomes, Pong, UpFrame, Welcome, up_codec
from protocols.outcome import KeptOutput, Outcome, OutcomeReport, OutputChunk
from worker.outbox import Outbox
from worker.settle import Settler
from worker.spool import MAX_ENTRY_BYTES, Spool


def frames(execution_id: str, size: int = 10) -> tuple[UpFrame, ...]:
    chunk = OutputChunk(
        task_id="task_1", execution_id=execution_id, attempt=1, offset=0, stream="stdout", data=b"x" * size
    )
    kept = KeptOutput(
        task_id="task_1", execution_id=execution_id, attempt=1, part=0, last=True, total_bytes=size, chunks=(chunk,)
    )
    return Kept(output=kept), Outcomes(items=(report(execution_id),))


def report(execution_id: str) -> OutcomeReport:
    outcome = Outcome.success({"value": [1, None, "x"]})
    return OutcomeReport(task_id="task_1", attempt=1, execution_id=execution_id, outcome=outcome)


def test_what_is_written_is_read_back_by_the_next_process(tmp_path: Path) -> None:
    """Entries come back as they were, oldest first, and are gone when removed."""
    spool = Spool(tmp_path / "spool")
    assert spool.open() == []
    for name in ("exec_2", "exec_1"):
        spool.write(name, frames(name))
    again = Spool(tmp_path / "spool")
    assert again.open() == ["exec_1", "exec_2"]
    assert again.read("exec_1") == frames("exec_1")
    again.remove("exec_1")
    again.remove("exec_1")
    assert again.open() == ["exec_2"]
    assert (tmp_path / "spool" / "exec_2.outcome").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack([], 100),
        pack(["text"], 100),
        pack({"a": 1}, 100),
        pack([b"no frame"], 100),
        pack([up_codec().encode(Pong(number=1))], 100),
        pack([up_codec().encode(frames("exec_1")[0])], 1000),
        pack([up_codec().encode(frame) for frame in frames("exec_1")], 4000)[:-9],
    ],
)
def test_a_damaged_entry_is_put_aside(tmp_path: Path, data: bytes) -> None:
    """An entry that is cut, empty or something else blocks nothing and is kept for a person."""
    spool = Spool(tmp_path / "spool")
    spool.open()
    (tmp_path / "spool" / "exec_1.outcome").write_bytes(data)
    assert spool.read("exec_1") is None
    assert spool.open() == []
    assert (tmp_path / "spool" / "bad" / "exec_1.outcome").read_bytes() == data


def test_a_half_written_entry_is_no_entry(tmp_path: Path) -> None:
    """What a crash left half written is swept away at the next start."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / ".exec_1.outcome.tmp").write_bytes(b"half")
    assert Spool(tmp_path / "spool").open() == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_the_largest_kept_output_fits(tmp_path: Path) -> None:
    """A megabyte of output, and more, is well inside an entry's limit."""
    spool = Spool(tmp_path / "spool")
    spool.open()
    many = tuple(frame for _ in range(5) for frame in frames("exec_1", 256 * 1024)[:1]) + frames("exec_1")
    spool.write("exec_1", many)
    assert spool.read("exec_1") == many
    assert (tmp_path / "spool" / "exec_1.outcome").stat().st_size < MAX_ENTRY_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        assert "CI" not in os.environ, f"CI must be able to mount a tmpfs: {mounted.stderr}"
        pytest.skip("a tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_leaves_no_half_entry(small_disk: Path) -> None:
    """Writing to a full disk says so, leaves what was there, and works again when there is room."""
    spool = Spool(small_disk / "spool")
    spool.open()
    spool.write("exec_1", frames("exec_1"))
    with pytest.raises(StorageFull):
        spool.write("exec_2", frames("exec_2", 200 * 1024))
    assert spool.open() == ["exec_1"]
    spool.write("exec_2", frames("exec_2"))
    assert spool.read("exec_2") == frames("exec_2")


async def test_a_full_disk_does_not_stop_the_settling(small_disk: Path) -> None:
    """With a full disk an outcome that had to be durable first stays in memory, and is sent all the same."""
    (small_disk / "filler").write_bytes(b"x" * 50 * 1024)
    outbox = Outbox()
    settler = Settler(outbox, small_disk / "spool", 10)
    await settler.start()
    try:
        outbox.open()
        settler.connected(Welcome(epoch=1, heartbeat_s=10.0, server_time=0))
        kept = tuple(frame for frame in frames("exec_1", 100 * 1024) if isinstance(frame, Kept))
        await settler.settle(report("exec_1"), kept, lambda: None, durable_first=True)
        assert settler.unsettled == ("exec_1",)
        assert outbox.take() == kept[0]
        assert outbox.take() == Outcomes(items=(report("exec_1"),))
        assert list((small_disk / "spool").iterdir()) == []
    finally:
        await settler.stop()
