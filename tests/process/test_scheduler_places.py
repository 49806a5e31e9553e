"""Where tasks wait: no place loses one, pins what others need, or keeps anybody waiting for ever."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from gates import Gates
from scheduler_tasks import (
    agents,
    check_at_rest,
    hold,
    note_and_pid,
    wait_gone_for_good,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, lines, wait_until

from mpsteal import Agent, AgentDiedError, Task, UnmatchedTaskError, WorkStealingScheduler

Open = Callable[..., WorkStealingScheduler]

SMALL = {"page_chunks": 8, "page_bytes": 4096}


@pytest.mark.parametrize("priority", [3, 5])
def test_what_is_taken_back_across_pages_is_not_lost(open_scheduler: Open, gates: Gates, priority: int) -> None:
    """Consecutive pages have consecutive numbers, and a range lies in one of them (S3)."""
    scheduler = open_scheduler(Agent("a"), geometry=SMALL, order__short_s=1000.0, order__ahead_s=1000.0)
    [task.result(ALARM_S) for task in scheduler.submit_tasks([Task("warm") for _ in range(3)])]
    gate = gates("held")
    (held,) = hold(scheduler, gate)
    waiting = scheduler.submit_tasks([Task("t", priority=priority, fn=tasks.identity, args=(i,)) for i in range(50)])
    wait_taken_in(scheduler)
    os.kill(scheduler.agents["a"].pid or 0, signal.SIGKILL)
    assert [task.result(ALARM_S) for task in waiting] == list(range(50))
    assert held.exception() is not None
    check_at_rest(scheduler)


def test_a_skill_without_room_does_not_hold_up_another(open_scheduler: Open, gates: Gates) -> None:
    """64 ranges fill the deque of the one agent with the skill; what is behind them waits for that agent alone."""
    scheduler = open_scheduler(Agent("rare", ["gpu"]), Agent("common", ["cpu"]))
    gate = gates("held")
    hold(scheduler, gate, ("gpu",))
    full = []
    for _ in range(100):  # one by one, so that each is a range of its own
        full.append(scheduler.submit_task(Task("t", ["gpu"])))
        wait_taken_in(scheduler)
    assert scheduler._dispatcher.overflow
    assert scheduler.submit_task(Task("t", ["cpu"], fn=tasks.identity, args=(1,))).result(ALARM_S) == 1
    assert not any(task.done() for task in full)
    gate.open()
    check_at_rest(scheduler)


def test_tasks_that_nobody_can_run_take_no_page(open_scheduler: Open) -> None:
    scheduler = open_scheduler(Agent("a", ["python"]), geometry={**SMALL, "pages": 4})
    strange = []
    for i in range(20):
        strange.append(scheduler.submit_task(Task("strange", ["cobol"], priority=1 + i % 5)))
        assert [t.result(ALARM_S) for t in scheduler.submit_tasks([Task("t", ["python"]) for _ in range(10)])]
    assert {task.state for task in strange} == {"waiting"}
    wait_taken_in(scheduler)
    assert scheduler._dispatcher.inflight == 0, "else the engine looks at the rings for ever"
    assert strange[0].cancel() and strange[0].state == "cancelled"
    scheduler.register_agent(Agent("b", ["cobol"]))
    for task in strange[1:]:
        task.result(ALARM_S)
    check_at_rest(scheduler)


def test_stop_answers_those_that_fill_all_pages_and_nobody_can_run_any_more(open_scheduler: Open) -> None:
    """Those that have no page yet, too; and it is not taken for a lack of memory."""
    scheduler = open_scheduler(Agent("a", ["x"]), Agent("b"), geometry={"page_chunks": 4, "pages": 2})
    wait_ready(scheduler)
    pid = scheduler.agents["a"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    made = scheduler.submit_tasks([Task("t", ["x"], 5) for _ in range(30)])
    wait_until(lambda: scheduler.get_metrics()["tasks"]["held"] > 0, "the pages full")
    scheduler.remove_agent("a", drain=False)
    scheduler.stop()
    died = sum(isinstance(task.exception(0), AgentDiedError) for task in made)
    assert died <= 1
    assert Counter(type(task.exception(0)).__name__ for task in made)["UnmatchedTaskError"] == 30 - died


def test_stop_answers_those_that_nobody_can_run(open_scheduler: Open) -> None:
    scheduler = open_scheduler(Agent("a", ["python"]))
    strange = [scheduler.submit_task(Task("strange", ["cobol"], priority=p)) for p in (3, 5)]
    follows = scheduler.submit_task(Task("follows", dependencies=strange))
    scheduler.stop()
    for task in strange:
        assert isinstance(task.exception(), UnmatchedTaskError)
    assert follows.exception() is not None


def test_held_task_with_a_late_deadline_does_not_starve(open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
    """Held for its deadline, it ages against plain work that its agent always has at hand."""
    scheduler = open_scheduler(Agent("a"), order__short_s=0.0)
    path = str(tmp_path / "ran")
    gate = gates("held")
    hold(scheduler, gate)
    low = scheduler.submit_task(Task("low", priority=1, deadline=3600, fn=note_and_pid, args=(path, "low")))
    scheduler.submit_tasks([Task("t", fn=note_and_pid, args=(path, i)) for i in range(150)])
    wait_taken_in(scheduler)
    gate.open()
    low.result(ALARM_S)
    check_at_rest(scheduler)
    # From priority 1 to 3, aging_tasks for each.
    assert lines(path).index("low") == 2 * 8


def test_agent_that_leaves_finishes_all_that_only_it_can_run(open_scheduler: Open, gates: Gates) -> None:
    """Also when its deque is full of ranges: what stays is not taken away first."""
    scheduler = open_scheduler(Agent("rare", ["gpu"]), Agent("common", ["cpu"]))
    pid = scheduler.agents["rare"].pid
    gate = gates("held")
    hold(scheduler, gate, ("gpu",))
    alone = []
    for _ in range(60):
        alone.append(scheduler.submit_task(Task("t", ["gpu"], fn=tasks.my_pid)))
        wait_taken_in(scheduler)
    wait_until(lambda: scheduler.agents["rare"].pid, "it has said hello")
    pid = scheduler.agents["rare"].pid
    scheduler.remove_agent("rare")
    assert {task.state for task in alone} == {"queued"}
    gate.open()
    assert {task.result(ALARM_S) for task in alone} == {pid}
    wait_gone_for_good(scheduler, 1)
    check_at_rest(scheduler)


def test_one_task_wakes_the_agent_that_was_chosen_alone(open_scheduler: Open) -> None:
    """Others could only take it from there, and would undo what was chosen by skills and score."""
    scheduler = open_scheduler(*agents(3, "*"), Agent("exact", ["gpu"]))
    wait_ready(scheduler)
    exact = scheduler.agents["exact"].pid
    for _ in range(20):
        wait_ready(scheduler)
        assert scheduler.submit_task(Task("t", ["gpu"], fn=tasks.my_pid)).result(ALARM_S) == exact
    check_at_rest(scheduler)


def test_views_of_tasks_and_agents_stand_still(open_scheduler: Open) -> None:
    scheduler = open_scheduler(*agents(2))
    seen_tasks, seen_agents = scheduler.tasks, scheduler.agents
    scheduler.submit_task(Task("t")).result(ALARM_S)
    scheduler.register_agent(Agent("c"))
    assert (len(seen_tasks), len(seen_agents)) == (0, 2)


def test_deadlines_of_what_is_over_are_forgotten(open_scheduler: Open, gates: Gates) -> None:
    scheduler = open_scheduler(Agent("a"))
    gate = gates("held")
    hold(scheduler, gate)
    first = scheduler.submit_task(Task("first", deadline=3600))
    later = scheduler.submit_tasks([Task("t", deadline=7200) for _ in range(1000)])
    wait_taken_in(scheduler)
    for task in later:
        assert task.cancel()
    assert len(scheduler._dispatcher.deadlines._heap) < 100
    gate.open()
    first.result(ALARM_S)
    check_at_rest(scheduler)
