"""Tasks that spoil their own process: nobody else is concerned."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from waiting import agent_pids, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]

TERMINATED_S = 2.0
"""As in test_ending.py."""


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
    pid = pool.apply(tasks.set_alarm, (0.5,))
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
            except mpsteal.AgentDiedError:  # a RuntimeError, too
                died += 1
            except RuntimeError as error:
                assert "a late alarm" in str(error)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_handler_that_outlives_its_task_ends_at_most_its_own_process(open_pool: Open, number: signal.Signals) -> None:
    """The signal comes between tasks, or inside another one: that one fails with what the handler raises."""
    pool = open_pool(2)
    wait_idle(pool)
    pid = pool.apply(tasks.set_raising_handlers)
    results = [pool.apply_async(tasks.double, (i,)) for i in range(500)]
    os.kill(pid, number)
    failed = 0
    for i, result in enumerate(results):
        try:
            assert result.get() == 2 * i
        except (RuntimeError, mpsteal.AgentDiedError):
            failed += 1
    assert failed <= 1
    wait_idle(pool)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    wait_idle(pool)
    pool._engine.validate()


def test_handler_that_outlives_its_task_while_its_agent_sleeps(open_pool: Open) -> None:
    """Nothing of the user's may raise in the agent's own code: the process is damaged, noticed and replaced."""
    pool = open_pool(1)
    pid = pool.apply(tasks.set_raising_handlers)
    wait_idle(pool)
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: pid not in agent_pids(pool), "the agent replaced")
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))


@pytest.mark.parametrize("end", ["terminate", "killed"])
def test_threads_that_outlive_their_task(open_pool: Open, start_method: str, end: str) -> None:
    """The agent goes on beside them, and neither they nor one that is no daemon keep it when it is ended."""
    pool = open_pool(1, start_method)
    pid = pool.apply(tasks.start_threads, (4,))
    results = [pool.apply_async(tasks.double, (i,)) for i in range(500)]
    assert [r.get() for r in results] == list(range(0, 1000, 2))
    assert agent_pids(pool) == [pid]
    if end == "killed":
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: agent_pids(pool) not in ([], [pid]), "the agent replaced")
        assert pool.apply(tasks.double, (2,)) == 4
    else:
        began = time.monotonic()
        pool.terminate()
        assert time.monotonic() - began < TERMINATED_S


def test_large_argument_that_a_task_keeps_is_its_own_copy(open_pool: Open) -> None:
    """The shared memory is given back and used again, and what was kept stays as it was."""
    pool = open_pool(1)
    size = 20 << 20
    data = b"\x03" + bytes(size - 2) + b"\x04"
    small = b"\x05" + bytes(500) + b"\x06"
    pid = pool.apply(tasks.keep, (data,))
    assert pool.apply(tasks.keep, (small,)) == pid
    wait_until(lambda: os.fstat(pool._engine.segment.fd).st_blocks * 512 < 16 << 20, "the block given back")
    for filler in (b"\xff" * size, *[b"\xff" * 502] * 5000):
        pool.apply_async(len, (filler,))
    assert pool.apply(tasks.kept_ends) == [(size, 3, 4), (502, 5, 6)]
    wait_idle(pool)
    assert agent_pids(pool) == [pid]
    pool._engine.validate()
