"""Question: can a program ask for the metrics every 100 ms?

64 agents, each held inside a task, 20 tasks queued at half of them; `get_metrics()` 200 times, from the main
thread, with nothing else going on. The median is shown, and the share of one core that ten calls a second take. That
`json.dumps` takes what comes, and that the counts in it are right, is checked.

Not told: the cost while the engine's thread is busy (a call needs the interpreter, not the engine), or that of the
sampler, which looks at processes every 5 s in a thread of its own. Peer: none.
"""

from __future__ import annotations

import json
import statistics
import time

from bench._model import Figure, Row, Setup, WrongResult, at_most
from bench._tasks import noop
from bench.scheduler_setup import held, running

AGENTS, QUEUED = 64, 20


def measure(setup: Setup) -> dict[str, float]:
    from mpsteal import Task

    calls = setup.size(200, 30)
    names = {f"agent_{k}": ("python",) for k in range(AGENTS)}
    with running(names, strategy="pull") as scheduler, held(scheduler) as let_go:
        tasks = scheduler.submit_tasks(
            Task("queued", [name], fn=noop, args=(i,)) for name in list(names)[: AGENTS // 2] for i in range(QUEUED)
        )
        while sum(agent.queue_length for agent in scheduler.agents.values()) < len(tasks):
            time.sleep(0.001)
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            metrics = scheduler.get_metrics()
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        text = json.dumps(metrics)
        dumped = time.perf_counter() - began
        counts = metrics["agents"]["registered"], metrics["tasks"]["queued"], metrics["tasks"]["running"]
        if counts != (AGENTS, len(tasks), AGENTS):
            raise WrongResult(f"metrics: (agents, queued, running) are {counts}")
        let_go()
        if [task.result() for task in tasks] != [task.args[0] for task in tasks]:
            raise WrongResult("metrics: a task gave something else than its number")
    ms = statistics.median(times) * 1e3
    return {
        "ms_per_call": ms,
        "share": ms / 100,
        "p99_ms": sorted(times)[int(0.99 * len(times))] * 1e3,
        "dumps_ms": dumped * 1e3,
        "kib": len(text) / 1024,
    }


ROWS = (
    Row(
        "metrics",
        "get_metrics() with 64 agents",
        measure,
        (
            Figure("ms_per_call", "one call", "ms", at_most(5, "value")),
            Figure("share", "of a core, every 100 ms", "of 1"),
            Figure("p99_ms", "99th percentile", "ms"),
            Figure("dumps_ms", "json.dumps of it", "ms"),
            Figure("kib", "size as JSON", "KiB"),
        ),
    ),
)
