"""Work goes where agents are free: agents pull, the parent pushes, and neither moves what it must not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from gates import Gate, Gates, pass_gate
from scheduler_tasks import (
    agents,
    check_at_rest,
    hold,
    note_and_pid,
    pass_and_pid,
    queued_at,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, lines, wait_until

from mpsteal import Agent, Task, WorkStealingScheduler
from mpsteal._queue import layout as L

Open = Callable[..., WorkStealingScheduler]


def fill(scheduler: WorkStealingScheduler, gate: Gate, count: int, **options: object) -> list[Task]:
    """Queue `count` tasks that wait at the gate at the agents there are, each held inside another task."""
    made = [Task(str(i), fn=pass_and_pid, args=(gate,), **options) for i in range(count)]  # type: ignore[arg-type]
    scheduler.submit_tasks(made)
    wait_taken_in(scheduler)
    return made


def lengths(scheduler: WorkStealingScheduler) -> list[int]:
    return [agent.queue_length for agent in scheduler.agents.values()]


class TestStrategyHybrid:
    def test_is_the_default_agents_pull_and_the_parent_pushes(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a", ["x"]))
        assert scheduler.config.strategy == "hybrid"
        gate = gates("held")
        hold(scheduler, gate, ("x",))
        fill(scheduler, gate, 4, skill_requirements=["x"])
        scheduler.register_agent(Agent("any", ["*"]))
        gate.wait_arrived()
        assert lengths(scheduler) == [2, 1], "it had nothing, and took half"
        assert scheduler.get_metrics()["rebalance_cycles"] == 0, "nobody was busy"
        fill(scheduler, gate, 18, skill_requirements=["x"])
        wait_until(lambda: lengths(scheduler)[0] <= 3 * lengths(scheduler)[1], "no severe imbalance")
        metrics = scheduler.get_metrics()
        assert metrics["steals"]["tasks"] == 2, "it has something, and takes no more"
        assert metrics["migrations"]["succeeded"] == lengths(scheduler)[1] - 1 >= 3
        assert metrics["rebalance_cycles"] >= 1
        gate.open()
        check_at_rest(scheduler)


def test_an_agent_that_looks_around_before_it_is_known_finds_work(
    open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process runs before the others' skills and its own are written where thieves look."""
    scheduler = open_scheduler(Agent("a", ["x"]), strategy="pull")
    gate = gates("held")
    hold(scheduler, gate, ("x",))
    fill(scheduler, gate, 4, skill_requirements=["x"])
    dispatcher = scheduler._dispatcher
    changed = dispatcher.classes.agents_changed

    def changed_late(**how: bool) -> None:
        wait_until(lambda: dispatcher.words[dispatcher.segment.layout.agent(1) + L.PARKED], "the new one asleep")
        changed(**how)

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher.classes, "agents_changed", changed_late)
        scheduler.register_agent(Agent("b", ["x"]))
    gate.wait_arrived()
    assert lengths(scheduler) == [2, 1]
    gate.open()
    check_at_rest(scheduler)


class TestStrategyPull:
    """Agents request work; nothing else moves any."""

    def test_how_much_at_most_three_from_the_far_end(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="pull")
        gate, first = gates("held"), gates("first")
        (running,) = hold(scheduler, first)
        group = fill(scheduler, gate, 20)
        thief = scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        assert lengths(scheduler) == [17, 2]
        assert thief.current_task is group[17]
        assert queued_at(scheduler, "b") == group[18:], "the last ones that were submitted (LIFO)"
        assert queued_at(scheduler, "a") == group[:17]
        assert not running.done() and running.running()
        first.open()
        gate.open()
        assert check_at_rest(scheduler)["rebalance_cycles"] == 0
        assert group[17].agent_id == "b"
        assert running.agent_id == "a", "what runs is never taken"

    @pytest.mark.parametrize(("max_tasks", "taken"), [(1, 1), (2, 2), (0, 10)])
    def test_how_much_is_a_key(self, open_scheduler: Open, gates: Gates, max_tasks: int, taken: int) -> None:
        """0: half of what is there."""
        scheduler = open_scheduler(Agent("a"), strategy="pull", stealing__max_tasks=max_tasks)
        gate = gates("held")
        hold(scheduler, gate)
        fill(scheduler, gate, 20)
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        assert lengths(scheduler) == [20 - taken, taken - 1]
        gate.open()
        check_at_rest(scheduler)

    def test_from_whom_the_busiest_first(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(
            Agent("a", ["a", "x"]), Agent("b", ["b", "x"]), Agent("c", ["c", "x"]), strategy="pull"
        )
        gate = gates("held")
        for skill in "abc":
            hold(scheduler, gate, (skill,))
        for skill, count in (("a", 2), ("b", 9), ("c", 5)):
            fill(scheduler, gate, count, skill_requirements=[skill])
        scheduler.register_agent(Agent("thief", ["a", "b", "c"]))
        gate.wait_arrived()
        assert lengths(scheduler) == [2, 6, 5, 2]
        gate.open()
        check_at_rest(scheduler)

    def test_what_it_cannot_run_hides_nothing_behind_it(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a", ["x", "y"]), strategy="pull")
        gate = gates("held")
        hold(scheduler, gate)
        wanted = fill(scheduler, gate, 3, skill_requirements=["y"])
        others = fill(scheduler, gate, 10, skill_requirements=["x"])
        thief = scheduler.register_agent(Agent("b", ["y"]))
        gate.wait_arrived()
        assert thief.current_task in wanted
        assert not set(queued_at(scheduler, "b")) & set(others)
        gate.open()
        check_at_rest(scheduler)
        assert {task.agent_id for task in others} == {"a"}

    def test_a_protected_task_is_never_stolen(self, open_scheduler: Open, gates: Gates) -> None:
        """Some are handed ahead to an agent of short tasks, and then it is held up. They wait for it."""
        scheduler = open_scheduler(
            Agent("a"),
            strategy="hybrid",
            balancing__check_s=0.01,
            balancing__interval_s=0.02,
            order__short_s=1000.0,
            order__ahead_s=1000.0,
        )
        for _ in range(3):
            scheduler.submit_tasks([Task("short") for _ in range(200)])
            assert scheduler.wait_all(ALARM_S)
        gate = gates("held")
        blocker = scheduler.submit_task(Task("held", priority=5, fn=pass_gate, args=(gate,)))
        urgent = scheduler.submit_tasks([Task("u", priority=4, fn=tasks.my_pid) for _ in range(20)])
        gate.wait_arrived()
        wait_taken_in(scheduler)
        theirs = queued_at(scheduler, "a")
        assert theirs
        plain = scheduler.submit_tasks([Task("p", fn=tasks.my_pid) for _ in range(20)])
        other = scheduler.register_agent(Agent("b"))
        elsewhere = [task for task in urgent if task not in theirs]
        assert {task.result(ALARM_S) for task in elsewhere + plain} <= {other.pid}
        scheduler.rebalance()
        assert scheduler.request_work("b").moved == 0
        assert queued_at(scheduler, "a") == theirs
        assert not any(task.done() for task in theirs)
        gate.open()
        assert blocker.exception(ALARM_S) is None
        check_at_rest(scheduler)
        assert {task.agent_id for task in theirs} <= {"a"}

    def test_a_plain_task_with_a_deadline_may_be_stolen(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2), strategy="pull")
        gate = gates("held")
        due = [scheduler.submit_task(Task("d", fn=pass_and_pid, args=(gate,), deadline=3600)) for _ in range(2)]
        gate.wait_arrived(2)
        gate.open()
        assert len({task.result(ALARM_S) for task in due}) == 2
        check_at_rest(scheduler)

    def test_nothing_is_moved_by_cycles(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="pull", balancing__check_s=0.001, balancing__interval_s=0.001)
        gate, second = gates("held"), gates("second")
        hold(scheduler, gate)
        fill(scheduler, second, 20)
        scheduler.register_agent(Agent("b"))
        second.wait_arrived()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.1, "time for many cycles")
        assert lengths(scheduler) == [17, 2]
        second.open()
        gate.open()
        metrics = check_at_rest(scheduler)
        assert metrics["rebalance_cycles"] == metrics["migrations"]["succeeded"] == 0
        assert metrics["steals"]["successful"] >= 1


class TestStrategyPush:
    """The parent intervenes; agents take nothing by themselves."""

    def test_agents_do_not_steal(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="push", balancing__severe_ratio=1000.0, agents__busy_above=100)
        gate, second = gates("held"), gates("second")
        hold(scheduler, gate)
        fill(scheduler, second, 20)
        scheduler.register_agent(Agent("b"))
        wait_ready_but(scheduler, "a")
        assert lengths(scheduler) == [20, 0]
        gate.open()
        second.open()
        metrics = check_at_rest(scheduler)
        assert metrics["steals"]["successful"] == metrics["steals"]["tasks"] == 0
        assert metrics["per_agent"]["a"]["done"] == 21

    def test_rebalance_at_once_on_severe_imbalance(self, open_scheduler: Open, gates: Gates) -> None:
        """The next cycle by time would be in an hour."""
        scheduler = open_scheduler(Agent("a"), strategy="push", balancing__interval_s=3600.0)
        gate = gates("held")
        hold(scheduler, gate)
        group = fill(scheduler, gate, 20)
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        wait_until(lambda: lengths(scheduler)[0] <= 3 * max(1, lengths(scheduler)[1]), "no severe imbalance")
        gate.open()
        metrics = check_at_rest(scheduler)
        moved = metrics["migrations"]["succeeded"]
        assert moved >= 5
        assert metrics["rebalance_cycles"] >= moved / 3, "at most three a cycle"
        assert metrics["steals"]["successful"] == 0
        assert {task.agent_id for task in group} == {"a", "b"}

    def test_rebalance_by_time(self, open_scheduler: Open, gates: Gates) -> None:
        """An imbalance that is not severe: 6 tasks are busy, 1 is idle, the ratio is allowed."""
        scheduler = open_scheduler(
            Agent("a", ["a", "x"]),
            Agent("b", ["b", "x"]),
            strategy="push",
            balancing__severe_ratio=100.0,
            balancing__interval_s=0.05,
            balancing__max_tasks=1,
        )
        gate = gates("held")
        for skill in "ab":
            hold(scheduler, gate, (skill,))
        fill(scheduler, gate, 1, skill_requirements=["b"])
        fill(scheduler, gate, 6, skill_requirements=["a"])
        assert lengths(scheduler) == [6, 1]
        scheduler.register_agent(Agent("c", ["a"]))
        wait_until(lambda: scheduler.get_metrics()["migrations"]["succeeded"] == 1, "one move")
        gate.wait_arrived()
        assert lengths(scheduler) == [5, 1, 0]
        cycles = scheduler.get_metrics()["rebalance_cycles"]
        wait_until(lambda: scheduler.get_metrics()["rebalance_cycles"] > cycles + 2, "more cycles")
        assert lengths(scheduler) == [5, 1, 0], "nobody is busy any more"
        gate.open()
        check_at_rest(scheduler)

    @pytest.mark.parametrize(
        ("longest", "shortest", "severe"), [(7, 2, True), (6, 2, False), (6, 0, True), (5, 0, False)]
    )
    def test_imbalance_is_severe_by_its_ratio_or_if_one_is_busy_and_one_has_nothing(
        self, open_scheduler: Open, gates: Gates, longest: int, shortest: int, severe: bool
    ) -> None:
        """Nothing can move here, so the queues stay as they are, and only the cycles tell."""
        scheduler = open_scheduler(
            Agent("a", ["a"]),
            Agent("b", ["b"]),
            strategy="push",
            balancing__interval_s=3600.0,
            balancing__check_s=0.001,
        )
        gate = gates("held")
        for skill in "ab":
            hold(scheduler, gate, (skill,))
        fill(scheduler, gate, shortest, skill_requirements=["b"])
        fill(scheduler, gate, longest, skill_requirements=["a"])
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.05, "time for many looks")
        if severe:
            wait_until(lambda: scheduler.get_metrics()["rebalance_cycles"] > 0, "a cycle")
        assert lengths(scheduler) == [longest, shortest]
        assert (scheduler.get_metrics()["rebalance_cycles"] > 0) == severe
        gate.open()
        check_at_rest(scheduler)

    def test_never_to_an_agent_that_lacks_a_skill(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(
            Agent("a", ["x"]), Agent("b"), strategy="push", balancing__interval_s=0.01, balancing__check_s=0.01
        )
        gate = gates("held")
        hold(scheduler, gate, ("x",))
        fill(scheduler, gate, 20, skill_requirements=["x"])
        wait_until(lambda: scheduler.get_metrics()["rebalance_cycles"] > 3, "some cycles")
        assert lengths(scheduler) == [20, 0]
        assert scheduler.get_metrics()["migrations"] == {"succeeded": 0, "failed": 0, "redistributed": 0}
        gate.open()
        check_at_rest(scheduler)

    def test_no_cycle_while_nothing_is_queued(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2), strategy="push", balancing__interval_s=3600.0, balancing__check_s=0.001)
        gate = gates("held")
        hold(scheduler, gate, count=2)
        fill(scheduler, gate, 8)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.05, "time for many looks")
        assert lengths(scheduler) == [4, 4]
        assert scheduler.get_metrics()["rebalance_cycles"] == 0
        gate.open()
        check_at_rest(scheduler)


class TestRebalance:
    def test_one_cycle_on_demand_tells_what_it_moved(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="pull")
        gate, second = gates("held"), gates("second")
        hold(scheduler, gate)
        group = fill(scheduler, gate, 20)
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        assert lengths(scheduler) == [17, 2]
        report = scheduler.rebalance()
        assert report.moves == (("a", "b", 3),)
        assert (report.moved, report.failed) == (3, 0)
        assert report.before == {"a": 17, "b": 2}
        assert report.after == {"a": 14, "b": 5}
        assert 0 < report.took_s < ALARM_S
        assert lengths(scheduler) == [14, 5]
        assert queued_at(scheduler, "a") == group[:14], "the last ones go first (LIFO)"
        metrics = scheduler.get_metrics()
        assert metrics["migrations"] == {"succeeded": 3, "failed": 0, "redistributed": 0}
        assert metrics["rebalance_cycles"] == 0, "counts those that came by time or severe imbalance"
        second.open()
        gate.open()
        check_at_rest(scheduler)

    def test_balanced_queues_stay(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(3))
        gate = gates("held")
        hold(scheduler, gate, count=3)
        fill(scheduler, gate, 12)
        report = scheduler.rebalance()
        assert (report.moves, report.moved, report.failed) == ((), 0, 0)
        assert report.before == report.after == {"agent-0": 4, "agent-1": 4, "agent-2": 4}
        gate.open()
        check_at_rest(scheduler)

    def test_without_agents_and_with_one(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler()
        assert scheduler.rebalance().before == {}
        scheduler.register_agent(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        fill(scheduler, gate, 20)
        report = scheduler.rebalance()
        assert (report.moved, report.failed, report.after) == (0, 0, {"a": 20})
        assert scheduler.request_work("a").moved == 0
        gate.open()
        check_at_rest(scheduler)


class TestRequestWork:
    def test_gets_up_to_three_from_the_busiest(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(
            Agent("a", ["a", "x"]), Agent("b", ["b", "x"]), strategy="push", balancing__severe_ratio=1000.0
        )
        gate = gates("held")
        for skill in "ab":
            hold(scheduler, gate, (skill,))
        fill(scheduler, gate, 4, skill_requirements=["a"])
        fill(scheduler, gate, 5, skill_requirements=["b"])
        scheduler.register_agent(Agent("c", ["a", "b"]))
        reports = [scheduler.request_work("c") for _ in range(4)]
        assert [report.moves for report in reports] == [
            (("b", "c", 3),),
            (("a", "c", 3),),
            (),  # its own queue is the longest now
            (),
        ]
        assert [report.failed for report in reports] == [0, 0, 0, 0]
        assert scheduler.request_work("c").moved == 0
        assert scheduler.get_metrics()["migrations"]["failed"] == 0
        gate.open()
        check_at_rest(scheduler)

    def test_what_could_not_be_had_is_told(
        self, open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="push")
        gate = gates("held")
        hold(scheduler, gate)
        fill(scheduler, gate, 4)
        scheduler.register_agent(Agent("b"))
        wait_until(lambda: scheduler.agents["b"].state == "idle", "the new one at rest")
        with monkeypatch.context() as patch:
            patch.setattr(scheduler._engine.deques, "take_back", lambda *_, **__: None)  # as if its lock were busy
            report = scheduler.request_work("b")
        assert (report.moved, report.failed) == (0, 3)
        assert scheduler.get_metrics()["migrations"]["failed"] == 3
        gate.open()
        check_at_rest(scheduler)

    def test_only_what_it_can_run(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(
            Agent("a", ["x", "y"]), Agent("b", ["y"]), strategy="push", balancing__severe_ratio=1000.0
        )
        gate = gates("held")
        hold(scheduler, gate, ("x",))
        hold(scheduler, gate, ("y",))
        fill(scheduler, gate, 10, skill_requirements=["x"])
        report = scheduler.request_work("b")
        assert (report.moved, report.failed) == (0, 0)
        assert scheduler.get_metrics()["migrations"]["failed"] == 0
        gate.open()
        check_at_rest(scheduler)


class TestSpread:
    @pytest.mark.parametrize("strategy", ["hybrid", "pull", "push"])
    def test_hot_spot_of_20_tasks_on_one_agent_spreads_out(
        self, open_scheduler: Open, gates: Gates, strategy: str
    ) -> None:
        scheduler = open_scheduler(Agent("hot"), strategy=strategy)
        first, gate = gates("first"), gates("held")
        hold(scheduler, first)
        group = fill(scheduler, gate, 20)
        assert lengths(scheduler) == [20]
        for agent in agents(4):
            scheduler.register_agent(agent)
        gate.wait_arrived(4)  # each of them runs one, and waits
        counts = Counter(agent.agent_id for agent in scheduler.agents.values() if agent.current_task in group)
        assert counts == {f"agent-{i}": 1 for i in range(4)}
        gate.open()
        first.open()
        assert {task.result(ALARM_S) for task in group} >= {
            agent.pid for agent in scheduler.agents.values() if agent.agent_id != "hot"
        }
        metrics = check_at_rest(scheduler)
        assert metrics["steals"]["tasks"] + metrics["migrations"]["succeeded"] >= 4
        assert (metrics["steals"]["tasks"] == 0) == (strategy == "push")
        assert strategy != "pull" or metrics["migrations"]["succeeded"] == 0

    def test_uniform_load_of_100_tasks_over_10_agents_is_assigned_evenly(
        self, open_scheduler: Open, gates: Gates
    ) -> None:
        """Within 20 %, whether they come together or one by one."""
        for together in (True, False):
            scheduler = open_scheduler(*agents(10, "python"))
            gate = gates(f"held-{together}")
            hold(scheduler, gate, ("python",), count=10)
            made = [Task(str(i), ["python"], fn=tasks.double, args=(i,)) for i in range(100)]
            if together:
                scheduler.submit_tasks(made)
            else:
                for task in made:
                    scheduler.submit_task(task)
            wait_taken_in(scheduler)
            assert sum(lengths(scheduler)) == 100
            assert all(8 <= length <= 12 for length in lengths(scheduler)), lengths(scheduler)
            assert scheduler.rebalance().moved == 0
            gate.open()
            assert [task.result(ALARM_S) for task in made] == list(range(0, 200, 2))
            check_at_rest(scheduler)
            scheduler.stop()

    def test_burst_of_100(self, open_scheduler: Open, gates: Gates) -> None:
        """Bursts with quiet between them: all done, each by somebody, and nobody idle beside a queue."""
        scheduler = open_scheduler(*agents(5, "python"))
        wait_ready(scheduler)
        for burst in range(3):
            gate = gates(f"burst-{burst}")
            made = [
                Task(str(i), ["python"], priority=1 + i % 5, fn=pass_gate, args=(gate, burst * i)) for i in range(100)
            ]
            for task in made:
                scheduler.submit_task(task)
            gate.wait_arrived(5)  # every agent has some
            gate.open()
            assert [task.result(ALARM_S) for task in made] == [burst * i for i in range(100)]
            check_at_rest(scheduler)

    def test_assignment_is_mandatory_an_agent_that_is_full_gets_tasks_all_the_same(
        self, open_scheduler: Open, gates: Gates, tmp_path: Path
    ) -> None:
        """Twenty times as many as make it busy, though others that cannot run them are idle."""
        scheduler = open_scheduler(Agent("a", ["x"]), Agent("idle"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        hold(scheduler, gate, ("x",))
        made = [scheduler.submit_task(Task(str(i), ["x"], fn=note_and_pid, args=(noted, i))) for i in range(120)]
        wait_taken_in(scheduler)
        agent = scheduler.agents["a"]
        assert agent.is_busy
        assert all(task.state == "queued" or not task.assigned_at for task in made)
        assert agent.queue_length >= 64
        gate.open()
        assert {task.result(ALARM_S) for task in made} == {agent.pid}
        assert lines(noted) == [str(i) for i in range(120)]
        check_at_rest(scheduler)


def wait_ready_but(scheduler: WorkStealingScheduler, held: str) -> None:
    """Wait until all agents but the one that is held are parked."""
    slots = [agent._slot for agent in scheduler.agents.values() if agent.agent_id != held]
    wait_until(lambda: all(scheduler._engine.status()[slot]["parked"] for slot in slots), "all others parked")
