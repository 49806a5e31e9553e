"""One side of a pair of the smoke, in a process of its own: ``python -m bench._smoke_child stock|mpsteal [LOSS]``.

The last line on standard output is a JSON object with the figures of `bench.smoke`. CPU time is that of this process
and of all below it, which is complete once they have ended and were waited for; so each size of each figure has a pool
of its own, and a figure is the difference between a long run and a short one, per task: what opening and closing
costs is in both and falls out. Fork is used where there is fork: a fork server's children are not ours to wait for.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import pickle
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from bench import _targets
from bench._tasks import nap, noop, spin_wall

AGENTS, SLEEPERS = 2, 8
TASKS = 8_000
"""Of the long run, for submit and imap; the short one has a tenth."""
ITEMS = 40_000
TRIPS = 60
NAPS_S = [0.06] * 3 + [0.003] * 93
"""The stock pool cuts 96 items for eight workers into chunks of three: the three long ones are one chunk, 180 ms. No
schedule ends before 60 ms."""
COUNTED, UNITS = 1_000, 3_000

LOSS_NS = 20_000
LATE_S = 0.005
LOSSES = ("slow-agent", "lock", "blocks", "late")
"""What can be lost on purpose, to see whether the smoke finds it: 20 us in the agent for each task; one more function
and one more lock for each `apply_async`; the balance of a map, with chunks of fixed size in its place; 5 ms in each
round trip."""

METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def slow(i: int) -> int:
    return spin_wall(i, LOSS_NS)


def late(i: int) -> int:
    time.sleep(LATE_S)
    return i


def cpu_s() -> float:
    """Seconds of CPU that this process and those it has waited for have used, they and what was below them."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def cpu_us_per_task(opened: Callable[[], _targets.Session], work: Callable[[Any, int], list[int]], count: int) -> float:
    def spent_s(n: int) -> float:
        began = cpu_s()
        with opened() as pool:
            if work(pool, n) != list(range(n)):
                raise AssertionError("a pool returned something else than the serial answer")
            pool.close()
        return cpu_s() - began

    short = count // 10
    early = spent_s(short)
    return max(0.0, spent_s(count) - early) / (count - short) * 1e6


def calls_per_task(pool: Any) -> float:
    """How many Python and C functions the thread of the caller enters to submit one task and to fetch its result. A
    count, no clock; threads of the pool are not in it. The least of three tries, since now and then a call has to wake
    an agent or to wait for one."""
    entered = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal entered
        if event in ("call", "c_call"):
            entered += 1

    least = float("inf")
    for _ in range(3):
        entered = 0
        submit = pool.apply_async
        sys.setprofile(count)
        try:
            handles = [submit(noop, (i,)) for i in range(COUNTED)]
        finally:
            sys.setprofile(None)
        for handle in handles:
            handle.wait()  # not counted: how often it wakes depends on the hour
        sys.setprofile(count)
        try:
            values = pool.gather(handles)
        finally:
            sys.setprofile(None)
        if values != list(range(COUNTED)):
            raise AssertionError("a pool returned something else than the serial answer")
        least = min(least, entered / COUNTED)
    return least


def unit_us() -> float:
    """What a task costs that goes nowhere: pickled, unpickled and called right here. The least of five tries."""
    tries = []
    for _ in range(5):
        began = time.thread_time_ns()
        for i in range(UNITS):
            fn, args = pickle.loads(pickle.dumps((noop, (i,))))
            fn(*args)
        tries.append((time.thread_time_ns() - began) / UNITS / 1e3)
    return min(tries)


def measure(name: str, loss: str = "") -> dict[str, float]:
    target = _targets.load(name)
    task = slow if loss == "slow-agent" else noop
    trip = late if loss == "late" else noop

    def opened(agents: int = AGENTS) -> _targets.Session:
        pool = target.open(agents, METHOD)
        if loss == "lock":
            pool.apply_async = locked(pool.apply_async)
        if loss == "blocks":
            pool.map = functools.partial(pool.map, chunksize=3)
        return pool

    figures = {}
    if name == _targets.OURS:
        figures["unit"] = unit_us()
        figures["submit"] = cpu_us_per_task(
            opened, lambda pool, n: pool.gather([pool.apply_async(task, (i,)) for i in range(n)]), TASKS
        )
        figures["imap"] = cpu_us_per_task(opened, lambda pool, n: list(pool.imap(task, range(n))), TASKS)
        figures["map"] = cpu_us_per_task(opened, lambda pool, n: pool.map(noop, range(n)), ITEMS)
    with opened() as pool:
        _targets.warm(pool, AGENTS)
        took_s = []
        for i in range(TRIPS):
            began = time.perf_counter()
            pool.apply(trip, (i,))
            took_s.append(time.perf_counter() - began)
        figures["trip"] = statistics.median(took_s) * 1e6
        if name == _targets.OURS:
            figures["calls"] = calls_per_task(pool)
    with opened(SLEEPERS) as pool:
        _targets.warm(pool, SLEEPERS)
        began = time.perf_counter()
        done = pool.map(nap, list(enumerate(NAPS_S)))
        figures["skew"] = (time.perf_counter() - began) * 1e3
        if [i for i, _ in done] != list(range(len(NAPS_S))):
            raise AssertionError("a pool returned something else than the serial answer")
    return figures


def locked(submit: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        lock.acquire()
        try:
            return submit(fn, args)
        finally:
            lock.release()

    return call


if __name__ == "__main__":
    # By its full name, so that tasks are pickled as functions of this module and not of `__main__`.
    from bench import _smoke_child

    print(json.dumps(_smoke_child.measure(*sys.argv[1:])))
