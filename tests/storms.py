"""Storms: agents are killed at random while tasks flow, and every task is accounted for afterwards.

    rounds:   submit many tasks --> wait for all        until the time is over
    killer:   a random agent, every 20 to 50 ms         all along, in a thread of its own

What happened is counted by three who know nothing of each other: an append-only file that tasks write to (what ran),
the field of the handles that says that they are over (what was delivered), and the handles' results (what was lost).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import fault_tasks as tasks
import pytest
from scheduler_tasks import note_pid_and_spin
from waiting import ALARM_S, lines, signal_own, wait_until

import mpsteal
from mpsteal import Agent, Task, WorkStealingScheduler
from mpsteal._engine import future
from mpsteal.results import AsyncResult

KILL_EVERY_S = (0.02, 0.05)

PATIENCE_S = 600.0
"""Longest wait for one task: 20,000 at once may keep two busy cores for minutes. pytest's own limit is the alarm."""

AGENTS = 4

KINDS = [[], ["red"], ["blue"]]
"""Skills that a scheduler's tasks ask for."""


def value_or_death(result: Any) -> Any:
    try:
        return result.get(ALARM_S)
    except mpsteal.AgentDiedError:
        return "died"


def seed_of_run() -> int:
    """A new seed, or the one that `MPSTEAL_SEED` gives back. It is printed, and pytest shows that when a test fails.

    What is submitted and who is killed when follow from it; how far the agents have come by then does not.
    """
    seed = int(os.environ.get("MPSTEAL_SEED") or random.randrange(1 << 30))
    print(f"MPSTEAL_SEED={seed}")
    return seed


class Told(NamedTuple):
    """What a storm was like."""

    tasks: int
    kills: int
    died: int
    run_again: int
    steals: int
    repairs: int


class OfPool:
    """A pool in a storm."""

    def __init__(self, pool: mpsteal.Pool, noted: str, longest_s: float) -> None:
        self.engine, self.pool, self.noted, self.longest_s = pool._engine, pool, noted, longest_s
        self.over = (AsyncResult, "_done", True)

    def submit(self, number: int, chance: random.Random) -> Any:
        args = (self.noted, number, chance.uniform(0, self.longest_s))
        return self.pool.apply_async(note_pid_and_spin, args)

    @staticmethod
    def outcome(handle: Any) -> Any:
        return handle.get(PATIENCE_S)

    @staticmethod
    def tries(handle: Any) -> int:
        return 1

    def run_again(self) -> int:
        return 0


class OfScheduler:
    """A scheduler in a storm: all priorities, skills that not every agent has, urgent tasks, and some that may run
    again."""

    def __init__(self, scheduler: WorkStealingScheduler, noted: str, longest_s: float) -> None:
        self.scheduler, self.noted, self.longest_s = scheduler, noted, longest_s
        for i in range(AGENTS):
            scheduler.register_agent(Agent(f"agent-{i}", KINDS[1 + i % 2]))
        self.engine = scheduler._engine
        self.over = (future.LazyFuture, "_state", future.SETTLING)

    def submit(self, number: int, chance: random.Random) -> Any:
        task = Task(
            str(number),
            chance.choice(KINDS),
            chance.randrange(1, 6),
            fn=note_pid_and_spin,
            args=(self.noted, number, chance.uniform(0, self.longest_s)),
            deadline=3600.0 if chance.random() < 0.05 else None,
            retries=chance.choice([0, 0, 1, 2]),
        )
        return self.scheduler.submit_task(task)

    @staticmethod
    def outcome(handle: Any) -> Any:
        return handle.result(PATIENCE_S)

    @staticmethod
    def tries(handle: Any) -> int:
        return 1 + int(handle.retries)

    def run_again(self) -> int:
        return self.scheduler.metrics.retried


class _Counted:
    """Stands where a field of a class was, and counts how often it gets the value that means "over"."""

    def __init__(self, field: Any, over: Any, counts: Counter[int]) -> None:
        self.field, self.over, self.counts = field, over, counts

    def __get__(self, handle: Any, owner: Any = None) -> Any:
        return self if handle is None else self.field.__get__(handle, owner)

    def __set__(self, handle: Any, value: Any) -> None:
        if value == self.over:
            self.counts[id(handle)] += 1
        self.field.__set__(handle, value)


@contextmanager
def deliveries_counted(over: tuple[type, str, Any]) -> Iterator[Counter[int]]:
    """How often each handle, by `id()`, has become over, whichever way the engine went."""
    counts: Counter[int] = Counter()
    kind, field, value = over
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, field, _Counted(kind.__dict__[field], value, counts))
        yield counts


class Killer:
    """A thread that kills a random agent every 20 to 50 ms; now and then all of them."""

    def __init__(self, engine: Any, seed: int) -> None:
        self.pids: set[int] = set()
        """Processes that were killed."""
        self._engine, self._chance = engine, random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._chance.uniform(*KILL_EVERY_S)):
            how_many = AGENTS if self._chance.random() < 0.02 else 1
            rows = self._engine.status()
            pids = [row["pid"] for row in rows if row["pid"]]
            if not self._engine._forks and sum(row["state"] == "ready" for row in rows) < 2:
                continue  # they take longer to start than to be killed, and nothing would ever get done
            for pid in self._chance.sample(pids, min(len(pids), how_many)):
                self.kill(pid)

    def kill(self, pid: int) -> None:
        if signal_own(pid, signal.SIGKILL):  # else it was replaced since we looked
            self.pids.add(pid)


def storm(front: Any, seconds: float, seed: int, at_once: int) -> Told:
    """Kill random agents while tasks flow; check that nothing is lost, delivered twice, or run twice without leave.

    Args:
        front: `OfPool` or `OfScheduler`.
        at_once: tasks of one round.
    """
    engine, chance = front.engine, random.Random(seed)
    handles: list[Any] = []
    died: dict[int, mpsteal.AgentDiedError] = {}
    until = time.monotonic() + seconds
    with deliveries_counted(front.over) as delivered, Killer(engine, seed) as killer:
        while time.monotonic() < until:
            begin = len(handles)
            handles += [front.submit(n, chance) for n in range(begin, begin + at_once)]
            for number in range(begin, begin + at_once):
                try:
                    assert front.outcome(handles[number]) == number
                except mpsteal.AgentDiedError as error:
                    died[number] = error
        wait_until(lambda: not engine.dispatcher.inflight, "nothing in flight")
    wait_until(lambda: [row["parked"] for row in engine.status() if row["pid"]] == [True] * AGENTS, "all agents parked")
    engine.validate()
    ran = Counter(int(line.split()[0]) for line in lines(front.noted))
    for number, handle in enumerate(handles):
        assert delivered[id(handle)] == 1, f"task {number} was delivered {delivered[id(handle)]} times"
        assert ran[number] or number in died, f"task {number} was delivered and did not run"
        assert ran[number] <= front.tries(handle), f"task {number} ran {ran[number]} times"
    status = engine.status()
    again = front.run_again()
    told = Told(
        len(handles),
        len(killer.pids),
        len(died),
        again,
        sum(row["steals"] for row in status),
        sum(row["repairs"] for row in status),
    )
    print(told)
    check_deaths(died, killer.pids)
    assert told.died + told.run_again <= told.kills, "one death costs one task at most"
    assert sum(times - 1 for times in ran.values()) <= again, "runs again, without having been told to"
    assert told.kills > 0 and told.steals > 0
    return told


def check_deaths(died: dict[int, mpsteal.AgentDiedError], killed: set[int]) -> None:
    """Every task that died names a process that was killed, and none of them cost two."""
    pids = Counter(error.pid for error in died.values())
    assert set(pids) <= killed, f"died with {set(pids) - killed}, which nobody killed"
    assert all(times == 1 for times in pids.values()), f"one death cost several tasks: {pids.most_common(3)}"
    assert {error.exitcode for error in died.values()} <= {-signal.SIGKILL}


def twenty_kills(pool: mpsteal.Pool, noted: str, seed: int, count: int = 5000, kills: int = 20) -> int:
    """Kill agents from outside in a stream of tasks of 1 ms: exactly those that they ran fail. Returns how many.

    A task writes a line as its call begins and one as it ends. So a killed process whose last line is a beginning was
    within that task; one whose last line is an end was between two of them, or had one whose call had not begun, or
    whose result was not committed: that may have cost a task or none.
    """
    chance = random.Random(seed)
    results = [pool.apply_async(note_both_ends, (noted, i, 0.001)) for i in range(count)]
    killer = Killer(pool._engine, seed)

    def living() -> set[int]:
        return {row["pid"] for row in pool._engine.status() if row["pid"]}

    died: dict[int, mpsteal.AgentDiedError] = {}
    for i, result in enumerate(results):
        try:
            assert result.get(ALARM_S) == i
        except mpsteal.AgentDiedError as error:
            died[i] = error
        if i >= len(killer.pids) * count // kills:
            wait_until(lambda: living() - killer.pids, "an agent to kill")
            killer.kill(chance.choice(sorted(living() - killer.pids)))
    check_deaths(died, killer.pids)
    begun: dict[int, int] = {}
    last: dict[int, tuple[str, int]] = {}
    for line in lines(noted):
        what, number, pid = line.split()
        if what == "begins":
            assert int(number) not in begun, f"task {number} ran twice"
            begun[int(number)] = int(pid)
        last[int(pid)] = (what, int(number))
    assert set(range(count)) == set(begun) | set(died)
    for pid in killer.pids:
        what, number = last.get(pid, ("ends", -1))
        if what == "begins":
            assert died[number].pid == pid, f"process {pid} was killed within task {number}"
    for number, error in died.items():
        assert begun.get(number, error.pid) == error.pid, f"task {number} ran elsewhere"
        what, at = last.get(error.pid, ("ends", -1))
        assert at == number or (what == "ends" and number not in begun), (
            f"process {error.pid} was killed where task {at} {what}, and task {number} died: "
            f"{[line for line in lines(noted) if line.endswith(f' {error.pid}')][-5:]}"
        )
    assert len(killer.pids) == kills
    return len(died)


def note_both_ends(path: str, number: int, spin_s: float) -> int:
    tasks.note(path, f"begins {number} {os.getpid()}")
    until = time.monotonic() + spin_s
    while time.monotonic() < until:
        pass
    tasks.note(path, f"ends {number} {os.getpid()}")
    return number
