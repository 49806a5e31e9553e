"""What a task may ask about where it runs: `agent_state`, `current_agent`; and finalizers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import agent_tasks
import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate, pass_gate_and_pid
from waiting import agent_pids, is_gone, lines, wait_gone, wait_until

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent import here
from mpsteal._engine import crew

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]


@pytest.fixture
def parents_state() -> Iterator[Any]:
    """This process's own namespace, empty before and after."""
    here.state = SimpleNamespace()
    yield here.state
    here.state = SimpleNamespace()


# -- state --------------------------------------------------------------------------------------


def test_state_is_filled_by_the_initializer_and_lasts(open_pool: Open, start_method: str, parents_state: Any) -> None:
    parents_state.of_the_parent = True
    pool = open_pool(2, start_method, initializer=agent_tasks.fill_state, initargs=("model",))
    assert {value for _, value in pool.map(agent_tasks.read_state, range(20), 1)} == {"model"}
    pids = [pid for pid, _ in pool.map(agent_tasks.count_calls, range(40), 1)]
    for pid, calls in pool.map(agent_tasks.count_calls, range(40), 1):
        assert calls > pids.count(pid)
    assert pool.apply(agent_tasks.state_names) in (
        ["initialized_as", "value"],
        ["calls", "initialized_as", "value"],
    ), "a fork begins without what its parent keeps"
    assert vars(parents_state) == {"of_the_parent": True}


@pytest.mark.parametrize("limit", [1, 2], ids=["fresh", "spare"])
def test_successor_has_a_state_of_its_own(open_pool: Open, limit: int) -> None:
    """One that got ready as a spare has run its initializer in the same process."""
    pool = open_pool(1, maxtasksperchild=limit, initializer=agent_tasks.fill_state, initargs=(7,))
    seen = [pool.apply(agent_tasks.count_calls) for _ in range(6)]
    assert [calls for _, calls in seen] == [1, 1, 1, 1, 1, 1] if limit == 1 else [1, 2, 1, 2, 1, 2]
    assert len({pid for pid, _ in seen}) == 6 // limit
    assert pool.apply(agent_tasks.read_state)[1] == 7


def test_code_for_agents_runs_without_any(parents_state: Any) -> None:
    agent_tasks.fill_state("model")
    assert agent_tasks.read_state() == (os.getpid(), "model")
    assert agent_tasks.who() is None
    assert parents_state.value == "model"


# -- who ----------------------------------------------------------------------------------------


def test_agent_of_a_pool_knows_its_name_and_task(open_pool: Open, start_method: str) -> None:
    pool = open_pool(1, start_method)
    first, second = pool.apply(agent_tasks.who), pool.apply(agent_tasks.who)
    assert first == mpsteal.CurrentAgent(0, "mpsteal-0", frozenset(), agent_pids(pool)[0], 0)
    assert second.task == 1
    died = pool.apply_async(tasks.die_at_once, (1,))
    with pytest.raises(mpsteal.AgentDiedError, match="task 2 "):
        died.get()


@pytest.mark.parametrize("limit", [None, 2], ids=["fresh", "spare"])
def test_initializer_knows_whose_it_is(open_pool: Open, limit: int | None) -> None:
    pool = open_pool(1, maxtasksperchild=limit, initializer=agent_tasks.fill_state, initargs=(0,))
    for _ in range(4):
        then, now = pool.apply(agent_tasks.who_was_initialized)
        assert then.task is None
        assert now.task is not None
        assert (then.slot, then.name, then.pid) == (now.slot, now.name, now.pid)


def test_agent_of_a_scheduler_knows_its_skills(open_scheduler: OpenScheduler) -> None:
    scheduler = open_scheduler(Agent("painter", ["paint"]), Agent("other"))
    agent = scheduler.submit_task(Task("who", ["paint"], fn=agent_tasks.who)).result()
    assert (agent.name, agent.capabilities, agent.task) == ("painter", frozenset({"paint"}), None)
    assert agent.pid == scheduler.agents["painter"].pid


def test_process_that_a_task_starts_is_no_agent(open_pool: Open) -> None:
    child, task = open_pool(1).apply(agent_tasks.who_in_a_child)
    assert child is None
    assert task.slot == 0


def test_facts_cannot_be_changed(open_pool: Open) -> None:
    agent = open_pool(1).apply(agent_tasks.who)
    with pytest.raises(AttributeError):
        agent.slot = 3


# -- finalizers ---------------------------------------------------------------------------------


def ended(path: str) -> list[int]:
    """Processes that have noted their end, in order."""
    return [int(line.split()[0]) for line in lines(path)]


def test_finalizer_runs_once_in_each_agent_at_close(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(
        2,
        start_method,
        initializer=agent_tasks.fill_state,
        initargs=("state",),
        finalizer=agent_tasks.note_end,
        finalargs=(noted,),
    )
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_until(lambda: len(agent_pids(pool)) == 2 and {a.state for a in pool.stats().agents} == {"ready"}, "ready")
    pids = agent_pids(pool)
    pool.close()
    pool.join()
    assert sorted(lines(noted)) == sorted(f"{pid} mpsteal-{i} None state" for i, pid in enumerate(pids))


def test_finalizer_runs_at_the_end_of_with_where_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the agents have come to rest or not."""
    monkeypatch.setattr(crew, "TERM_GRACE_S", 60.0)
    for i in range(10):
        noted = str(tmp_path / f"noted {i}")
        with mpsteal.Pool(2, finalizer=agent_tasks.note_end, finalargs=(noted,)) as pool:
            wait_until(lambda p=pool: [a.state for a in p.stats().agents] == ["ready"] * 2, "both are there")
            pids = agent_pids(pool)
            pool.map(tasks.double, range(30), 1)
        assert sorted(ended(noted)) == sorted(pids)


def test_agent_that_is_ended_runs_no_finalizer(
    open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "TERM_GRACE_S", 60.0)
    noted, gate = str(tmp_path / "noted"), gates("held")
    pool = open_pool(2, finalizer=agent_tasks.note_end, finalargs=(noted,))
    wait_until(lambda: all(a.parked for a in pool.stats().agents), "both are idle")
    held = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    (idle,) = [agent.pid for agent in pool.stats().agents if agent.parked]
    pool.terminate()
    assert ended(noted) == [idle]
    with pytest.raises(mpsteal.PoolTerminatedError):
        held.get()


def test_agent_that_dies_runs_no_finalizer(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(1, finalizer=agent_tasks.note_end, finalargs=(noted,))
    (dead,) = [pool.apply(tasks.my_pid)]
    os.kill(dead, signal.SIGKILL)
    after = pool.apply(tasks.my_pid)
    pool.close()
    pool.join()
    assert ended(noted) == [after]


@pytest.mark.parametrize("limit", [1, 3], ids=["fresh", "spare"])
def test_recycled_agent_runs_its_finalizer(open_pool: Open, tmp_path: Path, limit: int) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(1, maxtasksperchild=limit, finalizer=agent_tasks.note_end, finalargs=(noted,))
    pids = list(dict.fromkeys(pool.map(tasks.my_pid, range(3 * limit), 1)))
    pool.close()
    pool.join()
    assert set(pids) <= set(ended(noted))
    assert len(ended(noted)) == len(set(ended(noted)))


def test_agent_that_a_smaller_size_sends_away_runs_its_finalizer(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(3, finalizer=agent_tasks.note_end, finalargs=(noted,))
    wait_until(lambda: all(a.parked for a in pool.stats().agents), "all are idle")
    pids = agent_pids(pool)
    pool.resize(1)
    wait_until(lambda: len(ended(noted)) == 2, "two have ended")
    assert set(ended(noted)) < set(pids)
    wait_gone(ended(noted))


def test_removed_agent_of_a_scheduler_runs_its_finalizer(open_scheduler: OpenScheduler, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    scheduler = open_scheduler(Agent("a"), Agent("b"), finalizer=agent_tasks.note_end, finalargs=(noted,))
    wait_until(lambda: all(agent.state == "idle" for agent in scheduler.agents.values()), "both are idle")
    scheduler.remove_agent("a")
    wait_until(lambda: lines(noted), "a has ended")
    scheduler.stop()
    assert [line.split()[1] for line in lines(noted)] == ["a", "b"]


def test_nobody_waits_for_a_finalizer_but_the_end(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    """A successor has the slot meanwhile."""
    noted, gate = str(tmp_path / "noted"), gates("end")
    finalargs = (gate, noted)
    pool = open_pool(1, maxtasksperchild=1, finalizer=agent_tasks.wait_and_note_end, finalargs=finalargs)
    pids = [pool.apply(tasks.my_pid) for _ in range(3)]
    gate.wait_arrived(3)
    assert len(set(pids)) == 3
    assert not lines(noted)
    gate.open()
    wait_until(lambda: set(pids) <= set(ended(noted)), "all three have ended")


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_finalizer_that_hangs_is_ended(
    open_pool: Open,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: str,
) -> None:
    for limit in ("LEAVE_GRACE_S", "TERM_GRACE_S", "FINALIZE_GRACE_S"):
        monkeypatch.setattr(crew, limit, 1000.0)
    gate = gates("hangs")
    pool = open_pool(1, finalizer=agent_tasks.sleep_for_ever, finalargs=(gate,))
    (pid,) = [pool.apply(tasks.my_pid)]
    with caplog.at_level(logging.WARNING, "mpsteal"):
        ending = threading.Thread(target=getattr(pool, end))
        ending.start()
        gate.wait_arrived()
        at_work = pool._engine.crew
        if end == "close":
            at_work._leave_by = 0.0
        else:
            at_work._finalize_by = at_work._kill_at = 0.0
        pool._engine.wake()
        ending.join()
        pool.join()
    assert is_gone(pid)
    if end == "close":
        (told,) = [record.message for record in caplog.records]
        assert "waits for its finalizer, or threads or processes that tasks left behind; ended" in told


@pytest.mark.parametrize("finalizer", [agent_tasks.raise_at_the_end, agent_tasks.exit_at_the_end])
def test_finalizer_that_raises_is_logged_and_nothing_else(finalizer: Any, tmp_path: Path) -> None:
    """In a program of its own: the agent writes to its standard error."""
    source = f"""
import sys
import agent_tasks, mpsteal

if __name__ == "__main__":
    pool = mpsteal.Pool(1, finalizer=agent_tasks.{finalizer.__name__})
    assert pool.apply(abs, (-3,)) == 3
    process = pool._pool[0]
    pool.close()
    pool.join()
    assert process.exitcode == 0, process.exitcode
"""
    script = tmp_path / "program.py"
    script.write_text(source)
    paths = [str(Path(mpsteal.__file__).parents[1]), str(Path(agent_tasks.__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mpsteal: the finalizer of mpsteal-0 raised" in done.stderr
    assert finalizer.__name__ in done.stderr, "its traceback"


def test_finalizer_comes_before_what_runs_at_exit(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(
        1,
        initializer=agent_tasks.register_at_exit,
        initargs=(noted,),
        finalizer=agent_tasks.note_pid,
        finalargs=(noted,),
    )
    pid = pool.apply(tasks.my_pid)
    pool.close()
    pool.join()
    assert lines(noted) == [str(pid), f"exit {pid}"]


def test_finalizer_of_an_agent_whose_initializer_failed_does_not_run(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(
        1,
        initializer=tasks.raise_this,
        initargs=(ValueError, "broken"),
        finalizer=agent_tasks.note_pid,
        finalargs=(noted,),
    )
    with pytest.raises(ValueError, match="broken"):
        pool.apply(tasks.double, (1,))
    pool.terminate()
    assert not lines(noted)


def test_result_comes_before_the_finalizer(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    noted, held, end = str(tmp_path / "noted"), gates("held"), gates("end")
    pool = open_pool(1, finalizer=agent_tasks.wait_and_note_end, finalargs=(end, noted))
    result = pool.apply_async(pass_gate_and_pid, (held,))
    pool.close()
    held.open()
    pid = result.get()
    end.wait_arrived()
    end.open()
    pool.join()
    assert ended(noted) == [pid]


@pytest.mark.parametrize("make", [mpsteal.Pool, mpsteal.WorkStealingScheduler])
def test_finalizer_has_to_be_callable(make: Any) -> None:
    with pytest.raises(TypeError, match="finalizer must be a callable"):
        make(finalizer=3)
