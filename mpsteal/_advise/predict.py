"""What a job takes, from what its calls take and what a pool costs. Pure: numbers in, numbers out.

    time of a pool = start + makespan of (call * slowdown + lost) over the agents + the function's way into each chunk

call      drawn from the sample: as measured and in order where every input was measured; else at random, or, where
          calls grow or shrink along the input, from the neighbours of its place
slowdown  how much longer a call takes while all agents are busy: memory bandwidth, shared cores, more agents than CPUs;
          with it, how much the same calls differed from pass to pass
lost      agent-seconds for each item beyond the call: pickling, pipes, waking up, waiting for the parent. Interpolated
          between calls of the lengths that were calibrated, since a busy agent hides some of it, and is in the parent's
          way where there are as many agents as CPUs
makespan  the cut decides it. Stock `map`: as many equal chunks as four for each agent, whoever is free takes the next
          (`multiprocessing.pool.Pool._map_async`). Stock `imap_unordered`: the next item. mpsteal `map`: chunks as
          `_policy/chunking.py` cuts them; stealing then keeps everybody at work, which "whoever is free takes the next
          chunk" says nearly as well.

All is done many times with other draws and other figures of the calibration; the median is the prediction, and its
range goes from the 5th to the 95th per cent, and further by how far the model itself was off (`OWN_ERROR`). It knows
nothing of inputs heavier than all that were measured, nor of another program that starts meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Iterable, Sequence

from .._policy.chunking import MapCutter
from . import MPSTEAL_MAP, POOL_WAYS, SERIAL, STOCK_IMAP, STOCK_MAP, Costs, Forecast, Profile

STOCK_CHUNKS_PER_WORKER = 4
"""How `multiprocessing.Pool.map` cuts its input, in every Python so far."""

MOST_PIECES = 2000
"""Items that are drawn one by one; a longer job is drawn in so many pieces of several items each. More: slower, and
nothing changes; fewer: the end of the job, where agents run out of work, is drawn too coarsely."""

ROUNDS = 40
"""Draws of a job. Fewer: the ends of the range jump; more: slower."""

TREND = 0.3
"""From this correlation between place and time on, a call is drawn from the neighbours of its place. Lower: chance is
taken for a trend; higher: a sorted input is taken for a mixed one. Chosen by hand."""

OWN_ERROR, OWN_ERROR_OF_IMAP = 0.09, 0.2
"""How far the model itself is off, as a share of the prediction: the root mean square of the errors of five functions
(the table of docs/howto/advise.md), the stock `imap_unordered` by itself, whose time is mostly waking up. Smaller: the
measured time lies outside of the range too often, which would have no width where every input was measured; larger: it
says less than is known."""

NORMAL_95 = 1.645
"""The 95th per cent of a normal distribution, in standard deviations."""

SEED = 20_240_229
"""Of all draws: the same measurements give the same words."""


def makespan(durations: Iterable[float], agents: int) -> float:
    """When the last one is done, if whoever is free takes the next."""
    free_at = [0.0] * agents
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def stock_chunksize(items: int, agents: int) -> int:
    """Items of a chunk of the stock pool's `map`."""
    return max(1, math.ceil(items / (agents * STOCK_CHUNKS_PER_WORKER)))


def stock_makespan(durations: Sequence[float], agents: int) -> float:
    """Of equal chunks that are cut beforehand."""
    size = stock_chunksize(len(durations), agents)
    return makespan((sum(durations[i : i + size]) for i in range(0, len(durations), size)), agents)


def mpsteal_makespan(durations: Sequence[float], agents: int) -> float:
    """Of chunks that are cut while the job runs, by what the finished ones took."""
    cutter = MapCutter(len(durations), agents)
    queue: deque[float] = deque()
    sizes: deque[int] = deque()
    running: list[tuple[float, float, int]] = []  # when it ends, how long it takes, items
    cut_to = 0
    now = 0.0
    idle = agents
    while True:
        while size := cutter.next_size():
            queue.append(sum(durations[cut_to : cut_to + size]))
            sizes.append(size)
            cut_to += size
        while idle and queue:
            duration = queue.popleft()
            heapq.heappush(running, (now + duration, duration, sizes.popleft()))
            idle -= 1
        if not running:
            return now
        now, duration, size = heapq.heappop(running)
        idle += 1
        cutter.observe(size, int(duration * 1e9))


MAKESPANS = {STOCK_MAP: stock_makespan, STOCK_IMAP: makespan, MPSTEAL_MAP: mpsteal_makespan}


def lost_at(points: Sequence[tuple[float, float]], length_s: float) -> float:
    """Interpolated between the calibrated lengths; beyond the last as there."""
    before = points[0]
    for point in points:
        if length_s < point[0]:
            share = (length_s - before[0]) / (point[0] - before[0])
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]


def chunks(way: str, items: int, agents: int) -> int:
    """How often a way sends the function. mpsteal sends it once to each agent."""
    if way == STOCK_MAP:
        return math.ceil(items / stock_chunksize(items, agents))
    return items if way == STOCK_IMAP else agents


def draw(profile: Profile, items: int, rng: random.Random) -> tuple[list[float], float]:
    """Times of the calls of a job, in order, and how many items each of them stands for."""
    times = profile.times_s
    if len(times) == items == profile.inputs:
        if items <= MOST_PIECES:
            return list(times), 1.0
        edges = [round(i * items / MOST_PIECES) for i in range(MOST_PIECES + 1)]
        return [sum(times[a:b]) for a, b in itertools.pairwise(edges)], items / MOST_PIECES
    pieces = min(items, MOST_PIECES)
    weight = items / pieces
    if has_trend(profile):
        drawn = _draw_along(times, pieces, rng)
    else:
        # The sample itself might have come out otherwise: that is what makes the range of a small one wide.
        drawn = rng.choices(rng.choices(times, k=len(times)), k=pieces)
    if weight == 1.0:
        return drawn, 1.0
    # A piece of several items is nearer to the mean than one item: its spread grows with the root of their number.
    mean = sum(drawn) / pieces
    return [max(0.0, weight * mean + math.sqrt(weight) * (time - mean)) for time in drawn], weight


def has_trend(profile: Profile) -> bool:
    """Whether calls grow or shrink along the input."""
    if len(profile.times_s) < 20 or len(set(profile.times_s)) < 2:
        return False
    return abs(statistics.correlation(profile.places, profile.times_s)) >= TREND


def _draw_along(times: Sequence[float], items: int, rng: random.Random) -> list[float]:
    reach = max(2, len(times) // 16)
    last = len(times) - 1
    return [
        times[min(last, max(0, int((i + 0.5) * len(times) / items) + rng.randint(-reach, reach)))] for i in range(items)
    ]


def forecast(
    profile: Profile, costs: Costs, items: int, agents: int, *, rounds: int = ROUNDS, seed: int = SEED
) -> dict[str, Forecast]:
    """Predict every way.

    Args:
        profile: what the function takes.
        costs: what the pools take on this machine.
        items: how many calls the job has, at least 1.
        agents: processes of the pool.
        rounds: how many jobs are drawn.
        seed: of the draws.

    Returns:
        By way: `SERIAL`, and those of `costs.ways`.
    """
    rng = random.Random(seed)
    found: dict[str, list[float]] = {SERIAL: []}
    found.update((way, []) for way in POOL_WAYS if way in costs.ways)
    for _ in range(rounds):
        calls, weight = draw(profile, items, rng)
        drift = rng.choice(costs.drift)
        found[SERIAL].append(sum(calls) * drift)
        slowdown = rng.choice(costs.slowdown) * drift
        for way, seconds in found.items():
            if way == SERIAL:
                continue
            cost = costs.ways[way]
            points = [(length, rng.choice(figures)) for length, figures in cost.lost]
            busy = [call * slowdown + weight * lost_at(points, call / weight) for call in calls]
            function_s = profile.function_s + profile.function_bytes / cost.bytes_per_s
            # A function that goes by its name is in what was calibrated; the rest of a larger one is added.
            sent_s = chunks(way, items, agents) * function_s if profile.function_bytes > 1000 else 0.0
            seconds.append(rng.choice(cost.start_s) + MAKESPANS[way](busy, agents) + sent_s)
    return {way: summary(way, seconds) for way, seconds in found.items()}


def summary(way: str, seconds: Sequence[float]) -> Forecast:
    """Median and the middle 90 per cent of what was drawn, with the model's own error, which is independent of it."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    middle, low, high = statistics.median(ordered), ordered[round(0.05 * last)], ordered[round(0.95 * last)]
    own = NORMAL_95 * (OWN_ERROR_OF_IMAP if way == STOCK_IMAP else OWN_ERROR) * middle
    low, high = middle - math.hypot(middle - low, own), middle + math.hypot(high - middle, own)
    return Forecast(way, middle, max(0.0, low), high)


def pays_from(profile: Profile, costs: Costs, way: str, agents: int) -> int | None:
    """From how many items on this way beats the loop; None: never."""
    cost = costs.ways[way]
    points = [(length, statistics.median(figures)) for length, figures in cost.lost]
    mean = profile.mean_s
    in_pool = (mean * statistics.median(costs.slowdown) + lost_at(points, mean)) / agents
    if in_pool >= mean:
        return None
    return max(1, math.ceil(statistics.median(cost.start_s) / (mean - in_pool)))
