"""What a worker reports of its machine, and of the container around it."""

from pathlib import Path

import psutil
import pytest

from worker.resources import ResourceMeter, cgroup_limits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cgroup tree with one group inside another."""
    root = tmp_path / "cgroup"
    (root / "outer" / "inner").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory\n")
    return root


def own(tmp_path: Path, path: str) -> Path:
    file = tmp_path / "own"
    file.write_text(f"0::{path}\n")
    return file


def limit(folder: Path, *, memory: str = "max", used: int = 0, cpu: str = "max 100000", usage_usec: int = 0) -> None:
    (folder / "memory.max").write_text(memory + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "cpu.max").write_text(cpu + "\n")
    (folder / "cpu.stat").write_text(f"usage_usec {usage_usec}\nuser_usec 1\n")


def test_the_tightest_limit_on_the_way_up_counts(root: Path, tmp_path: Path) -> None:
    """A group inside a smaller one has the smaller one's limit and usage."""
    limit(root / "outer", memory="1000000", used=600, cpu="50000 100000", usage_usec=7)
    limit(root / "outer" / "inner", memory="2000000", used=500, cpu="max 100000", usage_usec=5)
    limits = cgroup_limits(root, own(tmp_path, "/outer/inner"))
    assert limits is not None
    assert (limits.memory_max, limits.memory_used) == (1_000_000, 600)
    assert (limits.cpus, limits.cpu_usage_usec) == (0.5, 7)


def test_a_container_sees_its_limits_at_the_root(root: Path, tmp_path: Path) -> None:
    """A path that only the host could follow means the root that can be seen."""
    limit(root, memory="5000", used=50)
    limits = cgroup_limits(root, own(tmp_path, "/../../host/only"))
    assert limits is not None
    assert limits.memory_max == 5000


def test_without_cgroup_v2_there_is_nothing(tmp_path: Path) -> None:
    """A machine without the unified hierarchy reports itself."""
    assert cgroup_limits(tmp_path, own(tmp_path, "/")) is None


def test_a_limited_container_reports_itself(root: Path, tmp_path: Path) -> None:
    """Percentages are of the container's limits, CPU between two readings."""
    megabyte = 1024 * 1024
    limit(root, memory=str(100 * megabyte), used=25 * megabyte, cpu="50000 100000", usage_usec=0)
    meter = ResourceMeter(tmp_path, root, own(tmp_path, "/"))
    meter.read(10.0)
    limit(root, memory=str(100 * megabyte), used=25 * megabyte, cpu="50000 100000", usage_usec=1_000_000)
    usage = meter.read(14.0)
    assert usage.container
    assert (usage.cpus, usage.cpu_percent) == (0.5, 50.0)
    assert (usage.memory_percent, usage.memory_total_bytes) == (25.0, 100 * megabyte)
    assert meter.machine().memory_total_bytes == 100 * megabyte
    assert meter.machine().cpu_cores == 1


def test_an_unlimited_group_reports_the_machine(root: Path, tmp_path: Path) -> None:
    """`max` everywhere, as in a session of a desktop, is no container."""
    limit(root)
    usage = ResourceMeter(tmp_path, root, own(tmp_path, "/")).read(1.0)
    assert not usage.container
    assert usage.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < usage.disk_percent <= 100


@pytest.mark.parametrize("content", ["", "garbage", "1 2 3", "x y", "1000 0"])
def test_unreadable_limits_are_no_limits(root: Path, tmp_path: Path, content: str) -> None:
    """Whatever a kernel writes there, a heartbeat is made."""
    for name in ("memory.max", "memory.current", "cpu.max", "cpu.stat"):
        (root / name).write_text(content)
    assert not ResourceMeter(tmp_path, root, own(tmp_path, "/")).read(1.0).container
