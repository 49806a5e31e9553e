"""Deaths and time limits where tasks wait for tasks: a death costs what was begun in that process, nothing else (D6).

What was begun there is the call that ran and every task suspended below it. Children of a dead task are withdrawn if
nobody had begun them, since nobody waits for them any more.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nested_tasks as tasks
import pytest
from gates import Gates
from steps import Moment, Step, hold_at
from waiting import ALARM_S, lines, wait_idle

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent import nested
from mpsteal._engine.validate import validate

Open = Callable[..., mpsteal.Pool]


@pytest.fixture(autouse=True)
def all_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept with its task is a part of it, and needs no test of its own."""
    monkeypatch.setattr(nested, "SHORT_NS", -1)


def check_recovered(pool: mpsteal.Pool) -> None:
    assert pool.map(tasks.count_leaves, [2, 3], 1) == [4, 8]
    wait_idle(pool)
    validate(pool._engine)


# -- at the steps of the protocol -----------------------------------------------------------------------------------


def _steps(within: str, *rows: tuple[str, str, int, str]) -> Iterator[Step]:
    for name, what, costs, told in rows:
        yield Step(name, told, Moment(within, "", what), costs)


OF_A_TASK = [
    *_steps(
        "serve",
        ("child: not sent", "before RESULT_TAIL of CHILD", 1, "The record of a call is there, the tail is not."),
        ("child: sent", "after RESULT_TAIL of CHILD", 1, "The call is committed, and the parent not rung."),
        ("wait: said", "after WAITS", 1, "It may be handed a child, and has not looked once more."),
        ("wait: woken", "after WAITS none", 1, "It was rung, and has not read why."),
        ("suspended: not said", "before RESULT_TAIL of SUSPENDED", 1, "It has read what it was handed."),
        ("suspended: said", "after RESULT_TAIL of SUSPENDED", 1, "The task below is known, and nothing claimed."),
        ("child: claimed", "after CLAIM", 1, "The child is claimed, or the task again, when the child is over."),
        ("kept: not said", "before RESULT_TAIL of KEPT", 1, "The child is over, and nobody knows."),
        ("kept: said", "after RESULT_TAIL of KEPT", 1, "The child is over, and its task about to go on."),
    ),
]
"""What the agent of a task that waits comes by; its death costs that task."""

OF_AN_IDLE_AGENT = [
    *_steps(
        "park",
        ("handed: read", "after REPLY_HEAD", 0, "It has read what it was handed, and not begun it."),
        ("handed: place named", "after CLAIM_AT", 0, "The claim will be of no range, and is not written."),
        ("handed: claimed", "after CLAIM", 1, "What it was handed is begun."),
        ("handed: loaded", "after LOADED", 1, "The call is unpickled."),
        ("answer: not committed", "before RESULT_TAIL of ANSWER", 1, "The outcome is there, the tail is not."),
        ("answer: committed", "after RESULT_TAIL of ANSWER", 0, "The outcome is committed, and nobody knows."),
    ),
]
"""What an agent comes by that was idle; its death costs what it had begun, which another agent's task waits for."""


def _named(steps: list[Step]) -> list[Any]:
    return [pytest.param(step, id=step.name.replace(" ", "-")) for step in steps]


@pytest.mark.parametrize("step", _named(OF_A_TASK))
def test_death_of_the_task_that_waits(
    step: Step, open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, path = hold_at([step], gates, tmp_path, monkeypatch), str(tmp_path / "noted")
    pool = open_pool(2, "fork")
    wait_idle(pool)
    blocker = pool.apply_async(tasks.pass_gate, (gates("blocker"), 7))
    gates("blocker").wait_arrived()
    steps.arm()
    task = pool.apply_async(tasks.family, (path, 4))
    queued = [pool.apply_async(abs, (-number,)) for number in range(5)]
    os.kill(steps.wait_held(), signal.SIGKILL)
    with pytest.raises(mpsteal.AgentDiedError, match="family"):
        task.get(ALARM_S)
    gates("blocker").open()
    assert [blocker.get(ALARM_S), *(handle.get(ALARM_S) for handle in queued)] == [7, 0, 1, 2, 3, 4]
    check_recovered(pool)
    ran = Counter(lines(path)[1:])
    assert set(ran.values()) <= {1}
    assert len(ran) <= 1, "those that were not begun are withdrawn"
    steps.close()


@pytest.mark.parametrize("step", _named(OF_AN_IDLE_AGENT))
def test_death_of_an_agent_that_was_handed_a_child(
    step: Step, open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, path = hold_at([step], gates, tmp_path, monkeypatch), str(tmp_path / "noted")
    pool = open_pool(2, "fork")
    wait_idle(pool)
    steps.arm()
    task = pool.apply_async(tasks.family, (path, 4))
    victim = steps.wait_held()
    os.kill(victim, signal.SIGKILL)
    became = task.get(ALARM_S)
    assert f"task {victim}" not in lines(path)
    assert became.count("died") == step.costs
    assert [value for value in became if value != "died"] == [n for n in range(4) if became[n] != "died"]
    check_recovered(pool)
    ran = Counter(lines(path)[1:])
    assert set(ran.values()) == {1}
    assert len(ran) >= 4 - step.costs
    steps.close()


# -- what it costs --------------------------------------------------------------------------------------------------


def test_death_of_a_childs_agent_is_an_error_to_the_task(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2, "fork")
    wait_idle(pool)
    task = pool.apply_async(tasks.child_dies, (gates("child"), gates("go on")))
    gates("child").wait_arrived()
    gates("go on").wait_arrived()
    gates("go on").open()
    gates("child").open()
    told = task.get(ALARM_S)
    assert told.startswith("AgentDiedError: agent") and "SIGKILL while it ran child 0 (gate_and_die)" in told
    check_recovered(pool)


def test_death_below_a_child_costs_both_and_withdraws_the_rest(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    pool, path = open_pool(2, "fork"), str(tmp_path / "ran")
    wait_idle(pool)
    blocker = pool.apply_async(tasks.pass_gate, (gates("blocker"), 1))
    gates("blocker").wait_arrived()
    task = pool.apply_async(tasks.die_with_children, (path, 5, gates("task")))
    gates("task").wait_arrived()
    gates("task").open()
    with pytest.raises(mpsteal.AgentDiedError, match="die_with_children"):
        task.get(ALARM_S)
    gates("blocker").open()
    assert blocker.get(ALARM_S) == 1
    check_recovered(pool)
    assert len(lines(path)) <= 1, "what the parent knew before it knew of the newest"


def test_a_task_with_retries_runs_again_with_its_children(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(1, "fork")
    task = pool.apply_async(tasks.die_once_with_child, (str(tmp_path / "once"), [-1, -2]), retries=1)
    assert task.get(ALARM_S) == [1, 2]
    assert pool.stats().retried == 1
    check_recovered(pool)


def test_a_child_with_retries_runs_again_and_its_task_knows_nothing(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(2, "fork")
    wait_idle(pool)
    assert pool.apply(tasks.child_tries_again, (str(tmp_path / "once"),)) == 5
    assert (pool.stats().retried, pool.stats().agents_replaced) == (1, 1)
    check_recovered(pool)


def test_a_child_over_its_time_is_ended_and_its_task_goes_on(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    wait_idle(pool)
    assert pool.apply(tasks.child_over_its_time, (0.05,)).startswith("TaskTimeoutError in ")
    assert pool.stats().timeouts == 1
    check_recovered(pool)


def test_the_limit_of_a_task_counts_while_a_child_runs_on_top_of_it(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2, "fork")
    wait_idle(pool)
    blocker = pool.apply_async(tasks.pass_gate, (gates("blocker"), 1))
    gates("blocker").wait_arrived()
    with pytest.raises(mpsteal.TaskTimeoutError, match="sleep_in_a_child"):
        pool.apply_async(tasks.sleep_in_a_child, timeout=0.1).get(ALARM_S)
    gates("blocker").open()
    assert blocker.get(ALARM_S) == 1
    check_recovered(pool)


def test_terminate_ends_tasks_that_wait(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1, "fork")
    handles = [pool.apply_async(tasks.wait_for_gate, ("/dev/null", "task", gates("child"))) for _ in range(3)]
    gates("child").wait_arrived()
    pool.terminate()
    pool.join()
    for handle in handles:
        with pytest.raises(mpsteal.PoolTerminatedError):
            handle.get(ALARM_S)


def test_a_schedulers_task_below_a_child_dies_with_it(open_scheduler: Any, tmp_path: Path) -> None:
    scheduler = open_scheduler(Agent("only"), method="fork")
    path = str(tmp_path / "once")
    lost = scheduler.submit_task(Task("lost", fn=tasks.die_once_with_child, args=(path + "-1", [1])))
    again = scheduler.submit_task(Task("again", fn=tasks.die_once_with_child, args=(path + "-2", [-1]), retries=1))
    with pytest.raises(mpsteal.AgentDiedError, match="lost"):
        lost.result(ALARM_S)
    assert again.result(ALARM_S) == [1]
    validate(scheduler._engine)


@pytest.mark.stress
@pytest.mark.parametrize("agents", [2, 3])
def test_trees_survive_a_storm_of_deaths(open_pool: Open, tmp_path: Path, agents: int) -> None:
    """Each process dies once at most, in a node that has tries left."""
    pool = open_pool(agents, "fork")
    handles = [pool.apply_async(tasks.stormy, (str(tmp_path / "storm"), 5), retries=9) for _ in range(20)]
    for handle in handles:
        try:
            assert handle.get(ALARM_S) == 32
        except mpsteal.AgentDiedError as error:
            assert error.agents_lost > 3
    check_recovered(pool)
