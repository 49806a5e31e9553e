"""Storms: agents are killed at random while tasks flow, and every task is accounted for afterwards."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from typing import Any

import fault_tasks as tasks
from waiting import agent_pids, lines, wait_idle

import mpsteal


def value_or_death(result: Any) -> Any:
    try:
        return result.get(60)
    except mpsteal.AgentDiedError:
        return "died"


def storm(pool: mpsteal.Pool, noted: str, seconds: float, task_s: float, seed: int) -> tuple[int, int]:
    """Kill random agents while tasks flow; check that nothing ran twice and nothing was lost.

    Returns how many tasks there were and how many died with their agents.
    """
    chance = random.Random(seed)
    pending: list[tuple[int, Any]] = []
    killed = died = number = 0
    finished: set[int] = set()
    lost: set[int] = set()

    def settle(entries: list[tuple[int, Any]]) -> None:
        nonlocal died
        for i, result in entries:
            value = value_or_death(result)
            if value == "died":
                died += 1
                lost.add(i)
            else:
                assert value == i
                finished.add(i)

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(chance.randrange(1, 60)):
            args = (noted, number, task_s * chance.choice([0, 0, 1, 1, 4]))
            pending.append((number, pool.apply_async(tasks.note_and_spin, args)))
            number += 1
        if chance.random() < 0.5:
            pids = agent_pids(pool)
            for pid in chance.sample(pids, min(len(pids), chance.choice([1, 1, 1, 2, 4]))):
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
        if len(pending) > 400:
            settle(pending[:300])
            del pending[:300]
    settle(pending)
    ran = Counter(map(int, lines(noted)))
    assert [i for i, times in ran.items() if times > 1] == [], f"ran twice (seed {seed})"
    assert finished <= set(ran), f"delivered without having run (seed {seed})"
    assert finished | lost == set(range(number)), f"lost (seed {seed})"
    assert died <= killed, f"{died} tasks died with {killed} agents (seed {seed})"
    assert killed > 0
    wait_idle(pool)
    pool._engine.validate()
    return number, died
