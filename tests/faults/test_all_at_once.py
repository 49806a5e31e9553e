"""Kills, stops, time limits, tries, recycling and cancels, all at once: every call has one outcome, the right one."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from storms import seed_of_run
from waiting import lines, signal_own, wait_idle

import mpsteal

Open = Callable[..., mpsteal.Pool]

SECONDS = float(os.environ.get("MPSTEAL_STRESS_S", "60"))
"""Of the long version."""


def throw_everything(pool: mpsteal.Pool, noted: str, seconds: float, seed: int) -> dict[str, int]:
    """Submit while agents, and spares, are killed and stopped; check what became of each call.

    Returns how often each outcome came.
    """
    chance = random.Random(seed)
    calls: list[tuple[int, Any, bool, int]] = []
    outcomes: Counter[str] = Counter()
    number = 0

    def settle(some: list[tuple[int, Any, bool, int]]) -> None:
        for i, result, endless, retries in some:
            try:
                value = result.get(60)
            except mpsteal.TaskTimeoutError:
                assert endless, f"call {i} was ended, and takes no time (seed {seed})"
                outcomes["timed out"] += 1
            except mpsteal.AgentDiedError as error:
                assert error.agents_lost == retries + 1, f"call {i} (seed {seed}): {error}"
                outcomes["died"] += 1
            except mpsteal.TaskCancelledError:
                outcomes["cancelled"] += 1
            else:
                assert value == i and not endless, f"call {i} gave {value} (seed {seed})"
                outcomes["done"] += 1

    until = time.monotonic() + seconds
    killer = Killer(pool, seed)
    while time.monotonic() < until:
        for _ in range(chance.randrange(1, 40)):
            endless, retries = chance.random() < 0.01, chance.choice([0, 0, 1, 3])
            takes = 600.0 if endless else 0.001 * chance.choice([0, 0, 1, 2])
            timeout = 0.05 if endless else chance.choice([None, 30.0])
            args = (noted, number, takes)
            task = tasks.note_and_sleep if endless else tasks.note_and_spin
            calls.append((number, pool.apply_async(task, args, timeout=timeout, retries=retries), endless, retries))
            number += 1
        if chance.random() < 0.2 and calls[-1][1].cancel():
            outcomes["withdrawn"] += 1
        if len(calls) > 300:
            settle(calls[:200])
            del calls[:200]
    killer.end()
    settle(calls)
    ran = Counter(map(int, lines(noted)))
    retried = sum(times - 1 for times in ran.values())
    assert retried <= pool.stats().retried, f"ran more often than allowed (seed {seed})"
    assert outcomes["cancelled"] == outcomes["withdrawn"]
    wait_idle(pool)
    pool._engine.validate()
    assert not pool._engine.dispatcher.limits.watched
    outcomes["kills"] = killer.kills
    return dict(outcomes)


class Killer:
    """Kills or stops an agent or a spare every 20 to 50 ms, in a thread of its own."""

    def __init__(self, pool: mpsteal.Pool, seed: int) -> None:
        self.kills = 0
        self._pool, self._is_fast = pool, pool._ctx.get_start_method() == "fork"
        self._crew, self._chance, self._over = pool._engine.crew, random.Random(seed), threading.Event()
        self._stopped: list[int] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chance = self._chance
        while not self._over.wait(chance.uniform(0.02, 0.05)):
            self._release(chance.choice([signal.SIGCONT, signal.SIGKILL]))
            ready = [agent for agent in self._pool.stats().agents if agent.state == "ready"]
            if self._is_fast:
                lingering = [agent.process for agent in list(self._crew._lingering.values())]
                victims = [p.pid for p in self._crew.processes + self._crew.spares.processes + lingering]
            else:  # they take longer to start than this goes on: one that works is left
                victims = [agent.pid for agent in ready[1:]] + [p.pid for p in self._crew.spares.processes]
            if not victims:
                continue
            victim = chance.choice(victims)
            if chance.random() < 0.2:
                self._signal(victim, signal.SIGSTOP)
                self._stopped.append(victim)
            else:
                self._signal(victim, signal.SIGKILL)
        self._release(signal.SIGCONT)

    def _release(self, number: int) -> None:
        while self._stopped:
            self._signal(self._stopped.pop(), number)

    def _signal(self, pid: int, number: int) -> None:
        self.kills += signal_own(pid, number) and number == signal.SIGKILL

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("seed", [11, 12])
def test_every_call_has_its_outcome(open_pool: Open, tmp_path: Path, seed: int) -> None:
    pool = open_pool(3, "fork", maxtasksperchild=200, max_age=0.5, stuck_after=2.0)
    outcomes = throw_everything(pool, str(tmp_path / "noted"), 2.0, seed)
    assert outcomes["done"] > 100 and outcomes["kills"] > 5, outcomes


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tiny", [False, True], ids=["", "tiny"])
def test_every_call_has_its_outcome_at_length(open_pool: Open, start_method: str, tmp_path: Path, tiny: bool) -> None:
    seed = seed_of_run()
    geometry = {"page_chunks": 4, "page_bytes": 4096, "pages": 8, "entries": 4, "ring_bytes": 4096} if tiny else None
    pool = open_pool(4, start_method, maxtasksperchild=100, max_age=0.5, stuck_after=2.0, geometry=geometry)
    sys.stderr.write(f"seed {seed}: {throw_everything(pool, str(tmp_path / 'noted'), SECONDS, seed)}\n")
