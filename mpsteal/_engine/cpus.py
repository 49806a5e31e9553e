"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def allowed_cpus() -> int:
    """CPUs allowed by affinity: not fewer than `usable_cpus`, which reads a dozen files (0.3 ms)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def usable_cpus(cgroup_root: str = "/sys/fs/cgroup") -> int:
    """CPUs allowed by affinity and by the cgroup's quota, at least 1.

    The quota is rounded up: 1.5 CPUs keep two agents busy better than one. Read from `cpu.max` (cgroup v2) or
    `cpu.cfs_quota_us` (v1), as the kernel's documentation describes them.
    """
    count = allowed_cpus()
    quota = _cgroup_quota(Path(cgroup_root))
    return max(1, min(count, math.ceil(quota)) if quota else count)


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroup and of those above it, which may set bounds: of v2, and of v1's `controller`."""
    folders = [root, root / controller]
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = root / controller if controllers else root
            inner = base / path.lstrip("/")
            folders += [inner, *(p for p in inner.parents if base in p.parents)]
    except (OSError, ValueError):
        pass
    return folders


def _cgroup_quota(root: Path) -> float | None:
    """The tightest quota, in CPUs, of this process's cgroup and those above it."""
    found = []
    for folder in cgroup_folders(root, "cpu"):
        for read in (_quota_v2, _quota_v1):
            try:
                quota = read(folder)
            except (OSError, ValueError):
                continue
            if quota:
                found.append(quota)
    return min(found, default=None)


def _quota_v2(folder: Path) -> float | None:
    limit, period = (folder / "cpu.max").read_text().split()
    return None if limit == "max" else int(limit) / int(period)


def _quota_v1(folder: Path) -> float | None:
    limit = int((folder / "cpu.cfs_quota_us").read_text())
    return limit / int((folder / "cpu.cfs_period_us").read_text()) if limit > 0 else None
