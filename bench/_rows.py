"""All rows of the table, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Sequence

from bench import (
    busy_parent,
    imap,
    latency,
    lifecycle,
    map_large,
    pending,
    skew,
    spin,
    stream,
    submit,
)
from bench._model import Row

_FAMILIES = (submit, imap, spin, map_large, skew, latency, busy_parent, pending, stream, lifecycle)
ROWS: tuple[Row, ...] = tuple(row for family in _FAMILIES for row in family.ROWS)


def select(names: Sequence[str], *, exact: bool = False) -> list[Row]:
    """Rows called ``names``, in table order; unless ``exact``, ``spin`` also means ``spin-*``."""
    for name in names:
        if not any(_matches(row, name, exact) for row in ROWS):
            raise SystemExit(f"no row called {name!r}; there are: {' '.join(r.name for r in ROWS)}")
    return [row for row in ROWS if not names or any(_matches(row, name, exact) for name in names)]


def _matches(row: Row, name: str, exact: bool) -> bool:
    return row.name == name or (not exact and row.name.startswith(name + "-"))
