"""What all schemes of `python -m bench scale` share: the tasks, the books that check a run, and what a run came to.

A scheme is a way to get n independent tasks, whose lengths nobody knows beforehand, to p agents. All run over virtual
time with the prices of `bench._des.Costs`. `_scale_central` has those in which agents ask a parent for their next
piece, `_scale_steal` those in which agents steal.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from itertools import accumulate

from bench._des import MS, _heavy, _uniform
from bench._model import WrongResult

LOADS = ("uniform", "heavy-tail", "heaviest-first", "hot-block", "longest-last", "bimodal")


def lengths(name: str, *, agents: int, per_agent: int, mean_ms: float, seed: int) -> array[int]:
    """What each task takes (ns), in the order of submission; one of `LOADS`, from a fixed seed.

    uniform         between half and three halves of the mean
    heavy-tail      up to 100 times the mean, by a power law
    heaviest-first  lognormal (sigma 1.33, mean 1), sorted, the longest first
    hot-block       equal, but the twentieth of all tasks that begins at 45 % is ten times as long as the others
    longest-last    uniform, and the last one takes half of what an agent does in all
    bimodal         nine in ten take half of the mean, the others 5.5 times the mean, mixed
    """
    if name not in LOADS:
        raise ValueError(f"no load called {name!r}; there are: {', '.join(LOADS)}")
    rng, n = random.Random(f"{name} {seed}"), agents * per_agent
    if name == "heavy-tail":
        weights = [_heavy(rng) for _ in range(n)]
    elif name == "heaviest-first":
        weights = sorted((rng.lognormvariate(-(1.33**2) / 2, 1.33) for _ in range(n)), reverse=True)
    elif name == "hot-block":
        first, behind = 45 * n // 100, 50 * n // 100
        weights = [10 / 1.45 if first <= k < behind else 1 / 1.45 for k in range(n)]
    elif name == "bimodal":
        weights = [5.5 if rng.random() < 0.1 else 0.5 for _ in range(n)]
    else:
        weights = [_uniform(rng) for _ in range(n)]
    if name == "longest-last":
        weights[-1] = per_agent / 2
    return array("q", [max(1, int(weight * mean_ms * MS)) for weight in weights])


def bound_ns(tasks: array[int], agents: int) -> float:
    """No schedule of these tasks ends sooner, even if all but the tasks is free."""
    return max(sum(tasks) / agents, max(tasks))


class Books:
    """What really ran: who, which tasks, from when to when. Knows nothing of queues and plans.

    Raises `WrongResult` at once when a task runs a second time, an agent does two things at once, or work takes less
    time than its tasks do; in `close`, when one never ran.
    """

    def __init__(self, tasks: array[int], agents: int) -> None:
        self.sums = array("q", accumulate(tasks, initial=0))
        self._ran = bytearray(len(tasks))
        self._free_at = [0] * agents
        self.makespan_ns = 0

    def enter(self, agent: int, lo: int, hi: int, begun: int, ended: int) -> None:
        """`agent` has run the tasks [lo, hi) one after the other."""
        if 1 in self._ran[lo:hi]:
            raise WrongResult(f"agent {agent} ran some of the tasks {lo} to {hi - 1}, which had run")
        if begun < self._free_at[agent]:
            raise WrongResult(f"agent {agent} ran the tasks {lo} to {hi - 1} beside something else")
        if ended - begun < self.sums[hi] - self.sums[lo]:
            raise WrongResult(f"agent {agent} ran the tasks {lo} to {hi - 1} in less time than they take")
        self._ran[lo:hi] = b"\1" * (hi - lo)
        self._free_at[agent] = ended
        self.makespan_ns = max(self.makespan_ns, ended)

    def close(self) -> None:
        """Everything is over. Raises `WrongResult` unless each task ran."""
        never = self._ran.count(0)
        if never:
            raise WrongResult(f"nothing goes on any more, and {never} of {len(self._ran)} tasks have not run")


@dataclass
class Counts:
    """What a run needed.

    Attributes:
        messages: hand-offs of work from one process to another: a piece that the parent gives away, asked for or not,
            and a steal that takes something. Not results, which go back in all schemes alike, and not rings.
        steals, tasks_stolen: steals that took something, and how much.
        failed: rounds of looking for work (random schemes: victims asked) that found none.
        parent_ns: how long the parent was busy with handing out.
    """

    messages: int = 0
    steals: int = 0
    tasks_stolen: int = 0
    failed: int = 0
    parent_ns: int = 0
