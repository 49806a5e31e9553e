"""What every demo starts from: a running scheduler, a live table, a directory, and agents at a starting line.

A demo that is to come out the same on a slow machine must not depend on which agent happens to start first. So agents
can be held: each gets a first task that only it can run, and that lasts until `release`. Until then what is handed in
stays queued, where it can be looked at.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..agents import Agent
from ..scheduler import WorkStealingScheduler
from ..tasks import HIGHEST, Task
from . import work
from .live import LiveTable, Screen, live, log_apart

ALARM_S = 60.0
"""Longest wait for anything; a demo takes a few seconds."""

LOOK_S = 0.01
"""Time between two looks at what is waited for."""

STEADY_S = 0.02
"""Nothing has changed for so long: the scheduler is idle, or held."""


def _nothing() -> None:
    pass


class StuckError(Exception):
    """What a demo waits for does not come."""


class Options(NamedTuple):
    """How a demo is run.

    Attributes:
        quick: smaller, for tests.
        start_method: of the agents' processes; None: the platform's default.
    """

    quick: bool = False
    start_method: str | None = None


class Stage:
    """See above."""

    def __init__(self, options: Options, scheduler: WorkStealingScheduler, table: LiveTable, directory: Path) -> None:
        self.quick = options.quick
        self.scheduler, self.table, self.directory = scheduler, table, directory
        self._gate = directory / "gate"
        self.holds: list[Task[Any]] = []
        """The tasks that hold agents, one each."""

    def register(self, name: str, skills: Iterable[str], *, held: bool = False) -> Agent:
        """Start an agent; `held` at the starting line."""
        agent = self.scheduler.register_agent(Agent(name, [*skills, name]))
        if held:
            hold = Task(f"hold {name}", [name], priority=HIGHEST, fn=work.hold, args=(str(self._gate),))
            self.holds.append(self.scheduler.submit_task(hold))
        return agent

    def line_up(self) -> None:
        """Wait until every agent that is to be held is."""
        self.until(lambda: all(task.running() for task in self.holds), "agents at the starting line")

    def release(self) -> None:
        """Let them go."""
        self._gate.touch()

    def until(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        every_s: float = LOOK_S,
        look: Callable[[], object] = _nothing,
    ) -> None:
        """Show the table until the condition holds.

        Args:
            what: for `StuckError`.
            look: also called every `every_s`.
        """
        limit = time.monotonic() + ALARM_S
        while not condition():
            if time.monotonic() > limit:
                raise StuckError(f"not within {ALARM_S:g} s: {what}")
            look()
            self.table.tick()
            time.sleep(every_s)

    def until_over(
        self, tasks: Iterable[Task[Any]], *, look: Callable[[], object] = _nothing, every_s: float = LOOK_S
    ) -> None:
        """Show the table until these tasks, and those that held agents, are over."""
        tasks = [*tasks, *self.holds]
        self.until(lambda: all(task.done() for task in tasks), "all tasks over", every_s=every_s, look=look)

    def steady_metrics(self) -> dict[str, Any]:
        """The metrics once they have come to rest: counters of several processes are not read at one instant."""
        found: list[dict[str, Any]] = [{}]

        def is_steady() -> bool:
            before, found[0] = found[0], self.scheduler.get_metrics()
            return bool(before) and _counts(before) == _counts(found[0])

        self.until(is_steady, "metrics at rest", every_s=STEADY_S)
        return found[0]


def _counts(metrics: dict[str, Any]) -> Any:
    """What does not change by itself."""
    keys = ("state", "queue_length", "done", "failed", "steals", "stolen_by_it", "stolen_from_it")
    agents = {name: [row[key] for key in keys] for name, row in metrics["per_agent"].items()}
    return metrics["tasks"], metrics["steals"], metrics["migrations"], agents


@contextmanager
def open_stage(screen: Screen, options: Options, **rules: Any) -> Iterator[Stage]:
    """A scheduler with these rules; at the end, however it comes, its agents and files are gone."""
    context = multiprocessing.get_context(options.start_method)
    with (
        tempfile.TemporaryDirectory(prefix="mpsteal-demo-") as directory,
        log_apart(),  # until the scheduler is gone: after a Ctrl-C deaths are still settled when the table is not there
        WorkStealingScheduler(context=context, **rules) as scheduler,
        live(screen, scheduler) as table,
    ):
        yield Stage(options, scheduler, table, Path(directory))
