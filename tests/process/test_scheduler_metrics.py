"""What is measured is what happened, and agrees with the deques (I6)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import (
    agents,
    check_at_rest,
    hold,
    pass_and_pid,
    queued_at,
    result_at_gate,
    told,
    wait_gone_for_good,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, wait_until

from mpsteal import Agent, Task, TaskCancelledError, WorkStealingMetrics, WorkStealingScheduler

Open = Callable[..., WorkStealingScheduler]

COUNTERS = {
    "uptime_s",
    "tasks",
    "migrations",
    "rebalance_cycles",
    "deadlines",
    "timeouts",
    "retried",
    "agent_deaths",
    "wait",
    "run",
    "throughput_per_s",
    "strategy",
    "steals",
    "agents",
    "utilization",
    "sampled_at",
    "per_agent",
}


class TestShape:
    def test_it_is_plain_data_before_during_and_after(self, open_scheduler: Open, gates: Gates) -> None:
        fresh = WorkStealingScheduler()
        fresh.register_agent(Agent("a"))
        looks = [fresh.get_metrics()]
        scheduler = open_scheduler(*agents(2, "python"))
        looks.append(scheduler.get_metrics())
        gate = gates("held")
        hold(scheduler, gate, ("python",))
        looks.append(scheduler.get_metrics())
        gate.open()
        check_at_rest(scheduler)
        scheduler.remove_agent("agent-0")
        looks.append(scheduler.get_metrics())
        scheduler.stop()
        looks.append(scheduler.get_metrics())
        for look in looks:
            assert set(look) >= COUNTERS
            assert json.loads(json.dumps(look)) == look
        assert looks[0]["tasks"]["submitted"] == 0 and looks[0]["per_agent"] == {}
        assert looks[-1]["tasks"]["succeeded"] == 1 and looks[-1]["per_agent"] == {}

    def test_it_can_be_asked_of_one_that_was_never_started_and_is_stopped(self) -> None:
        scheduler = WorkStealingScheduler()
        scheduler.stop()
        assert scheduler.get_metrics()["tasks"]["submitted"] == 0

    def test_the_object_behind_it_is_there_for_programs(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        assert isinstance(scheduler.metrics, WorkStealingMetrics)
        scheduler.submit_task(Task("t")).result(ALARM_S)
        assert scheduler.metrics.succeeded == scheduler.metrics.finished == 1

    def test_it_is_asked_while_agents_come_and_go_and_die(self, open_scheduler: Open) -> None:
        """From several threads, at any time: it never raises, and is never out of range."""
        scheduler = open_scheduler(*agents(2))
        over = threading.Event()
        errors: list[BaseException] = []
        looks = 0

        def look() -> None:
            nonlocal looks
            try:
                while not over.is_set():
                    seen = scheduler.get_metrics()
                    looks += 1
                    assert seen["tasks"]["queued"] >= 0
                    assert seen["agents"]["busy"] + seen["agents"]["idle"] <= seen["agents"]["registered"]
                    for row in seen["per_agent"].values():
                        assert 0 <= row["success_rate"] <= 1 and row["queue_length"] >= 0
                    repr(list(scheduler.agents.values()))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(10):
            scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(50)])
            agent = scheduler.register_agent(Agent(f"more-{i}"))
            wait_until(lambda agent=agent: agent.pid, "a process")
            if i % 3 == 0:
                assert agent.pid is not None
                os.kill(agent.pid, 9)
            scheduler.remove_agent(agent.agent_id, drain=i % 2 == 0)
        scheduler.wait_all(ALARM_S)
        over.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert looks > 10


class TestTasks:
    def test_every_outcome_is_counted_once(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        good = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(10)])
        bad = scheduler.submit_tasks([Task("t", fn=tasks.raise_this, args=(ValueError,)) for _ in range(3)])
        unsent = scheduler.submit_task(Task("t", fn=tasks.identity, args=(tasks.NotForTravel(),)))
        assert scheduler.wait_all(ALARM_S)
        hold(scheduler, gate)
        gone = scheduler.submit_tasks([Task("t"), Task("t", priority=5), Task("t", ["cobol"])])
        follows = scheduler.submit_task(Task("t", dependencies=[gone[0]]))
        assert [task.cancel() for task in gone] == [True] * 3
        gate.open()
        assert follows.exception(ALARM_S) is not None
        metrics = check_at_rest(scheduler)
        assert metrics["tasks"] == {
            "submitted": 19,
            "succeeded": 11,
            "failed": 5,
            "cancelled": 3,
            "unfinished": 0,
            "queued": 0,
            "running": 0,
            "held": 0,
        }
        assert all(task.exception() is None for task in good)
        assert isinstance(unsent.exception(), TypeError)
        row = metrics["per_agent"]["a"]
        assert (row["done"], row["failed"]) == (11, 3), "what it ran, and nothing else"
        assert row["success_rate"] == pytest.approx(11 / 14)
        assert metrics["wait"]["count"] == metrics["run"]["count"] == 14
        assert len(bad) == 3

    def test_queued_running_and_held_are_seen_while_they_last(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2, "python"))
        gate = gates("held")
        held = hold(scheduler, gate, ("python",), count=2)
        scheduler.submit_tasks([Task("t", ["python"]) for _ in range(14)])
        scheduler.submit_tasks([Task("t", ["python"], priority=5) for _ in range(3)])
        scheduler.submit_task(Task("t", ["cobol"]))
        wait_taken_in(scheduler)
        metrics = scheduler.get_metrics()
        now = metrics["tasks"]
        assert (now["unfinished"], now["queued"], now["running"], now["held"]) == (20, 14, 2, 3)
        assert metrics["agents"] == {"registered": 2, "busy": 2, "idle": 0}
        for agent_id, agent in scheduler.agents.items():
            row = metrics["per_agent"][agent_id]
            assert row["queue_length"] == agent.queue_length == len(queued_at(scheduler, agent_id)) == 7
            assert row["state"] == agent.state == "running"
            assert row["pid"] == agent.pid
            assert row["capabilities"] == ["python"]
        assert {row["current_task"] for row in metrics["per_agent"].values()} == {task.id for task in held}
        gate.open()
        scheduler.register_agent(Agent("c", ["cobol"]))
        check_at_rest(scheduler)

    def test_busy_and_idle_agents_are_counted(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("long", ["a"]), Agent("middle", ["b"]), Agent("short", ["c"]), strategy="pull")
        gate = gates("held")
        for skill in "abc":
            hold(scheduler, gate, (skill,))
        for skill, count in (("a", 6), ("b", 5), ("c", 1)):
            scheduler.submit_tasks([Task("t", [skill]) for _ in range(count)])
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["agents"] == {"registered": 3, "busy": 1, "idle": 1}
        gate.open()
        assert check_at_rest(scheduler)["agents"] == {"registered": 3, "busy": 0, "idle": 3}


class TestTimes:
    def test_waits_and_runs(self, open_scheduler: Open, gates: Gates) -> None:
        """The wait is from when the task could run to its start: 100 have waited for as long as the gate was shut."""
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        scheduler.submit_tasks([Task("t") for _ in range(100)])
        wait_taken_in(scheduler)
        shut = time.monotonic()
        wait_until(lambda: time.monotonic() - shut > 0.1, "time passed")
        gate.open()
        metrics = check_at_rest(scheduler)
        wait, run = metrics["wait"], metrics["run"]
        assert wait["count"] == run["count"] == 101
        assert 0.1 * 0.97 <= wait["p50_s"] <= wait["p95_s"] <= wait["p99_s"] <= wait["max_s"]
        assert 0.09 <= wait["mean_s"] <= wait["max_s"]
        assert run["max_s"] >= 0.1, "the one that stood at the gate"
        assert run["p50_s"] < 0.05
        row = metrics["per_agent"]["a"]
        assert row["busy_s"] >= 0.1
        assert 0 < row["mean_run_s"] < 0.1

    def test_the_wait_of_a_dependent_starts_when_the_last_dependency_is_over(
        self, open_scheduler: Open, gates: Gates
    ) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        first = scheduler.submit_task(Task("first", fn=pass_gate, args=(gate,)))
        follows = scheduler.submit_task(Task("follows", dependencies=[first]))
        gate.wait_arrived()
        shut = time.monotonic()
        wait_until(lambda: time.monotonic() - shut > 0.3, "time passed")
        gate.open()
        longest = check_at_rest(scheduler)["wait"]["max_s"]
        times = (first.created_at, first.started_at, first.completed_at, follows.started_at)
        created, started, completed, followed = (at or 0.0 for at in times)
        # Seconds since the epoch are floats, exact to a quarter of a microsecond.
        assert longest <= max(started - created, followed - completed) + 1e-6
        assert followed - created > 0.3

    def test_what_an_agent_tells_of_a_task_is_not_taken_for_another(self, open_scheduler: Open, gates: Gates) -> None:
        """The agent notes start and end, then pickles the result, which may take long; others end meanwhile."""
        scheduler = open_scheduler(*agents(2))
        gate = gates("pickling")
        slow = scheduler.submit_task(Task("slow", fn=result_at_gate, args=(gate, 7)))
        gate.wait_arrived()
        (first,) = [agent for agent in scheduler.agents.values() if agent.current_task is slow]
        (second,) = [agent for agent in scheduler.agents.values() if agent is not first]
        for i in range(3):
            quick = scheduler.submit_task(Task("quick", fn=tasks.double, args=(i,)))
            assert quick.result(ALARM_S) == 2 * i
            assert quick.agent_id == second.agent_id
        strange = scheduler.submit_task(Task("strange", ["cobol"]))
        wait_taken_in(scheduler)
        assert strange.cancel()
        assert strange.started_at is None and strange.agent_id is None
        gate.open()
        assert slow.result(ALARM_S) == 7
        assert slow.agent_id == first.agent_id
        assert slow.started_at is not None and slow.started_at < (quick.started_at or 0)
        metrics = check_at_rest(scheduler)
        rows = {agent_id: (row["done"], row["failed"]) for agent_id, row in metrics["per_agent"].items()}
        assert rows == {first.agent_id: (1, 0), second.agent_id: (3, 0)}
        assert metrics["wait"]["count"] == 4

    def test_throughput(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        scheduler._sampler.sample()
        began = time.monotonic()
        scheduler.submit_tasks([Task("t") for _ in range(500)])
        assert scheduler.wait_all(ALARM_S)
        wait_until(lambda: time.monotonic() - began > 0.05, "time passed")
        scheduler._sampler.sample()
        took = time.monotonic() - began
        metrics = check_at_rest(scheduler)
        assert 0.5 * 500 / took <= metrics["throughput_per_s"]["recent"] <= 1.5 * 500 / took + 1
        assert metrics["throughput_per_s"]["mean"] == pytest.approx(500 / metrics["uptime_s"], rel=0.01)
        scheduler._sampler.sample()
        assert scheduler.get_metrics()["throughput_per_s"]["recent"] == 0


class TestSteals:
    def test_attempted_successful_and_failed(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"), strategy="pull")
        gate = gates("held")
        hold(scheduler, gate)
        scheduler.submit_tasks([Task("t", fn=pass_and_pid, args=(gate,)) for _ in range(6)])
        wait_taken_in(scheduler)
        before = scheduler.get_metrics()
        assert before["steals"]["successful"] == 0
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        scheduler.register_agent(Agent("c", ["python"]))
        gate.wait_arrived()
        metrics = scheduler.get_metrics()
        rows = metrics["per_agent"]
        assert rows["b"]["stolen_by_it"] == 3 and rows["b"]["steals"] == 1
        assert rows["a"]["stolen_by_it"] == 0
        assert rows["c"]["stolen_by_it"] >= 1
        assert rows["a"]["stolen_from_it"] + rows["b"]["stolen_from_it"] == 3 + rows["c"]["stolen_by_it"]
        gate.open()
        metrics = check_at_rest(scheduler)
        steals, rows = metrics["steals"], metrics["per_agent"].values()
        assert steals["attempted"] == steals["successful"] + steals["failed"]
        assert steals["successful"] == sum(row["steals"] for row in rows) >= 2
        assert steals["failed"] == sum(row["steals_failed"] for row in rows) >= 3, "each that went to sleep found none"
        assert steals["tasks"] == sum(row["stolen_by_it"] for row in rows) == sum(row["stolen_from_it"] for row in rows)
        assert steals["repairs"] == 0

    def test_an_agent_begins_with_none_though_its_slot_had_another(self, open_scheduler: Open, gates: Gates) -> None:
        """The figures of an agent are its own."""
        scheduler = open_scheduler(Agent("a"), strategy="pull", agents__max_agents=2)
        gate = gates("held")
        group = scheduler.submit_tasks([Task("t", fn=pass_gate, args=(gate,)) for _ in range(20)])
        gate.wait_arrived()
        scheduler.register_agent(Agent("b"))
        gate.wait_arrived()
        gate.open()
        assert all(task.exception(ALARM_S) is None for task in group)
        metrics = check_at_rest(scheduler)
        assert sum(row["done"] for row in metrics["per_agent"].values()) == 20
        before = metrics["steals"]
        assert before["tasks"] >= 3
        for agent_id in ("a", "b"):
            scheduler.remove_agent(agent_id)
        wait_gone_for_good(scheduler, 0)
        for agent_id in ("c", "d"):
            scheduler.register_agent(Agent(agent_id))
        wait_ready(scheduler)
        metrics = scheduler.get_metrics()
        for row in metrics["per_agent"].values():
            assert (row["done"], row["failed"], row["success_rate"], row["mean_run_s"]) == (0, 0, 1.0, 0.0)
            assert (row["steals"], row["stolen_by_it"], row["stolen_from_it"], row["busy_s"]) == (0, 0, 0, 0.0)
        assert metrics["steals"]["tasks"] == before["tasks"], "those of the whole stay"


class TestSamples:
    def test_cpu_memory_and_queue_of_each_process(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        wait_ready(scheduler)
        gate = gates("held")
        hold(scheduler, gate, count=2)
        scheduler.submit_tasks([Task("t") for _ in range(8)])
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["sampled_at"] == 0.0
        scheduler._sampler.sample()
        metrics = scheduler.get_metrics()
        assert abs(metrics["sampled_at"] - time.time()) < 60
        for row in metrics["per_agent"].values():
            assert row["rss_bytes"] > 1 << 20
            assert row["cpu_percent"] >= 0
        assert {sample.queue_depth for sample in scheduler.metrics.samples.values()} == {4}
        gate.open()
        check_at_rest(scheduler)

    def test_utilization_is_the_share_of_time_in_tasks(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("busy", ["x"]), Agent("idle"))
        wait_ready(scheduler)
        gate = gates("held")
        hold(scheduler, gate, ("x",))
        scheduler._sampler.sample()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.3, "time passed")
        scheduler._sampler.sample()
        metrics = scheduler.get_metrics()
        busy, idle = (metrics["per_agent"][agent_id]["utilization"] for agent_id in ("busy", "idle"))
        assert 0.8 < busy <= 1.0, "also inside a task that is not over"
        assert idle == 0.0
        assert metrics["utilization"] == busy / 2
        gate.open()
        check_at_rest(scheduler)
        scheduler._sampler.sample()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.05, "time passed")
        scheduler._sampler.sample()
        assert scheduler.get_metrics()["utilization"] == 0.0

    def test_a_process_that_was_replaced_starts_anew(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        wait_ready(scheduler)
        scheduler.submit_task(Task("t", fn=tasks.note_and_spin, args=(os.devnull, 0, 0.05))).result(ALARM_S)
        scheduler._sampler.sample()
        agent = scheduler.agents["a"]
        pid = agent.pid
        assert pid is not None
        os.kill(pid, 9)
        wait_until(lambda: agent.pid not in (None, pid), "the agent replaced")
        wait_ready(scheduler)
        scheduler._sampler.sample()
        row = scheduler.get_metrics()["per_agent"]["a"]
        assert row["utilization"] == 0.0 and row["rss_bytes"] > 0
        assert row["done"] == 1, "the agent is the same"
        check_at_rest(scheduler)

    def test_one_that_has_left_is_in_no_sample(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2))
        wait_ready(scheduler)
        scheduler._sampler.sample()
        assert set(scheduler.metrics.samples) == {"agent-0", "agent-1"}
        scheduler.remove_agent("agent-0")
        wait_gone_for_good(scheduler, 1)
        wait_taken_in(scheduler)
        assert set(scheduler.metrics.samples) == {"agent-1"}
        scheduler._sampler.sample()
        assert set(scheduler.metrics.samples) == {"agent-1"}

    def test_samples_come_by_themselves(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"), metrics__sample_s=0.01)
        wait_until(lambda: scheduler.get_metrics()["sampled_at"], "a sample")
        wait_until(lambda: scheduler.get_metrics()["per_agent"]["a"]["rss_bytes"], "one that has seen the process")

    def test_a_sample_that_fails_is_not_the_last(
        self, open_scheduler: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"), metrics__sample_s=0.01)
        look, failed = scheduler._sampler._look, threading.Event()

        def fail_once() -> list[tuple[str, int, int, int]]:
            if failed.is_set():
                return look()
            failed.set()
            raise OSError("no descriptors left")

        monkeypatch.setattr(scheduler._sampler, "_look", fail_once)
        assert failed.wait(ALARM_S)
        at = scheduler.get_metrics()["sampled_at"]
        wait_until(lambda: scheduler.get_metrics()["sampled_at"] > at, "another sample")
        assert len(told(caplog, "no sample of the agents could be taken")) == 1


def test_queue_lengths_metrics_and_deques_agree_at_rest(open_scheduler: Open) -> None:
    """I6, after all kinds of tasks under each strategy."""
    for strategy in ("hybrid", "pull", "push"):
        scheduler = open_scheduler(*agents(2), strategy=strategy)
        made = [
            Task(str(i), priority=1 + i % 5, fn=tasks.raise_this if i % 7 == 0 else tasks.identity, args=(ValueError,))
            for i in range(500)
        ]
        scheduler.submit_tasks(made)
        withdrawn = sum(task.cancel() for task in made[::11])
        metrics = check_at_rest(scheduler)
        assert metrics["tasks"]["cancelled"] == withdrawn
        cancelled = [task for task in made if isinstance(task._exception, TaskCancelledError)]
        assert len(cancelled) == withdrawn
        rows = metrics["per_agent"].values()
        assert sum(row["done"] for row in rows) == metrics["tasks"]["succeeded"]
        assert sum(row["failed"] for row in rows) == metrics["tasks"]["failed"]
        assert metrics["run"]["count"] == 500 - withdrawn
        scheduler.stop()
