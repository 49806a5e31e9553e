"""Pools beside each other: two at once, one per thread, one inside a task."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, wait_idle

import mpsteal

Open = Callable[..., mpsteal.Pool]


def test_two_pools_do_not_touch_each_other(open_pool: Open, start_method: str, gates: Gates) -> None:
    one, two = open_pool(2, start_method), open_pool(2, start_method)
    gate = gates("held")
    held = one.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    results = [two.apply_async(tasks.double, (i,)) for i in range(100)]
    assert [r.get() for r in results] == list(range(0, 200, 2))
    wait_idle(two)
    os.kill(agent_pids(two)[0], 9)
    assert two.map(tasks.double, range(10)) == list(range(0, 20, 2))
    two.terminate()
    assert not held.ready()
    gate.open()
    assert held.get() == 1
    wait_idle(one)
    one._engine.validate()


def test_result_of_one_pool_feeds_another(open_pool: Open) -> None:
    one, two = open_pool(2), open_pool(2)
    stream = two.imap(tasks.double, one.imap(tasks.double, range(500)))
    assert list(stream) == list(range(0, 2000, 4))


@pytest.mark.parametrize("outer", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("inner", ["fork", "spawn"])
def test_pool_inside_a_task(open_pool: Open, outer: str, inner: str) -> None:
    """Agents are no daemons, so tasks may have pools of their own."""
    pool = open_pool(2, outer)
    results = [pool.apply_async(tasks.nested_sum, (inner, count)) for count in (10, 20, 30)]
    assert [r.get() for r in results] == [90, 380, 870]


def test_pools_in_tasks_of_pools_in_tasks(open_pool: Open) -> None:
    """Three deep: 2 + 4 + 8 agents."""
    pool = open_pool(2)
    assert pool.map(tasks.nested_at_depth, [2, 2], 1) == [7, 7]
    wait_idle(pool)
    pool._engine.validate()


def test_task_that_starts_processes(open_pool: Open, start_method: str) -> None:
    """A Process, a stock Pool, a subprocess: agents are no daemons."""
    pool = open_pool(2, start_method)
    results = [pool.apply_async(tasks.run_processes, (2,)) for _ in range(2)]
    assert [r.get() for r in results] == [[0] * 4] * 2
    wait_idle(pool)
    pool._engine.validate()


def test_agent_killed_with_a_pool_inside(open_pool: Open, gates: Gates) -> None:
    """The inner pool goes with the task that made it; the leak check sees every process."""
    pool = open_pool(1, "fork")
    gate = gates("inside")
    result = pool.apply_async(tasks.nested_and_wait, (gate,))
    gate.wait_arrived()
    os.kill(agent_pids(pool)[0], 9)
    with pytest.raises(mpsteal.AgentDiedError):
        result.get()
    assert pool.apply(tasks.double, (4,)) == 8


def test_pool_per_thread() -> None:
    outcome: list[Any] = []

    def work(number: int) -> None:
        with mpsteal.Pool(2) as pool:
            values = pool.map(tasks.double, range(number, number + 50))
            outcome.append(values == [2 * i for i in range(number, number + 50)])

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome == [True] * 6


def test_one_pool_many_threads(open_pool: Open) -> None:
    pool = open_pool(2)
    outcome: list[Any] = []

    def work(number: int) -> None:
        for i in range(50):
            assert pool.apply(tasks.add, (number, i)) == number + i
        assert pool.map(tasks.double, range(200)) == list(range(0, 400, 2))
        assert sorted(pool.imap_unordered(tasks.double, range(50))) == list(range(0, 100, 2))
        outcome.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == list(range(8))
    wait_idle(pool)
    pool._engine.validate()
