"""Question: what does it cost an agent to steal?

`Deques.steal` on a real segment of a scheduler's geometry (64 slots, ten levels, classes), with the real locks and the
real barrier: one call, from taking its own lock to giving both back, with three tasks in its hands.

    uncontended   the victim is nobody: its queue is filled and emptied by the thief's own process
    computing     the victim is a process on another core that takes and runs tasks of 50 us, without its lock; the
                  thief comes every 0.3 ms, and interrupts it with its barrier
    a miss        the victim has queued only what the thief cannot run

Each steal is timed, the median and the 99th percentile are shown. That every task was taken exactly once, by one of
the two, is checked.

Not told: how often thieves meet (a lock that is taken is a retry, and counted), the look at all agents' queues that
comes before a steal (`look` is that of one agent, and a thief looks at each), or steals of a machine with several
sockets. Peer: none here; the re-created system allowed 5 ms.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench._machine import usable_cores
from bench._model import Figure, Row, Setup, WrongResult, at_most
from bench._tasks import spin_wall

SLOTS, THIEF, VICTIM, LEVEL, CLASS = 64, 0, 1, 4, 7
RANGE, RUN_NS, PAUSE_NS = 8, 50_000, 300_000


class Scene:
    """A segment with two agents; this process is the parent and the thief."""

    def __init__(self) -> None:
        from mpsteal._engine.classes import CLASSES
        from mpsteal._engine.schedule import LEVELS, LEVELS_PER_PRIORITY
        from mpsteal._policy.order import Aging
        from mpsteal._policy.rules import Rules
        from mpsteal._policy.stealing import steal_point_of
        from mpsteal._queue import layout as L
        from mpsteal._queue.arena import Segment
        from mpsteal._queue.barrier import load_barrier, register
        from mpsteal._queue.deque import Deques
        from mpsteal._queue.levels import make_take
        from mpsteal._queue.locks import Locks, lock_files
        from mpsteal.scheduler import ENTRIES

        self.L, rules = L, Rules()
        self.segment = Segment.create(L.Geometry(SLOTS, levels=LEVELS, entries=ENTRIES, classes=CLASSES))
        self.words, self.layout = self.segment.words, self.segment.layout
        self.words[L.SLOTS_USED] = SLOTS
        for slot in range(SLOTS):
            base = self.layout.agent(slot)
            self.words[base + L.CLAIM] = L.NONE
        fds = list(lock_files(SLOTS))
        levels = tuple(range(LEVELS_PER_PRIORITY * (rules.order.protected_from - 1)))

        def deques() -> Any:
            """Everything that a process of the pool sets up for itself."""
            barrier = load_barrier()
            locks = Locks(fds, SLOTS, barrier, owner_is_fenced=barrier is not None and register())
            point = steal_point_of(rules.stealing.max_tasks)
            return Deques(self.words, self.layout, locks, point, levels)

        def take(of: Any, slot: int) -> Callable[..., int]:
            return make_take(of, slot, Aging(rules.order.aging_tasks, LEVELS_PER_PRIORITY))

        self.make_deques, self.make_take, self.levels = deques, take, levels
        self.deques = deques()
        self.take = take(self.deques, THIEF)
        self.next = 0

    def allow(self, slots: tuple[int, ...]) -> None:
        """Who can run the tasks of this scene."""
        for slot in slots:
            at, bit = self.layout.class_mask(CLASS, slot)
            self.words[at] |= bit

    def push(self, n: int) -> bool:
        """A range for the victim, and news of it, as the parent writes them."""
        L, words, lo = self.L, self.words, self.next
        for chunk in range(lo, lo + n):
            words[self.layout.chunk(chunk) + L.SLOT_FLAGS] = CLASS << L.CLASS_SHIFT
        if not self.deques.push(VICTIM, LEVEL, lo, lo + n):
            return False
        self.next += n
        words[self.layout.agent(VICTIM) + L.NEWS] += 1
        return True

    def steal(self) -> tuple[int, int]:
        """(what came of it, ns)."""
        steal, clock = self.deques.steal, time.perf_counter_ns
        began = clock()
        found = steal(THIEF, VICTIM)
        return found, clock() - began


def all_of(take: Callable[..., int]) -> list[int]:
    """Everything that is queued at the owner of this `take`."""
    taken = []
    while (chunk := take()) >= 0:
        taken.append(chunk)
    return taken


def measure(setup: Setup) -> dict[str, float]:
    from mpsteal._queue.deque import EMPTY, STOLEN

    n = setup.size(3_000, 300)
    scene = Scene()
    take = scene.make_take(scene.deques, VICTIM)
    times: list[int] = []
    misses: list[int] = []
    taken: list[int] = []
    for slots in ((VICTIM,), (THIEF,)):  # first the thief cannot run it, then it can
        scene.allow(slots)
        misses, times = times, []
        for _ in range(n):
            scene.push(RANGE)
            found, took = scene.steal()
            times.append(took)
            if found != (STOLEN if slots == (THIEF,) else EMPTY):
                raise WrongResult(f"steal: {found} came of a steal")
            taken += all_of(scene.take) + all_of(take)
    if sorted(taken) != list(range(scene.next)):
        raise WrongResult(f"steal: {len(taken)} of {scene.next} tasks came out")
    began = time.perf_counter()
    for _ in range(n):
        scene.deques.queued_at(VICTIM, scene.levels)
    look = time.perf_counter() - began
    scene.segment.close()
    return {**spread(times), "miss_us": statistics.median(misses) / 1e3, "look_us": look / n * 1e6}


def measure_computing(setup: Setup) -> dict[str, float]:
    from mpsteal._queue.deque import STOLEN

    n = setup.size(3_000, 300)
    scene = Scene()
    scene.allow((THIEF, VICTIM))
    pid = os.fork()
    if not pid:
        try:
            be_victim(scene)
        finally:
            os._exit(1)
    pin(0)
    L, words, base = scene.L, scene.words, scene.layout.agent(VICTIM)
    while not words[base + L.PID]:
        time.sleep(0.001)
    times: list[int] = []
    taken: list[int] = []
    tries = 0
    while len(times) < n:
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise WrongResult("steal-computing: the victim has died")
        while scene.deques.queued(VICTIM) < 8 * RANGE and scene.push(RANGE):
            pass
        spin_wall(0, PAUSE_NS)
        found, took = scene.steal()
        tries += 1
        if found == STOLEN:
            times.append(took)
            taken += all_of(scene.take)
    words[L.STOP] = 1
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise WrongResult("steal-computing: the victim failed")
    count, total = words[base + L.DONE] + len(taken), words[base + L.BUSY_NS] + sum(taken)
    if (count, total) != (scene.next, scene.next * (scene.next - 1) // 2):
        raise WrongResult(f"steal-computing: {count} of {scene.next} tasks came out")
    scene.segment.close()
    return {**spread(times), "retries": (tries - n) / tries}


def be_victim(scene: Scene) -> None:
    """The other process: take and compute until told to stop, then take what is left; count and add up the numbers."""
    pin(1)
    L, words, base = scene.L, scene.words, scene.layout.agent(VICTIM)
    deques = scene.make_deques()
    take = scene.make_take(deques, VICTIM)
    count = total = 0
    words[base + L.PID] = os.getpid()
    while True:
        stop = words[L.STOP]  # looked at first: nothing is pushed after it
        chunk = take()
        if chunk >= 0:
            count, total = count + 1, total + chunk
            spin_wall(0, RUN_NS)
        elif stop:
            break
        else:
            time.sleep(0.000_05)  # the thief was held up, and has given it nothing
    words[base + L.DONE], words[base + L.BUSY_NS] = count, total
    os._exit(0)


def pin(index: int) -> None:
    """One core for this process, the next for the other, where the system has a call for it."""
    if hasattr(os, "sched_setaffinity"):
        cores = usable_cores()
        os.sched_setaffinity(0, {cores[index % len(cores)]})


def spread(times: list[int]) -> dict[str, float]:
    return {"us": statistics.median(times) / 1e3, "p99_us": sorted(times)[int(0.99 * len(times))] / 1e3}


ROWS = (
    Row(
        "steal",
        "one steal of three tasks, uncontended",
        measure,
        (
            Figure("us", "a steal", "us", at_most(50, "value")),
            Figure("p99_us", "99th percentile", "us"),
            Figure("miss_us", "a miss", "us"),
            Figure("look_us", "a look at one agent's queue", "us"),
        ),
    ),
    Row(
        "steal-computing",
        "the same from a victim that computes on another core",
        measure_computing,
        (
            Figure("us", "a steal", "us", at_most(50, "value")),
            Figure("p99_us", "99th percentile", "us"),
            Figure("retries", "share of tries that met a lock", "of 1"),
        ),
    ),
)
