"""Tasks that spoil their own process: nobody else is concerned."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
from waiting import agent_pids, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]


def test_task_that_closes_all_descriptors(open_pool: Open, start_method: str) -> None:
    """It has its result, its process is replaced, and the rest runs."""
    pool = open_pool(2, start_method)
    wait_idle(pool)
    before = set(agent_pids(pool))
    results = [pool.apply_async(tasks.double, (i,)) for i in range(50)]
    assert pool.apply(tasks.close_every_descriptor) == "closed"
    results += [pool.apply_async(tasks.double, (i,)) for i in range(50, 100)]
    assert [r.get() for r in results] == list(range(0, 200, 2))
    wait_until(lambda: len(set(agent_pids(pool)) - before) == 1, "one agent replaced")
    wait_idle(pool)
    pool._engine.validate()


def test_task_that_changes_the_directory(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    here = os.getcwd()
    pool = open_pool(1, start_method)
    wait_idle(pool)
    before = agent_pids(pool)
    assert pool.apply(tasks.change_directory, (str(tmp_path),)) == str(tmp_path)
    assert os.getcwd() == here
    # The process goes on where it is, as in the stock pool; a new one starts where we are.
    assert pool.apply(os.getcwd) == str(tmp_path)
    assert agent_pids(pool) == before
    os.kill(before[0], 9)
    wait_until(lambda: agent_pids(pool) not in ([], before), "a new agent")
    assert pool.apply(os.getcwd) == here


def test_late_alarm_ends_only_its_own_process(open_pool: Open) -> None:
    """The default action of SIGALRM ends the process after the task has returned."""
    pool = open_pool(2)
    wait_idle(pool)
    before = set(agent_pids(pool))
    pid = pool.apply(tasks.set_alarm, (0.02,))
    wait_until(lambda: pid not in agent_pids(pool), "the agent replaced")
    wait_idle(pool)
    assert set(agent_pids(pool)) - before
    assert before - {pid} <= set(agent_pids(pool))
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    pool._engine.validate()


def test_alarm_that_raises_between_tasks_spoils_no_lock(open_pool: Open) -> None:
    """Hundreds of alarms go off anywhere in the agent's loop, also inside critical sections.

    Whatever they hit ends or fails; nothing hangs, and the deques stay in order.
    """
    pool = open_pool(2)
    deadline = time.monotonic() + 1.5
    rounds = died = 0
    while time.monotonic() < deadline:
        pool.apply_async(tasks.set_raising_alarm, (0.0005 * (rounds % 7),))
        results = [pool.apply_async(tasks.double, (i,)) for i in range(60)]
        for i, result in enumerate(results):
            try:
                assert result.get(60) == 2 * i
            except RuntimeError as error:
                assert "a late alarm" in str(error)
                died += 1
            except mpsteal.AgentDiedError:
                died += 1
        rounds += 1
    assert rounds > 3
    wait_until(lambda: _alarms_cleared(pool), "alarms cleared")
    wait_idle(pool)
    pool._engine.validate()


def _alarms_cleared(pool: mpsteal.Pool) -> bool:
    try:
        return len(pool.map(tasks.clear_alarm, range(8), 1)) == 8
    except (RuntimeError, mpsteal.AgentDiedError):  # the last alarm went off in here
        return False
