"""Question: what does it cost to decide which agent gets a task?

    assign-10, -1000   `Placement` alone, in one process and without agents. Per task: `place` (who is the best; it has
                       one more now) and `set_queue` (an agent has started one, so it has one less). Twenty sets of one
                       to three of 12 skills, some asked for far more often than others; agents with five sorts of
                       capabilities, one of them "*"; five tasks queued at each. The clock runs over 20,000 tasks, the
                       loop and its book-keeping included.
    assign-engine      The whole way: ten agents, each held inside a task. `submit_task` to standing in a deque for one
                       lone task (a hand-over to the engine's thread included), then the CPU time of that thread per
                       task of 20,000, for plain and for protected ones (which it holds back instead).

`own sort` is the same where no two agents have equal capabilities: the worst case of a placement that compares sorts
of agents, not agents.

Not told: how good the choice is (`python -m bench simulate`), or what it costs while other threads of the parent want
the interpreter. Peer: none here; the re-created system allowed 10 ms.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from functools import partial

from bench._model import Figure, Row, Setup, WrongResult, at_most
from bench._tasks import noop
from bench.scheduler_setup import held, running

QUEUED = 5
WORDS = [f"skill_{k}" for k in range(12)]
SORTS = [WORDS[:4], WORDS[4:8], WORDS[8:], WORDS[2:10], ["*", *WORDS[:2]]]


class Assigning:
    """A placement with agents, and tasks that come and go."""

    def __init__(self, agents: int, *, own_sort: bool) -> None:
        from mpsteal._policy.matching import BEST_FIT, EXACT, FALLBACK, Placement

        self.placement = Placement()
        for agent in range(agents):
            sort = [*SORTS[agent % len(SORTS)], *([f"agent_{agent}"] if own_sort else [])]
            self.placement.add_agent(agent, frozenset(sort))
        self.rng = random.Random(1)
        required = [frozenset(self.rng.sample(WORDS, 1 + k % 3)) for k in range(20)]
        for number, skills in enumerate(required):
            self.placement.add_class(number, skills, (EXACT, BEST_FIT, FALLBACK))
        self.weights = [1 / (number + 1) for number in range(len(required))]
        self.lengths = [0] * agents
        self.waiting: deque[int] = deque()

    def draw(self, n: int) -> list[int]:
        return self.rng.choices(range(len(self.weights)), self.weights, k=n)

    def fill(self) -> None:
        for number in self.draw(QUEUED * len(self.lengths)):
            agent = self.placement.place(number)
            assert agent is not None
            self.lengths[agent] += 1
            self.waiting.append(agent)

    def go_through(self, numbers: list[int]) -> None:
        place, set_queue, lengths, waiting = self.placement.place, self.placement.set_queue, self.lengths, self.waiting
        for number in numbers:
            agent = place(number)
            assert agent is not None
            lengths[agent] += 1
            waiting.append(agent)
            started = waiting.popleft()
            lengths[started] = length = lengths[started] - 1
            set_queue(started, length)

    def us_per_task(self, n: int) -> float:
        self.fill()
        self.go_through(self.draw(n // 10))
        numbers = self.draw(n)
        began = time.perf_counter()
        self.go_through(numbers)
        took = time.perf_counter() - began
        if [self.placement.queue(agent) for agent in range(len(self.lengths))] != self.lengths:
            raise WrongResult("assign: the placement counts other queues than were placed")
        return took / n * 1e6

    def slowest_us(self, n: int) -> float:
        """99th percentile of single tasks."""
        times = []
        for number in self.draw(n):
            began = time.perf_counter_ns()
            self.go_through([number])
            times.append(time.perf_counter_ns() - began)
        return sorted(times)[int(0.99 * len(times))] / 1e3


def measure(setup: Setup, agents: int) -> dict[str, float]:
    n = setup.size(20_000, 2_000)
    assigning = Assigning(agents, own_sort=False)
    return {
        "us_per_task": assigning.us_per_task(n),
        "p99_us": assigning.slowest_us(n),
        "own_sort_us": Assigning(agents, own_sort=True).us_per_task(n),
    }


def measure_engine(setup: Setup) -> dict[str, float]:
    from mpsteal import Task

    n = setup.size(20_000, 2_000)
    agents = {f"agent_{k}": SORTS[k % len(SORTS)] for k in range(10)}
    with running(agents, agents__max_agents=10, strategy="pull") as scheduler, held(scheduler) as let_go:
        lone, tasks = [], []
        for i in range(setup.size(200, 100)):  # each takes a place in a ring, and they are 64
            task = Task("lone", [WORDS[i % 12]], fn=noop, args=(i,))
            began = time.monotonic_ns()
            scheduler.submit_task(task)
            while not task._assigned_ns:
                time.sleep(0)
            lone.append(task._assigned_ns - began)
            tasks.append(task)

        def cpu_us(priorities: tuple[int, ...]) -> float:
            """CPU time of the engine's thread per task, until it has all of them where they wait."""
            some = [Task("one", [WORDS[i % 12]], priorities[i % len(priorities)], fn=noop, args=(i,)) for i in range(n)]
            before = scheduler._engine.call(time.thread_time)
            tasks.extend(scheduler.submit_tasks(some))
            while scheduler._engine.pending or not some[-1]._seq:
                time.sleep(0.01)
            return float(scheduler._engine.call(time.thread_time) - before) / n * 1e6

        figures = {"plain_us": cpu_us((1, 2, 3)), "protected_us": cpu_us((4, 5))}
        let_go()
        if [task.result() for task in tasks] != [task.args[0] for task in tasks]:
            raise WrongResult("assign-engine: a task gave something else than its number")
    return {"lone_us": statistics.median(lone) / 1e3, **figures}


def _row(agents: int, goal: float) -> Row:
    return Row(
        f"assign-{agents}",
        f"the policy assigns one task to one of {agents:,} agents",
        partial(measure, agents=agents),
        (
            Figure("us_per_task", "place and set_queue", "us", at_most(goal, "value")),
            Figure("p99_us", "99th percentile", "us"),
            Figure("own_sort_us", "each agent a sort of its own", "us"),
        ),
    )


ROWS = (
    _row(10, 20),
    _row(1_000, 60),
    Row(
        "assign-engine",
        "the engine takes a task in and assigns it, ten agents",
        measure_engine,
        (
            Figure("lone_us", "one lone task, submit_task to its deque", "us"),
            Figure("plain_us", "engine thread, CPU per task of many, priority 1 to 3", "us"),
            Figure("protected_us", "the same, 4 and 5 (held)", "us"),
        ),
    ),
)
