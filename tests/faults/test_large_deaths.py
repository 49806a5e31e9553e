"""D6, D8: an agent that dies in the middle of something large costs one task, and its memory comes back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from steps import STEPS, hold_at
from waiting import ALARM_S, agent_pids, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]

MIB = 1 << 20

SLACK_BYTES = 8 * MIB
"""What small tasks, their results and the new agent may take meanwhile: less than half of the smallest block here."""


def sizes(small: int, large: int) -> list[Any]:
    return [
        pytest.param(small * MIB, id=f"{small}-MiB"),
        pytest.param(large * MIB, id=f"{large}-MiB", marks=pytest.mark.stress),
    ]


def taken_bytes(pool: mpsteal.Pool) -> int:
    """Memory that the segment takes at the moment, from the system's books."""
    return os.fstat(pool._engine.segment.fd).st_blocks * 512


def check_goes_on(pool: mpsteal.Pool, victim: int, before: set[int], taken_before: int) -> None:
    """One agent is new, results are right, and nothing keeps the memory."""
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_until(lambda: len(agent_pids(pool)) == len(before), "a new agent in place")
    wait_idle(pool)
    after = set(agent_pids(pool))
    assert victim not in after and len(after - before) == 1
    pool._engine.validate()
    wait_given_back(pool, taken_before)


def wait_given_back(pool: mpsteal.Pool, taken_before: int) -> None:
    if sys.platform == "linux":  # MADV_REMOVE is Linux's
        wait_until(lambda: taken_bytes(pool) < taken_before + SLACK_BYTES, "the memory given back", 10)


@pytest.mark.parametrize("size", sizes(32, 512))
def test_agent_killed_in_the_middle_of_a_large_result(
    open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    steps = hold_at([STEPS["block: half written"]], gates, tmp_path, monkeypatch)
    pool = open_pool(2, "fork")
    wait_idle(pool)
    before, taken_before = set(agent_pids(pool)), taken_bytes(pool)
    steps.arm()
    large = pool.apply_async(tasks.make_bytes, (size,))
    victim = steps.wait_held()
    others = [pool.apply_async(tasks.double, (i,)) for i in range(20)]
    assert taken_bytes(pool) > taken_before + size // 2 - MIB, "half of it is there"
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        large.get(ALARM_S)
    assert caught.value.pid == victim
    assert [other.get(ALARM_S) for other in others] == list(range(0, 40, 2))
    check_goes_on(pool, victim, before, taken_before)
    assert pool.apply(tasks.make_bytes, (size,)) == tasks.make_bytes(size)
    wait_given_back(pool, taken_before)
    steps.close()


@pytest.mark.parametrize("size", sizes(32, 200))
def test_agent_killed_while_the_parent_writes_a_large_argument(
    open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What the agent ran fails, what was being written does not: nobody had started it."""
    pool = open_pool(2, "fork")
    wait_idle(pool)
    before, taken_before = set(agent_pids(pool)), taken_bytes(pool)
    gate = gates("held")
    held = [pool.apply_async(pass_gate, (gate, 0))]
    gate.wait_arrived()
    (victim,) = [agent.pid for agent in pool.stats().agents if not agent.running_s]
    held.append(pool.apply_async(pass_gate, (gate, 1)))
    gate.wait_arrived()
    half_written, go_on = threading.Event(), threading.Event()
    segment = pool._engine.segment
    write_block = segment.write_block

    def write_in_halves(offset: int, data: Any) -> None:
        view = memoryview(data).cast("B")
        write_block(offset, view[: len(view) // 2])
        half_written.set()
        go_on.wait(ALARM_S)
        write_block(offset + len(view) // 2, view[len(view) // 2 :])

    with monkeypatch.context() as patch:
        patch.setattr(segment, "write_block", write_in_halves)
        large = pool.apply_async(tasks.size_and_ends, (tasks.make_bytes(size),))
        half_written.wait(ALARM_S)
        os.kill(victim, signal.SIGKILL)
        go_on.set()
        assert large.get(ALARM_S) == (size, 1, 2), "by the new agent: the other one is held"
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        held[1].get(ALARM_S)
    assert caught.value.pid == victim
    gate.open()
    assert held[0].get(ALARM_S) == 0
    check_goes_on(pool, victim, before, taken_before)


@pytest.mark.parametrize("size", sizes(32, 200))
def test_agent_killed_while_it_runs_with_a_large_argument(open_pool: Open, size: int) -> None:
    pool = open_pool(2, "fork")
    wait_idle(pool)
    before, taken_before = set(agent_pids(pool)), taken_bytes(pool)
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        pool.apply(tasks.die_with, (tasks.make_bytes(size),))
    check_goes_on(pool, caught.value.pid, before, taken_before)
