"""Agents killed at random for minutes: nothing runs twice, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from storms import storm, value_or_death
from waiting import agent_pids, lines, wait_idle

import mpsteal

Open = Callable[..., mpsteal.Pool]

TINY = {"page_chunks": 4, "page_bytes": 4096, "pages": 8, "entries": 4, "ring_bytes": 4096}


def test_a_minute_of_kills(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    storm(open_pool(4, start_method), str(tmp_path / "noted"), 60, 0.002, seed)


def test_a_minute_of_kills_with_tiny_pages(open_pool: Open, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    pool = open_pool(4, "fork", geometry=TINY)
    storm(pool, str(tmp_path / "noted"), 60, 0.001, seed)


@pytest.mark.parametrize("round_", range(10))
def test_twenty_kills_in_five_thousand_tasks(open_pool: Open, tmp_path: Path, round_: int) -> None:
    noted = str(tmp_path / "noted")
    count, kills = 5000, 20
    chance = random.Random(round_)
    pool = open_pool(4, "fork")
    wait_idle(pool)
    results = [pool.apply_async(tasks.note_and_spin, (noted, i, 0.001)) for i in range(count)]
    killed = died = 0
    for i, result in enumerate(results):
        value = value_or_death(result)
        assert value in (i, "died")
        died += value == "died"
        if i % (count // kills) == 0 and killed < kills:
            try:
                os.kill(chance.choice(agent_pids(pool)), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    ran = Counter(map(int, lines(noted)))
    assert max(ran.values()) == 1
    assert count - len(ran) <= died <= killed <= kills
    wait_idle(pool)
    pool._engine.validate()
