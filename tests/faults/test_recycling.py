"""Agents are replaced by number of tasks, by age and by memory, and their successors are there before they leave."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import wait_ready
from waiting import agent_pids, lines, program, signal_own, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal import Agent, Task
from mpsteal._engine import crew as crew_module
from mpsteal._engine import recycle
from mpsteal._engine.crew import Crew
from mpsteal._engine.health import HELLO_TIMEOUT_S
from mpsteal._engine.recycle import Recycler
from mpsteal._engine.spares import Spares
from mpsteal._queue import layout

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]

MIB = 1 << 20


def spare_pids(pool: Any) -> list[int]:
    return [process.pid for process in pool._engine.crew.spares.processes]


def wait_for_spare(pool: Any) -> int:
    spares = pool._engine.crew.spares
    wait_until(lambda: any(slot in spares and spares.is_up(slot) for slot in pool._engine.slots), "a spare is up")
    (pid,) = spare_pids(pool)
    return int(pid)


def test_successor_is_there_before_the_agent_leaves(open_pool: Open, start_method: str, gates: Gates) -> None:
    """Of ten tasks nine are done and the last is held: its successor is up by then, initializer and all."""
    ready, gate = gates("ready"), gates("held")
    pool = open_pool(1, start_method, maxtasksperchild=10, initializer=ready.arrive)
    ready.wait_arrived()
    before = pool.apply(os.getpid)
    assert pool.map(tasks.double, range(8), 1) == list(range(0, 16, 2))
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    ready.wait_arrived()
    successor = wait_for_spare(pool)
    assert agent_pids(pool) == [before], "it has not left, and its successor is no agent yet"
    after = pool.apply_async(os.getpid)
    gate.release()
    assert held.get() == 1
    assert after.get() == successor
    wait_gone([before])
    assert ready.arrived_nowait() == 0, "the initializer ran once in each"
    assert pool.stats().agents_recycled == 1
    wait_idle(pool)
    pool._engine.validate()


def test_number_of_tasks_is_exact_with_successors(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(2, maxtasksperchild=5)
    pids = Counter(pool.map(tasks.my_pid, range(103), 1))
    assert max(pids.values()) == 5
    assert list(pids.values()).count(5) >= 103 // 5 - 2
    wait_idle(pool)
    assert pool.stats().agents_recycled >= 19
    pool._engine.validate()


def test_one_task_each_keeps_no_spare(open_pool: Open) -> None:
    pool = open_pool(2, maxtasksperchild=1)
    assert len(set(pool.map(tasks.my_pid, range(20), 1))) == 20
    assert spare_pids(pool) == []


def test_old_agents_are_replaced_while_there_is_work(open_pool: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mpsteal")
    pool = open_pool(2, max_age=0.2)
    wait_idle(pool)
    before = set(agent_pids(pool))
    noted: list[int] = []
    while len(before - set(agent_pids(pool))) < 2:
        noted += pool.map(tasks.double, range(100), 1)
    assert noted == list(range(0, 200, 2)) * (len(noted) // 100)
    wait_idle(pool)  # those that came after them are told of before they are started
    told = [record for record in caplog.records if getattr(record, "event", "") == "agent_recycled"]
    assert {record.agent_pid for record in told} >= before  # type: ignore[attr-defined]
    assert "old" in told[0].getMessage()
    pool._engine.validate()
    assert pool.stats().agents_replaced == 0


def test_agent_that_has_grown_is_replaced(open_pool: Open, start_method: str, gates: Gates) -> None:
    """After the task that made it grow, not within; and nothing is lost of what was queued behind."""
    fresh = open_pool(1, start_method)  # what an agent takes: a fork as much as this process, others less
    base = psutil.Process(fresh.apply(os.getpid)).memory_info().rss
    fresh.terminate()
    pool, gate = open_pool(1, start_method, max_rss=base + 128 * MIB), gates("held")
    before = pool.apply(os.getpid)
    held = pool.apply_async(tasks.grow_and_wait, (256 * MIB, gate))
    gate.wait_arrived()
    behind = [pool.apply_async(tasks.my_pid) for _ in range(20)]
    successor = wait_for_spare(pool)
    assert agent_pids(pool) == [before]
    engine = pool._engine
    wait_until(lambda: engine.words[engine.segment.layout.agent(0) + layout.LEAVE], "it is told to leave")
    gate.release()
    assert held.get() == 256 * MIB
    assert {result.get() for result in behind} == {successor}
    wait_gone([before])
    wait_idle(pool)
    pool._engine.validate()


def test_what_is_queued_runs_once_though_agents_come_and_go(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(3, max_age=0.1, maxtasksperchild=40)
    results = [pool.apply_async(tasks.note_and_spin, (noted, i, 0.0005)) for i in range(1500)]
    assert [result.get() for result in results] == list(range(1500))
    assert Counter(lines(noted)) == Counter(map(str, range(1500)))
    assert pool.stats().agents_recycled > 10
    wait_idle(pool)
    pool._engine.validate()


def test_agent_that_dies_before_it_could_leave_has_its_successor(open_pool: Open, gates: Gates) -> None:
    pool, gate = open_pool(1, maxtasksperchild=3), gates("held")
    before = pool.apply(os.getpid)
    pool.apply(tasks.double, (1,))
    held = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    successor = wait_for_spare(pool)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(mpsteal.AgentDiedError):
        held.get()
    assert pool.apply(os.getpid) == successor


def test_spare_that_dies_is_done_without(open_pool: Open, gates: Gates) -> None:
    pool, gate = open_pool(1, maxtasksperchild=3), gates("held")
    before = pool.apply(os.getpid)
    pool.apply(tasks.double, (1,))
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    spare = wait_for_spare(pool)
    os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not spare_pids(pool), "its death is known")
    gate.release()
    assert held.get() == 1
    assert pool.apply(os.getpid) not in (before, spare)


def test_initializer_that_raises_in_a_spare_is_told_when_its_turn_comes(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(1, maxtasksperchild=3, initializer=tasks.raise_the_second_time, initargs=(str(tmp_path / "n"),))
    results = [pool.apply_async(tasks.double, (i,)) for i in range(6)]
    assert [result.get() for result in results[:3]] == [0, 2, 4]
    for result in results[3:]:
        with pytest.raises(ValueError, match="the initializer is broken"):
            result.get()


def test_spare_may_take_its_time_to_initialize(open_pool: Open, gates: Gates) -> None:
    """When its turn comes meanwhile, it is no fork that hangs: it has said hello."""
    gate = gates("initializing")
    pool = open_pool(1, "fork", maxtasksperchild=2, initializer=pass_gate, initargs=(gate,))
    gate.wait_arrived()
    gate.release()
    pool.apply(tasks.double, (1,))
    gate.wait_arrived()
    wait_until(lambda: spare_pids(pool), "the engine knows it")
    (spare,) = spare_pids(pool)
    pool.apply(tasks.double, (2,))
    wait_until(lambda: [process.pid for process in pool._pool] == [spare], "its turn has come")
    engine, late = pool._engine, time.monotonic() + 2 * HELLO_TIMEOUT_S
    engine.call(lambda: engine.crew._check_hello(late))
    gate.release()
    assert pool.apply(os.getpid) == spare


@pytest.mark.parametrize("end", ["close", "terminate", "forget"])
def test_end_of_the_pool_ends_spares(open_pool: Open, gates: Gates, end: str) -> None:
    pool, gate = open_pool(1, maxtasksperchild=3), gates("held")
    pool.map(tasks.double, range(2), 1)
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    spare = wait_for_spare(pool)
    if end == "terminate":
        pool.terminate()
    else:
        gate.release()
        held.get()
        pool.close()
        pool.join()
    wait_gone([spare])


KILLED = """
import os, signal, sys, time
import fault_tasks as tasks
from gates import Gate, pass_gate
import multiprocessing, mpsteal
sys.path.insert(0, {tests!r})

def initialize(path):
    tasks.note(path, os.getpid())

if __name__ == "__main__":
    method, path = sys.argv[1:]
    pool = mpsteal.Pool(1, context=multiprocessing.get_context(method), maxtasksperchild=3,
                        initializer=initialize, initargs=(path,))
    pool.map(tasks.double, range(2), 1)
    pool.apply_async(time.sleep, (600,))
    spares = pool._engine.crew.spares
    while not (0 in spares and spares.is_up(0)):
        time.sleep(0.01)
    print("up", flush=True)
    time.sleep(600)
"""


def test_killed_parent_takes_spares_along(tmp_path: Path, start_method: str) -> None:
    noted = tmp_path / "noted"
    with program(tmp_path, KILLED.format(tests=str(Path(__file__).parents[1])), start_method, noted) as run:
        wait_until(lambda: run.output == "up\n" or run.process.poll() is not None, "the spare is up")
        run.meet_family()
        pids = [int(pid) for pid in lines(noted)]
        assert len(pids) == 2, run.errors
        run.process.send_signal(signal.SIGKILL)
        run.wait()
        wait_gone(pids, 2.0)
        run.check_nothing_left()


def test_recycling_of_a_schedulers_agents(open_scheduler: OpenScheduler, tmp_path: Path) -> None:
    """Same id, same slot, and its queue stays: nothing is placed anew."""
    noted = str(tmp_path / "noted")
    scheduler = open_scheduler(
        Agent("a", ["x"]), Agent("b"), agents__max_tasks=20, agents__max_age_s=0.3, agents__replace_dead=False
    )
    batch = [
        scheduler.submit_task(Task(str(i), ["x"] if i % 2 else [], priority=1 + i % 5, fn=tasks.note, args=(noted, i)))
        for i in range(600)
    ]
    assert [task.result(60) for task in batch] == list(range(600))
    assert Counter(lines(noted)) == Counter(map(str, range(600)))
    metrics = scheduler.get_metrics()
    assert metrics["agents_recycled"] >= 600 // 20 - 2
    assert metrics["agents_replaced"] == 0
    assert set(scheduler.agents) == {"a", "b"}
    scheduler._engine.validate()


def test_removed_agent_takes_its_spare_along(open_scheduler: OpenScheduler, gates: Gates) -> None:
    scheduler = open_scheduler(Agent("a"), agents__max_tasks=3)
    gate = gates("held")
    for i in range(2):
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))).result(60) == 2 * i
    held = scheduler.submit_task(Task("held", fn=pass_gate, args=(gate, 1)))
    gate.wait_arrived()
    spare = wait_for_spare(scheduler)
    scheduler.remove_agent("a")
    gate.release()
    assert held.result(60) == 1
    wait_gone([spare])


def test_spare_ends_with_an_agent_that_is_removed_while_its_slot_is_empty(
    open_scheduler: OpenScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents that die as they come are started after a pause; the spare would have been the next one's."""
    monkeypatch.setattr("mpsteal._engine.crew.BARREN_S", 600.0)
    monkeypatch.setattr("mpsteal._engine.crew.RESPAWN_PAUSE_S", 600.0)
    monkeypatch.setattr(Recycler, "turn", lambda *_: None)
    scheduler = open_scheduler(Agent("a"), Agent("b"), agents__max_tasks=100)
    wait_ready(scheduler)
    engine, first = scheduler._engine, scheduler.agents["a"].pid
    slot = scheduler.agents["a"]._slot
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: scheduler.agents["a"].pid not in (None, first), "replaced at once, the first time")
    second = scheduler.agents["a"].pid
    assert second is not None
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: not engine.crew.is_settled and slot not in engine.crew.alive, "there is a pause")
    engine.call(lambda: engine.crew.spares.start(slot))
    (spare,) = spare_pids(scheduler)
    scheduler.remove_agent("a")
    wait_gone([spare])


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_rss": 0}, "max_rss"),
        ({"max_rss": 1.5}, "max_rss"),
        ({"max_age": 0}, "max_age"),
        ({"max_age": "1"}, "max_age"),
    ],
)
def test_wrong_limits_are_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        mpsteal.Pool(1, **limits)


def test_limit_below_what_a_fresh_agent_takes_is_told_once(open_pool: Open, caplog: pytest.LogCaptureFixture) -> None:
    pool = open_pool(1, max_rss=MIB)
    before = pool.apply(os.getpid)
    wait_until(lambda: pool.apply(os.getpid) != before, "it is replaced")
    wait_until(lambda: pool.stats().agents_recycled >= 2 and pool.apply(os.getpid), "and again")
    assert sum("again and again" in record.getMessage() for record in caplog.records) <= 1


def test_no_word_names_a_spare_that_is_gone(open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be a stranger's by then, and the Manager ends whom the words name when the parent dies."""
    pool, gate = open_pool(1, maxtasksperchild=3), gates("held")
    engine = pool._engine
    at = engine.segment.layout.agent(0) + layout.SPARE_PID
    pool.map(tasks.double, range(2), 1)
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    spare = wait_for_spare(pool)
    assert engine.words[at] == spare
    # It dies at the moment its turn comes: it has been told so, and has not said hello as an agent.
    take = Spares.take

    def take_a_dead_one(self: Spares, slot: int) -> Any:
        if slot in self:
            os.kill(spare, signal.SIGKILL)
            wait_gone([spare])
        return take(self, slot)

    replace, named = Crew._replace, []

    def note_and_replace(self: Crew, *args: Any, **options: Any) -> Any:
        named.append(engine.words[at] if 0 not in self.spares else 0)
        return replace(self, *args, **options)

    monkeypatch.setattr(Spares, "take", take_a_dead_one)
    monkeypatch.setattr(Crew, "_replace", note_and_replace)
    gate.release()
    assert held.get() == 1
    assert pool.apply(os.getpid) != spare
    assert named == [0, 0], "as the agent had left, and as the dead spare was settled"


def test_spare_killed_in_its_initializer(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    pool = open_pool(
        1,
        maxtasksperchild=3,
        initializer=tasks.wait_the_second_time,
        initargs=(str(tmp_path / "n"), gates("initializer")),
    )
    before = pool.map(tasks.my_pid, range(2), 1)[0]
    held = pool.apply_async(pass_gate, (gates("held"), 1))
    gates("held").wait_arrived()
    gates("initializer").wait_arrived()
    wait_until(lambda: spare_pids(pool), "the engine knows it")
    (spare,) = spare_pids(pool)
    os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not spare_pids(pool), "its death is known")
    gates("held").release()
    assert held.get() == 1
    assert pool.apply(os.getpid) not in (before, spare)
    wait_idle(pool)
    pool._engine.validate()


def test_agent_killed_after_it_was_told_to_leave(open_pool: Open, gates: Gates) -> None:
    """What it ran is lost, what was queued is not, and its successor is the one that was ready."""
    pool = open_pool(1, max_age=0.2)
    held = pool.apply_async(pass_gate, (gates("held"), 1))
    gates("held").wait_arrived()
    (before,) = agent_pids(pool)
    behind = [pool.apply_async(tasks.my_pid) for _ in range(5)]
    successor = wait_for_spare(pool)
    engine = pool._engine
    wait_until(lambda: engine.words[engine.segment.layout.agent(0) + layout.LEAVE], "it is told to leave")
    os.kill(before, signal.SIGKILL)
    with pytest.raises(mpsteal.AgentDiedError):
        held.get()
    assert behind[0].get() == successor
    assert all(result.get() != before for result in behind)
    assert pool.stats().agent_deaths == 1


# -- what tasks leave behind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [tasks.leave_a_thread, tasks.leave_a_process])
def test_agent_that_cannot_end_frees_its_slot(open_pool: Open, leaves: Callable[[], int]) -> None:
    """A thread or a process that a task has left behind keeps its process from ending, and nobody waits for that."""
    pool = open_pool(1, maxtasksperchild=3)
    lingering = pool.apply(leaves)
    results = [pool.apply_async(tasks.my_pid) for _ in range(8)]
    pids = [result.get() for result in results]
    assert pids[:2] == [lingering] * 2
    assert len(set(pids)) == 3
    assert psutil.pid_exists(lingering)
    wait_idle(pool)
    pool._engine.validate()
    pool.terminate()
    wait_gone([lingering])


@pytest.mark.parametrize("leaves", [tasks.leave_a_thread, tasks.leave_a_process])
@pytest.mark.parametrize("recycled", [False, True], ids=["", "recycled"])
def test_join_ends_what_tasks_left_behind(
    open_pool: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    leaves: Callable[[], int],
    recycled: bool,
) -> None:
    """After a while: it may just be ending. The stock pool waits for ever."""
    monkeypatch.setattr(crew_module, "LEAVE_GRACE_S", 0.3)
    pool = open_pool(2, maxtasksperchild=2 if recycled else None)
    lingering = pool.apply(leaves)
    pool.map(tasks.double, range(10), 1)
    pool.close()
    pool.join()
    wait_gone([lingering])
    assert any("tasks left behind" in record.getMessage() for record in caplog.records)


def test_removed_agent_that_cannot_end_frees_its_slot(open_scheduler: OpenScheduler) -> None:
    scheduler = open_scheduler(Agent("a"), agents__max_agents=1)
    lingering = scheduler.submit_task(Task("leave", fn=tasks.leave_a_thread)).result(60)
    scheduler.remove_agent("a")
    wait_until(lambda: not scheduler._engine.slots, "its slot is free")
    scheduler.register_agent(Agent("b"))
    assert scheduler.submit_task(Task("next", fn=tasks.my_pid)).result(60) != lingering
    scheduler.stop(drain=False)
    wait_gone([lingering])


# -- when there is no successor to be had -----------------------------------------------------------------------------


def test_agent_stays_while_no_successor_can_be_started(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Better an old one than none."""
    monkeypatch.setattr(recycle, "SPARE_PAUSE_FIRST_S", 0.05)
    refused: list[int] = []

    def refuse(self: Spares, slot: int) -> bool:
        refused.append(slot)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Spares, "start", refuse)
        pool = open_pool(1, max_age=0.2)
        before = pool.apply(os.getpid)
        wait_until(lambda: pool.apply(os.getpid) == before and len(refused) >= 3, "it was tried")
        assert agent_pids(pool) == [before]
    wait_until(lambda: pool.apply(os.getpid) != before, "replaced when that is over")


def test_no_free_descriptor_is_no_fault_of_an_agent(tmp_path: Path) -> None:
    """Heartbeats, ages and memory cannot be looked at then, and the pool goes on."""
    with program(tmp_path, NO_DESCRIPTOR) as run:
        assert run.wait() == 0, run.errors
        assert run.output == "[1, 2]\n"
        assert "engine failed" not in run.errors


NO_DESCRIPTOR = """
import os, resource, sys, time
import multiprocessing, mpsteal

def sleep(x):
    time.sleep(1.5)
    return x

if __name__ == "__main__":
    with mpsteal.Pool(2, stuck_after=0.2, max_age=0.5, max_rss=1 << 40) as pool:
        results = [pool.apply_async(sleep, (i,), timeout=60) for i in (1, 2)]
        time.sleep(0.2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        time.sleep(1)
        pool.stats()
        for fd in taken:
            os.close(fd)
        print([result.get() for result in results])
"""


LINGERS = """
import multiprocessing, os, signal, sys, time
import fault_tasks as tasks
import mpsteal

if __name__ == "__main__":
    pool = mpsteal.Pool(1, context=sys.argv[1], maxtasksperchild=1)
    print(pool.apply(tasks.leave_a_process), flush=True)
    print(pool.apply(os.getpid), flush=True)
    time.sleep(1)  # the Manager is there
    print("ready", flush=True)
    time.sleep(600)
"""


def test_killed_parent_takes_those_along_that_have_left_their_slots(tmp_path: Path, start_method: str) -> None:
    with program(tmp_path, LINGERS, start_method) as run:
        wait_until(lambda: run.output.endswith("ready\n") or run.process.poll() is not None, "both have run")
        run.meet_family()
        lingering = int(run.output.split()[0])
        left_behind = [child.pid for child in psutil.Process(lingering).children()]
        assert len(left_behind) == 1, run.errors
        run.process.send_signal(signal.SIGKILL)
        run.wait()
        wait_gone([lingering, *left_behind], 2.0)
        run.check_nothing_left()


def test_more_that_linger_than_can_be_told_have_the_next_wait(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "HEADER_WORDS", layout.LINGERERS + 2)
    pool = open_pool(2, maxtasksperchild=1)
    left = [pool.apply(tasks.leave_a_process) for _ in range(2)]
    third = pool.apply(tasks.leave_a_process)
    assert pool.map(tasks.double, range(1)) == [0], "the other slot works on"
    crew = pool._engine.crew
    assert set(crew._lingering) <= {*left, third} and len(crew._lingering) == 2
    assert signal_own(left[0], signal.SIGKILL)
    wait_until(lambda: third in crew._lingering, "there is room again")
    pool.terminate()
    wait_gone([*left, third])
