"""One side's fence for both: `membarrier`, by which a thief pays for the fence of every owner (D5).

An owner that starts a chunk stores its claim and then looks for a thief; a thief stores its mark and then looks at the
claim. Both need a fence in between, and the owner's would be a system call for every task. `membarrier` makes all
processes that have registered for it pass through a fence, wherever they are: one call by the thief, who comes seldom
(1.4 us, 14 us if it has to interrupt an owner that computes on another core), in place of one by the owner, who comes
always. The technique is known as an asymmetric fence (Dice, Huang and Yang, "Asymmetric Dekker synchronization", 2001;
membarrier(2)).

Linux on x86-64 only: elsewhere stores may overtake stores, which one fence between two accesses does not mend.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

_SYS_MEMBARRIER = 324
"""Number of the call on x86-64 (asm/unistd_64.h)."""

_QUERY, _GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 0, 2, 4
"""From linux/membarrier.h, Linux 4.16 and later; `_QUERY` gives the others that the kernel knows, as bits."""


@cache
def _syscall() -> Any:
    """The C library's `syscall`, or None where `membarrier` cannot be used."""
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize < 1 << 32:
        return None
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).syscall
        call.restype = ctypes.c_long
        call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_int]
        needed = _GLOBAL_EXPEDITED | _REGISTER_GLOBAL_EXPEDITED
        known = call(_SYS_MEMBARRIER, _QUERY, 0, 0)
        if known >= 0 and known & needed == needed:
            return call
    return None


def load_barrier() -> Callable[[], None] | None:
    """A function that has every registered process pass a fence before it returns; None where there is none."""
    call = _syscall()
    if call is None:
        return None

    def barrier() -> None:
        if call(_SYS_MEMBARRIER, _GLOBAL_EXPEDITED, 0, 0):
            raise OSError("membarrier() worked when the pool was made, and is refused now")

    return barrier


def register() -> bool:
    """Have this process take part in the fences of others; false where there is none.

    To be called while it has one thread: with more the kernel waits for all cores (10 ms).
    """
    call = _syscall()
    return call is not None and call(_SYS_MEMBARRIER, _REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0
