"""Ours can be called in every way in which the stock classes can; what is added is keyword-only."""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Callable
from typing import Any

import dropin_tasks as tasks
import pytest
from dropin_pools import OURS, STOCK, close_pool, open_pool

import mpsteal

ADDITIONS = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


def _public_methods(cls: Any) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))]


def _shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


def _assert_same_signature(stock: Any, ours: Any) -> None:
    expected, found = _shape(stock), _shape(ours)
    assert found[: len(expected)] == expected
    assert all(kind in ADDITIONS for _, kind, _ in found[len(expected) :])


def test_public_methods_of_the_pool_are_known() -> None:
    assert set(_public_methods(STOCK)) == {
        "Process", "apply", "apply_async", "close", "imap", "imap_unordered", "join", "map",
        "map_async", "starmap", "starmap_async", "terminate",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["__init__", "__enter__", "__exit__", *_public_methods(STOCK)])
def test_method_of_the_pool(name: str) -> None:
    if name == "__exit__":  # only ever called with three arguments, whose names nobody uses
        inspect.signature(OURS.__exit__).bind(OURS, None, None, None)
    else:
        _assert_same_signature(getattr(STOCK, name), getattr(OURS, name))


def test_pool_class_and_context_factory() -> None:
    _assert_same_signature(STOCK, OURS)
    stock_factory = multiprocessing.get_context("fork").Pool
    _assert_same_signature(stock_factory, mpsteal.get_context("fork").Pool)
    _assert_same_signature(multiprocessing.get_context, mpsteal.get_context)


RESULTS: dict[str, Callable[[Any], Any]] = {
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.add, [(1, 2)]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
}


@pytest.fixture(scope="module")
def both_pools() -> Any:
    pools = open_pool(STOCK), open_pool(OURS)
    for pool in pools:
        pool.map_async(tasks.square, range(10), callback=tasks.noop).get(tasks.ALARM_S)
    yield pools
    for pool in pools:
        close_pool(pool)


@pytest.mark.parametrize("call", list(RESULTS))
def test_methods_of_what_calls_return(both_pools: Any, call: str) -> None:
    stock, ours = (RESULTS[call](pool) for pool in both_pools)
    names = _public_methods(type(stock))
    assert names
    for name in names:
        _assert_same_signature(getattr(stock, name), getattr(ours, name))
    for result in (stock, ours):
        if call.startswith("imap"):
            assert list(result) == [1]
        else:
            result.wait(tasks.ALARM_S)


def test_result_classes_can_be_subscripted(both_pools: Any) -> None:
    for pool in both_pools:
        result = pool.apply_async(tasks.square, (1,))
        assert result.get(tasks.ALARM_S) == 1
        assert type(result)[int]
