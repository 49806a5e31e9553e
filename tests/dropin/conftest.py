"""Pools for the drop-in tests: shared ones for results, fresh ones for whatever ends a pool."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dropin_pools import CLASSES, START_METHODS, close_pool, open_pool
from dropin_tasks import ALARM_S, noop, square


@pytest.fixture(scope="session", autouse=True)
def heap_of_multiprocessing() -> None:
    """Have multiprocessing make the arena of its shared values, which it keeps while it lives.

    Otherwise the first test with a `Value` or `Barrier` would seem to leave it behind.
    """
    multiprocessing.Value("i", 0)


@pytest.fixture(
    scope="module",
    params=[(name, method) for method in START_METHODS for name in CLASSES],
    ids=lambda pair: "-".join(pair),
)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two processes, shared by the tests of a module that do not end their pool.

    Module-scoped, and used once with a callback, so that whatever a pool makes when it is first
    needed is there before anything is counted around a test.
    """
    name, method = request.param
    shared = open_pool(CLASSES[name], method)
    shared.map_async(square, range(10), callback=noop).get(ALARM_S)
    yield shared
    close_pool(shared)


@pytest.fixture(params=list(CLASSES))
def pool_class(request: pytest.FixtureRequest) -> Any:
    """The stock class, then ours."""
    return CLASSES[request.param]


@pytest.fixture
def fresh(pool_class: Any) -> Iterator[Callable[..., Any]]:
    """Opens pools of `pool_class`; what the test leaves open is terminated."""
    opened: list[Any] = []

    def open_one(method: str = "fork", processes: int = 2, **kwds: Any) -> Any:
        opened.append(open_pool(pool_class, method, processes, **kwds))
        return opened[-1]

    yield open_one
    while opened:
        close_pool(opened.pop())
