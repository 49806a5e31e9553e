"""D6 at every named step of the protocol: whoever dies there costs what it was running, and nothing else.

    agents:   one held at the step, then killed         two held inside tasks of their own
    queued:   ten tasks behind each of the three, and ten more that come while it is held

So all that is left is run by the one that replaces it: had the dead one kept a lock, a mark, a journal or a chunk,
these tasks would not end.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import steps as tool
from gates import Gate, Gates, pass_gate
from steps import REPAIR_STEPS, RING_BYTES, STEPS, TASK_STEPS, Piece, Step, WorkError, hold_at, is_outcome, work
from waiting import ALARM_S, lines, wait_gone, wait_until

import mpsteal
from mpsteal import Agent, Task, WorkStealingScheduler
from mpsteal._engine import loop as engine_loop
from mpsteal._queue.barrier import load_barrier

AGENTS, BEHIND = 3, 10
"""Agents, and tasks behind each, one of each kind."""

SMALL = {"ring_bytes": RING_BYTES}


class OfPool:
    """The pool under test."""

    def __init__(self, step: Step, geometry: dict[str, int] = SMALL, **terms: int) -> None:
        self.terms = terms
        options: dict[str, Any] = {"maxtasksperchild": 5} if step.needs == "leaving" else {}
        context = mpsteal.get_context("fork")
        self.pool = context.Pool(AGENTS, tool.say_initialized, geometry=geometry, **options)
        self.engine = self.pool._engine
        self.close = self.pool.terminate

    def submit(self, function: Callable[..., Any], *args: Any, number: int = 0) -> Any:
        return self.pool.apply_async(function, args, **self.terms)

    def map(self, function: Callable[..., Any], items: range) -> list[Any]:
        return self.pool.map(function, items, 1)

    @staticmethod
    def value(handle: Any) -> Any:
        return handle.get(ALARM_S)


class OfScheduler:
    """The scheduler under test. Every task may run again once; one in four is urgent, and waits in the parent, except
    where that would be in the way."""

    def __init__(self, step: Step) -> None:
        # An agent asks for those, and in silence nobody answers; and it parks, and is rung, more than once.
        self.has_urgent = step.at.within == "ask" or (step.at.within != "park" and step.needs != "silence")
        self.scheduler = WorkStealingScheduler(
            context="fork",
            initializer=tool.say_initialized,
            geometry=SMALL,
            strategy="pull",  # the parent moves nothing, so who has nothing steals
            order__ask_s=100.0,
            metrics__sample_s=3600.0,
        )
        self.scheduler.start()
        self.engine = self.scheduler._engine
        self.agents = [self.scheduler.register_agent(Agent(f"agent-{i}")) for i in range(AGENTS)]

    def close(self) -> None:
        self.scheduler.stop(drain=False)

    def submit(self, function: Callable[..., Any], *args: Any, number: int = 0) -> Any:
        priority = 5 if self.has_urgent and number % 4 == 1 else 1 + number % 3
        return self.scheduler.submit_task(Task(str(number), fn=function, args=args, priority=priority, retries=1))

    def map(self, function: Callable[..., Any], items: range) -> list[Any]:
        return [self.value(self.submit(function, i)) for i in items]

    @staticmethod
    def value(handle: Any) -> Any:
        return handle.result(ALARM_S)


@contextmanager
def silence(engine: Any, wanted: bool) -> Iterator[None]:
    """Have the engine do nothing, so that nobody answers agents, or reads their results."""
    if not wanted:
        yield
        return
    begun, over = threading.Event(), threading.Event()

    def be_silent() -> None:
        begun.set()
        over.wait(ALARM_S)

    caller = threading.Thread(target=engine.call, args=(be_silent,))
    caller.start()
    begun.wait(ALARM_S)
    try:
        yield
    finally:
        over.set()
        caller.join()


def wait_taken_in(engine: Any) -> None:
    """Wait until the engine has dealt with all that was submitted: the second answer proves the first turn's end."""
    for _ in range(2):
        engine.call(lambda: None)


def kill_at(step: Step, front: Any, steps: tool.Steps, gate: Gate, noted: str) -> tuple[dict[int, Any], Counter[int]]:
    """Kill an agent at the step; returns what became of every task, and how often each has run."""
    engine = front.engine
    handles: dict[int, Any] = {}

    def submit(count: int) -> None:
        for number in range(len(handles), len(handles) + count):
            handles[number] = front.submit(work, noted, Piece(number), number=number)

    if step.needs == "start":
        victim = steps.wait_held()
        holding = AGENTS - 1
    else:
        wait_all_parked(engine)
        holding = AGENTS
    before = {process.pid for process in engine.crew.processes}
    holds = [front.submit(pass_gate, gate) for _ in range(holding)]
    gate.wait_arrived(holding)
    with silence(engine, wanted=True):  # so that all are taken in together, in ranges of several
        submit(AGENTS * BEHIND)
    wait_taken_in(engine)
    with silence(engine, step.needs == "silence"):
        if step.needs == "ring":
            gate.release()
            wait_until(lambda: has_run_dry(engine), "one agent parked, with nothing left to do")
            steps.arm()  # only now: it may have been parked, and rung, before
            submit(BEHIND)
        elif step.needs != "start":
            steps.arm()
            gate.release()
        if step.needs != "start":
            victim = steps.wait_held()
        if step.sleeps:
            wait_until(lambda: psutil.Process(victim).status() == psutil.STATUS_SLEEPING, "it sleeps")
        elif step.needs not in ("ring", "silence"):
            submit(BEHIND)
            wait_taken_in(engine)
        os.kill(victim, signal.SIGKILL)
        if len(handles) == AGENTS * BEHIND:
            submit(BEHIND)
    became: dict[int, Any] = {}
    for number, handle in handles.items():
        try:
            became[number] = front.value(handle)
        except Exception as error:
            became[number] = error
    gate.release(AGENTS)
    assert [front.value(hold) for hold in holds] == [None] * holding
    after = check_recovered(front, {victim})
    if step.needs != "leaving":
        assert len(after - before) == 1, "one replacement"
    return became, Counter(map(int, lines(noted)))


def has_run_dry(engine: Any) -> bool:
    """Whether an agent is parked, and nothing is left but what holds the others."""
    return engine.dispatcher.inflight < AGENTS and any(row["parked"] for row in rows(engine))


def rows(engine: Any) -> list[dict[str, Any]]:
    return [row for row in engine.status() if row["pid"]]


def wait_all_parked(engine: Any) -> None:
    wait_until(lambda: [row["parked"] for row in rows(engine)] == [True] * AGENTS, "all agents parked")


def check_recovered(front: Any, victims: set[int]) -> set[int]:
    """New agents are in place, no lock is held, the books agree, and work goes on. Returns all processes."""
    engine = front.engine
    assert front.map(abs, range(20)) == list(range(20))
    wait_all_parked(engine)
    after = {row["pid"] for row in rows(engine)}
    assert not victims & after
    engine.validate()
    held = engine.call(lambda: [slot for slot in range(AGENTS) if not try_and_give_back(engine.locks, slot)])
    assert not held, f"locks of agents {held} are still held"
    return after


def try_and_give_back(locks: Any, slot: int) -> bool:
    taken = locks.try_lock(slot)
    if taken:
        locks.unlock(slot)
    return bool(taken)


def each(steps: dict[str, Step]) -> list[Any]:
    return [pytest.param(step, id=name.replace(" ", "-")) for name, step in steps.items()]


def prepare(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    if load_barrier() is None and step.name.startswith("next:") and step.needs != "lock":
        pytest.skip("owners take their locks for every chunk here")
    if step.needs == "lock":
        monkeypatch.setattr(engine_loop, "load_barrier", lambda: None)


def kill_with(
    make: Callable[[Step], Any], step: Step, gates: Gates, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[int, Any], Counter[int], Any]:
    """`kill_at`, with what `make` makes; returns that, too."""
    prepare(step, monkeypatch)
    steps = hold_at([step], gates, directory, monkeypatch)
    if step.needs == "start":
        steps.arm()
    front = make(step)
    try:
        became, ran = kill_at(step, front, steps, gates("hold"), str(directory / "noted"))
    finally:
        front.close()
        steps.close()
    return became, ran, front


@pytest.mark.parametrize("step", each(STEPS))
def test_death_at_a_step_costs_what_was_running(
    step: Step, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became, ran, _ = kill_with(OfPool, step, gates, tmp_path, monkeypatch)
    died = [number for number, value in became.items() if isinstance(value, mpsteal.AgentDiedError)]
    assert len(died) == step.costs
    assert [number for number in became if number not in died and not is_outcome(number, became[number])] == []
    assert {number: ran[number] for number in became} == {n: step.ran if n in died else 1 for n in became}


AGAIN = ("next: committed", "unpickling", "running", "block: half written")


@pytest.mark.parametrize("step", each({name: STEPS[name] for name in AGAIN}))
def test_death_at_a_step_has_a_call_with_retries_run_again(
    step: Step, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became, ran, _ = kill_with(partial(OfPool, retries=1), step, gates, tmp_path, monkeypatch)
    assert [number for number in became if not is_outcome(number, became[number])] == []
    assert sorted(ran) == sorted(became)
    assert Counter(ran.values()) == Counter({1: len(became) - step.ran, 2: int(step.ran)})


ONLY_A_POOL = {name for name, step in STEPS.items() if step.needs in ("leaving", "lock", "start")}

DIFFERS = {"steal: journal", "steal: committed", "steal: no journal", "park: said", "park: asleep", "park: woken"}
"""Steps that cost nothing, and where a scheduler does something else than a Pool: what is queued at the dead is placed
again."""


def each_of_a_scheduler() -> list[Any]:
    """Where tasks run again, where a scheduler differs; the rest is as in a Pool, and left to the stress tests."""
    chosen = []
    for name, step in {**STEPS, **TASK_STEPS}.items():
        if name not in ONLY_A_POOL:
            differs = step.costs or name in TASK_STEPS or name in DIFFERS
            marks = [] if differs else [pytest.mark.stress]
            chosen.append(pytest.param(step, id=name.replace(" ", "-"), marks=marks))
    return chosen


@pytest.mark.parametrize("step", each_of_a_scheduler())
def test_death_at_a_step_has_a_task_with_retries_run_again(
    step: Step, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became, ran, front = kill_with(OfScheduler, step, gates, tmp_path, monkeypatch)
    assert [number for number in became if not is_outcome(number, became[number])] == []
    assert sorted(ran) == sorted(became)
    assert Counter(ran.values()) == Counter({1: len(became) - step.costs * step.ran, 2: step.costs * step.ran})
    assert front.scheduler.metrics.retried == step.costs


@pytest.mark.parametrize("step", each(REPAIR_STEPS))
def test_death_of_who_repairs(step: Step, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief dies, and whoever finds its marks dies in the middle of the repair: both before the parent has looked."""
    steps = hold_at([STEPS["steal: committed"], step], gates, tmp_path, monkeypatch)
    front = OfPool(step, {})  # a ring with room for all results: nobody reads them meanwhile
    gate, noted = gates("hold"), str(tmp_path / "noted")
    engine = front.engine
    try:
        wait_all_parked(engine)
        before = {process.pid for process in engine.crew.processes}
        holds = [front.submit(pass_gate, gate) for _ in range(AGENTS)]
        gate.wait_arrived(AGENTS)
        handles = [front.submit(work, noted, Piece(number)) for number in range(AGENTS * BEHIND)]
        wait_taken_in(engine)
        with silence(engine, True):
            steps.arm()
            gate.release()
            thief = steps.wait_held()
            os.kill(thief, signal.SIGKILL)
            wait_gone([thief])
            steps.arm()
            gate.release(AGENTS - 1)
            repairer = steps.wait_held()
            os.kill(repairer, signal.SIGKILL)
        for number, handle in enumerate(handles):
            try:
                assert is_outcome(number, front.value(handle))
            except WorkError as error:
                assert is_outcome(number, error)
        assert [front.value(hold) for hold in holds] == [None] * AGENTS
        assert Counter(map(int, lines(noted))) == Counter(range(len(handles)))
        assert len(check_recovered(front, {thief, repairer}) - before) == 2
    finally:
        front.close()
        steps.close()


def test_no_two_names_for_one_step() -> None:
    every = [*STEPS.values(), *TASK_STEPS.values(), *REPAIR_STEPS.values()]
    assert len({step.name for step in every}) == len(every)
    met = Counter(step.at for step in every if step.needs != "lock")
    assert [moment for moment, times in met.items() if times > 1] == []
