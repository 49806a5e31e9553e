"""Question: what does the parent hold for tasks that are queued, and does it take a million at once?

Both agents are held inside a task. Tasks with skills and priorities 1 to 5 are submitted one by one and kept by the
caller; the parent's size is read before, and once all are where they wait and it has stopped moving. Then the agents
are let go, and every result is checked.

    memory    100,000 tasks; `rss` counts pages of the shared segment that the parent has touched, `private` only its
              own, among them those that it shared with forked agents until one of them wrote there
    million   1,000,000 tasks: time per task until all are taken in, from then until all are over, and the peak of the
              parent's resident size, from before the first task to after the last result

Not told: large arguments (all but an integer is overhead), memory after the tasks are over (an allocator gives little
back), the agents' memory. Resident size moves in pages and arenas: differences below 0.2 MiB mean nothing.
Peers: `bench.workloads.pending` has that of two pools; the re-created system claimed O(queued), and 100 tasks.
"""

from __future__ import annotations

import time

from bench import _rss
from bench._model import Figure, Goal, Row, Setup, WrongResult, check
from bench.scheduler_setup import TWO_AGENTS, held, running, task_maker

KIB = Goal("value", "<", 1024)


def wait_taken_in(scheduler: object, tasks: int) -> None:
    """Until the engine has looked at all that was submitted, and none of it has run."""
    engine = scheduler._engine  # type: ignore[attr-defined]
    while engine.pending or engine.call(lambda: bool(engine.pending)):
        time.sleep(0.01)
    unfinished = scheduler.get_metrics()["tasks"]["unfinished"]  # type: ignore[attr-defined]
    if unfinished != tasks + len(TWO_AGENTS):
        raise WrongResult(f"memory: {unfinished} of {tasks} tasks, and those that hold the agents, are queued")


def measure(setup: Setup) -> dict[str, float]:
    n = setup.size(100_000, 20_000)
    with running(TWO_AGENTS) as scheduler, held(scheduler) as let_go:
        before = [_rss.settled(_rss.rss), _rss.private()]
        make_task = task_maker()
        tasks = [scheduler.submit_task(make_task(i)) for i in range(n)]
        wait_taken_in(scheduler, n)
        after = [_rss.settled(_rss.rss), _rss.private()]
        let_go()
        check([task.result() for task in tasks], list(range(n)), "memory")
    rss, private = ((late - early) / n for early, late in zip(before, after, strict=True))
    return {"rss_bytes": rss, "private_bytes": private}


def measure_million(setup: Setup) -> dict[str, float]:
    n = setup.size(1_000_000, 20_000)
    with running(TWO_AGENTS) as scheduler, held(scheduler) as let_go:
        before = _rss.rss()
        has_peak = _rss.reset_peak()
        began = time.perf_counter()
        make_task = task_maker()
        tasks = [scheduler.submit_task(make_task(i)) for i in range(n)]
        submitted = time.perf_counter()
        wait_taken_in(scheduler, n)
        queued = time.perf_counter()
        let_go()
        results = [task.result() for task in tasks]
        ended = time.perf_counter()
        peak = _rss.peak() if has_peak else _rss.rss()
    check(results, list(range(n)), "million")
    return {
        "completed": len(results) / n,
        "us_per_task": (ended - began) / n * 1e6,
        "us_submit": (submitted - began) / n * 1e6,
        "us_until_queued": (queued - began) / n * 1e6,
        "us_until_over": (ended - queued) / n * 1e6,
        "peak_mib": peak / _rss.MIB,
        "peak_bytes": (peak - before) / n,
    }


ROWS = (
    Row(
        "memory",
        "what the parent holds per queued task, 100,000 queued",
        measure,
        (
            Figure("rss_bytes", "per task (rss)", "B", KIB),
            Figure("private_bytes", "of it private", "B"),
        ),
    ),
    Row(
        "million",
        "1,000,000 tasks queued at once, then run",
        measure_million,
        (
            Figure("completed", "verified", "of 1", Goal("value", ">=", 1)),
            Figure("us_per_task", "time per task, all in all", "us"),
            Figure("us_submit", "of it until submitted", "us"),
            Figure("us_until_queued", "of it until all are queued", "us"),
            Figure("us_until_over", "of it from then on", "us"),
            Figure("peak_mib", "parent's peak (rss)", "MiB"),
            Figure("peak_bytes", "growth per task", "B"),
        ),
        limit_s=900.0,
    ),
)
