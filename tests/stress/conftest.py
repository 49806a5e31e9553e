"""The long versions: minutes each, so they are marked `stress` and may take their time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpsteal

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.stress)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture
def open_pool() -> Iterator[Callable[..., mpsteal.Pool]]:
    """Makes pools, and terminates them at the end if the test has not."""
    made: list[mpsteal.Pool] = []

    def open_one(processes: int, method: str | None = None, **options: Any) -> mpsteal.Pool:
        pool = mpsteal.Pool(processes, context=multiprocessing.get_context(method), **options)
        made.append(pool)
        return pool

    yield open_one
    for pool in made:
        pool.terminate()
