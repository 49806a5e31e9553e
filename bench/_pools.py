"""The pools that are compared, opened the way a user of each would open them.

``MPSTEAL_BENCH_SELF=stock`` puts the stock Pool in mpsteal's place as well. That is the control:
every ratio should come out near 1, and how far from 1 it lies is what the machine and the method
add by themselves.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.pool
import os
from dataclasses import dataclass
from typing import Any

from bench._tasks import noop

STOCK = "multiprocessing"
OURS = "mpsteal"
POOLS = (STOCK, OURS)  # also the order inside a round


def is_control() -> bool:
    chosen = os.environ.get("MPSTEAL_BENCH_SELF", "")
    if chosen not in ("", "stock"):
        raise SystemExit(f"MPSTEAL_BENCH_SELF={chosen!r}: the only value is 'stock'")
    return chosen == "stock"


@dataclass(frozen=True)
class Target:
    """One pool under test; ``pool_class`` is what really runs: a control cannot pass for ours."""

    name: str
    pool_class: Any
    has_buffersize: bool
    version: str

    def open(self, processes: int, method: str | None = None) -> Any:
        """A new pool; ``method`` None is the platform's default start method."""
        if method is None and not self.has_buffersize:
            return multiprocessing.Pool(processes)
        if method is None:
            return self.pool_class(processes)
        return self.pool_class(processes, context=multiprocessing.get_context(method))

    def describe(self) -> str:
        return f"{self.pool_class.__module__}.{self.pool_class.__qualname__}"


def load(name: str, of: str = "pool") -> Target:
    """Import the pool (or the executor) called ``name`` now, so that no measurement pays for the parent's import."""
    if name not in POOLS:
        raise SystemExit(f"no pool called {name!r}; choose from {', '.join(POOLS)}")
    if name == STOCK or is_control():
        import concurrent.futures
        import platform

        stock = concurrent.futures.ProcessPoolExecutor if of == "executor" else multiprocessing.pool.Pool
        return Target(name, stock, False, platform.python_version())
    mpsteal = importlib.import_module("mpsteal")
    ours = mpsteal.Executor if of == "executor" else mpsteal.Pool
    return Target(name, ours, True, str(getattr(mpsteal, "__version__", "unknown")))


def warm(pool: Any, agents: int) -> None:
    """Have all agents up and imports done before the clock starts; the same calls for all."""
    for _ in range(3):
        pool.map(noop, range(agents * 32), chunksize=1)
