"""Tasks that submit tasks: what they get, in what order, and what else may run meanwhile."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nested_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import ALARM_S, lines, wait_idle, wait_until

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent import nested
from mpsteal._engine.validate import validate

Open = Callable[..., mpsteal.Pool]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOT = str(Path(mpsteal.__file__).resolve().parents[1])


@pytest.fixture(params=["kept", "sent"])
def short_calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whether calls stay with the task that submits them; forked agents inherit it."""
    monkeypatch.setattr(nested, "SHORT_NS", 1 << 60 if request.param == "kept" else -1)
    return request.param


def begin_with_child_elsewhere(pool: mpsteal.Pool, gates: Gates, task: Any, *more: Any) -> Any:
    """Start a task whose child has begun at the other agent when the task goes on, to wait for it."""
    wait_idle(pool)
    handle = pool.apply_async(task, (gates("child"), gates("go on"), *more))
    gates("child").wait_arrived()
    gates("go on").wait_arrived()
    gates("go on").open()
    return handle


# -- divide and conquer ---------------------------------------------------------------------------------------------


def test_one_agent_runs_a_tree_of_tasks_that_wait_for_each_other(open_pool: Open, start_method: str) -> None:
    pool = open_pool(1, start_method)
    assert pool.apply(tasks.count_leaves, (6,)) == 64


@pytest.mark.parametrize("agents", [1, 2, 3])
@pytest.mark.parametrize("tree", [tasks.count_leaves, tasks.count_leaves_by_map])
def test_trees_end_on_any_number_of_agents(open_pool: Open, short_calls: str, agents: int, tree: Any) -> None:
    pool = open_pool(agents, "fork")
    assert pool.map(tree, [5, 0, 3, 4, 5], 1) == [32, 1, 8, 16, 32]
    validate(pool._engine)


def test_a_tree_of_two_thousand_tasks_runs_on_one_agent(open_pool: Open) -> None:
    assert open_pool(1, "fork").apply(tasks.count_leaves, (10,)) == 1024


def test_more_tasks_that_wait_than_places_in_the_deques(open_pool: Open, short_calls: str) -> None:
    """Each has children; none of what is queued before them may be in their way."""
    pool = open_pool(2, "fork", geometry={"entries": 4, "page_chunks": 4, "pages": 4, "page_bytes": 4096})
    handles = [pool.apply_async(tasks.count_leaves, (2,)) for _ in range(100)]
    assert [handle.get(ALARM_S) for handle in handles] == [4] * 100


def test_a_child_has_a_chunk_of_its_own_class_of_numbers(open_pool: Open) -> None:
    """Small rings: replies and results wrap, and what is too large for them has a block."""
    pool = open_pool(2, "fork", geometry={"ring_bytes": 1024, "reply_bytes": 1024})
    values = random.Random(5).sample(range(2000), 300)
    assert pool.apply(tasks.quicksort, (values,)) == sorted(values)
    assert [pool.apply(tasks.large, (size,)) for size in (1, 200, 300, 5000)] == [2, 201, 301, 5001]
    validate(pool._engine)


# -- what a child gives ---------------------------------------------------------------------------------------------


def test_calls_and_maps_give_what_they_give_in_a_pool(open_pool: Open, short_calls: str) -> None:
    value = open_pool(2, "fork").apply(tasks.several)
    squares = [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert value == (3, squares, squares, [], [2**n for n in range(9)], [1], [9])


def test_what_a_child_raises_has_its_remote_traceback(open_pool: Open, short_calls: str) -> None:
    kind, text, cause = open_pool(2, "fork").apply(tasks.catch, (tasks.fail, 3))
    assert (kind, text) == ("ValueError", "3")
    assert "in fail" in cause


def test_a_map_raises_the_first_error_when_all_is_over(open_pool: Open, short_calls: str) -> None:
    assert open_pool(2, "fork").apply(tasks.map_with_a_failure) == "0 True False"


def test_what_cannot_be_pickled_fails_alone(open_pool: Open, short_calls: str) -> None:
    pool = open_pool(2, "fork")
    assert pool.apply(tasks.send_stubborn) == "I stay here"
    assert pool.apply(tasks.catch, (tasks.stubborn,))[0] == "MaybeEncodingError"


def test_large_arguments_and_results(open_pool: Open, short_calls: str) -> None:
    assert open_pool(2, "fork").apply(tasks.large, (3_000_000,)) == 3_000_001


def test_a_wait_ends_in_time_and_can_be_taken_up_again(open_pool: Open, gates: Gates) -> None:
    task = begin_with_child_elsewhere(open_pool(2, "fork"), gates, tasks.try_with_time_limit)
    gates("go on").wait_arrived()
    gates("child").open()
    assert task.get(ALARM_S) == "False late True"


def test_a_task_that_only_asks_comes_to_an_end(open_pool: Open, gates: Gates, short_calls: str) -> None:
    """Alone, and where the other agent is busy for as long as it takes."""
    assert open_pool(1, "fork").apply(tasks.ask_until_ready, (9,)) == list(range(9))
    pool = open_pool(2, "fork")
    other = pool.apply_async(pass_gate, (gates("busy"),))
    gates("busy").wait_arrived()
    assert pool.apply_async(tasks.ask_until_ready, (9,)).get(ALARM_S) == list(range(9))
    gates("busy").open()
    other.get(ALARM_S)


def test_a_child_that_has_not_begun_can_be_cancelled(open_pool: Open, tmp_path: Path, short_calls: str) -> None:
    pool, path = open_pool(1, "fork"), str(tmp_path / "ran")
    told = "the call was cancelled before it started"
    assert pool.apply(tasks.cancel_one, (path,)) == (True, told, False)
    pool.close()
    pool.join()
    assert lines(path) == []


def test_a_child_that_has_begun_cannot(open_pool: Open, gates: Gates) -> None:
    task = begin_with_child_elsewhere(open_pool(2, "fork"), gates, tasks.cancel_one_too_late)
    gates("go on").wait_arrived()
    gates("child").open()
    assert task.get(ALARM_S) == (False, "it ran")


def test_a_signal_handler_of_the_task_ends_its_wait(open_pool: Open, gates: Gates) -> None:
    task = begin_with_child_elsewhere(open_pool(2, "fork"), gates, tasks.alarmed)
    gates("go on").wait_arrived()
    gates("child").open()
    assert task.get(ALARM_S) == "enough, then 7"


# -- what runs when -------------------------------------------------------------------------------------------------


def test_a_signal_handler_of_the_task_is_heard_when_its_cancel_waits(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    assert pool.apply_async(tasks.interrupted_cancel).get(ALARM_S) == "raised, and is cancelled"
    assert pool.apply_async(tasks.chain, (2,)).get(ALARM_S) == 2  # and by no other task


def test_a_waiting_task_is_not_buried_under_what_is_not_deeper(
    open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent in "second", which waits for a child that the other one runs: "first" is as deep, and stays."""
    monkeypatch.setattr(nested, "SHORT_NS", -1)
    path, pool = str(tmp_path / "order"), open_pool(2, "fork")
    wait_idle(pool)
    blocker = pool.apply_async(tasks.pass_gate, (gates("blocker"), 0))
    gates("blocker").wait_arrived()
    tree = pool.apply_async(tasks.bury, (path, gates("child")))
    gates("child").wait_arrived()  # the one agent is in the child of one of them, on top of it
    gates("blocker").open()
    gates("child").wait_arrived()  # the other agent is in the other one's
    assert blocker.get(ALARM_S) == 0
    begun = [line for line in lines(path) if not line.startswith("child")]
    assert len(begun) == 2
    gates("child").open()
    assert tree.get(ALARM_S) == ["first", "second"]
    validate(pool._engine)


def test_tasks_that_wait_are_run_on_top_of_by_their_own_children_only(
    open_pool: Open, gates: Gates, tmp_path: Path
) -> None:
    """Of what is queued, nothing is started on an agent whose task waits."""
    path, pool = str(tmp_path / "order"), open_pool(1, "fork")
    first = pool.apply_async(tasks.wait_for_gate, (path, "first", gates("child")))
    gates("child").wait_arrived()
    second = pool.apply_async(tasks.note_and_pass, (path, "second"))
    gates("child").open()
    assert first.get(ALARM_S) == "first"
    second.get(ALARM_S)
    order = ["first begins", "child of first begins", "child of first ends", "first ends", "second begins"]
    assert lines(path)[:5] == order


def test_an_idle_agent_is_given_what_a_task_has_submitted_that_does_not_wait(open_pool: Open, gates: Gates) -> None:
    task = begin_with_child_elsewhere(open_pool(2, "fork"), gates, tasks.wait_for_one_elsewhere)
    gates("child").open()
    assert task.get(ALARM_S) == 1


def test_what_a_task_leaves_behind_runs_before_the_pool_ends(open_pool: Open, tmp_path: Path, short_calls: str) -> None:
    path, pool = str(tmp_path / "left"), open_pool(2, "fork")
    assert pool.apply(tasks.leave_behind, (path, 20)) == 20
    pool.apply(tasks.leave_behind_a_family, (path + "-family", 30))
    pool.close()
    pool.join()
    assert sorted(map(int, lines(path))) == list(range(20))
    assert list(map(int, lines(path + "-family"))) == list(range(30, -1, -1))


def test_everything_is_in_one_place_while_tasks_wait(
    open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task suspended below its child, another child at the other agent, and a task that is queued."""
    monkeypatch.setattr(nested, "SHORT_NS", -1)
    pool = open_pool(2, "fork")
    wait_idle(pool)
    here, there, go_on = gates("here"), gates("there"), gates("go on")
    task = pool.apply_async(tasks.hold_two, (str(tmp_path / "order"), here, there, go_on))
    there.wait_arrived()
    go_on.open()
    here.wait_arrived()
    other = pool.apply_async(abs, (-3,))
    validate(pool._engine)
    children = pool._engine.dispatcher.children
    wait_until(lambda: sum(len(children.suspended(slot)) for slot in (0, 1)) == 1, "the parent has looked")
    validate(pool._engine)
    here.open()
    there.open()
    assert (task.get(ALARM_S), other.get(ALARM_S)) == ([1, 2], 3)
    validate(pool._engine)


def test_a_task_that_waits_is_not_stuck(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2, "fork", stuck_after=0.2)
    task = begin_with_child_elsewhere(pool, gates, tasks.wait_for_one_elsewhere)

    def healths() -> list[str]:
        return sorted(agent.health for agent in pool.stats().agents)

    wait_until(lambda: "stuck" in healths(), "the child is stuck at its gate")
    for _ in range(2):  # the time of the next is set before a look
        seen = pool._engine.vitals._look_at
        wait_until(lambda seen=seen: pool._engine.vitals._look_at > seen, "another look")
    assert healths() == ["busy", "stuck"]
    gates("child").open()
    assert task.get(ALARM_S) == 1


# -- the agent's life -----------------------------------------------------------------------------------------------


def test_an_agent_leaves_between_two_tasks_and_not_within_one(open_pool: Open) -> None:
    pool = open_pool(1, "fork", maxtasksperchild=2)
    pids = [pool.apply(tasks.pids) for _ in range(3)]
    assert all(task == child for task, child in pids)
    assert pool.apply(tasks.count_leaves, (4,)) == 16


def test_children_are_counted_as_tasks_done(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "SHORT_NS", -1)
    pool = open_pool(2, "fork")
    pool.apply(tasks.count_leaves, (3,))
    wait_idle(pool)
    assert pool.stats().tasks_done == 15
    assert all(agent.busy_s >= 0 for agent in pool.stats().agents)


@pytest.mark.parametrize("agents", [1, 2])
def test_waits_too_deep_for_the_stack_raise_and_cost_no_agent(open_pool: Open, agents: int) -> None:
    pool = open_pool(agents, "fork")
    pids = sorted(pool.apply(tasks.pid_here) for _ in range(1))
    assert pool.apply(tasks.chain_to_the_end, (30,)) == "30"
    assert pool.apply(tasks.chain_to_the_end, (5000,)).startswith("tasks wait for tasks that wait for tasks")
    assert pool.stats().agents_replaced == 0
    assert pids


def test_a_fork_that_comes_back_from_a_child_is_ended(open_pool: Open, short_calls: str) -> None:
    assert open_pool(2, "fork").apply(tasks.fork_in_a_child) == 3


# -- where it may be used -------------------------------------------------------------------------------------------


def test_outside_of_a_task_there_is_no_current_pool() -> None:
    with pytest.raises(RuntimeError, match="is for tasks, and no agent runs this code"):
        mpsteal.current_pool()


def test_an_initializer_has_no_current_pool(open_pool: Open, tmp_path: Path) -> None:
    path = str(tmp_path / "told")
    open_pool(1, "fork", initializer=tasks.use_in_an_initializer, initargs=(path,)).apply(abs, (1,))
    assert "while an agent starts or ends" in lines(path)[0]


def test_a_thread_or_a_fork_of_a_task_has_no_current_pool(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    assert "this is another thread" in pool.apply(tasks.use_in_a_thread)
    first, second = pool.apply(tasks.use_in_a_fork).split("; ")
    assert "no agent runs this code" in first and "a fork that a task has made" in second


def test_a_result_is_for_the_task_that_has_submitted_the_call(open_pool: Open) -> None:
    """Else two might wait for each other."""
    told, value = open_pool(1, "fork").apply(tasks.use_another_tasks_result).rsplit("; ", 1)
    assert "a call's result is for the task" in told
    assert value == "1"


@pytest.mark.parametrize("what", ["pool", "result"])
def test_neither_pool_nor_result_can_be_passed_on(open_pool: Open, what: str) -> None:
    call = mpsteal.current_pool if what == "pool" else functools.partial(tasks.submit_and_return)
    with pytest.raises(Exception, match="cannot be passed on"):
        open_pool(1, "fork").apply(call)


def test_the_pool_itself_in_a_task_says_what_to_use(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = open_pool(1, "fork")
    monkeypatch.setattr(tasks, "the_pool", outer)
    assert "mpsteal.current_pool()" in open_pool(1, "fork").apply(tasks.use_the_pool_itself)


@pytest.mark.parametrize("terms", [{"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"timeout": True}])
def test_wrong_terms_are_refused_at_once(open_pool: Open, terms: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"timeout|retries"):
        open_pool(1, "fork").apply(tasks.child_tries_again_with, (terms,))


# -- schedulers -----------------------------------------------------------------------------------------------------


def test_children_of_a_schedulers_task_run_where_its_skills_are(open_scheduler: Any, short_calls: str) -> None:
    scheduler = open_scheduler(Agent("able", {"sums"}), Agent("other", {"words"}), method="fork")
    jobs = [Task("tree", {"sums"}, fn=tasks.count_leaves, args=(4,)) for _ in range(4)]
    pids = [Task("pids", {"sums"}, fn=tasks.pids) for _ in range(4)]
    for task in (*jobs, *pids):
        scheduler.submit_task(task)
    assert [job.result(ALARM_S) for job in jobs] == [16] * 4
    assert len({pid for task in pids for pid in task.result(ALARM_S)}) == 1
    validate(scheduler._engine)


def test_one_agent_of_a_scheduler_runs_a_tree(open_scheduler: Any, short_calls: str) -> None:
    scheduler = open_scheduler(Agent("only"), method="fork")
    task = scheduler.submit_task(Task("tree", priority=5, fn=tasks.count_leaves, args=(5,)))
    assert task.result(ALARM_S) == 32


# -- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("quicksort", "--count=50000"), ("tree_search", "--queens=8")])
def test_example_gives_what_its_sequential_twin_gives(name: str, size: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), size, "--processes=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH", "")]))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=ALARM_S, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^sequential .* times as fast\nchecked: [0-9]+ \w+, (sorted alike|as known)$", done.stdout, re.M)
    assert not done.stderr
