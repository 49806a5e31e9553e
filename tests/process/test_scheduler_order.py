"""What runs first: priority, then the earliest deadline, then what was submitted first; and nothing waits for ever."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from gates import Gates
from scheduler_tasks import (
    agents,
    check_at_rest,
    hold,
    note_and_pass,
    note_and_pid,
    pass_and_pid,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, lines, wait_until

from mpsteal import Agent, Task, WorkStealingScheduler

Open = Callable[..., WorkStealingScheduler]


class TestOrderInAnAgent:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
    def test_priority_first_earliest_deadline_next_then_submission(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path, seed: int, together: bool
    ) -> None:
        """All five levels, shuffled. Those with a deadline come before those without, inside a priority."""
        scheduler = open_scheduler(Agent("a"), order__aging_tasks=1000)
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        made = [
            Task(
                f"{priority}.{i}",
                priority=priority,
                deadline=deadline,
                fn=note_and_pid,
                args=(noted, f"{priority}.{i}"),
            )
            for priority in (1, 2, 3, 4, 5)
            for i, deadline in enumerate([None, 300.0, None, 200.0, None, 100.0])
        ]
        random.Random(seed).shuffle(made)
        submitted = {task.id: n for n, task in enumerate(made)}
        if together:
            scheduler.submit_tasks(made)
        else:
            for task in made:
                scheduler.submit_task(task)
        wait_taken_in(scheduler)
        gate.open()
        assert all(task.result(ALARM_S) for task in made)
        expected = sorted(made, key=lambda t: (-t.priority, t.deadline or float("inf"), submitted[t.id]))
        assert lines(noted) == [task.name for task in expected]
        check_at_rest(scheduler)

    def test_deadlines_count_from_the_submission(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        """The later of two with the same number of seconds is due later."""
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        for i in range(20):
            scheduler.submit_task(Task("t", fn=note_and_pid, args=(noted, i), deadline=100.0))
        wait_taken_in(scheduler)
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert lines(noted) == [str(i) for i in range(20)]

    def test_more_tasks_than_an_agent_has_entries_keep_their_order(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path
    ) -> None:
        """Each is a range of its own, and the agent holds so many per level; the rest is kept back."""
        scheduler = open_scheduler(Agent("a"), geometry={"entries": 4})
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        for i in range(40):
            scheduler.submit_task(Task("t", fn=note_and_pid, args=(noted, i)))
            wait_taken_in(scheduler)
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert lines(noted) == [str(i) for i in range(40)]
        check_at_rest(scheduler)


class TestUrgent:
    def test_protected_task_is_the_next_to_start_on_the_first_agent_that_becomes_free(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path
    ) -> None:
        """Deep queues of plain tasks do not hold it up, whichever agent it is that becomes free."""
        scheduler = open_scheduler(*agents(2))
        noted = str(tmp_path / "noted")
        gate, urgent_gate = gates("held"), gates("urgent")
        hold(scheduler, gate, count=2)
        plain = [Task(f"plain-{i}", fn=note_and_pid, args=(noted, f"plain-{i}")) for i in range(100)]
        scheduler.submit_tasks(plain)
        urgent = Task("urgent", priority=4, fn=note_and_pass, args=(noted, "urgent", urgent_gate))
        scheduler.submit_task(urgent)
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["tasks"]["held"] == 1
        assert urgent.state == "waiting"
        gate.release(1)
        urgent_gate.wait_arrived()
        assert lines(noted)[0] == "urgent"
        urgent_gate.open()
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        check_at_rest(scheduler)

    def test_it_is_no_hostage_of_an_agent_whose_tasks_used_to_be_short(
        self, open_scheduler: Open, gates: Gates
    ) -> None:
        """An agent that runs short tasks is handed some ahead. Not while it is inside a long one, nor before others
        that are free."""
        scheduler = open_scheduler(*agents(2))
        first, second = gates("first"), gates("second")
        for _ in range(3):
            scheduler.submit_tasks([Task("short") for _ in range(200)])
            assert scheduler.wait_all(ALARM_S)
        (held,) = hold(scheduler, first)
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.05, "the task no longer short")
        urgent = [scheduler.submit_task(Task("u", priority=5, fn=tasks.my_pid)) for _ in range(10)]
        free = {agent.pid for agent in scheduler.agents.values() if agent.current_task is not held}
        assert len(free) == 1
        assert {task.result(ALARM_S) for task in urgent} == free
        hold(scheduler, second)
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.05, "the task no longer short")
        urgent = [scheduler.submit_task(Task("u", priority=5, fn=tasks.my_pid)) for _ in range(10)]
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["tasks"]["held"] == 10
        second.open()
        assert {task.result(ALARM_S) for task in urgent} == free
        first.open()
        check_at_rest(scheduler)

    def test_a_more_urgent_one_overtakes_what_was_handed_over_and_not_started(
        self, open_scheduler: Open, tmp_path: Path
    ) -> None:
        """The agent is free, gets one, and before it wakes up there comes a more urgent one."""
        agent = Agent("a")
        scheduler = open_scheduler(agent)
        wait_ready(scheduler)
        noted = str(tmp_path / "noted")
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            for priority in (1, 4, 5):
                task = Task("t", priority=priority, deadline=100.0, fn=note_and_pid, args=(noted, priority))
                scheduler.submit_task(task)
                wait_taken_in(scheduler)
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        assert scheduler.wait_all(ALARM_S)
        assert lines(noted) == ["5", "4", "1"]
        check_at_rest(scheduler)

    def test_an_agent_does_not_ask_for_what_it_will_not_get(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path
    ) -> None:
        """What is held has grown old beside tasks that were handed over and are more urgent, and turn out long. Those
        come first, and the parent hands over no more meanwhile."""
        agent = Agent("a")
        scheduler = open_scheduler(
            agent, order__aging_tasks=1, order__ahead_tasks=3, order__short_s=1000.0, order__ahead_s=1000.0
        )
        for _ in range(3):
            scheduler.submit_tasks([Task("short") for _ in range(200)])
            assert scheduler.wait_all(ALARM_S)
        wait_ready(scheduler)
        noted, gate = str(tmp_path / "noted"), gates("long")
        blocks, go_on = threading.Event(), threading.Event()

        def block() -> None:
            blocks.set()
            go_on.wait(ALARM_S)

        blocker = threading.Thread(target=scheduler._engine.call, args=(block,))
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            for priority, count in ((2, 3), (1, 1)):
                made = [
                    Task("t", priority=priority, deadline=100.0, fn=note_and_pass, args=(noted, priority, gate))
                    for _ in range(count)
                ]
                scheduler.submit_tasks(made)
                wait_taken_in(scheduler)
            assert agent.queue_length == 3 and scheduler.get_metrics()["tasks"]["held"] == 1
            blocker.start()  # the parent does nothing until it is clear that the first of them is not short
            assert blocks.wait(ALARM_S)
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        gate.wait_arrived()
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.05, "the task no longer short")
        go_on.set()
        blocker.join()
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["tasks"]["held"] == 1
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert lines(noted) == ["2", "2", "2", "1"]
        check_at_rest(scheduler)

    def test_it_goes_to_an_idle_agent_at_once(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(3))
        wait_ready(scheduler)
        gate = gates("held")
        urgent = [scheduler.submit_task(Task("u", priority=5, fn=pass_and_pid, args=(gate,))) for _ in range(3)]
        gate.wait_arrived(3)
        gate.open()
        assert len({task.result(ALARM_S) for task in urgent}) == 3
        check_at_rest(scheduler)

    def test_it_is_withdrawn_while_it_is_held(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        urgent = [Task(str(i), priority=5, fn=note_and_pid, args=(noted, i)) for i in range(6)]
        scheduler.submit_tasks(urgent)
        wait_taken_in(scheduler)
        assert [task.cancel() for task in urgent[::2]] == [True] * 3
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert lines(noted) == ["1", "3", "5"]
        assert check_at_rest(scheduler)["tasks"]["cancelled"] == 3

    def test_an_agent_goes_on_when_the_parent_does_not_answer(self, open_scheduler: Open, tmp_path: Path) -> None:
        """It asks for what is more urgent, for so long (`order.ask_s`), and then does what it has."""
        scheduler = open_scheduler(Agent("a"), order__ask_s=0.05)
        wait_ready(scheduler)
        noted = str(tmp_path / "noted")
        plain = [Task("t", fn=tasks.note_and_spin, args=(noted, i, 0.005)) for i in range(20)]
        scheduler.submit_tasks(plain)
        for _ in range(20):
            scheduler.submit_task(Task("u", priority=5, fn=note_and_pid, args=(noted, "urgent")))
        sum(range(2_000_000))  # the main thread is busy, and gives way only from time to time
        assert scheduler.wait_all(ALARM_S)
        assert len(lines(noted)) == 40
        check_at_rest(scheduler)

    def test_a_full_level_does_not_keep_back_another(self, open_scheduler: Open) -> None:
        """The turn of a level has come by age, and the agent's queue has no room for it: it gets what else is held.

        The wait for an answer has no end here: an agent that is given nothing asks, and waits, for ever."""
        scheduler = open_scheduler(Agent("a", ["x"]), Agent("b"), geometry={"entries": 2}, order__aging_tasks=3)
        wait_ready(scheduler)
        for i in range(2000):
            # The turn of the fourth comes by what both do of the fifth, and all of it goes to one.
            high = i % 4 > 0
            task = Task("t", [] if high else ["x"], 4 + high, fn=tasks.double, args=(i,))
            scheduler.submit_task(task)
        assert scheduler.wait_all(ALARM_S)
        check_at_rest(scheduler)

    @pytest.mark.parametrize("seed", [1, 2])
    def test_no_agent_waits_for_an_answer_that_does_not_come(
        self, open_scheduler: Open, tmp_path: Path, seed: int
    ) -> None:
        """Tasks of all levels and lengths flow, some are withdrawn; the wait for an answer has no end here, so one that
        is missed is seen."""
        chance = random.Random(seed)
        scheduler = open_scheduler(Agent("a", ["x"]), Agent("b", ["x", "y"]), Agent("c"), order__aging_tasks=2)
        noted = str(tmp_path / "noted")
        made: list[Task] = []
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            group = [
                Task(
                    "t",
                    chance.choice([[], ["x"], ["y"]]),
                    chance.randrange(1, 6),
                    fn=tasks.note_and_spin,
                    args=(noted, len(made) + i, chance.choice([0, 0, 0, 0.001, 0.012])),
                    deadline=chance.choice([None, None, 100.0]),
                )
                for i in range(chance.randrange(1, 8))
            ]
            made += scheduler.submit_tasks(group)
            if chance.random() < 0.2:
                chance.choice(made[-20:]).cancel()
            if chance.random() < 0.3:
                assert scheduler.wait_all(ALARM_S), f"seed {seed}"
        assert scheduler.wait_all(ALARM_S), f"seed {seed}"
        ran = sorted(map(int, lines(noted)))
        assert ran == [i for i, task in enumerate(made) if not task.cancelled()]
        check_at_rest(scheduler)


class TestAging:
    @pytest.mark.parametrize("high", [3, 5])
    def test_a_waiting_low_level_rises_so_that_it_never_starves(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path, high: int
    ) -> None:
        """A stream of tasks of higher priority, plain ones in the agent's queue or protected ones that the parent
        holds, does not keep a low one from running: it rises by one for every 8 that pass it."""
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        scheduler.submit_task(Task("low", priority=1, fn=note_and_pid, args=(noted, "low")))
        scheduler.submit_tasks([Task("high", priority=high, fn=note_and_pid, args=(noted, "high")) for _ in range(200)])
        wait_taken_in(scheduler)
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert 8 <= lines(noted).index("low") <= 8 * (high - 1) + 1
        check_at_rest(scheduler)

    def test_each_of_five_levels_gets_its_turn(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"), order__aging_tasks=2)
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate)
        for priority in (1, 2, 3, 4, 5):
            count = 10 if priority < 5 else 200
            group = [Task("t", priority=priority, fn=note_and_pid, args=(noted, priority)) for _ in range(count)]
            scheduler.submit_tasks(group)
        wait_taken_in(scheduler)
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        order = lines(noted)
        assert order[0] == "5"
        while_all_wait = order[:40]
        assert set(while_all_wait) == {"1", "2", "3", "4", "5"}
        check_at_rest(scheduler)
