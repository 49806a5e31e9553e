"""Profilers and debuggers keep frames of the engine, and with each what its function had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest

import mpsteal
from mpsteal._queue.arena import Pages

Open = Callable[..., mpsteal.Pool]


@pytest.mark.parametrize("slice_too", [False, True], ids=["as it is", "a slice of it"])
def test_who_keeps_what_the_engine_writes_does_not_stop_it(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, slice_too: bool
) -> None:
    kept: list[Any] = []
    append = Pages.append

    def keep(self: Pages, page: Any, slots: Any, data: Any, sinks: Any) -> int:
        kept.append(data[:] if slice_too else data)
        return append(self, page, slots, data, sinks)

    monkeypatch.setattr(Pages, "append", keep)
    pool = open_pool(1)
    for i in range(20):
        # Each is longer than the one before: what is kept must not keep the buffer from growing, either.
        assert pool.apply(tasks.double, ("x" * 100 * i,)) == "x" * 200 * i
    assert len(kept) >= 20
