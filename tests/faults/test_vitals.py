"""Heartbeats: an agent that does not get on is seen, and nobody waits for what is queued at it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, manager_pid, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal import Agent, Task
from mpsteal._engine.vitals import health_of

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]


def health(pool: mpsteal.Pool) -> list[str]:
    return [agent.health for agent in pool.stats().agents]


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "event", None) == event]


def test_busy_and_idle_are_told_apart(open_pool: Open, gates: Gates) -> None:
    pool, gate = open_pool(2), gates("held")
    wait_idle(pool)
    assert health(pool) == ["idle", "idle"]
    result = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    assert sorted(health(pool)) == ["busy", "idle"]
    assert [a.running_s > 0 for a in pool.stats().agents].count(True) == 1
    gate.release()
    result.get()
    wait_idle(pool)
    assert health(pool) == ["idle", "idle"]
    assert [a.running_s for a in pool.stats().agents] == [0.0, 0.0]


def test_task_that_waits_for_ever_is_seen_as_stuck_and_one_that_computes_is_not(
    open_pool: Open, gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpsteal")
    pool, gate = open_pool(2, stuck_after=0.4), gates("held")
    wait_idle(pool)
    stuck = pool.apply_async(pass_gate, (gate, 7))
    gate.wait_arrived()
    (slot,) = [a.slot for a in pool.stats().agents if a.running_s]
    busy = pool.apply_async(tasks.spin_for, (2.0,))
    wait_until(lambda: health(pool)[slot] == "stuck", "seen as stuck")
    busy.get()
    # The other one computes; on a crowded machine it may have got no CPU for as long.
    (told,) = [record for record in events(caplog, "agent_stuck") if record.agent == slot]
    assert pool.stats().agents_stuck == len(events(caplog, "agent_stuck"))
    assert told.agent_pid == pool.stats().agents[slot].pid
    assert told.task is not None
    assert "pass_gate" in told.getMessage()
    gate.release()
    assert stuck.get() == 7
    wait_until(lambda: health(pool)[slot] == "idle", "no longer seen as stuck")


def test_work_of_a_tasks_children_counts(open_pool: Open) -> None:
    """A task that waits for a process which computes is not stuck."""
    pool = open_pool(1, stuck_after=1.0)
    assert pool.apply(tasks.spin_in_a_child, (2.5,)) == 0
    assert pool.stats().agents_stuck == 0


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
def test_queue_of_a_stopped_agent_is_taken_by_others(
    open_pool: Open, gates: Gates, caplog: pytest.LogCaptureFixture, idle: bool
) -> None:
    """Also where it was stopped while it slept: whoever places work sees a parked agent, and rings in vain."""
    pool, gate = open_pool(2, stuck_after=0.4), gates("held")
    wait_idle(pool)
    held = None if idle else pool.apply_async(pass_gate, (gate, 1))
    if held is not None:
        gate.wait_arrived()
    (victim,) = [a for a in pool.stats().agents if a.running_s] or pool.stats().agents[:1]
    os.kill(victim.pid, signal.SIGSTOP)
    for i in range(6):  # one by one: each finds the other agent parked
        assert pool.apply(tasks.double, (i,)) == 2 * i
    results = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    assert [result.get() for result in results] == list(range(0, 200, 2))
    if held is not None:
        wait_until(lambda: health(pool)[victim.slot] == "stopped", "seen as stopped")
        wait_until(lambda: events(caplog, "agent_stopped") or events(caplog, "agent_stuck"), "told, right after")
        assert len(events(caplog, "agent_stopped") + events(caplog, "agent_stuck")) == 1, "told once"
    os.kill(victim.pid, signal.SIGCONT)
    if held is not None:
        gate.release()
        assert held.get() == 1
    wait_idle(pool)
    assert victim.pid in agent_pids(pool)
    pool._engine.validate()


def test_agent_stopped_with_a_lock_is_ended(open_pool: Open, gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could take what is queued at its victim, who waits for that lock itself."""
    pool, gate = open_pool(3), gates("held")
    wait_idle(pool)
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    (victim,) = [a.slot for a in pool.stats().agents if a.running_s]
    thief = pool.apply_async(tasks.lock_and_stop, (victim,))
    with pytest.raises(mpsteal.AgentDiedError):
        thief.get()
    gate.release()
    assert held.get() == 1
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    wait_idle(pool)
    assert any("with a lock that others wait for" in record.getMessage() for record in caplog.records)
    pool._engine.validate()


def test_stopped_agent_keeps_nothing_from_others_in_a_scheduler(open_scheduler: OpenScheduler, gates: Gates) -> None:
    """Neither plain nor protected tasks, and it gets nothing new while another can run it."""
    scheduler = open_scheduler(agents__stuck_after_s=0.4)
    first, second = (scheduler.register_agent(Agent(name, ["python"])) for name in ("first", "second"))
    only = scheduler.register_agent(Agent("only", ["special"]))
    gate = gates("held")
    held = scheduler.submit_task(Task("held", ["python"], fn=pass_gate, args=(gate, 1)))
    gate.wait_arrived()
    frozen, other = (first, second) if first.current_task is held else (second, first)
    os.kill(frozen.pid, signal.SIGSTOP)
    batch = [
        scheduler.submit_task(Task(str(i), ["python"], priority=1 + i % 5, fn=tasks.double, args=(i,)))
        for i in range(60)
    ]
    assert [task.result(60) for task in batch] == list(range(0, 120, 2))
    wait_until(lambda: scheduler.get_metrics()["per_agent"][frozen.agent_id]["health"] == "stopped", "seen as stopped")
    later = [scheduler.submit_task(Task(str(i), ["python"], fn=tasks.my_pid)) for i in range(20)]
    assert {task.result(60) for task in later} == {other.pid}
    assert scheduler.get_metrics()["agents_stuck"] == 1
    os.kill(frozen.pid, signal.SIGCONT)
    gate.release()
    assert held.result(60) == 1
    assert only.state == "idle"


def test_what_only_a_stuck_agent_can_run_waits_for_it(open_scheduler: OpenScheduler, gates: Gates) -> None:
    scheduler = open_scheduler(agents__stuck_after_s=0.2)
    scheduler.register_agent(Agent("other", ["python"]))
    agent, gate = scheduler.register_agent(Agent("only", ["special"])), gates("held")
    held = scheduler.submit_task(Task("held", ["special"], fn=pass_gate, args=(gate, 1)))
    gate.wait_arrived()
    behind = [
        scheduler.submit_task(Task(str(i), ["special"], priority=p, fn=tasks.double, args=(i,)))
        for i, p in enumerate([1, 3, 5])
    ]
    wait_until(lambda: scheduler.get_metrics()["per_agent"]["only"]["health"] == "stuck", "seen as stuck")
    gate.release()
    assert [task.result(60) for task in behind] == [0, 2, 4]
    assert held.result(60) == 1
    assert agent.state in ("idle", "running")


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1"])
def test_wrong_time_is_refused(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="stuck_after"):
        mpsteal.Pool(1, stuck_after=wrong)


def test_idle_pool_sets_no_timer(open_pool: Open) -> None:
    pool = open_pool(2, stuck_after=0.1)
    pool.map(tasks.double, range(10))
    wait_idle(pool)
    manager_pid(pool)
    engine = pool._engine
    wait_until(lambda: engine.asleep, "the engine sleeps")
    assert engine.vitals.due() == []
    assert engine._timeout() is None


def test_stopped_agent_does_not_hold_up_the_end(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """All work is done, and it would never leave by itself."""
    monkeypatch.setattr("mpsteal._engine.crew.LEAVE_GRACE_S", 0.1)
    pool = open_pool(2)
    wait_idle(pool)
    stopped = agent_pids(pool)[0]
    os.kill(stopped, signal.SIGSTOP)
    pool.close()
    pool.join()
    wait_gone([stopped])


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_agent_that_is_stopped_while_it_starts_is_seen(
    open_pool: Open, start_method: str, gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    pool, gate = open_pool(1, start_method, initializer=pass_gate, initargs=(gates("starts"),)), gates("starts")
    gate.wait_arrived()
    assert health(pool) == ["starting"]
    os.kill(pool._pool[0].pid, signal.SIGSTOP)
    result = pool.apply_async(tasks.double, (1,))
    wait_until(lambda: health(pool) == ["stopped"], "seen as stopped")
    wait_until(lambda: events(caplog, "agent_stopped"), "told, right after")
    assert len(events(caplog, "agent_stopped")) == 1
    gate.release()
    os.kill(pool._pool[0].pid, signal.SIGCONT)
    assert result.get() == 2
    assert pool.stats().agents_stuck == 1


def test_agent_is_starting_and_not_dead_before_it_says_hello() -> None:
    row = {"pid": 0, "state": "starting", "parked": False}
    agent: Any = object()
    assert health_of(row, None, agent) == "starting"
    assert health_of(row, None, None) == "dead"
