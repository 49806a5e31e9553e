"""Which tests are left out of a run; for the `conftest.py` files."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def leave_out(config: pytest.Config, items: list[pytest.Item], is_out: Callable[[pytest.Item], bool]) -> None:
    """Take those out, and have pytest tell how many they were."""
    gone = [item for item in items if is_out(item)]
    if gone:
        config.hook.pytest_deselected(items=gone)
        out = set(gone)
        items[:] = [item for item in items if item not in out]
