"""Very many pools, very many tasks, very large results: the same in the end as in the beginning."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import psutil
from loads import (
    LARGEST_MIB,
    MIB,
    SKILLS,
    load_seconds,
    load_seed,
    mixed_load,
    scheduled_load,
    take_count,
    wait_count,
)
from waiting import wait_idle

import mpsteal
from mpsteal import Agent, WorkStealingScheduler

Open = Callable[..., mpsteal.Pool]

WARM_S = 60.0
"""How long the parent's heap may grow before it has to stay flat."""


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
            before = take_count(), me.memory_info().rss
    assert before is not None
    wait_count(before[0])
    assert me.memory_info().rss - before[1] < 16 * MIB


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
            before = take_count(), [p.memory_info().rss for p in family]
    assert before is not None
    wait_count(before[0])
    growth = [p.memory_info().rss - b for p, b in zip(family, before[1], strict=True)]
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


def test_ten_minutes_of_mixed_load(open_pool: Open) -> None:
    """MPSTEAL_STRESS_S for another length; a failure prints its seed."""
    before = take_count()
    pool = open_pool(4)
    done = mixed_load(pool, load_seconds(), load_seed(), largest_mib=LARGEST_MIB, warm_s=WARM_S)
    print(done)  # noqa: T201  for whoever runs it by hand
    assert min(done.values()) > 0
    pool.close()
    pool.join()
    wait_count(before)


def test_ten_minutes_of_mixed_load_on_a_scheduler(tmp_path: Path) -> None:
    """The same; agents come and go meanwhile."""
    before = take_count()
    with WorkStealingScheduler(agents__max_agents=8) as scheduler:
        for i in range(3):
            scheduler.register_agent(Agent(f"stayer-{i}", SKILLS))
        done = scheduled_load(scheduler, tmp_path, load_seconds(), load_seed(), largest_mib=LARGEST_MIB, warm_s=WARM_S)
        print(done)  # noqa: T201  for whoever runs it by hand
        assert min(done.values()) > 0
    wait_count(before)
