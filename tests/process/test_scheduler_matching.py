"""Who gets a task: who can run it at all, and who of those runs it best. None runs where a skill is missing (I5)."""

from __future__ import annotations

import os
import pickle
import random
import signal
from collections.abc import Callable, Iterable

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import agents, check_at_rest, hold, pass_and_pid, queued_at, told, wait_ready, wait_taken_in
from waiting import ALARM_S, wait_until

from mpsteal import Agent, Task, UnmatchedTaskError, WorkStealingScheduler

Open = Callable[..., WorkStealingScheduler]


def crew(*rows: tuple[str, Iterable[str]]) -> list[Agent]:
    return [Agent(agent_id, capabilities) for agent_id, capabilities in rows]


class TestMatching:
    @pytest.mark.parametrize(
        ("needs", "priority", "gets_it"),
        [
            pytest.param(["python"], 3, ["exact"], id="exact, though others could by their wildcard"),
            pytest.param(["cobol", "sql"], 3, ["best"], id="no exact one: the best fit has some by name"),
            pytest.param(["cobol"], 3, ["any", "best"], id="no best fit: any agent that can run it"),
            pytest.param(["python"], 4, ["exact"], id="protected: exact"),
            pytest.param(["python", "sql"], 4, [], id="protected: the wildcard does not do"),
            pytest.param(["cobol"], 5, [], id="protected: nobody has it by name"),
        ],
    )
    def test_exact_else_best_fit_else_fallback(
        self, open_scheduler: Open, gates: Gates, needs: list[str], priority: int, gets_it: list[str]
    ) -> None:
        """By the tier first, however long the queues are."""
        scheduler = open_scheduler(
            *crew(("exact", ["python"]), ("best", ["*", "sql", "x"]), ("any", ["*", "y"])),
            strategy="push",
            balancing__severe_ratio=1000.0,
            agents__busy_above=1000,
        )
        gate = gates("held")
        for skills in (["python"], ["x", "sql"], ["y"]):
            hold(scheduler, gate, tuple(skills))
        made = [Task(str(i), needs, priority, fn=tasks.my_pid) for i in range(10)]
        scheduler.submit_tasks(made)
        wait_taken_in(scheduler)
        if priority < 4:
            assert sum(scheduler.agents[agent_id].queue_length for agent_id in gets_it) == 10
        gate.open()
        if gets_it:
            assert {task.result(ALARM_S) for task in made} == {scheduler.agents[agent_id].pid for agent_id in gets_it}
        else:
            wait_ready(scheduler)
            assert not any(task.done() for task in made)
            assert all(task.cancel() for task in made)
        check_at_rest(scheduler)

    def test_the_ways_to_match_are_keys(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(
            *crew(("any", ["*"])), matching__normal=("exact",), matching__protected=("exact", "best_fit", "fallback")
        )
        protected = scheduler.submit_task(Task("t", ["x"], 5, fn=tasks.double, args=(2,)))
        normal = scheduler.submit_task(Task("t", ["x"], 3, fn=tasks.double, args=(2,)))
        assert protected.result(ALARM_S) == 4
        wait_ready(scheduler)
        assert not normal.done()
        assert normal.cancel()
        check_at_rest(scheduler)

    def test_the_wildcard_is_a_key(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*crew(("star", ["*"]), ("joker", ["anything"])), matching__wildcard="anything")
        task = scheduler.submit_task(Task("t", ["x"], fn=tasks.my_pid))
        star = scheduler.submit_task(Task("t", ["*"], 5, fn=tasks.my_pid))
        assert task.result(ALARM_S) == scheduler.agents["joker"].pid
        assert star.result(ALARM_S) == scheduler.agents["star"].pid, "a skill as any other"
        check_at_rest(scheduler)

    def test_score_takes_a_tenth_off_for_each_queued_task(self, open_scheduler: Open, gates: Gates) -> None:
        """Between two best fits: 2/3 of the skills with a queue, 1/3 without one. It is worth the wait for 3 tasks."""
        scheduler = open_scheduler(
            *crew(("better", ["*", "a", "b", "x"]), ("worse", ["*", "a", "y"])),
            strategy="push",
            balancing__severe_ratio=1000.0,
            agents__busy_above=1000,
        )
        gate = gates("held")
        for skill in "xy":
            hold(scheduler, gate, (skill,))
        made = [Task(str(i), ["a", "b", "c"], fn=tasks.my_pid) for i in range(9)]
        scheduler.submit_tasks(made)
        wait_taken_in(scheduler)
        # 2/3 - 1/10 n against 1/3 - 1/10 m, a running task counts as queued: it takes 4 before the other gets any.
        assert [len(queued_at(scheduler, agent)) for agent in ("better", "worse")] == [6, 3]
        gate.open()
        check_at_rest(scheduler)

    def test_an_agent_that_fails_gets_less(self, open_scheduler: Open, gates: Gates) -> None:
        """The record weighs 0.3: as much as three queued tasks, for one that failed them all."""
        scheduler = open_scheduler(
            *crew(("good", ["good", "x"]), ("bad", ["bad", "x"])),
            strategy="push",
            balancing__severe_ratio=1000.0,
            agents__busy_above=1000,
        )
        for _ in range(4):
            failed = scheduler.submit_task(Task("t", ["bad"], fn=tasks.raise_this, args=(ValueError,)))
            assert isinstance(failed.exception(ALARM_S), ValueError)
        assert scheduler.agents["bad"].success_rate == 0.0
        gate = gates("held")
        hold(scheduler, gate, ("good",))
        bad = scheduler.submit_task(Task("held", ["bad"], fn=pass_and_pid, args=(gate,)))
        gate.wait_arrived()
        scheduler._dispatcher.lengths_due = 0.0
        made = [Task(str(i), ["x"], fn=tasks.my_pid) for i in range(13)]
        scheduler.submit_tasks(made)
        wait_taken_in(scheduler)
        assert [scheduler.agents[agent].queue_length for agent in ("good", "bad")] == [8, 5]
        gate.open()
        assert bad.exception(ALARM_S) is None
        check_at_rest(scheduler)

    def test_an_agent_without_capabilities_runs_what_asks_for_none(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        assert scheduler.submit_task(Task("t", priority=5, fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        strange = scheduler.submit_task(Task("t", ["x"]))
        wait_taken_in(scheduler)
        wait_ready(scheduler)
        assert strange.state == "waiting"
        assert strange.cancel()
        check_at_rest(scheduler)

    def test_one_agent_runs_everything_that_it_can(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("only", ["a", "b"]))
        made = [
            Task(str(i), skills, 1 + i % 5, fn=tasks.double, args=(i,))
            for i, skills in enumerate([[], ["a"], ["b"], ["a", "b"]] * 25)
        ]
        scheduler.submit_tasks(made)
        assert [task.result(ALARM_S) for task in made] == list(range(0, 200, 2))
        check_at_rest(scheduler)

    def test_more_sets_of_skills_than_there_is_room_for_are_refused(
        self, open_scheduler: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mpsteal._engine import classes

        monkeypatch.setattr(classes, "CLASSES", 3)
        scheduler = open_scheduler(Agent("a", ["*"]))
        for skill in "ab":
            assert scheduler.submit_task(Task("t", [skill], fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        one_more = Task("t", ["c"])
        with pytest.raises(ValueError, match="more than 3 different sets of skills"):
            scheduler.submit_task(one_more)
        assert one_more.state == "created" and not scheduler.tasks
        check_at_rest(scheduler)


class TestNeverWhereASkillIsMissing:
    """I5"""

    def test_not_even_when_that_agent_is_idle_and_the_others_are_full(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(
            *crew(("python", ["python"]), ("java", ["java"]), ("none", []), ("both", ["python", "java"])),
            balancing__interval_s=0.01,
            balancing__check_s=0.01,
        )
        gate = gates("held")
        hold(scheduler, gate, ("python", "java"))
        hold(scheduler, gate, ("python",))
        made = [Task(str(i), ["python"], fn=tasks.my_pid) for i in range(100)]
        scheduler.submit_tasks(made)
        wait_taken_in(scheduler)
        scheduler.rebalance()
        assert [scheduler.request_work(agent).moved for agent in ("java", "none")] == [0, 0]
        wait_until(lambda: scheduler.get_metrics()["rebalance_cycles"] > 2, "some cycles")
        assert [scheduler.agents[agent].queue_length for agent in ("java", "none")] == [0, 0]
        assert not any(task.done() for task in made)
        gate.open()
        assert {task.result(ALARM_S) for task in made} <= {scheduler.agents[a].pid for a in ("python", "both")}
        check_at_rest(scheduler)

    @pytest.mark.parametrize("strategy", ["hybrid", "pull", "push"])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_in_any_mixture(self, open_scheduler: Open, strategy: str, seed: int) -> None:
        chance = random.Random(seed)
        names = [f"s{i}" for i in range(5)]
        rows = [(f"agent-{i}", chance.sample(names, chance.randrange(0, 4))) for i in range(4)] + [
            ("all", [*names, "*"])
        ]
        scheduler = open_scheduler(*crew(*rows), strategy=strategy)
        wait_ready(scheduler)
        by_pid = {agent.pid: agent.capabilities for agent in scheduler.agents.values()}
        made = [
            Task(str(i), chance.sample(names, chance.randrange(0, 4)), chance.randrange(1, 6), fn=tasks.my_pid)
            for i in range(600)
        ]
        for task in made:
            if chance.random() < 0.5:
                scheduler.submit_task(task)
        scheduler.submit_tasks([task for task in made if task.state == "created"])
        for task in made:
            assert task.skill_requirements <= by_pid[task.result(ALARM_S)], f"seed {seed}: {task}"
            assert scheduler.agents[str(task.agent_id)].pid == task.result()
        check_at_rest(scheduler)


class TestNoAgentCanRunIt:
    def test_waits_with_one_warning_that_names_the_missing_skills_until_such_an_agent_registers(
        self, open_scheduler: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(*crew(("near", ["python", "sql"]), ("far", ["java"])))
        waiting = [
            scheduler.submit_task(Task(f"report-{i}", ["python", "sql", "gpu"], fn=tasks.my_pid)) for i in range(5)
        ]
        wait_taken_in(scheduler)
        assert [task.state for task in waiting] == ["waiting"] * 5
        assert scheduler.submit_task(Task("other", ["python"], fn=tasks.double, args=(2,))).result(ALARM_S) == 4
        (warning,) = told(caplog, "no agent can run")
        for word in ("'report-0'", str(waiting[0].id), "so it waits", "lacks: gpu"):
            assert word in warning
        scheduler.register_agent(Agent("unlike", ["gpu"]))
        wait_taken_in(scheduler)
        assert not any(task.done() for task in waiting)
        like = scheduler.register_agent(Agent("like", ["gpu", "sql", "python", "more"]))
        assert {task.result(ALARM_S) for task in waiting} == {like.pid}
        assert len(told(caplog, "no agent can run")) == 1
        check_at_rest(scheduler)

    def test_protected_ones_too(self, open_scheduler: Open, caplog: pytest.LogCaptureFixture) -> None:
        scheduler = open_scheduler(Agent("any", ["*"]))
        waiting = scheduler.submit_tasks([Task("u", ["gpu"], 4, fn=tasks.my_pid) for _ in range(5)])
        wait_taken_in(scheduler)
        (warning,) = told(caplog, "no agent can run")
        assert "lacks: gpu" in warning
        assert not any(task.done() for task in waiting)
        like = scheduler.register_agent(Agent("like", ["gpu"]))
        assert {task.result(ALARM_S) for task in waiting} == {like.pid}
        check_at_rest(scheduler)

    def test_without_any_agent(self, open_scheduler: Open, caplog: pytest.LogCaptureFixture) -> None:
        scheduler = open_scheduler()
        waiting = scheduler.submit_tasks(
            [Task("t", skills, priority, fn=tasks.my_pid) for skills in ([], ["x"]) for priority in (1, 3, 5)]
        )
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["tasks"]["unfinished"] == 6
        assert {task.state for task in waiting} == {"waiting"}
        assert all("no agent is registered" in text for text in told(caplog, "no agent can run"))
        assert len(told(caplog, "no agent can run")) == 3, "one for each kind of task"
        agent = scheduler.register_agent(Agent("a", ["x"]))
        assert {task.result(ALARM_S) for task in waiting} == {agent.pid}
        check_at_rest(scheduler)

    def test_the_most_urgent_goes_first_when_the_agent_comes(self, open_scheduler: Open, gates: Gates) -> None:
        gate = gates("hired")
        scheduler = open_scheduler(initializer=pass_gate, initargs=(gate,))
        made = [Task(str(i), ["x"], priority, fn=tasks.double, args=(i,)) for i, priority in enumerate([1, 3, 5, 2, 4])]
        for task in made:
            scheduler.submit_task(task)
        wait_taken_in(scheduler)
        scheduler.register_agent(Agent("a", ["x"]))
        gate.wait_arrived()
        wait_taken_in(scheduler)  # so that it finds them all there
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        order = sorted(made, key=lambda task: task.started_at or 0)
        assert [task.priority for task in order] == [5, 4, 3, 2, 1]

    def test_can_be_withdrawn(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler()
        made = scheduler.submit_tasks([Task("t", ["x"], priority) for priority in (1, 3, 5) for _ in range(4)])
        wait_taken_in(scheduler)
        assert all(task.cancel() for task in made[::2])
        scheduler.register_agent(Agent("a", ["x"]))
        assert check_at_rest(scheduler)["tasks"]["cancelled"] == 6
        assert [task.cancelled() for task in made] == [True, False] * 6

    def test_is_an_error_where_that_is_wanted(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a", ["python"]), matching__on_unmatched="error")
        good = Task("good", ["python"], fn=tasks.double, args=(1,))
        strange = Task("strange", ["python", "gpu"])
        for submit in (lambda: scheduler.submit_task(strange), lambda: scheduler.submit_tasks([good, strange])):
            with pytest.raises(UnmatchedTaskError) as caught:
                submit()
            assert (caught.value.task, caught.value.missing) == ("strange", frozenset({"gpu"}))
            assert "the nearest agent lacks: gpu" in str(caught.value)
            assert strange.state == good.state == "created" and not scheduler.tasks
        scheduler.register_agent(Agent("b", ["python", "gpu"]))
        scheduler.submit_tasks([good, strange])
        assert (good.result(ALARM_S), strange.result(ALARM_S)) == (2, None)
        assert check_at_rest(scheduler)["tasks"]["submitted"] == 2

    def test_is_an_error_without_any_agent_where_that_is_wanted(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(matching__on_unmatched="error")
        with pytest.raises(UnmatchedTaskError, match="no agent is registered"):
            scheduler.submit_task(Task("t"))

    def test_dependents_wait_with_it(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        waits = scheduler.submit_task(Task("waits", ["x"], fn=tasks.double, args=(4,)))
        follows = scheduler.submit_task(Task("follows", fn=tasks.double, args=(waits,)))
        wait_taken_in(scheduler)
        assert waits.state == follows.state == "waiting"
        scheduler.register_agent(Agent("b", ["x"]))
        assert follows.result(ALARM_S) == 16
        check_at_rest(scheduler)

    def test_a_death_does_not_make_a_task_unmatched(
        self, open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The agent is replaced, so somebody will come."""
        scheduler = open_scheduler(Agent("a", ["x"]))
        wait_ready(scheduler)
        pid = scheduler.agents["a"].pid
        assert pid is not None
        os.kill(pid, 9)
        made = [scheduler.submit_task(Task("t", ["x"], 1 + i % 5, fn=tasks.double, args=(i,))) for i in range(10)]
        assert [task.result(ALARM_S) for task in made] == list(range(0, 20, 2))
        assert told(caplog, "no agent can run") == []


def test_a_misspelt_skill_is_named_beside_the_one_that_may_be_meant(
    open_scheduler: Open, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_scheduler(Agent("a", ["image", "text"]))
    task = scheduler.submit_task(Task("t", ["imgae"]))
    wait_taken_in(scheduler)
    assert len(told(caplog, "the nearest agent lacks: imgae (did you mean image?)")) == 1
    scheduler.stop()
    error = task.exception(0)
    assert isinstance(error, UnmatchedTaskError) and error.meant == ("image",)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_agent_that_leaves_is_not_said_to_lack_what_it_has(
    open_scheduler: Open, gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_scheduler(Agent("a", ["x"]))
    gate = gates("held")
    hold(scheduler, gate, ("x",))
    scheduler.remove_agent("a")
    scheduler.submit_task(Task("t", ["x"]))
    wait_taken_in(scheduler)
    assert len(told(caplog, "it waits; no agent is registered")) == 1
    gate.open()


@pytest.mark.parametrize("priority", [3, 5])
def test_a_task_that_asks_for_nothing_runs_anywhere(open_scheduler: Open, priority: int) -> None:
    scheduler = open_scheduler(Agent("a"), matching__normal=["fallback"], matching__protected=["best_fit"])
    assert scheduler.submit_task(Task("t", priority=priority, fn=tasks.double, args=(1,))).result(60) == 2
    check_at_rest(scheduler)


def test_a_task_that_starts_while_it_is_counted_counts(
    open_scheduler: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is looked at just when it takes what is queued. It is not free, and the next task goes to the other."""
    scheduler = open_scheduler(*agents(2), strategy="push")
    wait_ready(scheduler)
    first, second = scheduler.agents.values()
    pid, gate = first.pid, gates("held")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    queued = scheduler._engine.deques.queued
    started: list[int] = []

    def queued_while_it_starts(slot: int) -> int:
        if slot == first._slot and not started:
            started.append(slot)
            os.kill(pid, signal.SIGCONT)
            gate.wait_arrived()
        return queued(slot)

    try:
        made = [scheduler.submit_task(Task("first", fn=pass_and_pid, args=(gate,)))]
        wait_taken_in(scheduler)
        assert made[0].agent_id == first.agent_id
        scheduler._dispatcher.lengths_due = 0.0
        with monkeypatch.context() as patch:
            patch.setattr(scheduler._engine.deques, "queued", queued_while_it_starts)
            made.append(scheduler.submit_task(Task("second", fn=pass_and_pid, args=(gate,))))
            wait_taken_in(scheduler)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert started
    assert made[1].agent_id == second.agent_id
    gate.open()
    check_at_rest(scheduler)


def test_agents_that_are_alike_share_the_work(open_scheduler: Open, gates: Gates) -> None:
    """The first in line does not get everything: the shorter queue wins, and a running task counts."""
    scheduler = open_scheduler(*agents(4))
    gate = gates("held")
    for _ in range(4):
        scheduler.submit_task(Task("t", fn=pass_and_pid, args=(gate,)))
        gate.wait_arrived()
    assert all(agent.current_task for agent in scheduler.agents.values())
    gate.open()
    check_at_rest(scheduler)
