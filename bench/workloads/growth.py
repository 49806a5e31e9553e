"""Question: what happens to the cost of a task as there are more agents, and as there is more work?

``python -m bench growth``: a table of the suite for itself, with the stock pools and mpsteal's doors.

    agents-N        1 to 64 agents, 100 tasks of 4 ms each per agent, by `map`. Tasks sleep, since no machine at hand
                    has 64 cores: agents then cost what they cost by being many, and not by competing for cores. The
                    figure is the makespan over the bound, of the lengths as slept
    submit-N        10 to the power of 2 to 6 no-ops, submitted one by one, all handles kept: us per task
    stream-N        10^2 to 10^7 tiny items through `imap_unordered`, the sum checked: us per item
    map-N           10^2 to 10^7 tiny items through `map`, all results checked: us per item

Flat lines are the goal: a task must cost the same whether there are a hundred or ten million. The first sizes hold what
a call costs by itself. The stock pools are left out where one run would take minutes.

Not told: agents that compute on as many cores; tasks that are large; what a machine with several sockets adds.
"""

from __future__ import annotations

import time
from functools import partial

from bench._model import AGENTS, Figure, Row, Setup, WrongResult, check
from bench._targets import IMAP, MAP, SUBMIT, warm
from bench._tasks import nap, noop

AGENT_COUNTS = (1, 2, 4, 8, 16, 32, 64)
SIZES = tuple(10**power for power in range(2, 8))
NAPS_PER_AGENT, NAP_S = 100, 0.004
TARGETS = ("stock", "ppe", "mpsteal", "mpsteal-executor", "mpsteal-scheduler")
_SLOW = frozenset({"ppe", "loky", "mpire", "pebble", "ray", "dask", "multiprocess", "billiard", "joblib"})


def measure_agents(setup: Setup, agents: int) -> dict[str, float]:
    n = agents * NAPS_PER_AGENT
    with setup.open(agents) as pool:
        began = time.perf_counter()
        warm(pool, agents)
        warm_s = time.perf_counter() - began
        began = time.perf_counter()
        results = pool.map(nap, [(i, NAP_S) for i in range(n)])
        makespan_s = time.perf_counter() - began
    check([i for i, _ in results], list(range(n)), "agents")
    slept = [s for _, s in results]
    bound_s = max(sum(slept) / agents, max(slept))
    return {"over_bound": makespan_s / bound_s, "warm_ms": warm_s * 1e3}


def measure_submit(setup: Setup, n: int) -> dict[str, float]:
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        results = pool.gather([pool.apply_async(noop, (i,)) for i in range(n)])
        wall_s = time.perf_counter() - began
    check(results, list(range(n)), "submit")
    return {"us_per_task": wall_s / n * 1e6}


def measure_stream(setup: Setup, n: int) -> dict[str, float]:
    got = total = 0
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS, lazy=True)
        began = time.perf_counter()
        for value in pool.imap_unordered(noop, iter(range(n))):
            got += 1
            total += value
        wall_s = time.perf_counter() - began
    check((got, total), (n, n * (n - 1) // 2), "stream")
    return {"us_per_task": wall_s / n * 1e6}


def measure_map(setup: Setup, n: int) -> dict[str, float]:
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        results = pool.map(noop, range(n))
        wall_s = time.perf_counter() - began
    if len(results) != n or any(value != i for i, value in enumerate(results)):
        raise WrongResult(f"map: {len(results)} results for {n} items, or others than expected")
    return {"us_per_task": wall_s / n * 1e6}


def _too_slow(kind: str, n: int) -> frozenset[str]:
    """Who would take a minute or more for so many."""
    if kind == "map":
        return _SLOW if n >= 1_000_000 else frozenset()
    return _SLOW | {"stock"} if n >= 1_000_000 else frozenset()


def _rows() -> tuple[Row, ...]:
    rows = [
        Row(
            f"agents-{agents}",
            f"{agents} agents, {agents * NAPS_PER_AGENT} tasks that sleep {NAP_S * 1e3:.0f} ms, map",
            partial(measure_agents, agents=agents),
            (Figure("over_bound", "makespan / bound", "x"), Figure("warm_ms", "start and warm up", "ms")),
            needs=frozenset({MAP}),
            not_for=frozenset({"serial"}),
        )
        for agents in AGENT_COUNTS
    ]
    kinds = (("submit", SUBMIT, measure_submit), ("stream", IMAP, measure_stream), ("map", MAP, measure_map))
    for kind, need, measure in kinds:
        for n in SIZES:
            if kind == "submit" and n > 1_000_000:
                continue  # ten million handles are gigabytes in any pool
            rows.append(
                Row(
                    f"{kind}-1e{len(str(n)) - 1}",
                    f"{n:,} tiny tasks, {kind}",
                    partial(measure, n=n),
                    (Figure("us_per_task", "time per task", "us"),),
                    needs=frozenset({need}),
                    not_for=_too_slow(kind, n),
                    limit_s=600.0 if n > 1_000_000 else Row.limit_s,  # the scheduler's ten million take minutes
                )
            )
    return tuple(rows)


ROWS = _rows()
