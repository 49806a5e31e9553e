"""Large, tiny, failing and dying tasks side by side, for a moment. Ten minutes: tests/stress/test_volume.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loads import SKILLS, load_seed, mixed_load, scheduled_load, take_count, wait_count

import mpsteal
from mpsteal import Agent, WorkStealingScheduler

Open = Callable[..., mpsteal.Pool]

SECONDS = 3.0
"""Too short to say anything about memory: the heap still grows."""


def test_pool_gives_back_what_a_mixed_load_took(open_pool: Open) -> None:
    before = take_count()
    pool = open_pool(2, "fork")
    mixed_load(pool, SECONDS, load_seed(), largest_mib=8, warm_s=None)
    pool.close()
    pool.join()
    wait_count(before)


def test_scheduler_gives_back_what_a_mixed_load_took(tmp_path: Path) -> None:
    before = take_count()
    with WorkStealingScheduler(context="fork", agents__max_agents=6) as scheduler:
        for i in range(2):
            scheduler.register_agent(Agent(f"stayer-{i}", SKILLS))
        scheduled_load(scheduler, tmp_path, SECONDS, load_seed(), largest_mib=8, warm_s=None)
    wait_count(before)
