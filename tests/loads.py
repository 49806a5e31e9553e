"""Mixed loads: large, tiny, failing and dying tasks side by side for as long as one likes, and what the parent holds.

    load --round--> submit a mixture --> every result is checked --> nothing in flight: `take_count`
      '------------------------------------------------------------------'

The seed alone decides what is submitted in which round; how many rounds there are is up to the machine.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fault_tasks as tasks
import psutil
import pytest
from scheduler_tasks import die_the_first_time, wait_gone_for_good, wait_taken_in
from waiting import manager_pid, wait_idle, wait_until

import mpsteal
from mpsteal import Agent, AgentDiedError, DependencyError, Task, TaskTimeoutError, WorkStealingScheduler

MIB = 1 << 20

ALARM_S = 300.0
"""Longest wait for one result; others may have been submitted before it."""

LARGEST_MIB = 64
"""The largest argument and result."""

FLAT_MIB = 8
"""How much the parent's memory may have grown from the end of the first minute to the end, by the least that it takes
at rest before and after. It drifts by 1 to 2 MiB; a kept value is 1 MiB or more, and 8 bytes of each of a million tasks
are as much as this."""

M_MMAP_THRESHOLD = -3
"""From malloc.h."""


class Count(NamedTuple):
    """What this process holds."""

    descriptors: int
    threads: int
    processes: int
    segments: int
    """Descriptors of shared memory without a name, and names of ours in /dev/shm."""


def take_count() -> Count:
    """Descriptors, threads, child processes that live, segments."""
    gc.collect()
    me = psutil.Process()
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass  # the listing's own
    segments = sum(link.startswith(("/memfd:mpsteal", "/dev/shm/")) for link in links)
    segments += sum(path.name.startswith(("mpsteal", "pymp", "psm_")) for path in Path("/dev/shm").iterdir())
    living = [child for child in me.children(recursive=True) if is_alive(child)]
    return Count(len(links), threading.active_count(), len(living), segments)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SETTLE_S = 20.0
"""How long what has ended may take to be gone."""


def wait_count(wanted: Count) -> None:
    """Wait until this process holds no more than that."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = take_count()
        if all(now <= then for now, then in zip(found, wanted, strict=True)):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{found}, not {wanted}; threads: {threading.enumerate()}")
        time.sleep(0.02)


def own_memory() -> int:
    """Bytes that this process has taken, less what is in segments and files.

    Not the "unique set size": pages that a forked agent shares until somebody writes to them would not count.
    """
    gc.collect()
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def give_large_blocks_back() -> None:
    """Have malloc return each block from 256 KiB on to the system when it is freed.

    Else glibc has blocks up to 32 MiB in its heaps once one such was freed, and after some minutes of this load 120 MiB
    of them were free and not given back (150 MiB in all); with a fixed threshold the parent took 26 MiB throughout.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)


def load_seconds() -> float:
    """How long the long versions take: `MPSTEAL_STRESS_S`, 600 s unless it is set."""
    return float(os.environ.get("MPSTEAL_STRESS_S", "600"))


def load_seed() -> int:
    """`MPSTEAL_SEED` if it is set, else a new one. It is printed, and pytest shows that where a test fails."""
    seed = int(os.environ.get("MPSTEAL_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"\nto repeat this: MPSTEAL_SEED={seed}")  # noqa: T201  for whoever looks at the failure
    return seed


class Flat:
    """Watches that memory stays flat, and what is held the same, from one round to the next.

    Args:
        count: what is held at rest once everything has started.
        warm_s: how long caches, arenas and the heap may grow; None: memory is not looked at.
    """

    def __init__(self, count: Count, warm_s: float | None) -> None:
        self.count = count
        if warm_s is not None:
            give_large_blocks_back()
        self.warm_until = math.inf if warm_s is None else time.monotonic() + warm_s
        self.samples: list[int] = []

    def look(self) -> None:
        """Nothing is in flight."""
        wait_count(self.count)
        if time.monotonic() >= self.warm_until:
            self.samples.append(own_memory())

    def check(self) -> None:
        """At the end: the least of the last quarter against the least of the first."""
        if self.warm_until == math.inf:
            return
        assert len(self.samples) >= 8, "too short to tell"
        quarter = max(1, len(self.samples) // 4)
        first, last = min(self.samples[:quarter]), min(self.samples[-quarter:])
        words = f"{len(self.samples)} looks, {first / MIB:.1f} MiB, then {last / MIB:.1f} MiB"
        print(words)  # noqa: T201  for whoever looks at the failure
        assert last - first < FLAT_MIB * MIB, words


# -- a pool -----------------------------------------------------------------------------------------------------------


def mixed_load(
    pool: mpsteal.Pool, seconds: float, seed: int, *, largest_mib: int, warm_s: float | None
) -> dict[str, int]:
    """Load a pool; returns how often each kind of work was done."""
    load = PoolLoad(pool, random.Random(seed), largest_mib)
    wait_idle(pool)
    pool.apply_async(tasks.double, (1,), callback=[].append).wait()  # the thread for callbacks starts when needed
    manager_pid(pool)
    flat = Flat(take_count(), warm_s)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        load.round()
        wait_idle(pool)
        flat.look()
    pool._engine.validate()
    flat.check()
    return load.done


class PoolLoad:
    """One kind of work per method: each submits, and yields; resumed, it checks what came of it."""

    def __init__(self, pool: mpsteal.Pool, chance: random.Random, largest_mib: int) -> None:
        self.pool, self.chance, self.largest_mib = pool, chance, largest_mib
        self.kinds: dict[Callable[[], Iterator[None]], int] = {
            self.tiny: 6,
            self.large_result: 2,
            self.large_argument: 2,
            self.raising: 3,
            self.dying: 2,
            self.map: 3,
            self.map_that_dies: 1,
            self.stream: 2,
            self.callbacks: 2,
        }
        self.done = {kind.__name__: 0 for kind in self.kinds}

    def round(self) -> None:
        """Some work of several kinds at once."""
        kinds = self.chance.choices(list(self.kinds), list(self.kinds.values()), k=self.chance.randint(2, 8))
        begun = [kind() for kind in kinds]
        for work in begun:
            next(work)
        for kind, work in zip(kinds, begun, strict=True):
            assert next(work, "over") == "over"
            self.done[kind.__name__] += 1

    def bytes(self) -> int:
        """A size from 1 MiB on; most are small."""
        return int(MIB * self.largest_mib ** self.chance.random())

    def tiny(self) -> Iterator[None]:
        count = self.chance.randint(1, 2000)
        results = [self.pool.apply_async(tasks.double, (i,)) for i in range(count)]
        yield
        assert [result.get(ALARM_S) for result in results] == list(range(0, 2 * count, 2))

    def large_result(self) -> Iterator[None]:
        size = self.bytes()
        result = self.pool.apply_async(tasks.make_bytes, (size,))
        yield
        assert tasks.size_and_ends(result.get(ALARM_S)) == (size, 1, 2)

    def large_argument(self) -> Iterator[None]:
        size = self.bytes()
        result = self.pool.apply_async(tasks.size_and_ends, (tasks.make_bytes(size),))
        yield
        assert result.get(ALARM_S) == (size, 1, 2)

    def raising(self) -> Iterator[None]:
        count = self.chance.randint(1, 50)
        results = [self.pool.apply_async(tasks.raise_this, (ValueError, i)) for i in range(count)]
        yield
        for i, result in enumerate(results):
            with pytest.raises(ValueError) as caught:
                result.get(ALARM_S)
            assert caught.value.args == (i,)

    def dying(self) -> Iterator[None]:
        how: list[tuple[Any, tuple[int, ...], int]] = [
            (tasks.die_at_once, (3,), 3),
            (tasks.die_by, (signal.SIGKILL,), -signal.SIGKILL),
            (tasks.segfault, (), -signal.SIGSEGV),
        ]
        chosen = self.chance.choices(how, k=self.chance.randint(1, 3))
        results = [self.pool.apply_async(function, args) for function, args, _ in chosen]
        yield
        for result, (_, _, code) in zip(results, chosen, strict=True):
            with pytest.raises(AgentDiedError) as caught:
                result.get(ALARM_S)
            assert caught.value.exitcode == code

    def map(self) -> Iterator[None]:
        count, chunksize = self.chance.randint(1, 5000), self.chance.choice([None, 1, 7])
        result = self.pool.map_async(tasks.double, range(count), chunksize)
        yield
        assert result.get(ALARM_S) == list(range(0, 2 * count, 2))

    def map_that_dies(self) -> Iterator[None]:
        result = self.pool.map_async(tasks.die_if_equal_3, range(self.chance.randint(4, 200)), 1)
        yield
        with pytest.raises(AgentDiedError):
            result.get(ALARM_S)

    def stream(self) -> Iterator[None]:
        count, chunksize = self.chance.randint(1, 2000), self.chance.choice([1, 10])
        in_order = self.pool.imap(tasks.double, (i for i in range(count)), chunksize, buffersize=50)
        as_they_come = self.pool.imap_unordered(tasks.double, iter(range(count)), chunksize)
        half = [next(in_order) for _ in range(count // 2)]
        yield
        assert half + list(in_order) == list(range(0, 2 * count, 2))
        assert sorted(as_they_come) == list(range(0, 2 * count, 2))

    def callbacks(self) -> Iterator[None]:
        count = self.chance.randint(1, 200)
        values: list[int] = []
        errors: list[BaseException] = []
        results = [self.pool.apply_async(tasks.double, (i,), callback=values.append) for i in range(count)]
        failing = [
            self.pool.apply_async(tasks.raise_this, (KeyError, i), error_callback=errors.append) for i in range(3)
        ]
        yield
        for result in (*results, *failing):
            result.wait(ALARM_S)
        assert sorted(values) == list(range(0, 2 * count, 2))
        assert sorted(error.args for error in errors) == [(0,), (1,), (2,)]


# -- a scheduler ------------------------------------------------------------------------------------------------------

TRIES = 20
"""Retries of tasks that must not be lost with an agent that was removed at once, more than there can be in a round."""

SKILLS = ("python", "java", "sql")


def scheduled_load(
    scheduler: WorkStealingScheduler,
    directory: Path,
    seconds: float,
    seed: int,
    *,
    largest_mib: int,
    warm_s: float | None,
) -> dict[str, int]:
    """Load a scheduler with a few agents of all skills; others come and go. Returns what was done how often."""
    load = SchedulerLoad(scheduler, random.Random(seed), largest_mib, directory)
    stayers = len(scheduler.agents)
    while not load.done["no room"]:  # the pipe of a slot stays once there was an agent
        load.welcome()
    load.send_away(len(load.visitors))
    load.round()
    load.send_away(len(load.visitors))
    wait_rest(scheduler, stayers)
    flat = Flat(take_count(), warm_s)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        load.round()
        load.send_away(len(load.visitors))
        wait_rest(scheduler, stayers)
        flat.look()
    scheduler._engine.validate()
    assert not scheduler.tasks
    flat.check()
    return load.done


def wait_rest(scheduler: WorkStealingScheduler, stayers: int) -> None:
    """Wait until everything is over, and the visitors are gone."""
    assert scheduler.wait_all(ALARM_S)
    wait_gone_for_good(scheduler, stayers)
    wait_taken_in(scheduler)
    wait_until(lambda: all(row["parked"] for row in scheduler._engine.status() if row["pid"]), "all agents parked")
    wait_until(lambda: all(agent.pid for agent in scheduler.agents.values()), "all agents there")


class SchedulerLoad:
    """As `PoolLoad`. Whatever may be lost with an agent that is removed has retries, so every outcome is known."""

    def __init__(
        self, scheduler: WorkStealingScheduler, chance: random.Random, largest_mib: int, directory: Path
    ) -> None:
        self.scheduler, self.chance, self.largest_mib = scheduler, chance, largest_mib
        self.directory = directory
        self.visitors: list[str] = []
        self.number = 0
        self.kinds: dict[Callable[[], Iterator[None]], int] = {
            self.tiny: 6,
            self.large: 2,
            self.raising: 2,
            self.dying: 1,
            self.retried: 2,
            self.timing_out: 1,
            self.depending: 3,
            self.depending_on_a_failure: 1,
            self.cancelled: 2,
        }
        self.done = {kind.__name__: 0 for kind in self.kinds} | {"came": 0, "no room": 0, "went": 0, "was ended": 0}

    def round(self) -> None:
        """Some work of several kinds at once, while agents come and go."""
        kinds = self.chance.choices(list(self.kinds), list(self.kinds.values()), k=self.chance.randint(2, 8))
        begun = [kind() for kind in kinds]
        for work in begun:
            next(work)
            if self.chance.random() < 0.3 and len(self.visitors) < 3:
                self.welcome()
            elif self.chance.random() < 0.2:
                self.send_away(1)
        for kind, work in zip(kinds, begun, strict=True):
            assert next(work, "over") == "over"
            self.done[kind.__name__] += 1

    def welcome(self) -> None:
        """One more agent, if there is room: those that leave count until they are gone."""
        self.number += 1
        agent = Agent(f"visitor-{self.number}", self.chance.sample(SKILLS, self.chance.randint(0, len(SKILLS))))
        try:
            self.scheduler.register_agent(agent)
        except ValueError:
            self.done["no room"] += 1
        else:
            self.visitors.append(agent.agent_id)
            self.done["came"] += 1

    def send_away(self, count: int) -> None:
        """Some of those that came, at their leisure or at once."""
        for _ in range(min(count, len(self.visitors))):
            drain = self.chance.random() < 0.6
            self.scheduler.remove_agent(self.visitors.pop(self.chance.randrange(len(self.visitors))), drain=drain)
            self.done["went" if drain else "was ended"] += 1

    def submit(self, name: str, fn: Any, *args: Any, **options: Any) -> Task:
        """One task of some priority and skills, which is tried again when its agent dies."""
        skills = self.chance.sample(SKILLS, self.chance.choice([0, 0, 1, 2]))
        options = {"priority": self.chance.randint(1, 5), "retries": TRIES, **options}
        if self.chance.random() < 0.1:
            options["deadline"] = 3600.0
        return self.scheduler.submit_task(Task(name, skills, fn=fn, args=args, **options))

    def tiny(self) -> Iterator[None]:
        count = self.chance.randint(1, 500)
        submitted = [self.submit(f"tiny-{i}", tasks.double, i) for i in range(count)]
        yield
        assert [task.result(ALARM_S) for task in submitted] == list(range(0, 2 * count, 2))

    def large(self) -> Iterator[None]:
        size = int(MIB * self.largest_mib ** self.chance.random())
        result = self.submit("large result", tasks.make_bytes, size)
        argument = self.submit("large argument", tasks.size_and_ends, tasks.make_bytes(size))
        yield
        assert tasks.size_and_ends(result.result(ALARM_S)) == argument.result(ALARM_S) == (size, 1, 2)

    def raising(self) -> Iterator[None]:
        submitted = [self.submit("raising", tasks.raise_this, ValueError, i) for i in range(self.chance.randint(1, 20))]
        yield
        for i, task in enumerate(submitted):
            error = task.exception(ALARM_S)
            assert isinstance(error, ValueError) and error.args == (i,)

    def dying(self) -> Iterator[None]:
        fn, *args = self.chance.choice([(tasks.die_at_once, 3), (tasks.die_by, signal.SIGKILL), (tasks.segfault,)])
        task = self.submit("dying", fn, *args, retries=self.chance.randint(0, 2))
        yield
        assert isinstance(task.exception(ALARM_S), AgentDiedError)

    def retried(self) -> Iterator[None]:
        self.number += 1
        path = self.directory / f"tries-{self.number}"
        task = self.submit("retried", die_the_first_time, str(path))
        yield
        assert task.result(ALARM_S) >= 2  # more where it ran on an agent that was ended
        path.unlink()

    def timing_out(self) -> Iterator[None]:
        task = self.submit("timing out", time.sleep, 600, timeout=0.1)
        yield
        assert isinstance(task.exception(ALARM_S), TaskTimeoutError)

    def depending(self) -> Iterator[None]:
        """A chain, and a pair that meet."""
        first = self.submit("first", tasks.identity, 1)
        left, right = (self.submit("next", tasks.add, first, i) for i in (1, 2))
        last = self.submit("last", tasks.add, left, right)
        for _ in range(self.chance.randint(0, 10)):
            last = self.submit("and on", tasks.add, last, 0)
        yield
        assert last.result(ALARM_S) == 5

    def depending_on_a_failure(self) -> Iterator[None]:
        root = self.submit("root", tasks.raise_this, ValueError, "root")
        last = self.submit("last", tasks.add, self.submit("middle", tasks.add, root, 1), 1)
        yield
        error = last.exception(ALARM_S)
        assert isinstance(error, DependencyError) and isinstance(error.__cause__, ValueError)

    def cancelled(self) -> Iterator[None]:
        submitted = [self.submit("cancelled", tasks.double, i) for i in range(50)]
        withdrawn = [task.cancel() for task in submitted]
        yield
        for i, (task, is_withdrawn) in enumerate(zip(submitted, withdrawn, strict=True)):
            if is_withdrawn:
                assert task.cancelled()
            else:
                assert task.result(ALARM_S) == 2 * i
