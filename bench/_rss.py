"""Reading a process's memory: resident, private, proportional, and the peak where the kernel keeps
one."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MIB = 1 << 20
_SELF = Path("/proc/self")


def rss() -> int:
    """Resident bytes of this process, pages of shared memory included."""
    return int(psutil.Process().memory_info().rss)


def private() -> int:
    """Bytes that only this process maps (what would come free if it ended)."""
    return int(psutil.Process().memory_full_info().uss)


def tree() -> int:
    """Bytes of this process and all below it, each shared page split among those that map it.

    Where the system does not tell (macOS), private bytes only.
    """
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            total += int(getattr(info, "pss", info.uss))
    return total


def settled(read: Callable[[], int], limit_s: float = 5.0) -> int:
    """Read until the value has moved by less than 64 KiB for 0.3 s, at most ``limit_s``."""
    gc.collect()
    value, since = read(), time.monotonic()
    deadline = since + limit_s
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = read()
        if abs(now - value) > 65_536:
            value, since = now, time.monotonic()
        elif time.monotonic() - since > 0.3:
            break
    return value


def reset_peak() -> bool:
    """Have the kernel count the peak from here on; False where it cannot."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """The greatest resident size since `reset_peak` (Linux)."""
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
