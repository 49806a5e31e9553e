"""Larger explorations run only when asked for: `pytest tests/model -m stress`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from selection import leave_out
from world import World

from mpsteal._agent import loop


@pytest.fixture(autouse=True)
def _pauses_are_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief that was refused sleeps for microseconds: here until something has changed."""
    worlds: list[World] = []
    made = World.__init__

    def note(self: World, *args: Any, **kwds: Any) -> None:
        worlds[:] = [self]
        made(self, *args, **kwds)

    monkeypatch.setattr(World, "__init__", note)
    monkeypatch.setattr(loop, "time", SimpleNamespace(sleep=lambda _: worlds[0].wait_news()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `stress` in this directory unless `-m` mentions the mark."""
    here = Path(__file__).parent
    if "stress" not in config.getoption("markexpr"):
        leave_out(config, items, lambda item: here in item.path.parents and "stress" in item.keywords)
