"""The two pools that the drop-in tests compare, and ways to open them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
from typing import Any

from waiting import manager_pid

import mpsteal

START_METHODS = [
    method for method in ("fork", "spawn", "forkserver") if method in multiprocessing.get_all_start_methods()
]

STOCK: Any = multiprocessing.pool.Pool
OURS: Any = mpsteal.Pool

#: Test id to class, as `parametrize` wants them.
CLASSES = {"stock": STOCK, "mpsteal": OURS}


def open_pool(pool_class: Any, method: str = "fork", processes: int = 2, **kwds: Any) -> Any:
    """Open a pool of the class, with the start method's context."""
    pool = pool_class(processes, context=multiprocessing.get_context(method), **kwds)
    if pool_class is OURS and "initializer" not in kwds:
        # Its Manager comes a moment later; the leak check of a test that shares this pool should find it there.
        manager_pid(pool)
    return pool


def close_pool(pool: Any) -> None:
    """End a pool, whatever state it is in."""
    pool.terminate()
    pool.join()
