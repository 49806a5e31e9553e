"""`WorkStealingMetrics`: what a scheduler has done and is doing, as plain data.

    engine thread --counts, waits, run times-->  .---------.
    sampler thread --CPU, memory, utilisation--> | metrics | --counters()--> get_metrics() (`_overview.py`), which adds
                                                 '---------'                 what shared memory tells: steals, queues

Counters and histograms are written by the engine's thread, samples by the sampler's (the engine forgets those of an
agent that left); any thread reads, without a lock. Each is right, and two of them may be some tasks apart while work
flows: what is settled together is counted first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._engine.events import facts
from ._policy.histogram import Histogram

logger = logging.getLogger("mpsteal")


@dataclass
class AgentSample:
    """What the sampler saw of one agent last.

    Attributes:
        cpu_percent: of one CPU, since the sample before.
        rss_bytes: resident memory.
        utilization: share of the time since the sample before that it spent in tasks (0 to 1).
        queue_depth: tasks queued.
    """

    cpu_percent: float = 0.0
    rss_bytes: int = 0
    utilization: float = 0.0
    queue_depth: int = 0


@dataclass
class WorkStealingMetrics:
    """Counters of one scheduler since its start.

    Attributes:
        succeeded, failed, cancelled: tasks that are over.
        unfinished: tasks that are not, by id.
        migrations, migrations_failed: tasks moved by the rebalancer, and those that should have been and could not.
        redistributed: tasks taken from agents that died or left, and given to others.
        rebalance_cycles: cycles that were started by time or by severe imbalance.
        deadlines_missed, deadlines_at_risk: tasks whose deadline passed, or could not be met when they were submitted.
        timeouts, retried, agent_deaths: tasks ended by their limit, run again, agents lost while they ran a task.
        agents_replaced, agents_recycled: agents started in the place of one that died, or that left by rule.
        agents_stuck: times that an agent came to be seen as stuck.
        waits: from when a task could run (submitted, dependencies done) to its start.
        runs: from start to end.
        samples: the last of each agent, by id.
        throughput_per_s: tasks finished per second, between the last two samples.
        sampled_at, started_at, stopped_at: seconds since the epoch; 0.0: not yet.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    unfinished: Mapping[int, Any] = field(default_factory=dict, repr=False)
    migrations: int = 0
    migrations_failed: int = 0
    redistributed: int = 0
    rebalance_cycles: int = 0
    deadlines_missed: int = 0
    deadlines_at_risk: int = 0
    timeouts: int = 0
    retried: int = 0
    agent_deaths: int = 0
    agents_replaced: int = 0
    agents_recycled: int = 0
    agents_stuck: int = 0
    waits: Histogram = field(default_factory=Histogram)
    runs: Histogram = field(default_factory=Histogram)
    samples: dict[str, AgentSample] = field(default_factory=dict)
    throughput_per_s: float = 0.0
    sampled_at: float = 0.0
    started_at: float = field(default_factory=time.time)
    stopped_at: float = 0.0

    @property
    def finished(self) -> int:
        """Tasks that are over, however they ended."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def submitted(self) -> int:
        """Tasks that were handed in: not a counter, which several threads would have to write."""
        return self.finished + len(self.unfinished)

    def agent_left(self, name: str) -> None:
        """Nothing more will be seen of this agent."""
        self.samples.pop(name, None)

    def counters(self) -> dict[str, Any]:
        """Everything that does not depend on the agents at hand, as plain data."""
        finished, unfinished = self.finished, len(self.unfinished)
        uptime_s = max(1e-9, (self.stopped_at or time.time()) - self.started_at)
        return {
            "uptime_s": uptime_s,
            "tasks": {
                "submitted": finished + unfinished,
                "succeeded": self.succeeded,
                "failed": self.failed,
                "cancelled": self.cancelled,
                "unfinished": unfinished,
            },
            "migrations": {
                "succeeded": self.migrations,
                "failed": self.migrations_failed,
                "redistributed": self.redistributed,
            },
            "rebalance_cycles": self.rebalance_cycles,
            "deadlines": {"missed": self.deadlines_missed, "at_risk": self.deadlines_at_risk},
            "timeouts": self.timeouts,
            "retried": self.retried,
            "agent_deaths": self.agent_deaths,
            "agents_replaced": self.agents_replaced,
            "agents_recycled": self.agents_recycled,
            "agents_stuck": self.agents_stuck,
            "wait": self.waits.snapshot(),
            "run": self.runs.snapshot(),
            "throughput_per_s": {"mean": finished / uptime_s, "recent": self.throughput_per_s},
        }


class Sampler:
    """Looks at every agent from time to time, in a thread of its own, since it costs 0.1 ms an agent.

    Args:
        look: gives `(id, pid, busy ns so far, queue depth)` of every agent.
        every_s: time between two looks.
    """

    def __init__(
        self, metrics: WorkStealingMetrics, look: Callable[[], list[tuple[str, int, int, int]]], every_s: float
    ) -> None:
        self._metrics, self._look, self._every_s = metrics, look, every_s
        self._stop = threading.Event()
        self._processes: dict[int, Any] = {}
        self._before: dict[str, tuple[int, int, int]] = {}
        self._finished = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="mpsteal-sampler", daemon=True)
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """Look no more."""
        self._stop.set()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.sample()
            except Exception:  # no descriptors left, say
                logger.exception(
                    "mpsteal: no sample of the agents could be taken; trying again", extra=facts("sample_failed")
                )

    def sample(self) -> None:
        """One look."""
        import psutil  # here: 10 ms to import, and short-lived schedulers never sample

        now_ns = time.monotonic_ns()
        samples: dict[str, AgentSample] = {}
        before, self._before = self._before, {}
        processes, self._processes = self._processes, {}
        for name, pid, busy_ns, depth in self._look():
            sample = samples[name] = AgentSample(queue_depth=depth)
            last = before.get(name)
            if last is not None and last[0] == pid and now_ns > last[1]:
                sample.utilization = min(1.0, max(0.0, (busy_ns - last[2]) / (now_ns - last[1])))
            self._before[name] = (pid, now_ns, busy_ns)
            try:
                process = processes.get(pid) or psutil.Process(pid)
                self._processes[pid] = process
                with process.oneshot():
                    sample.cpu_percent = process.cpu_percent(None)
                    sample.rss_bytes = process.memory_info().rss
            except (psutil.Error, ValueError):
                continue  # it has just died, or has not started yet
        metrics = self._metrics
        finished, at = metrics.finished, time.monotonic()
        if at > self._finished[1]:
            metrics.throughput_per_s = (finished - self._finished[0]) / (at - self._finished[1])
        self._finished = (finished, at)
        metrics.samples, metrics.sampled_at = samples, time.time()
