"""Very many pools, very many tasks, very large results: the same in the end as in the beginning."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable

import fault_tasks as tasks
import psutil
from waiting import wait_idle

import mpsteal

Open = Callable[..., mpsteal.Pool]

MIB = 1 << 20


def test_two_hundred_pools(start_method: str) -> None:
    context = multiprocessing.get_context(start_method)
    me = psutil.Process()
    before = None
    for i in range(200):
        pool = mpsteal.Pool(2, context=context)
        assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
        if i % 2:
            pool.close()
        else:
            pool.terminate()
        pool.join()
        if i == 9:
            gc.collect()
            before = me.num_fds(), threading.active_count(), me.memory_info().rss
    gc.collect()
    assert before is not None
    assert (me.num_fds(), threading.active_count()) == before[:2]
    assert me.memory_info().rss - before[2] < 16 * MIB


def test_a_million_tasks_take_flat_memory(open_pool: Open) -> None:
    """After the first 100,000 neither the parent nor an agent grows."""
    pool = open_pool(2)
    agents = [psutil.Process(a.pid) for a in (wait_idle(pool), pool.stats())[1].agents]
    family = [psutil.Process(), *agents]
    before = None
    for i in range(20):
        results = [pool.apply_async(tasks.double, (j,)) for j in range(50_000)]
        assert [r.get() for r in results] == list(range(0, 100_000, 2))
        del results
        if i == 1:
            before = [p.memory_info().rss for p in family]
    assert before is not None
    growth = [p.memory_info().rss - b for p, b in zip(family, before, strict=True)]
    assert max(growth) < 16 * MIB, growth
    wait_idle(pool)
    pool._engine.validate()
    assert pool.stats().tasks_done == 1_000_000


def test_a_million_items_through_imap(open_pool: Open) -> None:
    pool = open_pool(2)
    total = 0
    for value in pool.imap(tasks.double, (i for i in range(1_000_000))):
        total += value
    assert total == 1_000_000 * 999_999


def test_a_result_of_one_gibibyte(open_pool: Open) -> None:
    pool = open_pool(1)
    size = 1 << 30
    assert tasks.size_and_ends(pool.apply(tasks.make_bytes, (size,))) == (size, 1, 2)
    assert pool.apply(tasks.double, (4,)) == 8
