"""What the machine offers and uses; inside a container with limits of its own, the container."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the worker runs."""

    cpu_cores: int
    memory_total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How busy the machine or container is. Percentages are of what the worker may use."""

    cpu_percent: float
    cpus: float
    memory_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    disk_percent: float
    load_1m: float
    container: bool


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits of a control group and those above it; None where there is none."""

    memory_max: int | None
    memory_used: int
    cpus: float | None
    cpu_usage_usec: int


def cgroup_limits(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> CgroupLimits | None:
    """Return the limits of this process's cgroup (version 2), or None if there is no such hierarchy."""
    folders = list(_folders(root, own))
    if not folders:
        return None
    memory = [(size, folder) for folder in folders if (size := _number(folder / "memory.max")) is not None]
    cpu = [(cpus, folder) for folder in folders if (cpus := _cpus(folder / "cpu.max")) is not None]
    memory_at = min(memory, default=(0, folders[0]))[1]
    cpu_at = min(cpu, default=(0.0, folders[0]))[1]
    return CgroupLimits(
        memory_max=_number(memory_at / "memory.max"),
        memory_used=_number(memory_at / "memory.current") or 0,
        cpus=_cpus(cpu_at / "cpu.max"),
        cpu_usage_usec=_usage_usec(cpu_at / "cpu.stat"),
    )


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Yield the process's own group and those above it, up to the root that can be seen."""
    if not (root / "cgroup.controllers").exists():
        return
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = root / path.lstrip("/")
    # Inside a container the path may be the host's, of which only the root can be seen.
    if ".." in path or not folder.is_dir():
        folder = root
    while True:
        yield folder
        if folder == root:
            return
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # "max" means no limit.
        return None


def _cpus(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _usage_usec(path: Path) -> int:
    try:
        words = dict(line.split() for line in path.read_text().splitlines())
        return int(words["usage_usec"])
    except (OSError, ValueError, KeyError):
        return 0


class ResourceMeter:
    """Measures usage between one reading and the next."""

    def __init__(self, disk: Path, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> None:
        """`disk` is where the state directory lies."""
        self._disk = disk
        self._root = root
        self._own = own
        self._last: tuple[float, int] | None = None
        psutil.cpu_percent(interval=None)

    def machine(self) -> Machine:
        """Return the machine's or container's size."""
        limits = cgroup_limits(self._root, self._own)
        cores = os.cpu_count() or 1
        memory = int(psutil.virtual_memory().total)
        if limits is not None:
            cores = min(cores, max(1, round(limits.cpus))) if limits.cpus else cores
            memory = min(memory, limits.memory_max or memory)
        return Machine(cores, memory)

    def read(self, monotonic: float) -> Usage:
        """Return the usage since the last call; `monotonic` is now, in seconds."""
        host = psutil.virtual_memory()
        limits = cgroup_limits(self._root, self._own)
        cpus = float(os.cpu_count() or 1)
        cpu_percent = float(psutil.cpu_percent(interval=None))
        used, total = int(host.total - host.available), int(host.total)
        container = False
        if limits is not None and limits.memory_max is not None and limits.memory_max < host.total:
            container, used, total = True, limits.memory_used, limits.memory_max
        if limits is not None and limits.cpus is not None and limits.cpus < cpus:
            container, cpus = True, limits.cpus
            cpu_percent = self._cgroup_cpu(limits, monotonic)
        return Usage(
            cpu_percent=cpu_percent,
            cpus=cpus,
            memory_percent=min(100.0, 100.0 * used / total) if total else 0.0,
            memory_used_bytes=used,
            memory_total_bytes=total,
            disk_percent=self._disk_percent(),
            load_1m=os.getloadavg()[0],
            container=container,
        )

    def _cgroup_cpu(self, limits: CgroupLimits, now: float) -> float:
        before, self._last = self._last, (now, limits.cpu_usage_usec)
        if before is None or now <= before[0] or not limits.cpus:
            return 0.0
        used_s = max(0, limits.cpu_usage_usec - before[1]) / 1e6
        return min(100.0, 100.0 * used_s / ((now - before[0]) * limits.cpus))

    def _disk_percent(self) -> float:
        try:
            return float(psutil.disk_usage(str(self._disk)).percent)
        except OSError:
            return 0.0
