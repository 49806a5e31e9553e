"""All rows of the tables, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Sequence

from bench import (
    scheduler_assign,
    scheduler_memory,
    scheduler_metrics,
    scheduler_rebalance,
    scheduler_steal,
    scheduler_throughput,
)
from bench._model import Row
from bench.workloads import (
    bursts,
    busy_parent,
    closure,
    dag,
    executor,
    growth,
    imap,
    jobs,
    large,
    latency,
    lifecycle,
    map_large,
    pending,
    priorities,
    recovery,
    skew,
    spin,
    stream,
    submit,
)

_FAMILIES = (submit, imap, spin, map_large, skew, latency, busy_parent, pending, stream, lifecycle)
_ALSO = (closure, bursts, recovery, dag, priorities, jobs)
_GOALLESS = frozenset({"start-forkserver", "start-own", "spin-10ms"})
"""Rows of those families that the table of goals leaves to the suite."""
ROWS: tuple[Row, ...] = tuple(row for family in _FAMILIES for row in family.ROWS if row.name not in _GOALLESS)
_TOO_FINE = ("spin-cpu", "large-partial-numpy", "large-partial-bytes-map")
SUITE: tuple[Row, ...] = tuple(
    row for family in (*_FAMILIES, *_ALSO, large) for row in family.ROWS if not row.name.startswith(_TOO_FINE)
)
"""What `python -m bench` measures with all targets."""

SCHEDULER_FAMILIES = (
    scheduler_assign,
    scheduler_steal,
    scheduler_rebalance,
    scheduler_throughput,
    scheduler_memory,
    scheduler_metrics,
)
_TABLES = {
    "suite": SUITE,
    "pool": ROWS,
    "large": large.ROWS,
    "executor": executor.ROWS,
    "growth": growth.ROWS,
    "scheduler": tuple(row for family in SCHEDULER_FAMILIES for row in family.ROWS),
}


def select(names: Sequence[str], *, exact: bool = False, table: str = "pool") -> list[Row]:
    """Rows called ``names``, in table order; unless ``exact``, ``spin`` also means ``spin-*``. Exact names are looked
    for in all tables."""
    rows = tuple({row.name: row for rows in _TABLES.values() for row in rows}.values()) if exact else _TABLES[table]
    for name in names:
        if not any(_matches(row, name, exact) for row in rows):
            raise SystemExit(f"no row called {name!r}; there are: {' '.join(r.name for r in rows)}")
    return [row for row in rows if not names or any(_matches(row, name, exact) for name in names)]


def _matches(row: Row, name: str, exact: bool) -> bool:
    return row.name == name or (not exact and row.name.startswith(name + "-"))
