"""System calls that never block, made without giving up the interpreter's lock.

A thread that gives it up for a call of half a microsecond gets it back only when another thread that computes has used
up its interval (5 ms by default, `sys.setswitchinterval`). The engine would pay that for every doorbell and every fence
while a caller submits in a loop: agents ran dry for 20 ms at the start of a flood. `ctypes.PyDLL` keeps the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any


@cache
def _libc() -> Any:
    """The C library, or None where it cannot be had; then the calls are Python's own, and merely slower."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        libc = ctypes.PyDLL(None)
        libc.write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
        libc.write.restype = ctypes.c_ssize_t
        libc.lockf.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long]
        return libc
    return None


def make_ring(fd: int) -> Callable[[], object]:
    """A call that writes one byte into a non-blocking pipe; a full one has been rung enough."""
    libc = _libc()
    if libc is not None:
        return partial(libc.write, fd, b"w", 1)

    def ring() -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(fd, b"w")

    return ring


def make_unlock_first_byte(fd: int) -> Callable[[], object]:
    """A call that unlocks the first byte of a file (from its offset on, which nobody moves)."""
    libc = _libc()
    if libc is not None:
        return partial(libc.lockf, fd, os.F_ULOCK, 1)
    return partial(fcntl.lockf, fd, fcntl.LOCK_UN, 1)
