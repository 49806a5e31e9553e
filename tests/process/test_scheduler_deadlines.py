"""Deadlines are watched, time limits are kept: and neither costs any other task anything."""

from __future__ import annotations

import datetime
import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import (
    LoadedAtGate,
    agents,
    check_at_rest,
    hold,
    note_and_pid,
    queued_at,
    start_sleeper_and_stay,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, lines, wait_gone, wait_until

from mpsteal import (
    Agent,
    AgentDiedError,
    DeadlineWarning,
    DependencyError,
    Task,
    TaskTimeoutError,
    WorkStealingScheduler,
)

Open = Callable[..., WorkStealingScheduler]


def late(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "mpsteal" and "missed its deadline" in r.getMessage()]


class TestDeadline:
    def test_a_missed_one_is_counted_logged_and_seen_on_the_task(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        waits = scheduler.submit_task(Task("waits", fn=tasks.double, args=(4,), deadline=0.02))
        wait_until(lambda: waits.deadline_missed, "the deadline seen to pass while the task waits")
        assert not waits.done()
        assert scheduler.get_metrics()["deadlines"] == {"missed": 1, "at_risk": 0}
        gate.open()
        assert waits.result(ALARM_S) == 8, "it runs all the same"
        assert held.deadline_missed is False
        metrics = check_at_rest(scheduler)
        assert metrics["deadlines"] == {"missed": 1, "at_risk": 0}
        assert late(caplog) == [f"mpsteal: task {waits.id} ('waits') missed its deadline"]

    def test_one_missed_by_a_running_task_is_seen_while_it_runs(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("running")
        runs = scheduler.submit_task(Task("runs", fn=pass_gate, args=(gate, 1), deadline=0.05))
        gate.wait_arrived()
        wait_until(lambda: runs.deadline_missed, "the deadline seen to pass")
        assert runs.running()
        gate.open()
        assert runs.result(ALARM_S) == 1
        assert check_at_rest(scheduler)["deadlines"]["missed"] == 1

    def test_one_missed_by_a_task_that_waits_for_another_or_for_an_agent(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        follows = scheduler.submit_task(Task("follows", dependencies=[held], deadline=0.02))
        strange = scheduler.submit_task(Task("strange", ["cobol"], deadline=0.02))
        for task in (follows, strange):
            wait_until(lambda task=task: task.deadline_missed, "the deadline seen to pass")
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["deadlines"]["missed"] == 2
        assert len(late(caplog)) == 2
        gate.open()
        assert follows.result(ALARM_S) is None
        assert strange.cancel()

    def test_one_that_is_met_is_not_counted(self, open_scheduler: Open, caplog: pytest.LogCaptureFixture) -> None:
        scheduler = open_scheduler(Agent("a"))
        in_time = [scheduler.submit_task(Task("t", fn=tasks.double, args=(i,), deadline=3600)) for i in range(20)]
        assert [task.result(ALARM_S) for task in in_time] == list(range(0, 40, 2))
        assert not any(task.deadline_missed for task in in_time)
        assert check_at_rest(scheduler)["deadlines"] == {"missed": 0, "at_risk": 0}
        assert late(caplog) == []

    def test_a_task_that_failed_or_was_cancelled_in_time_has_missed_nothing(
        self, open_scheduler: Open, gates: Gates
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        failed = scheduler.submit_task(Task("fails", fn=tasks.raise_this, args=(ValueError,), deadline=3600))
        assert isinstance(failed.exception(ALARM_S), ValueError)
        gate = gates("held")
        hold(scheduler, gate)
        cancelled = scheduler.submit_task(Task("c", fn=tasks.double, args=(1,), deadline=3600))
        assert cancelled.cancel()
        gate.open()
        assert not failed.deadline_missed and not cancelled.deadline_missed
        assert check_at_rest(scheduler)["deadlines"]["missed"] == 0

    def test_it_may_be_a_point_in_time(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        in_an_hour = datetime.datetime.now() + datetime.timedelta(hours=1)
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=0.5)
        second = scheduler.submit_task(Task("local", fn=tasks.double, args=(2,), deadline=in_an_hour))
        first = scheduler.submit_task(Task("zone", fn=tasks.double, args=(1,), deadline=soon))
        wait_until(lambda: first.deadline_missed, "the one with a zone is over")
        assert not second.deadline_missed
        gate.open()
        assert (first.result(ALARM_S), second.result(ALARM_S)) == (2, 4)
        assert first.started_at is not None and second.started_at is not None
        assert first.started_at <= second.started_at


class TestDeadlineThatCannotBeMet:
    @pytest.mark.parametrize(
        ("deadline", "cost", "why"),
        [
            pytest.param(-1.0, None, "has passed", id="passed"),
            pytest.param(0, None, "has passed", id="now"),
            pytest.param(datetime.datetime(2001, 1, 1), None, "has passed", id="a date that has passed"),
            pytest.param(60.0, 100.0, "is 60 s away, and the task takes about 100 s", id="takes too long"),
        ],
    )
    def test_is_reported_at_submit(self, open_scheduler: Open, deadline: Any, cost: float | None, why: str) -> None:
        scheduler = open_scheduler(Agent("a"))
        task = Task("late", fn=tasks.double, args=(1,), deadline=deadline, cost=cost)
        with pytest.warns(DeadlineWarning, match=f"the deadline of task 'late' {re.escape(why)}") as caught:
            scheduler.submit_task(task)
        assert caught[0].filename == __file__, "it names the caller's line"
        assert task.result(ALARM_S) == 2, "it runs all the same"
        assert check_at_rest(scheduler)["deadlines"]["at_risk"] == 1
        assert task.deadline_missed is (why == "has passed")

    def test_is_reported_by_submit_tasks_too(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        group = [Task("in time", deadline=100.0), Task("late", deadline=-1.0), Task("later", deadline=-2.0)]
        with pytest.warns(DeadlineWarning) as caught:
            scheduler.submit_tasks(group)
        assert [str(w.message).split("'")[1] for w in caught] == ["late", "later"]
        assert {w.filename for w in caught} == {__file__}

    def test_enough_time_is_no_reason_to_warn(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        task = scheduler.submit_task(Task("in time", fn=tasks.double, args=(1,), deadline=100.0, cost=5.0))
        assert task.result(ALARM_S) == 2
        assert check_at_rest(scheduler)["deadlines"]["at_risk"] == 0

    @pytest.mark.parametrize("together", [False, True], ids=["submit_task", "submit_tasks"])
    def test_where_warnings_are_errors_nothing_is_submitted_and_it_can_be_tried_again(
        self, open_scheduler: Open, together: bool
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        first, task = Task("first", fn=tasks.double, args=(1,)), Task("late", fn=tasks.double, args=(2,), deadline=-1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DeadlineWarning):
                if together:
                    scheduler.submit_tasks([first, task])
                else:
                    scheduler.submit_task(task)
        assert task.state == first.state == "created"
        assert not scheduler.tasks
        with pytest.raises(RuntimeError, match="was not submitted"):
            task.result()
        with pytest.warns(DeadlineWarning):
            scheduler.submit_tasks([first, task])
        assert [first.result(ALARM_S), task.result(ALARM_S)] == [2, 4]
        check_at_rest(scheduler)


def test_one_that_cannot_be_told_in_time_is_refused_and_nothing_of_it_stays(open_scheduler: Open) -> None:
    scheduler = open_scheduler(Agent("a"))
    task = Task("t", deadline=datetime.datetime(1, 1, 1))
    good = Task("good")
    for submit in (lambda: scheduler.submit_task(task), lambda: scheduler.submit_tasks([good, task])):
        with pytest.raises((ValueError, OverflowError)):
            submit()
        assert task.state == good.state == "created"
    assert scheduler.submit_task(good).result(ALARM_S) is None
    check_at_rest(scheduler)


class TestTimeout:
    def test_ends_the_running_task_with_its_process_and_the_agent_is_replaced(
        self, open_scheduler: Open, gates: Gates, start_method: str
    ) -> None:
        agent = Agent("a")
        scheduler = open_scheduler(agent, method=start_method)
        wait_ready(scheduler)
        before = agent.pid
        gate = gates("running")
        task = scheduler.submit_task(Task("endless", fn=tasks.arrive_and_sleep, args=(gate,), timeout=0.1))
        error = task.exception(ALARM_S)
        assert type(error) is TaskTimeoutError
        assert (error.task, error.timeout_s) == ("endless", 0.1)
        assert isinstance(error, TimeoutError)
        assert task.state == "failed"
        assert scheduler.submit_task(Task("next", fn=tasks.my_pid)).result(ALARM_S) != before
        assert before is not None
        wait_gone([before])
        assert list(scheduler.agents) == ["a"]
        metrics = check_at_rest(scheduler)
        assert (metrics["timeouts"], metrics["agent_deaths"], metrics["retried"]) == (1, 0, 0)

    def test_counts_from_the_start_of_the_task(self, open_scheduler: Open, gates: Gates) -> None:
        """Waiting does not count: what waits here has waited longer than it may run."""
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        submitted = time.monotonic()
        waits = [scheduler.submit_task(Task("t", fn=tasks.double, args=(i,), timeout=1)) for i in range(5)]
        wait_until(lambda: time.monotonic() - submitted > 1.2, "more than the limit")
        gate.open()
        assert [task.result(ALARM_S) for task in waits] == [0, 2, 4, 6, 8]
        assert check_at_rest(scheduler)["timeouts"] == 0

    def test_started_at_and_agent_of_what_was_ended_are_known(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("running")
        task = scheduler.submit_task(Task("endless", fn=tasks.arrive_and_sleep, args=(gate,), timeout=0.5))
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)
        assert task.agent_id == "a"
        assert task.started_at is not None and task.completed_at is not None
        assert task.completed_at - task.started_at >= 0.5
        assert check_at_rest(scheduler)["per_agent"]["a"]["failed"] == 1

    def test_queue_mates_keep_their_places(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        """The other agent has as much to do, and may not take: so what moves was moved by the parent."""
        scheduler = open_scheduler(Agent("a", ["python"]), strategy="push", agents__busy_above=1000)
        noted = str(tmp_path / "noted")
        first, running, second = gates("first"), gates("running"), gates("second")
        hold(scheduler, first, ("python",))
        ended = scheduler.submit_task(
            Task("endless", ["python"], fn=tasks.arrive_and_sleep, args=(running,), timeout=0.1)
        )
        wait_taken_in(scheduler)
        scheduler.register_agent(Agent("b", ["python"]))
        hold(scheduler, second, ("python",))
        group = [Task(str(i), ["python"], fn=note_and_pid, args=(noted, i)) for i in range(20)]
        scheduler.submit_tasks(group)
        wait_taken_in(scheduler)
        head, *mates = queued_at(scheduler, "a")
        assert head is ended and len(mates) > 5
        assigned = [task.assigned_at for task in mates]
        first.open()
        assert isinstance(ended.exception(ALARM_S), TaskTimeoutError)
        assert [task.result(ALARM_S) for task in mates]
        assert [task.assigned_at for task in mates] == assigned, "nobody gave them to anybody anew"
        assert {task.agent_id for task in mates} == {"a"}
        assert [int(n) for n in lines(noted)] == [int(task.name) for task in mates]
        second.open()
        assert [task.result(ALARM_S) for task in group]
        assert check_at_rest(scheduler)["migrations"]["redistributed"] == 0

    def test_is_kept_though_others_were_withdrawn_before_they_came_in(
        self, open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine is held up at the end of a turn, so it sees these for the first time when they are withdrawn."""
        scheduler = open_scheduler(Agent("a"))
        held, go_on = threading.Event(), threading.Event()
        turn = scheduler._dispatcher.turn

        def hold_up(now: float) -> None:
            turn(now)
            held.set()
            assert go_on.wait(ALARM_S)

        monkeypatch.setattr(scheduler._dispatcher, "turn", hold_up)
        scheduler._engine.wake()
        assert held.wait(ALARM_S)
        gone = [scheduler.submit_task(Task("gone", fn=tasks.double, args=(1,), timeout=60)) for _ in range(3)]
        threads = [threading.Thread(target=task.cancel) for task in gone]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(scheduler._engine._cancels) == 3, "the engine asked")
        go_on.set()
        for thread in threads:
            thread.join()
        assert all(task.cancelled() for task in gone)
        gate = gates("running")
        task = scheduler.submit_task(Task("endless", fn=tasks.arrive_and_sleep, args=(gate,), timeout=0.1))
        more = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(1,), timeout=60) for _ in range(2)])
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)
        assert [task.result(ALARM_S) for task in more] == [2, 2]
        check_at_rest(scheduler)

    def test_ends_what_the_task_has_started(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        noted, gate = str(tmp_path / "noted"), gates("running")
        task = scheduler.submit_task(Task("t", fn=start_sleeper_and_stay, args=(noted, gate), timeout=1))
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)
        (child,) = map(int, lines(noted))
        wait_gone([child])

    def test_counts_while_the_arguments_are_loaded(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("loading")
        task = scheduler.submit_task(Task("t", fn=tasks.identity, args=(LoadedAtGate(gate),), timeout=0.1))
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)
        assert scheduler.submit_task(Task("next", fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        check_at_rest(scheduler)

    def test_retries_are_for_deaths_and_not_for_time(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        task = Task("endless", fn=tasks.note_pid_and_sleep, args=(noted, 600), timeout=1, retries=3)
        assert isinstance(scheduler.submit_task(task).exception(ALARM_S), TaskTimeoutError)
        assert len(lines(noted)) == 1
        assert check_at_rest(scheduler)["retried"] == 0

    def test_another_try_has_all_of_its_time(self, open_scheduler: Open, gates: Gates) -> None:
        """The agent dies just before the limit. The second try starts its own clock."""
        agent = Agent("a")
        scheduler = open_scheduler(agent)
        gate = gates("running")
        task = scheduler.submit_task(Task("twice", fn=pass_gate, args=(gate, 7), timeout=1.5, retries=1))
        gate.wait_arrived()
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.9, "most of its time gone")
        assert agent.pid is not None
        os.kill(agent.pid, 9)
        gate.wait_arrived()
        wait_until(lambda: time.monotonic() - started > 1.8, "the time of the first try over")
        gate.open()
        assert task.result(ALARM_S) == 7
        assert check_at_rest(scheduler)["timeouts"] == 0

    def test_dependents_of_what_was_ended_name_it(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("running")
        task = scheduler.submit_task(Task("endless", fn=tasks.arrive_and_sleep, args=(gate,), timeout=0.1))
        follows = scheduler.submit_task(Task("follows", dependencies=[task]))
        error = follows.exception(ALARM_S)
        assert isinstance(error, DependencyError) and error.root_id == task.id
        assert isinstance(error.__cause__, TaskTimeoutError)

    def test_an_agent_that_is_leaving_is_ended_too(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("running")
        task = scheduler.submit_task(Task("endless", fn=tasks.arrive_and_sleep, args=(gate,), timeout=0.3))
        wait_until(lambda: task.running() or task.done(), "it runs")
        agent = scheduler.agents["a"]
        scheduler.remove_agent("a")
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)
        wait_until(lambda: agent.state == "gone", "the agent gone")
        assert check_at_rest(scheduler)["timeouts"] == 1

    @pytest.mark.parametrize("count", [1, 2])
    def test_never_costs_another_task(self, open_scheduler: Open, tmp_path: Path, count: int) -> None:
        """Limits run out while short tasks flow before and behind: each of those runs exactly once."""
        scheduler = open_scheduler(*agents(count))
        noted = str(tmp_path / "noted")
        rounds, others, ended = 25, [], []
        for i in range(rounds):
            for j in range(10):
                others.append(Task("short", fn=tasks.note, args=(noted, f"{i}.{j}"), priority=1 + (i + j) % 5))
                scheduler.submit_task(others[-1])
            ended.append(Task("endless", fn=tasks.note_and_spin, args=(noted, -1, 600), timeout=0.02))
            scheduler.submit_task(ended[-1])
            for j in range(10, 20):
                others.append(Task("short", fn=tasks.note, args=(noted, f"{i}.{j}"), timeout=60.0))
                scheduler.submit_task(others[-1])
            if i % 5 == 4:
                assert isinstance(ended[-1].exception(ALARM_S), TaskTimeoutError)
        assert scheduler.wait_all(ALARM_S)
        assert [task.exception() for task in others if task.exception() is not None] == []
        assert {type(task.exception()) for task in ended} == {TaskTimeoutError}
        ran = [line for line in lines(noted) if line != "-1"]
        assert sorted(ran) == sorted(f"{i}.{j}" for i in range(rounds) for j in range(20))
        metrics = check_at_rest(scheduler)
        assert metrics["timeouts"] == rounds
        assert metrics["agent_deaths"] == 0

    def test_tasks_that_end_just_at_their_limit_end_once_and_cost_no_other(
        self, open_scheduler: Open, tmp_path: Path
    ) -> None:
        """Each takes about as long as it may: either outcome is right, and the next task is not the one that pays."""
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        close, others = [], []
        for i in range(20):
            close.append(scheduler.submit_task(Task("t", fn=tasks.note_and_spin, args=(noted, i, 0.02), timeout=0.02)))
            others.append(scheduler.submit_task(Task("next", fn=tasks.note, args=(noted, -i - 1))))
        assert scheduler.wait_all(ALARM_S)
        assert [task.exception() for task in others if task.exception() is not None] == []
        assert {type(task.exception()) for task in close} <= {TaskTimeoutError, type(None)}
        ran = [int(line) for line in lines(noted)]
        assert len(set(ran)) == len(ran), "one started twice"
        over = [i for i, task in enumerate(close) if task.exception() is not None]
        # One that lost its core as it began is ended before it has noted anything.
        assert set(range(-20, 20)) - set(ran) <= set(over)
        assert check_at_rest(scheduler)["timeouts"] == len(over)

    def test_a_death_by_itself_is_not_taken_for_the_limit(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        task = scheduler.submit_task(Task("dies", fn=tasks.die_at_once, args=(3,), timeout=60.0))
        assert isinstance(task.exception(ALARM_S), AgentDiedError)
        assert check_at_rest(scheduler)["timeouts"] == 0
