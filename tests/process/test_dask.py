"""Dask's graphs, computed by an `Executor`: the same values as by Dask's own scheduler in one thread."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import fault_tasks as tasks
import pytest
from waiting import wait_until

import mpsteal

dask = pytest.importorskip("dask")


@pytest.fixture
def executor() -> Iterator[mpsteal.Executor]:
    with mpsteal.Executor(2, mp_context="fork") as made:
        made.submit(int).result()
        yield made


@pytest.fixture(params=["scheduler=executor", "pool=executor"])
def how(request: pytest.FixtureRequest, executor: mpsteal.Executor) -> dict[str, Any]:
    """Both ways that Dask takes an executor; by the second it pickles everything by itself, with cloudpickle."""
    if request.param == "scheduler=executor":
        return {"scheduler": executor}
    return {"scheduler": "processes", "pool": executor}


def is_odd(value: int) -> int:
    return value % 2


def test_delayed(how: dict[str, Any]) -> None:
    inc = dask.delayed(tasks.double)
    total = dask.delayed(sum)([inc(i) for i in range(20)])
    tree = inc(total)
    while_shared = dask.delayed(operator.add)(tree, total)
    assert dask.compute(total, while_shared, **how) == (380, 760 + 380)
    assert dask.delayed(tasks.my_pid)().compute(**how) != tasks.my_pid()


def test_bag(how: dict[str, Any]) -> None:
    bag = pytest.importorskip("dask.bag")
    numbers = bag.from_sequence(range(1000), npartitions=13)
    assert numbers.map(tasks.double).filter(operator.not_).compute(**how) == [0]
    assert numbers.filter(is_odd).sum().compute(**how) == 250_000
    assert dict(numbers.map(is_odd).frequencies().compute(**how)) == {0: 500, 1: 500}


def test_array(how: dict[str, Any]) -> None:
    array = pytest.importorskip("dask.array")
    made = array.arange(90_000, chunks=7_000).reshape(300, 300).rechunk((100, 75))
    graph = (made @ made.T).mean(axis=0).std()
    assert graph.compute(**how) == graph.compute(scheduler="sync")
    whole = (made + 1).compute(**how)
    assert whole.shape == (300, 300) and whole[299, 299] == 90_000


def test_lambdas(how: dict[str, Any]) -> None:
    pytest.importorskip("cloudpickle")
    bag = pytest.importorskip("dask.bag")
    offset = 3
    assert bag.from_sequence(range(10)).map(lambda x: x + offset).sum().compute(**how) == 75
    assert dask.delayed(lambda x: 2 * x)(4).compute(**how) == 8


def test_error_of_a_task_is_raised(how: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.delayed(operator.truediv)(1, 0).compute(**how)


def test_agent_that_dies_costs_the_graph_and_not_the_executor(how: dict[str, Any], executor: mpsteal.Executor) -> None:
    with pytest.raises(mpsteal.AgentDiedError):
        dask.delayed(tasks.die_at_once)(3).compute(**how)
    wait_until(lambda: executor.submit(tasks.double, 2).result() == 4, "it goes on")
    assert dask.delayed(tasks.double)(2).compute(**how) == 4


def test_by_configuration(executor: mpsteal.Executor) -> None:
    with dask.config.set(scheduler="processes", pool=executor):
        assert dask.delayed(lambda x: x + 1)(1).compute() == 2
    with dask.config.set(scheduler=executor):
        assert dask.delayed(tasks.double)(1).compute() == 2
