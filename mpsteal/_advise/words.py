"""What the figures mean: one sentence, a table, tips. Pure: data in, text out."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from . import MPSTEAL_MAP, POOL_WAYS, SERIAL, STOCK_IMAP, STOCK_MAP, Costs, Forecast, Profile
from .predict import has_trend, lost_at, pays_from

NO_POOL, THREADS, STOCK, MPSTEAL, EITHER = "no pool", "threads", "stock pool", "mpsteal", "either pool"
"""Verdicts."""

PAYS = 1.1
"""Speed-up below which no pool is advised: it is less than machines differ from run to run."""

PAYS_LITTLE = 1.3
"""Speed-up below which that is said."""

DIFFER = 1.05
"""How much faster one pool has to be for the choice between them to matter."""

WAITS, OWN_THREADS = 0.3, 1.3
"""CPU time over wall time: below the first a function mostly waits, above the second it uses several cores."""

LARGE_BYTES = 1 << 20
"""An argument, a result or a function of such a size is worth a tip."""

NAMES = {
    SERIAL: "a loop, one process",
    STOCK_MAP: "multiprocessing.Pool: map",
    STOCK_IMAP: "multiprocessing.Pool: imap_unordered",
    MPSTEAL_MAP: "mpsteal.Pool: map",
}


class Case(NamedTuple):
    """All that is known of a job."""

    profile: Profile
    costs: Costs
    forecasts: dict[str, Forecast]
    items: int
    agents: int
    cpus: int


class Answer(NamedTuple):
    """What to do."""

    verdict: str
    text: str


def seconds(value: float) -> str:
    """A time with three digits: 0.812 us, 81.2 ms, 8.12 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 0.9995 or unit == "us":
            scaled = value * factor
            return f"{scaled:.{max(0, 2 - len(str(int(scaled))) + 1) if scaled >= 1 else 2}f} {unit}"
    raise AssertionError(value)


def size(value: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def answer(case: Case) -> Answer:
    """The sentence that comes first."""
    profile, forecasts, agents = case.profile, case.forecasts, case.agents
    serial = forecasts[SERIAL].seconds
    best = min(POOL_WAYS, key=lambda way: forecasts[way].seconds)
    gain = serial / forecasts[best].seconds
    if profile.cpu_share < WAITS:
        return Answer(
            THREADS,
            f"Use threads or asyncio, not processes: of {seconds(profile.mean_s)} a call waits "
            f"{1 - profile.cpu_share:.0%}, and waiting needs no core of its own.",
        )
    if gain < PAYS:
        return Answer(NO_POOL, f"Do not use a pool: {_why_none(case, best)}.")
    stock = min((STOCK_MAP, STOCK_IMAP), key=lambda way: forecasts[way].seconds)
    ratio = forecasts[stock].seconds / forecasts[MPSTEAL_MAP].seconds
    start = f"about {gain:.2g}x with {agents} agents"
    if gain < PAYS_LITTLE:
        start = f"but it gains little, {start}"
    if ratio >= DIFFER:
        return Answer(
            MPSTEAL,
            f"Use a pool: {start}; mpsteal.Pool is {ratio:.2f}x as fast as the better way of the stock Pool "
            f"({'map' if stock == STOCK_MAP else 'imap_unordered'}), because {_why_ours(case, stock)}.",
        )
    if ratio <= 1 / DIFFER:
        return Answer(
            STOCK,
            f"Use a pool: {start}; the stock Pool ({'map' if stock == STOCK_MAP else 'imap_unordered'}) is "
            f"{1 / ratio:.2f}x as fast as mpsteal.Pool here, because {_why_stock(case, stock)}.",
        )
    return Answer(EITHER, f"Use a pool: {start}; the stock Pool and mpsteal.Pool take the same time here.")


def _why_none(case: Case, best: str) -> str:
    profile, costs = case.profile, case.costs
    cost = costs.ways[best]
    start_s, slowdown = statistics.median(cost.start_s), statistics.median(costs.slowdown)
    lost_s = _lost(costs, best, 0.0)
    if case.agents == 1:
        return "there is one agent, and the loop does without"
    if profile.cpu_share > OWN_THREADS:
        return f"the function keeps {profile.cpu_share:.1f} CPUs busy by itself"
    serial = case.forecasts[SERIAL].seconds
    from_items = pays_from(profile, costs, best, case.agents)
    if from_items is not None and start_s > serial / 4:
        return (
            f"the whole job takes {seconds(serial)}, to start and end one takes {seconds(start_s)}; it begins to pay "
            f"at about {_round(from_items):,} items"
        )
    if lost_s / case.agents > profile.mean_s / 4:
        return f"a call takes {seconds(profile.mean_s)}, to send it and its result costs {seconds(lost_s)}"
    if start_s > serial:
        return f"the whole job takes {seconds(serial)}, to start and end one takes {seconds(start_s)}"
    if slowdown > 1.2:
        return f"calls take {slowdown:.1f}x as long when all agents are busy"
    longest = max(profile.times_s)
    if longest > serial / 2:
        return f"one call of {seconds(longest)} is most of the job"
    return f"it would take {seconds(case.forecasts[best].seconds)} in place of {seconds(serial)}"


def _why_ours(case: Case, stock: str) -> str:
    if stock == STOCK_IMAP:
        return "it loses less with each item"
    even = case.forecasts[SERIAL].seconds * statistics.median(case.costs.slowdown) / case.agents
    per_item = _lost(case.costs, STOCK_MAP, case.profile.mean_s) * case.items / case.agents
    start = statistics.median(case.costs.ways[STOCK_MAP].start_s)
    uneven = case.forecasts[STOCK_MAP].seconds - even - per_item - start
    if uneven > 0.05 * even:
        return "the stock pool's map cuts its chunks beforehand, and they end unevenly"
    return "it loses less with each item"


def _why_stock(case: Case, stock: str) -> str:
    ours, theirs = (statistics.median(case.costs.ways[way].start_s) for way in (MPSTEAL_MAP, stock))
    gap = case.forecasts[MPSTEAL_MAP].seconds - case.forecasts[stock].seconds
    if ours - theirs > gap / 2:
        return f"it starts and ends {seconds(ours - theirs)} sooner, and the job is short"
    return "it loses less with each item"


def _lost(costs: Costs, way: str, length: float) -> float:
    return lost_at([(at, statistics.median(figures)) for at, figures in costs.ways[way].lost], length)


def _round(value: int) -> int:
    """Two digits."""
    digits = len(str(value)) - 2
    return value if digits <= 0 else round(value, -digits)


def table(case: Case) -> list[str]:
    """The predictions, a line for each way."""
    serial = case.forecasts[SERIAL].seconds
    lines = [f"{f'{case.items:,} items':<40}{'predicted':>11}{'90 % range':>25}{'speed-up':>10}"]
    for way, found in case.forecasts.items():
        reach = f"{seconds(found.low_s)} .. {seconds(found.high_s)}"
        lines.append(f"{NAMES[way]:<40}{seconds(found.seconds):>11}{reach:>25}{serial / found.seconds:>9.2f}x")
    return lines


def spread(profile: Profile) -> dict[str, float]:
    """How calls differ: seconds, and their standard deviation over their mean."""
    ordered = sorted(profile.times_s)
    last = len(ordered) - 1
    return {
        "median_s": statistics.median(ordered),
        "mean_s": profile.mean_s,
        "p90_s": ordered[round(0.9 * last)],
        "max_s": ordered[last],
        "variation": statistics.pstdev(ordered) / profile.mean_s if profile.mean_s > 0 else 0.0,
    }


def facts(case: Case) -> list[str]:
    """What was measured, in a few lines."""
    profile, costs = case.profile, case.costs
    found = spread(profile)
    lines = [
        f"a call:    median {seconds(found['median_s'])}, 90 % below {seconds(found['p90_s'])}, longest "
        f"{seconds(found['max_s'])}, variation {found['variation']:.2f}; CPU {profile.cpu_share:.0%} "
        f"({len(profile.times_s):,} of {profile.inputs:,} inputs)",
        f"pickles:   argument {size(profile.argument_bytes)} in {seconds(profile.argument_s)}, result "
        f"{size(profile.result_bytes)} in {seconds(profile.result_s)}, function {size(profile.function_bytes)}",
    ]
    for way in POOL_WAYS:
        cost = costs.ways[way]
        lines.append(
            f"{way + ':':<12} starts and ends in {seconds(statistics.median(cost.start_s))}; loses "
            f"{seconds(_lost(costs, way, 0.0))} of an agent's time with an item that does nothing, "
            f"{seconds(_lost(costs, way, profile.mean_s))} with one of yours; {size(cost.bytes_per_s)}/s"
        )
    slowdown = statistics.median(costs.slowdown)
    lines.append(f"all agents busy: a call takes {slowdown:.2f}x as long; {case.cpus} CPUs may be used")
    return lines


def tips(case: Case) -> list[str]:
    """What could be better, and what limits the advice."""
    profile, costs = case.profile, case.costs
    found = spread(profile)
    mean = profile.mean_s
    advice = []
    if len(profile.times_s) < min(10, profile.inputs):
        advice.append(f"only {len(profile.times_s)} calls fitted into the time limit: --time-limit with more seconds")
    if profile.lost_share > 0.1:
        advice.append(
            f"other programs had the core for {profile.lost_share:.0%} of the time of the calls: ask again "
            "when it is quiet"
        )
    if profile.cpu_share < WAITS:
        advice.append(
            "concurrent.futures.ThreadPoolExecutor takes the same function; more threads than CPUs are fine for waiting"
        )
    elif profile.cpu_share < 0.8:
        advice.append(
            f"it waits {1 - profile.cpu_share:.0%} of its time: more agents than CPUs may help (--agents), or threads "
            "for what waits"
        )
    if profile.cpu_share > OWN_THREADS:
        advice.append(
            f"it uses {profile.cpu_share:.1f} CPUs by itself; in agents mpsteal.Pool divides the CPUs among the agents "
            "(inner_threads=); OMP_NUM_THREADS=1 before this command shows it without"
        )
    if mean < 50e-6 and profile.cpu_share >= WAITS:
        batch = max(2, _round(int(1e-3 / max(mean, 1e-9))))
        advice.append(
            f"calls are short: give each about {batch:,} items and loop inside the function, so that a call takes "
            "1 ms; or have one numpy call do them all"
        )
    sent_s = profile.argument_s + profile.result_s
    if profile.argument_bytes > LARGE_BYTES or (profile.argument_bytes > 10_000 and sent_s > 0.2 * mean):
        advice.append(
            f"arguments are large ({size(profile.argument_bytes)}): what all calls have in common goes once by "
            "pool.share(obj); a path or a key is smaller than what it stands for"
        )
    if profile.result_bytes > LARGE_BYTES or (profile.result_bytes > 10_000 and sent_s > 0.2 * mean):
        advice.append(f"results are large ({size(profile.result_bytes)}): reduce them inside the function")
    if profile.function_bytes > 10_000:
        advice.append(
            f"the function carries {size(profile.function_bytes)}, which the stock pool sends with each chunk: "
            "pool.share(obj), or an initializer"
        )
    slowdown = statistics.median(costs.slowdown)
    if slowdown > 1.15 and case.agents <= case.cpus and profile.cpu_share >= WAITS:
        advice.append(
            f"a call takes {slowdown:.2f}x as long while all agents are busy: they share memory bandwidth, caches or "
            "cores"
        )
    if case.agents > case.cpus and profile.cpu_share > 0.8:
        advice.append(
            f"{case.agents} agents share {case.cpus} CPUs; more agents than CPUs gain nothing for what computes"
        )
    if found["max_s"] * case.agents > case.forecasts[SERIAL].seconds:
        advice.append(
            f"one call takes {seconds(found['max_s'])}, so no pool ends sooner: divide the longest calls, and "
            "put them first"
        )
    elif found["variation"] > 1 or has_trend(profile):
        advice.append("calls differ: with those first that you know to be long, every pool ends sooner")
    if profile.first_s > max(1e-3, 2 * found["max_s"]):
        advice.append(
            f"the very first call took {seconds(profile.first_s)}: each agent pays that once, with spawn at its first "
            "call; Pool(initializer=) does it beforehand"
        )
    if profile.remembers:
        advice.append(
            "it remembers results of earlier calls: agents do not share that, and the figures are of first calls"
        )
    if profile.changes_argument:
        advice.append("it changes its argument: agents change copies, and nobody sees that here")
    if not profile.is_repeatable:
        advice.append("it gave two results for one input: results of the ways cannot be compared")
    return advice


def checked(predicted: dict[str, Forecast], measured: dict[str, list[float]]) -> list[str]:
    """Predicted, measured and error, a line for each way."""
    lines = [f"{'':<40}{'predicted':>11}{'measured':>11}{'range':>25}{'error':>9}"]
    for way, runs in measured.items():
        middle = statistics.median(runs)
        reach = f"{seconds(min(runs))} .. {seconds(max(runs))}"
        lines.append(
            f"{NAMES[way]:<40}{seconds(predicted[way].seconds):>11}{seconds(middle):>11}{reach:>25}"
            f"{error_percent(predicted[way].seconds, runs):>+8.0f}%"
        )
    return lines


def error_percent(predicted_s: float, runs_s: list[float]) -> float:
    """How far the prediction is from the median of the runs, in per cent of that."""
    return 100 * (predicted_s / statistics.median(runs_s) - 1)
