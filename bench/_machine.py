"""What the figures depend on: interpreter, operating system, processor, cores. No host name, user
or path."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `bench`: of a checkout, or inside the installed package."""
IN_CHECKOUT = (ROOT / "pyproject.toml").is_file()


def usable_cores() -> list[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def choose_cores(count: int) -> list[int]:
    """``count`` usable cores, one per physical core as far as they go (where Linux tells)."""
    first: list[int] = []
    later: list[int] = []
    seen: set[str] = set()
    for core in usable_cores():
        topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        try:
            siblings = topology.read_text().strip()
        except OSError:
            siblings = str(core)
        (later if siblings in seen else first).append(core)
        seen.add(siblings)
    return (first + later)[:count]


def pin(count: int) -> int:
    """Confine this process and its children to ``count`` cores; return how many it really has.

    macOS has no call for this: there the result is larger than ``count`` and the busy shares
    are flattered.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, choose_cores(count))
    return len(usable_cores())


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    if not IN_CHECKOUT:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = _git("describe", "--always", "--exclude=*", "--abbrev=12")
        # A run writes its own results while it goes on; they change nothing that is measured.
        return commit + "-dirty" * bool(_git("status", "--porcelain", "-uno", "--", ".", ":!bench/results"))
    return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def now() -> str:
    """The date that a run is stored with (UTC)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def describe() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "start_method": multiprocessing.get_context().get_start_method(),
        "psutil": psutil.__version__,
        "commit": _commit(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _cpu_model(),
        "cores_in_machine": os.cpu_count(),
        "cores_usable": len(usable_cores()),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }
