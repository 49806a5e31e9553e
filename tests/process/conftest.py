"""Pools for the tests with real agents: made by start method, ended after each test."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mpsteal

Open = Callable[..., mpsteal.Pool]


@pytest.fixture
def open_pool() -> Iterator[Open]:
    """Makes pools, and terminates them at the end if the test has not."""
    made: list[mpsteal.Pool] = []

    def open_one(processes: int, method: str | None = None, **options: Any) -> mpsteal.Pool:
        context = multiprocessing.get_context(method)
        pool = mpsteal.Pool(processes, context=context, **options)
        made.append(pool)
        return pool

    yield open_one
    for pool in made:
        pool.terminate()
