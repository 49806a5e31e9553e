"""Agents come, go and die while work flows: what is queued finds another, and only what ran is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import (
    agents,
    check_at_rest,
    die_the_first_time,
    hold,
    note_and_pass,
    note_pid_and_spin,
    pass_and_pid,
    told,
    wait_gone_for_good,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, is_gone, lines, wait_gone, wait_until

from mpsteal import (
    Agent,
    AgentDiedError,
    DependencyError,
    PoolTerminatedError,
    Task,
    TaskTimeoutError,
    UnmatchedTaskError,
    WorkStealingScheduler,
)

Open = Callable[..., WorkStealingScheduler]


def kill(agent: Agent) -> int:
    pid = agent.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


class TestRegister:
    def test_agents_of_a_scheduler_that_is_not_started_start_with_it(self, start_method: str) -> None:
        first, second = Agent("a", ["python"]), Agent("b", ["java"])
        scheduler = WorkStealingScheduler(context=multiprocessing.get_context(start_method))
        assert scheduler.register_agent(first) is first
        scheduler.register_agent(second)
        assert first.pid is None and first.state == "new" and first.queue_length == 0
        with scheduler:
            wait_ready(scheduler)
            pids = {agent.agent_id: agent.pid for agent in (first, second)}
            java = scheduler.submit_task(Task("t", ["java"], fn=tasks.my_pid))
            python = scheduler.submit_task(Task("t", ["python"], fn=tasks.my_pid))
            assert (python.result(ALARM_S), java.result(ALARM_S)) == (pids["a"], pids["b"])
        assert first.state == second.state == "gone"
        assert first.pid is None

    def test_one_that_comes_while_work_flows_gets_some(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        group = [Task("t", fn=pass_and_pid, args=(gate,)) for _ in range(10)]
        scheduler.submit_tasks(group)
        gate.wait_arrived()
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        gate.open()
        assert len({task.result(ALARM_S) for task in group}) == 2
        check_at_rest(scheduler)

    def test_what_it_is_given_must_be_a_new_agent(self, open_scheduler: Open) -> None:
        agent = Agent("a")
        scheduler = open_scheduler(agent)
        with pytest.raises(TypeError, match="an Agent is wanted"):
            scheduler.register_agent("a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="there is an agent 'a' already"):
            scheduler.register_agent(Agent("a"))
        with pytest.raises(ValueError, match="registered already"):
            scheduler.register_agent(agent)
        scheduler.remove_agent("a")
        with pytest.raises(ValueError, match="registered already, or was"):
            scheduler.register_agent(agent)
        scheduler.register_agent(Agent("a"))
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2

    def test_an_id_is_given_once_whoever_is_first(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler()
        outcome: list[str] = []
        start = threading.Barrier(8)

        def register() -> None:
            start.wait()
            try:
                scheduler.register_agent(Agent("a"))
                outcome.append("in")
            except ValueError:
                outcome.append("refused")

        threads = [threading.Thread(target=register) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcome) == ["in"] + ["refused"] * 7
        assert len(scheduler._engine.slots) == 1

    def test_no_more_than_max_agents(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2), agents__max_agents=2)
        with pytest.raises(ValueError, match=r"agents\.max_agents"):
            scheduler.register_agent(Agent("one too many"))
        assert list(scheduler.agents) == ["agent-0", "agent-1"]
        scheduler.remove_agent("agent-0")
        wait_gone_for_good(scheduler, 1)
        scheduler.register_agent(Agent("now there is room"))
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        check_at_rest(scheduler)

    def test_when_the_system_refuses_a_process_the_others_go_on_and_it_can_be_tried_again(
        self, open_scheduler: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = open_scheduler(Agent("a"), method="fork")
        wait_ready(scheduler)

        def refuse(_: Any) -> NoReturn:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        with monkeypatch.context() as patch:
            patch.setattr(multiprocessing.context.ForkProcess, "_Popen", staticmethod(refuse))
            with pytest.raises(BlockingIOError):
                scheduler.register_agent(Agent("b"))
            assert list(scheduler.agents) == ["a"]
            pid = kill(scheduler.agents["a"])
            wait_until(lambda: scheduler._engine.crew._respawn_at, "its replacement refused")
            waits = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(10)])
            wait_taken_in(scheduler)
        assert [task.result(ALARM_S) for task in waits] == list(range(0, 20, 2))
        assert scheduler.agents["a"].pid not in (None, pid)
        scheduler.register_agent(Agent("b"))
        wait_ready(scheduler)
        check_at_rest(scheduler)

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_an_initializer_that_cannot_travel_is_refused_with_the_agent(
        self, open_scheduler: Open, method: str
    ) -> None:
        lock = threading.Lock()  # else it is sent as a copy where cloudpickle is installed
        scheduler = open_scheduler(method=method, initializer=lambda: lock)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            scheduler.register_agent(Agent("a"))
        assert not scheduler.agents
        assert scheduler.get_metrics()["agents"]["registered"] == 0

    def test_the_agents_cannot_be_changed_from_outside(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        with pytest.raises(TypeError):
            scheduler.agents["b"] = Agent("b")  # type: ignore[index]
        with pytest.raises(TypeError):
            scheduler.tasks[1] = Task("t")  # type: ignore[index]

    def test_its_state_tells_what_it_does(self, open_scheduler: Open, gates: Gates) -> None:
        agent = Agent("a")
        seen = [agent.state]
        scheduler = open_scheduler(agent)
        wait_ready(scheduler)
        seen.append(agent.state)
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        seen.append(agent.state)
        assert agent.current_task is held and agent.pid is not None
        assert repr(agent) == "<Agent 'a' [] running>"
        scheduler.remove_agent("a")
        seen.append(agent.state)
        gate.open()
        wait_until(lambda: agent.state == "gone", "the agent gone")
        assert seen == ["new", "idle", "running", "leaving"]
        assert agent.pid is None and agent.current_task is None and agent.queue_length == 0

    def test_busy_and_idle_go_by_the_length_of_its_queue(self, open_scheduler: Open, gates: Gates) -> None:
        agent = Agent("a")
        scheduler = open_scheduler(agent)
        gate = gates("held")
        assert agent.is_idle and not agent.is_busy
        hold(scheduler, gate)
        seen = []
        for _ in range(8):
            seen.append((agent.queue_length, agent.is_idle, agent.is_busy))
            scheduler.submit_task(Task("t"))
            wait_taken_in(scheduler)
        assert seen == [(n, n < 2, n > 5) for n in range(8)]
        gate.open()
        check_at_rest(scheduler)


class TestRemove:
    def test_with_drain_it_finishes_what_it_runs_and_others_get_its_queue(
        self, open_scheduler: Open, gates: Gates, start_method: str
    ) -> None:
        agent = Agent("a")
        scheduler = open_scheduler(agent, method=start_method)
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        pid = agent.pid
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(20)])
        wait_taken_in(scheduler)
        assert agent.queue_length == 20
        other = scheduler.register_agent(Agent("b"))
        scheduler.remove_agent("a")
        assert list(scheduler.agents) == ["b"]
        assert {task.result(ALARM_S) for task in waits} == {other.pid}
        assert not held.done() and agent.state == "leaving"
        gate.open()
        assert held.result(ALARM_S) == pid
        wait_until(lambda: agent.state == "gone", "the agent gone")
        assert pid is not None
        wait_gone([pid])
        check_at_rest(scheduler)

    def test_with_drain_it_finishes_what_nobody_else_can_run(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        agent = Agent("a", ["cobol"])
        scheduler = open_scheduler(agent, Agent("b"))
        gate = gates("held")
        (held,) = hold(scheduler, gate, ("cobol",))
        pid = agent.pid
        rare = scheduler.submit_tasks([Task("t", ["cobol"], fn=tasks.my_pid, priority=1 + i % 3) for i in range(30)])
        wait_taken_in(scheduler)
        scheduler.remove_agent("a")
        assert agent.queue_length == 30
        gate.open()
        assert {task.result(ALARM_S) for task in [held, *rare]} == {pid}
        wait_until(lambda: agent.state == "gone", "the agent gone")
        assert told(caplog, "no agent can run") == []
        check_at_rest(scheduler)

    def test_with_drain_it_never_leaves_before_it_has_finished_what_nobody_else_can_run(
        self, open_scheduler: Open, tmp_path: Path
    ) -> None:
        """Its queue is taken from it for a moment, to be looked through. It is not to take that for the end."""
        scheduler = open_scheduler()
        noted = str(tmp_path / "noted")
        for i in range(30):
            scheduler.register_agent(Agent(f"a{i}", ["cobol"]))
            if i % 3:
                wait_ready(scheduler)
            for j in range(1 + 3 * (i % 4)):
                scheduler.submit_task(Task("t", ["cobol"], fn=tasks.note, args=(noted, f"{i}.{j}")))
            wait_taken_in(scheduler)
            scheduler.remove_agent(f"a{i}")
            assert scheduler.wait_all(10), f"round {i}: left undone {list(scheduler.tasks.values())}"
        counts = Counter(lines(noted))
        assert counts == {f"{i}.{j}": 1 for i in range(30) for j in range(1 + 3 * (i % 4))}

    def test_with_drain_it_waits_while_its_queue_is_looked_through(
        self, open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Here that takes so long that it ends its task meanwhile, and has nothing to do."""
        agent = Agent("a", ["cobol"])
        scheduler = open_scheduler(agent)
        gate = gates("held")
        (held,) = hold(scheduler, gate, ("cobol",))
        rare = scheduler.submit_tasks([Task("t", ["cobol"], fn=tasks.my_pid) for _ in range(10)])
        wait_taken_in(scheduler)
        pid, engine, take_back = agent.pid, scheduler._engine, scheduler._engine.deques.take_back
        assert pid is not None

        def take_back_slowly(*args: Any, **kwds: Any) -> Any:
            taken = take_back(*args, **kwds)
            gate.open()
            wait_until(lambda: engine.status()[0]["parked"] or is_gone(pid), "nothing to do")
            return taken

        with monkeypatch.context() as patch:
            patch.setattr(engine.deques, "take_back", take_back_slowly)
            scheduler.remove_agent("a")
        assert {task.result(ALARM_S) for task in [held, *rare]} == {pid}
        check_at_rest(scheduler)

    def test_without_drain_its_process_is_ended_and_its_task_is_lost_or_runs_again(
        self, open_scheduler: Open, gates: Gates, start_method: str
    ) -> None:
        scheduler = open_scheduler(*agents(2), method=start_method)
        gate = gates("held")
        lost = scheduler.submit_task(Task("lost", fn=pass_and_pid, args=(gate,)))
        again = scheduler.submit_task(Task("again", fn=pass_and_pid, args=(gate,), retries=1))
        gate.wait_arrived(2)
        both = dict(scheduler.agents)
        pids = [agent.pid for agent in both.values()]
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(20)])
        for agent_id in both:
            scheduler.remove_agent(agent_id, drain=False)
        assert isinstance(lost.exception(ALARM_S), AgentDiedError)
        assert not any(task.done() for task in [again, *waits])
        third = scheduler.register_agent(Agent("c"))
        gate.wait_arrived()
        gate.open()
        assert {task.result(ALARM_S) for task in [again, *waits]} == {third.pid}
        assert again.agent_id == "c"
        wait_gone([pid for pid in pids if pid is not None])
        metrics = check_at_rest(scheduler)
        assert (metrics["retried"], metrics["agent_deaths"]) == (1, 2)

    def test_one_that_is_not_there(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        with pytest.raises(KeyError, match="there is no agent 'b'"):
            scheduler.remove_agent("b")
        scheduler.remove_agent("a")
        with pytest.raises(KeyError, match="there is no agent 'a'"):
            scheduler.remove_agent("a")
        with pytest.raises(KeyError):
            scheduler.request_work("a")

    @pytest.mark.parametrize("drain", [True, False])
    def test_one_that_is_still_starting(self, open_scheduler: Open, gates: Gates, drain: bool) -> None:
        gate = gates("starting")
        scheduler = open_scheduler(Agent("a"), initializer=gate.wait)
        gate.wait_arrived()
        waits = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(5)])
        wait_taken_in(scheduler)
        starting = scheduler.agents["a"]
        assert starting.state == "starting"
        scheduler.remove_agent("a", drain=drain)
        scheduler.register_agent(Agent("b"))
        gate.open()
        assert [task.result(ALARM_S) for task in waits] == [0, 2, 4, 6, 8]
        wait_until(lambda: starting.state == "gone", "the agent gone")
        check_at_rest(scheduler)

    @pytest.mark.parametrize("drain", [True, False])
    def test_its_slot_serves_an_agent_with_other_capabilities(
        self, open_scheduler: Open, gates: Gates, drain: bool
    ) -> None:
        """What was queued at the one before never runs on the one that follows (I5)."""
        scheduler = open_scheduler(Agent("old", ["cobol"]), agents__max_agents=1)
        gate = gates("held")
        held = scheduler.submit_task(Task("held", ["cobol"], fn=pass_and_pid, args=(gate,)))
        gate.wait_arrived()
        rare = scheduler.submit_tasks([Task("t", ["cobol"], fn=tasks.my_pid) for _ in range(10)])
        urgent = scheduler.submit_tasks([Task("u", ["cobol"], 5, fn=tasks.my_pid) for _ in range(3)])
        wait_taken_in(scheduler)
        old = scheduler.agents["old"]
        slot, pid = old._slot, old.pid
        scheduler.remove_agent("old", drain=drain)
        if drain:
            gate.open()
            assert held.result(ALARM_S) == pid
            assert {task.result(ALARM_S) for task in rare} == {pid}
        wait_gone_for_good(scheduler, 0)
        new = scheduler.register_agent(Agent("new", ["java"]))
        assert new._slot == slot
        assert scheduler.submit_task(Task("t", ["java"], fn=tasks.my_pid)).result(ALARM_S) == new.pid != pid
        waiting = urgent if drain else [*rare, *urgent]
        assert not any(task.done() for task in waiting)
        assert new.queue_length == 0
        scheduler.remove_agent("new")
        wait_gone_for_good(scheduler, 0)
        third = scheduler.register_agent(Agent("third", ["cobol", "java"]))
        assert {task.result(ALARM_S) for task in waiting} == {third.pid}
        check_at_rest(scheduler)

    def test_its_slot_is_not_given_away_before_its_queue_is(
        self, open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its lock is busy for as long as a thief looks at it."""
        scheduler = open_scheduler(Agent("old", ["cobol"]), agents__max_agents=2)
        gate = gates("held")
        hold(scheduler, gate, ("cobol",))
        rare = scheduler.submit_tasks([Task("t", ["cobol"], fn=tasks.my_pid) for _ in range(10)])
        wait_taken_in(scheduler)
        with monkeypatch.context() as patch:
            patch.setattr(scheduler._engine.deques, "take_back", lambda *_, **__: None)
            scheduler.remove_agent("old", drain=False)
            wait_gone_for_good(scheduler, 0)
            new = scheduler.register_agent(Agent("new", ["java"]))
            wait_ready(scheduler)
            assert new.queue_length == 0
        wait_until(lambda: not scheduler._dispatcher.roster.moving, "the queue moved")
        assert not any(task.done() for task in rare)
        other = scheduler.register_agent(Agent("other", ["cobol"]))
        assert {task.result(ALARM_S) for task in rare} == {other.pid}
        check_at_rest(scheduler)

    def test_protected_tasks_move_when_their_agent_goes(self, open_scheduler: Open, gates: Gates) -> None:
        """An agent of short tasks is handed some ahead, which nobody may steal. They are not lost with it."""
        scheduler = open_scheduler(Agent("a"))
        for _ in range(3):
            scheduler.submit_tasks([Task("short") for _ in range(200)])
            assert scheduler.wait_all(ALARM_S)
        gate = gates("held")
        hold(scheduler, gate)
        urgent = scheduler.submit_tasks([Task("u", priority=4, fn=tasks.my_pid) for _ in range(50)])
        wait_taken_in(scheduler)
        other = scheduler.register_agent(Agent("b"))
        scheduler.remove_agent("a")
        assert {task.result(ALARM_S) for task in urgent} == {other.pid}
        gate.open()
        check_at_rest(scheduler)

    def test_tasks_that_are_held_for_an_agent_that_goes_wait_for_another(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a", ["cobol"]), Agent("b"))
        gate = gates("held")
        (held,) = hold(scheduler, gate, ("cobol",))
        urgent = scheduler.submit_tasks([Task(f"u{i}", ["cobol"], 5, fn=tasks.my_pid) for i in range(3)])
        wait_taken_in(scheduler)
        assert told(caplog, "no agent can run") == []
        scheduler.remove_agent("a", drain=False)
        assert isinstance(held.exception(ALARM_S), AgentDiedError)
        wait_taken_in(scheduler)
        assert len(told(caplog, "no agent can run")) == 1
        assert told(caplog, "cobol")
        assert {task.state for task in urgent} == {"waiting"}
        third = scheduler.register_agent(Agent("c", ["cobol"]))
        assert {task.result(ALARM_S) for task in urgent} == {third.pid}
        check_at_rest(scheduler)

    def test_the_last_one_leaves_its_queue_to_whoever_comes(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(10)])
        wait_taken_in(scheduler)
        scheduler.remove_agent("a", drain=False)
        wait_gone_for_good(scheduler, 0)
        wait_taken_in(scheduler)
        assert {task.state for task in waits} <= {"waiting", "queued"}
        assert len(told(caplog, "no agent is registered")) == 1
        other = scheduler.register_agent(Agent("b"))
        assert {task.result(ALARM_S) for task in waits} == {other.pid}
        check_at_rest(scheduler)


class TestFailureOfAnAgent:
    def test_its_queue_is_redistributed_and_the_running_task_fails(
        self, open_scheduler: Open, gates: Gates, start_method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a", ["x"]), method=start_method)
        gate = gates("held")
        (held,) = hold(scheduler, gate, ("x",))
        waits = scheduler.submit_tasks([Task("t", ["x"], fn=tasks.my_pid) for _ in range(20)])
        wait_taken_in(scheduler)
        agent = scheduler.agents["a"]
        pid = kill(agent)
        error = held.exception(ALARM_S)
        assert isinstance(error, AgentDiedError)
        assert (error.pid, error.exitcode, error.agent) == (pid, -signal.SIGKILL, "a")
        for word in ("'hold-0'", str(held.id), "'a'", "SIGKILL"):
            assert word in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert held.agent_id == "a" and held.started_at is not None and held.state == "failed"
        assert pid not in {task.result(ALARM_S) for task in waits}
        assert agent.state != "gone" and agent.pid != pid, "it is replaced"
        metrics = check_at_rest(scheduler)
        assert metrics["agent_deaths"] == 1
        assert metrics["per_agent"]["a"]["failed"] == 1
        assert len(told(caplog, f"(pid {pid}) died with exit code -9; replaced")) == 1

    def test_others_get_what_was_queued(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(3), agents__replace_dead=False, strategy="push")
        gate = gates("held")
        hold(scheduler, gate, count=3)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(30)])
        wait_taken_in(scheduler)
        first, second, third = scheduler.agents.values()
        assert first.queue_length == 10
        kill(first)
        wait_until(lambda: first.state == "gone", "the death settled")
        wait_taken_in(scheduler)
        assert (second.queue_length, third.queue_length) == (15, 15)
        assert {task.agent_id for task in waits} == {second.agent_id, third.agent_id}
        gate.open()
        assert {task.result(ALARM_S) for task in waits} == {second.pid, third.pid}
        assert check_at_rest(scheduler)["migrations"]["redistributed"] == 10

    def test_task_with_retries_runs_again(
        self, open_scheduler: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(*agents(2))
        path = str(tmp_path / "noted")
        task = scheduler.submit_task(Task("again", fn=die_the_first_time, args=(path,), retries=1))
        assert task.result(ALARM_S) == 2
        assert task.started_at is not None and task.retries == 1
        assert len(lines(path)) == 2
        assert len(told(caplog, "it runs again (try 2 of 2)")) == 1
        metrics = check_at_rest(scheduler)
        assert (metrics["retried"], metrics["agent_deaths"], metrics["tasks"]["failed"]) == (1, 1, 0)

    def test_and_fails_when_no_try_is_left(self, open_scheduler: Open, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        path = str(tmp_path / "noted")
        task = scheduler.submit_task(Task("fatal", fn=tasks.die_if, args=(path, 1, 1), retries=3))
        assert isinstance(task.exception(ALARM_S), AgentDiedError)
        assert lines(path) == ["1"] * 4
        assert check_at_rest(scheduler)["retried"] == 3

    def test_errors_are_no_deaths(self, open_scheduler: Open, tmp_path: Path) -> None:
        """What a task raises is its result. It does not run again."""
        scheduler = open_scheduler(Agent("a"))
        task = scheduler.submit_task(Task("fails", fn=tasks.raise_this, args=(ValueError, "no"), retries=3))
        assert isinstance(task.exception(ALARM_S), ValueError)
        assert check_at_rest(scheduler)["retried"] == 0

    def test_another_try_gets_its_arguments_though_they_have_been_read(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path
    ) -> None:
        """A page is given back when all that is unfinished there was read by the agent that runs it. That agent is
        gone, and another reads it again."""
        scheduler = open_scheduler(Agent("a", ["x"]), geometry={"page_chunks": 4, "pages": 4})
        noted, first, second = str(tmp_path / "noted"), gates("first"), gates("second")
        for i in range(3):
            assert scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))).result(ALARM_S) == 2 * i
        again = Task("again", ["x"], fn=note_and_pass, args=(noted, "x" * 100, first), retries=1)
        scheduler.submit_task(again)
        first.wait_arrived()
        scheduler.register_agent(Agent("b", ["x"]))
        hold(scheduler, second, ("x",))
        scheduler.remove_agent("a", drain=False)
        wait_gone_for_good(scheduler, 1)
        others = [scheduler.submit_task(Task("o", ["x"], 2, fn=tasks.identity, args=("y" * 100,))) for _ in range(30)]
        wait_taken_in(scheduler)
        first.open()
        second.open()
        assert again.result(ALARM_S)
        assert lines(noted) == ["x" * 100] * 2
        assert {task.result(ALARM_S) for task in others} == {"y" * 100}
        check_at_rest(scheduler)

    def test_all_killed_at_once(self, open_scheduler: Open, gates: Gates, start_method: str) -> None:
        scheduler = open_scheduler(*agents(3), method=start_method)
        gate = gates("held")
        held = hold(scheduler, gate, count=3)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid, priority=1 + i % 5) for i in range(50)])
        wait_taken_in(scheduler)
        before = {kill(agent) for agent in scheduler.agents.values()}
        assert all(isinstance(task.exception(ALARM_S), AgentDiedError) for task in held)
        assert not {task.result(ALARM_S) for task in waits} & before
        wait_ready(scheduler)
        assert len(set(_pids(scheduler)) - before) == 3
        assert check_at_rest(scheduler)["agent_deaths"] == 3

    def test_an_idle_one_costs_nothing(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2))
        wait_ready(scheduler)
        first = scheduler.agents["agent-0"]
        pid = kill(first)
        wait_until(lambda: first.pid not in (pid, None), "the agent replaced")
        results = [scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))) for i in range(20)]
        assert [task.result(ALARM_S) for task in results] == list(range(0, 40, 2))
        assert check_at_rest(scheduler)["agent_deaths"] == 0

    def test_protected_tasks_move_when_their_agent_dies(self, open_scheduler: Open, gates: Gates) -> None:
        """They are handed to an agent that stops before it can see them."""
        scheduler = open_scheduler(*agents(2, "x"))
        wait_ready(scheduler)
        first, _ = scheduler.agents.values()
        gate = gates("held")
        held = [scheduler.submit_task(Task("u", ["x"], 5, fn=pass_and_pid, args=(gate,))) for _ in range(2)]
        gate.wait_arrived(2)
        urgent = scheduler.submit_tasks([Task("u", ["x"], 4, fn=tasks.my_pid) for _ in range(4)])
        wait_taken_in(scheduler)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        kill(first)
        gate.open()
        assert sum(isinstance(task.exception(ALARM_S), AgentDiedError) for task in held) == 1
        assert all(task.exception(ALARM_S) is None for task in urgent)
        check_at_rest(scheduler)

    def test_it_costs_the_agent_its_record(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        agent = scheduler.agents["a"]
        assert agent.success_rate == 1.0
        for _ in range(3):
            assert scheduler.submit_task(Task("t")).result(ALARM_S) is None
        assert isinstance(
            scheduler.submit_task(Task("t", fn=tasks.die_at_once, args=(1,))).exception(ALARM_S), Exception
        )
        assert agent.success_rate == 0.75
        check_at_rest(scheduler)

    def test_initializer_that_raises_fails_every_task(self, open_scheduler: Open, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"), initializer=tasks.note_and_raise, initargs=(str(tmp_path / "noted"),))
        task = scheduler.submit_task(Task("t", fn=tasks.double, args=(1,)))
        assert isinstance(task.exception(ALARM_S), ValueError)
        assert str(task.exception()) == "the initializer is broken"
        later = scheduler.submit_task(Task("t", fn=tasks.double, args=(1,)))
        assert isinstance(later.exception(ALARM_S), ValueError)
        scheduler.stop()

    def test_initializer_runs_in_each_agent(self, open_scheduler: Open, tmp_path: Path, start_method: str) -> None:
        noted = str(tmp_path / "noted")
        scheduler = open_scheduler(*agents(2), method=start_method, initializer=tasks.note_start, initargs=(noted,))
        wait_ready(scheduler)
        assert sorted(map(int, lines(noted))) == sorted(agent.pid or 0 for agent in scheduler.agents.values())


def test_one_that_was_removed_is_leaving_though_its_lock_is_busy(
    open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has queued is taken back later; nobody is told anything else meanwhile."""
    scheduler = open_scheduler(Agent("a"))
    gate = gates("held")
    hold(scheduler, gate)
    agent = scheduler.agents["a"]
    with monkeypatch.context() as patch:
        patch.setattr(scheduler._engine.deques, "take_back", lambda *_, **__: None)
        scheduler.remove_agent("a")
        assert agent.state == "leaving"
    wait_until(lambda: not scheduler._dispatcher.roster.moving, "its queue taken back")
    assert agent.state == "leaving"
    gate.open()
    wait_until(lambda: agent.state == "gone", "it has left")


class TestRegisteredOnce:
    def test_by_several_threads(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler()
        for n in range(4):
            agent, start, refused = Agent(f"a{n}"), threading.Barrier(4), []

            def register(agent: Agent = agent, start: Any = start, refused: list[Any] = refused) -> None:
                start.wait()
                try:
                    scheduler.register_agent(agent)
                except ValueError as error:
                    refused.append(error)

            threads = [threading.Thread(target=register) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 3
            assert scheduler.get_metrics()["agents"]["registered"] == n + 1
        check_at_rest(scheduler)

    def test_with_one_scheduler_of_two_that_have_not_started(self) -> None:
        one, two, agent = WorkStealingScheduler(), WorkStealingScheduler(), Agent("a")
        one.register_agent(agent)
        for scheduler in (one, two):
            with pytest.raises(ValueError, match="registered already"):
                scheduler.register_agent(agent)
        assert agent.state == "new"

    def test_one_that_was_refused_may_come_again(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"), agents__max_agents=1)
        agent = Agent("b")
        for _ in range(2):
            with pytest.raises(ValueError, match="allows no more"):
                scheduler.register_agent(agent)
        scheduler.remove_agent("a")
        wait_gone_for_good(scheduler, 0)
        scheduler.register_agent(agent)
        assert scheduler.submit_task(Task("t", fn=tasks.my_pid)).result(ALARM_S) == agent.pid


def test_none_that_leaves_is_lost_sight_of(open_scheduler: Open, gates: Gates) -> None:
    """Others look at all agents while some are removed."""
    scheduler = open_scheduler(*agents(8, "x"))
    gate, stop = gates("held"), threading.Event()
    hold(scheduler, gate, ("x",), count=8)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    looking = [threading.Thread(target=_look_until, args=(scheduler, stop)) for _ in range(3)]
    try:
        for thread in looking:
            thread.start()
        for name in list(scheduler.agents):
            scheduler.remove_agent(name)
    finally:
        stop.set()
        for thread in looking:
            thread.join()
        sys.setswitchinterval(before)
    assert not scheduler.agents and scheduler.get_metrics()["agents"]["registered"] == 8
    assert scheduler.get_metrics()["tasks"]["running"] == 8
    gate.open()
    wait_gone_for_good(scheduler, 0)


def _look_until(scheduler: WorkStealingScheduler, stop: threading.Event) -> None:
    while not stop.is_set():
        scheduler._all_agents()


class TestFailureWithoutReplacement:
    def test_others_take_over(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2), agents__replace_dead=False)
        gate = gates("held")
        held = hold(scheduler, gate, count=2)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(20)])
        wait_taken_in(scheduler)
        first, second = scheduler.agents.values()
        died = first.current_task
        pid = kill(first)
        assert died in held
        assert isinstance(died.exception(ALARM_S), AgentDiedError)
        gate.open()
        assert {task.result(ALARM_S) for task in waits} == {second.pid} != {pid}
        assert first.state == "gone" and first.pid is None
        assert scheduler.get_metrics()["agents"]["registered"] == 1
        check_at_rest(scheduler)

    def test_when_none_is_left_tasks_wait_with_one_warning(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(*agents(2), agents__replace_dead=False)
        gate = gates("held")
        held = hold(scheduler, gate, count=2)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.my_pid) for _ in range(20)])
        wait_taken_in(scheduler)
        for agent in scheduler.agents.values():
            kill(agent)
        assert all(isinstance(task.exception(ALARM_S), AgentDiedError) for task in held)
        wait_gone_for_good(scheduler, 0)
        wait_taken_in(scheduler)
        assert not any(task.done() for task in waits)
        assert len(told(caplog, "no agent is registered")) == 1
        third = scheduler.register_agent(Agent("third"))
        assert {task.result(ALARM_S) for task in waits} == {third.pid}
        scheduler.remove_agent("agent-0")
        scheduler.register_agent(Agent("agent-0"))
        assert list(scheduler.agents) == ["agent-1", "third", "agent-0"]
        check_at_rest(scheduler)

    def test_one_that_was_ended_for_a_time_limit_is_replaced_all_the_same(
        self, open_scheduler: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"), agents__replace_dead=False)
        wait_ready(scheduler)
        pid = scheduler.agents["a"].pid
        endless = scheduler.submit_task(Task("endless", fn=time.sleep, args=(600,), timeout=0.05))
        follows = scheduler.submit_task(Task("t", fn=tasks.my_pid))
        assert isinstance(endless.exception(ALARM_S), TaskTimeoutError)
        assert follows.result(ALARM_S) == scheduler.agents["a"].pid != pid
        check_at_rest(scheduler)
        scheduler.stop()
        assert told(caplog, "is not replaced") == [], "nor at the end, when all leave"

    def test_what_is_asked_of_one_that_is_gone(self, open_scheduler: Open, gates: Gates) -> None:
        """Its slot may be another's by now, which is not to get its work."""
        scheduler = open_scheduler(*agents(2), agents__replace_dead=False, strategy="push", agents__busy_above=1000)
        gate = gates("held")
        hold(scheduler, gate, count=2)
        gone, busy = scheduler.agents.values()
        kill(gone)
        wait_gone_for_good(scheduler, 1)
        scheduler.submit_tasks([Task("t", fn=pass_gate, args=(gate,)) for _ in range(10)])
        wait_taken_in(scheduler)
        other = scheduler.register_agent(Agent("other"))
        assert other._slot == gone._slot
        assert (busy.queue_length, other.queue_length) == (10, 0)
        assert (gone.state, gone.pid, gone.queue_length, gone.current_task) == ("gone", None, 0, None)
        assert "agent-0" not in scheduler.get_metrics()["per_agent"]
        assert scheduler.request_work("agent-0").moved == 0
        scheduler.remove_agent("agent-0")
        assert other.state != "leaving" and other.queue_length == 0
        assert scheduler.request_work("other").moved == 3
        gate.open()
        check_at_rest(scheduler)


class TestStop:
    def test_with_drain_everything_is_finished_first(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        held = hold(scheduler, gate, count=2)
        group: list[Task] = [Task(str(i), priority=1 + i % 5, fn=tasks.double, args=(i,)) for i in range(100)]
        group += [Task("sum", fn=tasks.add, args=(group[0], group[1]))]
        group += [Task("follows", dependencies=[group[-1]], priority=5)]
        scheduler.submit_tasks(group)
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        wait_until(lambda: scheduler._state == "stopping", "the end begun")
        with pytest.raises(RuntimeError, match="it is stopping"):
            scheduler.submit_task(Task("too late"))
        gate.open()
        stopper.join(ALARM_S)
        assert all(task.done() for task in [*held, *group])
        assert [task.result() for task in group] == [*range(0, 200, 2), 2, None]
        assert scheduler.get_metrics()["tasks"]["succeeded"] == 104

    def test_with_drain_tasks_that_no_agent_can_run_are_answered(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a", ["python"]))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        plain = scheduler.submit_task(Task("plain", ["python", "cobol"], fn=tasks.double, args=(1,)))
        urgent = scheduler.submit_task(Task("urgent", ["java"], 5, fn=tasks.double, args=(1,)))
        follows = scheduler.submit_task(Task("follows", dependencies=[plain]))
        good = scheduler.submit_task(Task("good", ["python"], fn=tasks.double, args=(1,)))
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        for task, missing in ((plain, {"cobol"}), (urgent, {"java"})):
            error = task.exception(ALARM_S)
            assert isinstance(error, UnmatchedTaskError)
            assert (error.task, error.missing) == (task.name, missing)
        error = follows.exception(ALARM_S)
        assert isinstance(error, DependencyError) and error.root_id == plain.id
        gate.open()
        stopper.join(ALARM_S)
        assert (held.exception(), good.result()) == (None, 2)

    @pytest.mark.parametrize("strategy", ["hybrid", "push"])
    def test_without_drain_everything_is_answered(self, open_scheduler: Open, gates: Gates, strategy: str) -> None:
        """Running, queued, held back, without an agent, waiting for another, or not looked at yet."""
        scheduler = open_scheduler(*agents(2), strategy=strategy)
        gate = gates("held")
        running = hold(scheduler, gate, count=2)
        pids = _pids(scheduler)
        queued = scheduler.submit_tasks([Task("queued", fn=tasks.double, args=(i,)) for i in range(20)])
        urgent = scheduler.submit_tasks([Task("urgent", priority=5, deadline=100) for _ in range(5)])
        strange = scheduler.submit_tasks([Task("strange", ["cobol"], priority=p) for p in (3, 5)])
        follows = scheduler.submit_tasks(
            [Task("follows", dependencies=[t]) for t in (running[0], queued[0], strange[1])]
        )
        wait_taken_in(scheduler)
        late = [scheduler.submit_task(Task("late")) for _ in range(50)]
        scheduler.stop(drain=False)
        for task in [*running, *queued, *urgent, *strange, *late]:
            assert isinstance(task.exception(0), PoolTerminatedError), task
            assert str(task.exception(0)) in ("the scheduler was terminated", "the scheduler has ended"), task
        for task in follows:
            assert isinstance(task.exception(0), (PoolTerminatedError, DependencyError)), task
        wait_gone([pid for pid in pids if pid is not None])
        tasks_now = scheduler.get_metrics()["tasks"]
        assert tasks_now["unfinished"] == 0 and not scheduler.tasks
        assert tasks_now["failed"] == tasks_now["submitted"]

    def test_a_second_stop_without_drain_cuts_the_first_short(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        wait_until(lambda: scheduler._state == "stopping", "the end begun")
        scheduler.stop(drain=False)
        assert isinstance(held.exception(0), PoolTerminatedError)
        stopper.join(ALARM_S)
        assert not stopper.is_alive()
        scheduler.stop()

    def test_agents_that_die_while_it_drains_are_replaced(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        waits = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(10)])
        wait_taken_in(scheduler)
        agent = scheduler.agents["a"]
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        wait_until(lambda: scheduler._state == "stopping", "the end begun")
        kill(agent)
        stopper.join(ALARM_S)
        assert isinstance(held.exception(0), AgentDiedError)
        assert [task.result(0) for task in waits] == list(range(0, 20, 2))

    def test_when_the_last_agent_dies_while_it_drains_the_rest_is_answered(
        self, open_scheduler: Open, gates: Gates
    ) -> None:
        scheduler = open_scheduler(Agent("a"), agents__replace_dead=False)
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        waits = scheduler.submit_tasks([Task("t", priority=1 + i % 5) for i in range(10)])
        wait_taken_in(scheduler)
        agent = scheduler.agents["a"]
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        wait_until(lambda: scheduler._state == "stopping", "the end begun")
        kill(agent)
        stopper.join(ALARM_S)
        assert isinstance(held.exception(0), AgentDiedError)
        assert {type(task.exception(0)) for task in waits} == {UnmatchedTaskError}

    def test_when_the_engine_itself_fails_everything_is_answered(
        self, open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Running, queued, held, without an agent, and waiting for others, of which it may have lost track."""
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        made = hold(scheduler, gate)
        made += scheduler.submit_tasks([Task("queued") for _ in range(3)])
        made += scheduler.submit_tasks([Task("held", priority=5), Task("strange", ["cobol"])])
        made += scheduler.submit_tasks([Task("follows", dependencies=[task]) for task in made])
        wait_taken_in(scheduler)

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(scheduler._dispatcher.dependents, "release", lambda task: None)
            patch.setattr(scheduler._dispatcher, "turn", fail)
            made.append(scheduler.submit_task(Task("one more")))
            errors = [task.exception(ALARM_S) for task in made]
        assert all(isinstance(error, ZeroDivisionError) for error in errors)
        assert len(told(caplog, "the engine failed")) == 1
        scheduler.stop()

    def test_an_agent_that_is_leaving_finishes_first(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        held = hold(scheduler, gate, count=2)
        scheduler.remove_agent("agent-0")
        stopper = threading.Thread(target=scheduler.stop)
        stopper.start()
        wait_until(lambda: scheduler._state == "stopping", "the end begun")
        gate.open()
        stopper.join(ALARM_S)
        assert all(task.exception(0) is None for task in held)

    @pytest.mark.parametrize("drain", [True, False])
    def test_whoever_submits_meanwhile_gets_an_answer(self, open_scheduler: Open, drain: bool) -> None:
        for _ in range(15):
            scheduler = open_scheduler(Agent("a"))
            submitted: list[Task] = []
            begun = threading.Event()

            def submit(scheduler: Any = scheduler, submitted: list[Task] = submitted, begun: Any = begun) -> None:
                try:
                    while True:
                        submitted.append(scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))))
                        begun.set()
                except RuntimeError:
                    pass

            threads = [threading.Thread(target=submit) for _ in range(2)]
            for thread in threads:
                thread.start()
            begun.wait(ALARM_S)
            scheduler.stop(drain=drain)
            for thread in threads:
                thread.join()
            for task in submitted:
                error = task.exception(ALARM_S)
                assert error is None or isinstance(error, PoolTerminatedError)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.stress) for seed in (2, 3))])
def test_nothing_is_lost_and_nothing_runs_twice_in_a_storm(open_scheduler: Open, tmp_path: Path, seed: int) -> None:
    """Agents die, leave, come and run out of time; tasks of all kinds flow. Each ends once, on an agent that has its
    skills, and none runs twice without leave."""
    chance = random.Random(seed)
    names = ["red", "green", "blue"]
    scheduler = open_scheduler(Agent("all", [*names, "*"]), agents__max_agents=5, order__ask_s=0.05)
    noted = str(tmp_path / "noted")
    made: list[Task] = []
    cancelled: list[Task] = []
    skills_of_agent = {"all": {*names, "*"}}
    skills_of_process: dict[int, set[str]] = {}
    came = killed = ended = 0
    until = time.monotonic() + 2.0

    def look() -> None:
        for agent in scheduler.agents.values():
            skills_of_agent[agent.agent_id] = set(agent.capabilities)
            if (pid := agent.pid) is not None:
                skills_of_process[pid] = set(agent.capabilities)

    while time.monotonic() < until:
        for _ in range(chance.randrange(1, 40)):
            number = len(made)
            task = Task(
                str(number),
                chance.choice([[], [], *[[name] for name in names], names[:2]]),
                chance.randrange(1, 6),
                made[-chance.randrange(1, 5) :][:1] if made and chance.random() < 0.2 else (),
                fn=note_pid_and_spin,
                args=(noted, number, chance.choice([0, 0, 0, 0.001, 0.003])),
                deadline=chance.choice([None, None, 5.0]),
                timeout=chance.choice([None, None, 30.0]),
                retries=chance.choice([0, 0, 2]),
            )
            made.append(scheduler.submit_task(task))
        if chance.random() < 0.1:
            ended += 1
            scheduler.submit_task(Task("endless", fn=note_pid_and_spin, args=(noted, -1, 60), timeout=0.01))
        if chance.random() < 0.2:
            victim = chance.choice(made[-200:])
            if victim.cancel():
                cancelled.append(victim)
        look()
        what = chance.random()
        if what < 0.3:
            pids = [pid for agent in scheduler.agents.values() if (pid := agent.pid)]
            if pids:
                killed += 1
                try:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        elif what < 0.5:
            try:
                scheduler.register_agent(Agent(f"agent-{came}", chance.sample(names, chance.randrange(1, 4))))
                look()
                came += 1
            except ValueError:
                pass
        elif what < 0.6:
            others = [agent_id for agent_id in scheduler.agents if agent_id != "all"]
            if others:
                scheduler.remove_agent(chance.choice(others), drain=chance.random() < 0.5)
        if len(scheduler.tasks) > 1500:
            scheduler.wait_all(ALARM_S)
    assert scheduler.wait_all(ALARM_S), f"seed {seed}: {list(scheduler.tasks.values())[:5]}"
    starts = [tuple(map(int, line.split())) for line in lines(noted)]
    ran = Counter(number for number, _ in starts)
    for number, pid in starts:
        if pid in skills_of_process and number >= 0:
            assert made[number].skill_requirements <= skills_of_process[pid], (
                f"seed {seed}: {made[number]} ran there (I5)"
            )
    look()
    for task in made:
        number = int(task.name)
        error = None if task.cancelled() else task.exception()
        if task.started_at is not None:
            assert task.skill_requirements <= skills_of_agent[str(task.agent_id)], f"seed {seed}: {task} (I5)"
        if task.cancelled():
            assert ran[number] <= task.retries, f"seed {seed}: {task} was withdrawn and ran"
        elif error is None:
            assert task.result() == number
            assert 1 <= ran[number] <= 1 + task.retries, f"seed {seed}: {task} ran {ran[number]} times"
        elif isinstance(error, DependencyError):
            assert ran[number] == 0, f"seed {seed}: {task} ran"
        else:
            assert isinstance(error, AgentDiedError), f"seed {seed}: {task} {error!r}"
            assert ran[number] <= 1 + task.retries
    assert set(cancelled) == {task for task in made if task.cancelled()}
    assert killed and came
    metrics = check_at_rest(scheduler)
    assert metrics["tasks"]["submitted"] == len(made) + ended
    assert metrics["timeouts"] <= ended


def _pids(scheduler: WorkStealingScheduler) -> list[int | None]:
    return [agent.pid for agent in scheduler.agents.values()]


@pytest.mark.parametrize("end", ["limit", "number", "death"])
def test_removed_agent_whose_process_ends_still_finishes_what_nobody_else_can_run(
    open_scheduler: Open, gates: Gates, end: str
) -> None:
    """By a time limit, as the last of its tasks by number, or by its death: a successor does it, and leaves then."""
    options = {"agents__max_tasks": 3} if end == "number" else {}
    scheduler, gate = open_scheduler(Agent("a", ["x"]), Agent("b"), **options), gates("held")
    limit = 1.0 if end == "limit" else None
    held = scheduler.submit_task(Task("held", ["x"], fn=pass_gate, args=(gate, 1), timeout=limit))
    gate.wait_arrived()
    rest = [scheduler.submit_task(Task("rest", ["x"], fn=tasks.double, args=(i,))) for i in range(8)]
    wait_taken_in(scheduler)
    agent = scheduler.agents["a"]
    scheduler.remove_agent("a")
    if end == "death":
        kill(agent)
    elif end == "number":
        gate.release()
    assert [task.result(60) for task in rest] == [2 * i for i in range(8)]
    error = held.exception(60)
    assert type(error) is {"limit": TaskTimeoutError, "number": type(None), "death": AgentDiedError}[end]
    wait_gone_for_good(scheduler, 1)
    scheduler._engine.validate()
