"""Larger explorations run only when asked for: `pytest tests/model -m stress`."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `stress` in this directory unless `-m` mentions the mark."""
    if "stress" in config.getoption("markexpr"):
        return
    here = Path(__file__).parent
    large = [item for item in items if here in item.path.parents and "stress" in item.keywords]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]
