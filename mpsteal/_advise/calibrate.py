"""What the pools cost on this machine, now, with arguments and results of the user's kind.

Nothing is taken from another machine. In each of a few passes both pools are opened, in turns, and each gets:

    its start    open, one answer from each agent, end
    stand-ins    `tasks.stand_in_N` in the place of the user's function, on the user's own arguments: one that does
                 nothing and a few that compute (or wait) about as long as the user's, so that what a busy machine adds
                 is in it
    bytes        1 MiB arguments

and in the stock one all agents call the user's function at once, on a few of its inputs that this process has just
timed by itself: by how much slower calls are there is the slowdown.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing.pool
import pickle
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from .. import Pool
from . import MPSTEAL_MAP, STOCK_IMAP, STOCK_MAP, AdviceError, Costs, Profile, WayCosts
from .load import traceback_of
from .measure import SHORT_S, Sample, forget, fresh
from .tasks import MOST_LENGTHS, STAND_INS, drop, prepare, run_slice

LEAST_PASSES, PASSES = 2, 3
"""Fewer: one disturbance decides, and the range says nothing; more: time."""

LEAST_RUN_S, MOST_RUN_S = 0.015, 0.08
"""Length of one run of one stand-in. Shorter: the start and the end of the run show in the cost of an item; longer:
the user waits."""

LONGEST_S = 0.005
"""Longest stand-in. What is lost with each item does not grow further, and 5 ms hide more of it than it can matter."""

SLICE_S = 0.1
"""How long the user's function runs in all agents at once, about. Shorter: their starts and ends, when not all are
busy, show; longer: the user waits."""

MOST_SENT_BYTES = 16 << 20
"""Arguments of one run of stand-ins, at most."""

MOST_ITEMS = 20_000
"""Items of one run of stand-ins, at most."""

BLOCK_BYTES, BLOCKS = 1 << 20, 8
"""Arguments for the bytes per second."""

GUESS_S = {STOCK_MAP: 1e-6, STOCK_IMAP: 70e-6, MPSTEAL_MAP: 2e-6}
"""What an item that does nothing takes, about: only for how many make a run of the wanted length."""


class Setup(NamedTuple):
    """How pools are opened.

    Attributes:
        agents: processes of each pool.
        context: of `multiprocessing`.
    """

    agents: int
    context: BaseContext

    @contextlib.contextmanager
    def open_stock(self, *prepared: Any) -> Iterator[Any]:
        """The stock pool, with its workers told what the stand-ins do.

        Ctrl-C is held back while it starts and ends, and its workers never see it: it hangs at times where they do.
        """
        pool = None
        try:
            with _interrupts_held_back():
                pool = multiprocessing.pool.Pool(
                    self.agents, prepare if prepared else None, prepared, context=self.context
                )
            yield pool
        finally:
            if pool is not None:
                with _interrupts_held_back():
                    pool.terminate()
                    pool.join()

    def open_mpsteal(self, *prepared: Any) -> Any:
        """Ours, likewise."""
        return Pool(self.agents, prepare if prepared else None, prepared, context=self.context)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """SIGINT waits; processes that are started inside, and threads, have it blocked for good.

    It is blocked in this thread alone: another may take it, and then Python would still raise here. Hence the handler.
    """
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if is_main else None
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            raise KeyboardInterrupt


def lengths(mean_s: float) -> tuple[float, ...]:
    """The stand-ins' lengths for calls that take `mean_s`: nothing, and around the mean."""
    around = {min(LONGEST_S, mean_s * factor) for factor in (0.25, 1.0, 4.0)}
    if mean_s > LONGEST_S:
        around.add(LONGEST_S / 4)
    return (0.0, *sorted(length for length in around if length >= 2e-6))[:MOST_LENGTHS]


def calibrate(
    function: Callable[[Any], Any], sample: Sample, setup: Setup, cpus: int, budget_s: float
) -> tuple[Costs, Profile]:
    """Measure both pools.

    Args:
        function: the user's.
        sample: what `measure` found.
        setup: how pools are opened.
        cpus: CPUs this process may use.
        budget_s: about what it may take; `LEAST_PASSES` are made whatever they take.

    Returns:
        The costs, and the profile with what repeated calls have told: short calls are timed many at a time, and a
        function that remembers its results is known by that.
    """
    profile = sample.profile
    waits = profile.cpu_share < 0.5
    wanted = lengths(profile.mean_s)
    prepared = (bytes(ForkingPickler.dumps(sample.results)), wanted, waits)
    run_s = max(LEAST_RUN_S, min(MOST_RUN_S, budget_s / (8 * PASSES * len(wanted))))
    prepare(*prepared)
    alone = [_alone(stand_in, length) for stand_in, length in zip(STAND_INS, wanted, strict=False)]
    # More agents than CPUs: each has a share of one, and what it loses by that is in the slowdown.
    sharing = 1.0 if waits else max(1.0, setup.agents / cpus)
    starts: dict[str, list[float]] = {STOCK_MAP: [], MPSTEAL_MAP: []}
    lost: dict[str, list[list[float]]] = {way: [[] for _ in wanted] for way in GUESS_S}
    speeds: dict[str, list[float]] = {STOCK_MAP: [], MPSTEAL_MAP: []}
    slices = _Slices(function, sample)
    began = time.monotonic()
    passes = 0
    while passes < PASSES and (passes < LEAST_PASSES or (time.monotonic() - began) * (passes + 1) / passes < budget_s):
        for pool_of, open_pool in ((STOCK_MAP, setup.open_stock), (MPSTEAL_MAP, setup.open_mpsteal)):
            with _timed_start(open_pool, prepared, setup.agents, starts[pool_of]) as pool:
                ways = (STOCK_MAP, STOCK_IMAP) if pool_of == STOCK_MAP else (MPSTEAL_MAP,)
                for way in ways:
                    for i, length in enumerate(wanted):
                        count = _count(way, length, run_s, setup.agents, profile.argument_bytes)
                        wall_s = _run(pool, way, STAND_INS[i], _copies(sample.arguments, count))
                        lost[way][i].append(max(0.0, wall_s * setup.agents / count - alone[i] * sharing))
                speeds[pool_of].append(_bytes_per_s(pool))
                if pool_of == STOCK_MAP:
                    slices.compare(pool, setup.agents)
        passes += 1
    costs = {
        way: WayCosts(
            tuple(starts[MPSTEAL_MAP if way == MPSTEAL_MAP else STOCK_MAP]),
            tuple(zip(alone, map(tuple, lost[way]), strict=True)),
            statistics.median(speeds[MPSTEAL_MAP if way == MPSTEAL_MAP else STOCK_MAP]),
        )
        for way in GUESS_S
    }
    return Costs(costs, slices.slowdown(), slices.drift()), slices.correct(profile)


@contextlib.contextmanager
def _timed_start(open_pool: Any, prepared: tuple[Any, ...], agents: int, found: list[float]) -> Iterator[Any]:
    """A pool, with the time to open it, to have an answer from each agent and to end it added to `found`."""
    began = time.perf_counter()
    with open_pool(*prepared) as pool:
        pool.map(drop, range(agents), 1)
        opened_s = time.perf_counter() - began
        yield pool
        began = time.perf_counter()
    found.append(opened_s + time.perf_counter() - began)


def _alone(stand_in: Callable[[Any], Any], length: float) -> float:
    """What a stand-in takes in this process (s)."""
    if not length:
        return 0.0
    times = max(3, math.ceil(0.005 / length))
    return run_slice(stand_in, [None], times) / times


def _count(way: str, length: float, run_s: float, agents: int, argument_bytes: float) -> int:
    """Items of one run: about `run_s`, whole rounds of the stock pool's chunks, bounded in bytes."""
    count = min(run_s / max(length / agents, GUESS_S[way]), MOST_ITEMS, MOST_SENT_BYTES / max(1.0, argument_bytes))
    chunks = 4 * agents
    return chunks * max(1, int(count / chunks))


def _copies(arguments: list[Any], count: int) -> list[Any]:
    """So many arguments, no two of them one object: those would be pickled once for a chunk."""
    if len(arguments) >= count:
        return arguments[:count]
    pickled = bytes(ForkingPickler.dumps(arguments))
    found = list(arguments)
    while len(found) < count:
        found += pickle.loads(pickled)
    return found[:count]


def _run(pool: Any, way: str, function: Callable[[Any], Any], items: list[Any]) -> float:
    began = time.perf_counter()
    results_of(pool, way, function, items)
    return time.perf_counter() - began


def results_of(pool: Any, way: str, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Do a job on a pool, in one way."""
    return list(pool.imap_unordered(function, items)) if way == STOCK_IMAP else pool.map(function, items)


def _bytes_per_s(pool: Any) -> float:
    blocks = [bytes([i]) * BLOCK_BYTES for i in range(BLOCKS)]
    began = time.perf_counter()
    pool.map(drop, blocks, 1)
    return BLOCKS * BLOCK_BYTES / (time.perf_counter() - began)


class _Slices:
    """The user's function on the same few inputs, here and then in all agents at once."""

    def __init__(self, function: Callable[[Any], Any], sample: Sample) -> None:
        self._function = function
        profile = sample.profile
        took = dict(zip(profile.places, profile.times_s, strict=True))
        self._changes = profile.changes_argument
        self._items: list[Any] = []
        self._once_s = 0.0
        for place, argument in zip(sample.places, sample.arguments, strict=True):
            self._items.append(argument)
            self._once_s += took[place]
            if self._once_s > SLICE_S or len(self._items) * profile.argument_bytes > MOST_SENT_BYTES:
                break
        self._times = 1 if self._changes else max(1, math.ceil(SLICE_S / max(self._once_s, 1e-9)))
        if self._once_s * self._times > 2 * SLICE_S:
            self._times = 1
        self._here: list[float] = []
        self._ratios: list[float] = []

    def compare(self, pool: Any, agents: int) -> None:
        """Time them here, then there."""
        forget(self._function)
        here = run_slice(self._function, fresh(self._items) if self._changes else self._items, self._times)
        forget(self._function)
        job = [(self._function, self._items, self._times)] * agents
        try:
            there = pool.starmap(run_slice, job, 1)
        except Exception as error:
            raise AdviceError(f"the function failed in another process:\n{traceback_of(error)}", 1) from error
        self._here.append(here / self._times)
        self._ratios.append(statistics.fmean(there) / here)

    def _remembers(self) -> bool:
        return not self._changes and min(self._here) < self._once_s / 3 and self._once_s > len(self._items) * 1e-6

    def slowdown(self) -> tuple[float, ...]:
        """One figure for each pass; what agents seem to gain is chance, or what this process remembers."""
        return (1.0,) if self._remembers() else tuple(max(1.0, ratio) for ratio in self._ratios)

    def drift(self) -> tuple[float, ...]:
        """What each pass took here, over the median of all."""
        middle = statistics.median(self._here)
        return (1.0,) if self._remembers() else tuple(here / middle for here in self._here)

    def correct(self, profile: Profile) -> Profile:
        """The profile, with the times of short calls as they are without looking at the clock for each."""
        if self._remembers():
            return profile._replace(remembers=True)
        if profile.mean_s >= SHORT_S:
            return profile
        scale = statistics.median(self._here) / self._once_s
        return profile._replace(times_s=tuple(time_s * scale for time_s in profile.times_s))
