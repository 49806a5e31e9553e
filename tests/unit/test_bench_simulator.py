"""The simulator in `bench/`: small runs of the scheduler's policy over virtual time, the same on every machine."""

from __future__ import annotations

import sys
from array import array
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench._des import LATE, LOADS, MS, Costs, Outcome, S, Simulation, Workload, _earliest_end, make_load
from bench._model import WrongResult
from mpsteal._policy.matching import tier
from mpsteal._policy.rules import Rules, build

AGENTS, TASKS, SEED = 10, 1_000, 3
FREE = Costs(**dict.fromkeys(asdict(Costs()), 0.0))
"""Nothing costs anything but the tasks."""


def simulated(name: str, strategy: str = "hybrid", costs: Costs | None = None) -> tuple[Simulation, Outcome]:
    load = make_load(name, agents=AGENTS, tasks=TASKS, mean_ms=20.0, seed=SEED)
    simulation = Simulation(load, build({"strategy": strategy}), costs)
    return simulation, simulation.run()


run = cache(simulated)


def alone(durations: list[int], *, agents: int = 1, priority: int = 3, **changes: object) -> Workload:
    """Tasks of these lengths (ms), all of one skill and there from the start."""
    n = len(durations)
    load = Workload(
        name="alone",
        capabilities=[frozenset({"a"})] * agents,
        joins=[0] * agents,
        skill_sets=[frozenset({"a"})],
        releases=array("q", [0] * n),
        durations=array("q", [d * MS for d in durations]),
        priorities=bytearray([priority] * n),
        skills=array("i", [0] * n),
    )
    return replace(load, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["hybrid", "pull", "push"])
@pytest.mark.parametrize("name", LOADS)
def test_only_what_the_strategy_allows(name: str, strategy: str) -> None:
    _, outcome = run(name, strategy)  # and everything that `verify` checks
    if strategy == "push":
        assert outcome.steals_attempted == outcome.tasks_stolen == 0
    if strategy == "pull":
        assert outcome.cycles == outcome.migrations == 0
    assert outcome.steals_successful <= outcome.tasks_stolen <= 3 * outcome.steals_successful
    assert outcome.migrations + outcome.migrations_failed <= 3 * outcome.cycles


@pytest.mark.parametrize("name", LOADS)
class TestEveryLoad:
    def test_each_task_runs_once(self, name: str) -> None:
        simulation, outcome = run(name)
        assert bytes(simulation.started) == b"\1" * TASKS
        assert sum(waits["count"] for waits in outcome.waits.values()) == TASKS
        assert sum(simulation._busy) == sum(simulation.load.durations)

    def test_a_task_runs_where_its_skills_are(self, name: str) -> None:
        simulation, _ = run(name)
        load = simulation.load
        for chunk, task in enumerate(simulation._task_of):
            has = load.capabilities[simulation.ran_on[chunk]]
            required = load.skill_sets[load.skills[task]]
            assert tier(required, has) is not None
            assert load.priorities[task] < 4 or required <= has

    def test_protected_tasks_are_not_stolen(self, name: str) -> None:
        simulation, outcome = run(name)
        took = [chunk for chunk in range(TASKS) if simulation.was_stolen[chunk] or simulation.was_moved[chunk]]
        assert all(simulation.load.priorities[simulation._task_of[chunk]] < 4 for chunk in took)
        assert outcome.handed_out == sum(priority >= 4 for priority in simulation.load.priorities)

    def test_makespan_is_not_below_the_bound(self, name: str) -> None:
        simulation, outcome = run(name)
        assert outcome.makespan_s >= outcome.bound_s > 0
        assert outcome.bound_s >= sum(simulation.load.durations) / AGENTS / S
        assert 1 / AGENTS <= outcome.jain <= 1


@pytest.mark.parametrize("name", LOADS)
def test_same_seed_same_run(name: str) -> None:
    def facts(outcome: Outcome) -> dict[str, object]:
        return {key: value for key, value in outcome.as_data().items() if key not in ("wall_s", "events_per_s")}

    first, second = run(name), simulated(name)
    assert facts(first[1]) == facts(second[1])
    assert first[0].ran_on == second[0].ran_on


def test_another_seed_is_another_load() -> None:
    loads = [make_load("uniform", agents=AGENTS, tasks=TASKS, mean_ms=20.0, seed=seed) for seed in (1, 2)]
    assert loads[0].durations != loads[1].durations


@pytest.mark.parametrize(
    ("name", "most"),
    [
        pytest.param("uniform", 1.05, id="uniform"),
        pytest.param("bursts", 1.05, id="bursts"),
        pytest.param("hot-spot", 1.10, id="agents that join are fed"),
        pytest.param("skills", 1.25, id="agents that differ"),
    ],
)
def test_work_is_shared(name: str, most: float) -> None:
    assert run(name)[1].over_bound <= most


def test_a_hot_spot_stays_one_unless_tasks_move() -> None:
    hybrid = run("hot-spot")[1]
    nobody_moves = Simulation(run("hot-spot")[0].load, build({"strategy": "push", "balancing.check_s": 1e6}))
    outcome = nobody_moves.run()
    assert hybrid.tasks_stolen + hybrid.migrations > 0
    assert outcome.makespan_s > 3 * hybrid.makespan_s


def test_higher_priorities_wait_less() -> None:
    means = [run("uniform")[1].waits[priority]["mean_s"] for priority in (5, 4, 3, 2, 1)]
    assert means == sorted(means)


class TestByHand:
    """Runs whose end can be told without a computer."""

    @pytest.mark.parametrize(
        ("durations", "agents", "priority", "end_ms"),
        [
            pytest.param([7], 1, 3, 7, id="one task"),
            pytest.param([7], 1, 5, 7, id="one protected task"),
            pytest.param([1, 2, 3], 1, 3, 6, id="one after the other"),
            pytest.param([5] * 6, 3, 3, 10, id="side by side"),
            pytest.param([5] * 6, 3, 4, 10, id="protected, side by side"),
            pytest.param([5] * 7, 3, 3, 15, id="one is over"),
            pytest.param([9, 1, 1, 1, 1, 1], 2, 3, 9, id="an idle agent steals"),
        ],
    )
    def test_ends_when_it_must(self, durations: list[int], agents: int, priority: int, end_ms: int) -> None:
        outcome = Simulation(alone(durations, agents=agents, priority=priority), costs=FREE).run()
        assert outcome.makespan_s == end_ms / 1000

    def test_costs_add_up(self) -> None:
        costs = replace(FREE, assign_us=10, batch_us=20, look_us=5, wake_us=100, start_us=3)
        outcome = Simulation(alone([7]), build({"strategy": "push"}), costs).run()
        assert outcome.makespan_s == pytest.approx(0.007 + (10 + 20 + 5 + 100 + 3) / 1e6, abs=1e-12)

    def test_a_task_without_an_agent_waits_for_it(self) -> None:
        load = alone([5, 5], agents=2, joins=[0, 20 * MS], skill_sets=[frozenset({"a"}), frozenset({"b"})])
        load = replace(load, capabilities=[frozenset({"a"}), frozenset({"b"})], skills=array("i", [0, 1]))
        outcome = Simulation(load, costs=FREE).run()
        assert outcome.makespan_s == outcome.bound_s == 0.025

    def test_a_task_nobody_can_run_is_reported(self) -> None:
        load = alone([5], skill_sets=[frozenset({"b"})])
        with pytest.raises(WrongResult, match="nothing goes on"):
            Simulation(load).run()

    def test_agents_may_join_when_all_is_handed_out(self) -> None:
        outcome = Simulation(alone([10] * 8, agents=4, joins=[0, LATE, LATE, LATE]), costs=FREE).run()
        assert outcome.makespan_s == 0.02
        assert outcome.tasks_stolen >= 6

    def test_an_agent_asks_before_it_starts_something_less_urgent(self) -> None:
        load = alone([10] * 6, agents=1, priorities=bytearray([1, 1, 1, 1, 1, 5]))
        load = replace(load, releases=array("q", [0] * 5 + [5 * MS]))
        outcome = Simulation(load, costs=FREE).run()
        assert outcome.asks == outcome.handed_out == 1
        assert outcome.waits[5]["max_s"] == pytest.approx(0.005)
        assert outcome.waits[1]["max_s"] == pytest.approx(0.05)

    @pytest.mark.parametrize(("agents", "tasks"), [(0, 1), (1, 0)])
    def test_refuses_nothing(self, agents: int, tasks: int) -> None:
        with pytest.raises(ValueError, match="at least one of each"):
            Simulation(alone([1] * tasks, agents=agents))

    def test_unknown_load(self) -> None:
        with pytest.raises(ValueError, match="uniform"):
            make_load("no such", agents=1, tasks=1, mean_ms=1.0, seed=1)


class TestVerify:
    """What went wrong is found, whatever the queues say."""

    @pytest.fixture
    def simulation(self) -> Simulation:
        return simulated("skills")[0]

    def test_a_good_run_passes(self, simulation: Simulation) -> None:
        simulation.verify()

    def test_a_task_that_ran_twice(self, simulation: Simulation) -> None:
        simulation.started[5] = 2
        with pytest.raises(WrongResult, match="999 of 1000"):
            simulation.verify()

    def test_a_task_where_it_may_not_run(self, simulation: Simulation) -> None:
        load = simulation.load
        chunk, required = next(
            (chunk, load.skill_sets[load.skills[task]]) for chunk, task in enumerate(simulation._task_of)
        )
        simulation.ran_on[chunk] = next(a for a, has in enumerate(load.capabilities) if tier(required, has) is None)
        with pytest.raises(WrongResult, match="cannot run"):
            simulation.verify()

    def test_a_protected_task_that_was_stolen(self, simulation: Simulation) -> None:
        chunk = next(c for c, task in enumerate(simulation._task_of) if simulation.load.priorities[task] == 4)
        simulation.was_stolen[chunk] = 1
        with pytest.raises(WrongResult, match="was stolen"):
            simulation.verify()

    def test_a_task_that_is_left(self, simulation: Simulation) -> None:
        simulation._queued[0] += 1
        with pytest.raises(WrongResult, match="yet queues"):
            simulation.verify()


@pytest.mark.parametrize(
    ("work", "starts", "end"),
    [
        pytest.param(12, [0], 12, id="one agent"),
        pytest.param(12, [0, 0, 0], 4, id="three"),
        pytest.param(12, [0, 4, 100], 8, id="one comes later, one too late"),
        pytest.param(12, [5], 17, id="from when it is there"),
        pytest.param(4, [0, 4], 4, id="done as the next one comes"),
    ],
)
def test_earliest_end(work: int, starts: list[int], end: float) -> None:
    assert _earliest_end(work, starts) == end


def test_stock_rules_are_the_default() -> None:
    assert Simulation(alone([1])).rules == Rules()
