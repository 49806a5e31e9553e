"""`cancel(end_running=True)`: what runs is ended with its agent, at the cost of nothing else."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, lines, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]


def test_running_call_is_ended_and_the_queue_is_kept(open_pool: Open, gates: Gates, start_method: str) -> None:
    pool = open_pool(2, start_method)
    wait_idle(pool)
    before = set(agent_pids(pool))
    gate, endless = gates("held"), gates("endless")
    held = pool.apply_async(pass_gate, (gate, "kept"))
    gate.wait_arrived()
    running = pool.apply_async(tasks.arrive_and_sleep, (endless,))
    endless.wait_arrived()
    behind = [pool.apply_async(tasks.double, (i,)) for i in range(20)]
    assert running.cancel() is False
    assert running.cancel(end_running=True) is True
    with pytest.raises(mpsteal.TaskCancelledError, match=r"arrive_and_sleep.*while it ran"):
        running.get()
    assert [result.get() for result in behind] == list(range(0, 40, 2))
    gate.open()
    assert held.get() == "kept"
    assert running.cancel(end_running=True) is False, "it is over"
    wait_idle(pool)
    assert len(before - set(agent_pids(pool))) == 1
    stats = pool.stats()
    assert (stats.agents_replaced, stats.agent_deaths, stats.timeouts) == (1, 0, 0)
    wait_until(lambda: not pool._engine.dispatcher.cancels.open, "forgotten")
    pool._engine.validate()


def test_queued_call_costs_no_agent(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    queued = pool.apply_async(tasks.double, (1,))
    assert queued.cancel(end_running=True) is True
    with pytest.raises(mpsteal.TaskCancelledError, match="before it started"):
        queued.get()
    gate.open()
    held.get()
    assert pool.stats().agents_replaced == 0


def test_call_that_ends_by_itself_first_keeps_its_result(open_pool: Open, gates: Gates) -> None:
    """Its callback still runs when it is asked to end: the engine finds it over, and kills nobody."""
    pool = open_pool(1)
    gate, begun = gates("callback"), gates("begun")
    result = pool.apply_async(tasks.double, (4,), callback=lambda _: (begun.arrive(), gate.wait()))
    begun.wait_arrived()
    result.cancel(end_running=True)
    assert pool.apply(tasks.double, (1,)) == 2
    gate.open()
    assert result.get() == 8
    wait_until(lambda: not pool._engine.dispatcher.cancels.open, "forgotten")
    assert pool.stats().agents_replaced == 0


def test_stopped_agent_is_ended(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    endless = gates("endless")
    result = pool.apply_async(tasks.arrive_and_sleep, (endless,))
    endless.wait_arrived()
    os.kill(agent_pids(pool)[0], signal.SIGSTOP)
    assert result.cancel(end_running=True)
    with pytest.raises(mpsteal.TaskCancelledError):
        result.get()
    assert pool.apply(tasks.double, (1,)) == 2


def test_call_that_waits_for_another_try_is_not_tried_for_long(open_pool: Open, gates: Gates) -> None:
    """It has cost an agent, and the other is held: it is ended as soon as it is seen to run, and tried no more."""
    pool = open_pool(1)
    begun, held = gates("begun"), gates("held")
    result = pool.apply_async(tasks.arrive_and_sleep, (begun,), retries=5)
    begun.wait_arrived()
    behind = pool.apply_async(pass_gate, (held,))
    os.kill(agent_pids(pool)[0], signal.SIGKILL)
    # Whichever of the two comes first now: it waits behind the other, or runs.
    assert result.cancel(end_running=True)
    held.open()
    with pytest.raises((mpsteal.TaskCancelledError, mpsteal.AgentDiedError)):
        result.get()
    behind.get()
    assert pool.stats().retried <= 1


@pytest.mark.parametrize("seed", range(3))
def test_storm_of_cancellations_loses_nothing_else(open_pool: Open, tmp_path: Path, seed: int) -> None:
    """Calls, short and endless, cancelled at random: every other one runs exactly once, no cancelled one gives a value
    and no withdrawn one runs."""
    chance = random.Random(seed)
    noted = str(tmp_path / "noted")
    pool = open_pool(2)
    made: list[tuple[int, bool, Any]] = []
    withdrawn: set[int] = set()
    for i in range(300):
        endless = chance.random() < 0.05
        call: Any = (tasks.note_and_sleep, (noted, i, 600.0)) if endless else (tasks.note_and_spin, (noted, i, 0.0005))
        made.append((i, endless, pool.apply_async(*call)))
        if chance.random() < 0.2:
            number, _, result = chance.choice(made[-10:])
            if chance.random() < 0.5:
                result.cancel(end_running=True)
            elif result.cancel():
                withdrawn.add(number)
    for _, endless, result in made:
        if endless:
            result.cancel(end_running=True)
    ended = set()
    for i, endless, result in made:
        try:
            assert result.get() == i and not endless
        except mpsteal.TaskCancelledError:
            ended.add(i)
    ran = Counter(map(int, lines(noted)))
    assert max(ran.values()) == 1
    assert not withdrawn & set(ran) and withdrawn <= ended
    assert {i for i, _, _ in made} - set(ran) <= ended
    wait_idle(pool)
    wait_until(lambda: not pool._engine.dispatcher.cancels.open, "nothing left to cancel")
    pool._engine.validate()
    assert pool.stats().agent_deaths == 0
