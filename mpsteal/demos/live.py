"""A live table of a scheduler's agents: redrawn in place on a terminal, a plain line from time to time elsewhere.

    get_metrics() --tick--> rows (agents that are gone keep their last) --> terminal: cursor up, table over the old one
    log records, events ------------------------------------------------'        '--> else: one line

ANSI sequences are written only when the stream is a terminal and TERM is neither unset nor "dumb". The cursor always
rests below the table, so whatever comes next, a traceback too, does not write into it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from ..scheduler import WorkStealingScheduler

DRAW_S = 0.1
"""Time between two tables on a terminal."""

LINE_S = 0.5
"""Time between two lines elsewhere."""

BAR = 20
"""Longest bar of a queue, in characters and tasks."""

CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"


class Row(NamedTuple):
    """One agent in the table."""

    state: str
    queue: int
    done: int
    failed: int
    steals: int
    took: int
    gave: int


class Screen:
    """Where a demo writes to.

    Attributes:
        is_terminal: whether a table can be redrawn in place.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.is_terminal = self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def write(self, text: str) -> None:
        """As it is."""
        self.stream.write(text)
        self.stream.flush()

    def line(self, text: str = "") -> None:
        """One line."""
        self.write(text + "\n")


class LiveTable:
    """The agents of one scheduler. `tick` it often: it draws when it is time to."""

    def __init__(self, screen: Screen, scheduler: WorkStealingScheduler) -> None:
        self._screen, self._scheduler = screen, scheduler
        self._rows: dict[str, Row] = {}
        self._events: deque[str] = deque()
        self._began = time.monotonic()
        self._due = self._began
        self._height = 0

    def event(self, text: str) -> None:
        """Something happened: shown above the table at the next tick. From any thread."""
        self._events.append(text)

    def tick(self, *, now: bool = False) -> None:
        """Draw, if it is time to or `now`."""
        moment = time.monotonic()
        if not now and moment < self._due and not self._events:
            return
        events = [self._events.popleft() for _ in range(len(self._events))]
        is_due = now or moment >= self._due
        if is_due:
            self._due = moment + (DRAW_S if self._screen.is_terminal else LINE_S)
        metrics = self._scheduler.get_metrics()
        self._look(metrics)
        if self._screen.is_terminal:
            self._redraw(events, metrics["tasks"])
        else:
            lines = events + ([self._plain(metrics["tasks"])] if is_due else [])
            self._screen.write("".join(line + "\n" for line in lines))

    def _look(self, metrics: dict[str, Any]) -> None:
        agents = metrics["per_agent"]
        for name, row in self._rows.items():
            if name not in agents:
                self._rows[name] = row._replace(state="gone", queue=0)
        for name, agent in agents.items():
            self._rows[name] = Row(
                agent["state"],
                agent["queue_length"],
                agent["done"],
                agent["failed"],
                agent["steals"],
                agent["stolen_by_it"],
                agent["stolen_from_it"],
            )

    def _summary(self, tasks: dict[str, int]) -> str:
        over = tasks["submitted"] - tasks["unfinished"]
        elapsed = time.monotonic() - self._began
        return f"{elapsed:5.1f} s  {over} of {tasks['submitted']} tasks over"

    def _plain(self, tasks: dict[str, int]) -> str:
        agents = (
            f"{name} {row.state} queue {row.queue} done {row.done} steals {row.steals}"
            for name, row in self._rows.items()
        )
        return "; ".join((self._summary(tasks), *agents))

    def _redraw(self, events: list[str], tasks: dict[str, int]) -> None:
        size = shutil.get_terminal_size()
        # What wraps or scrolls away could not be drawn over: so the table fits. Events need not, they stay.
        table = [line[: max(1, size.columns - 1)] for line in self._table(tasks)[: max(1, size.lines - 1)]]
        up = f"\x1b[{self._height}A\r" if self._height else ""
        self._screen.write(up + "".join(line + CLEAR_LINE + "\n" for line in (*events, *table)) + CLEAR_BELOW)
        self._height = len(table)

    def _table(self, tasks: dict[str, int]) -> list[str]:
        lines = [
            f"{self._summary(tasks)}, {tasks['running']} running, {tasks['queued']} queued, {tasks['held']} held",
            f"{'agent':<12} {'state':<8} {'queue':>5} {'':<{BAR}} {'done':>5} {'failed':>6} {'steals':>6} {'took':>5} "
            f"{'gave':>5}",
        ]
        for name, row in self._rows.items():
            bar = "#" * min(row.queue, BAR)
            lines.append(
                f"{name:<12} {row.state:<8} {row.queue:>5} {bar:<{BAR}} {row.done:>5} {row.failed:>6} {row.steals:>6} "
                f"{row.took:>5} {row.gave:>5}"
            )
        return lines


class _ToTable(logging.Handler):
    """Shows the scheduler's warnings as events: on stderr they would write into the table."""

    def __init__(self, table: LiveTable) -> None:
        super().__init__()
        self._table = table

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._table.event(f"  log: {record.getMessage()}")


@contextmanager
def live(screen: Screen, scheduler: WorkStealingScheduler) -> Iterator[LiveTable]:
    """A table for a running scheduler, drawn a last time at the end."""
    table = LiveTable(screen, scheduler)
    with log_apart(_ToTable(table)):
        yield table
        table.tick(now=True)


@contextmanager
def log_apart(handler: logging.Handler | None = None) -> Iterator[None]:
    """The scheduler's messages go to this handler alone, or to none."""
    logger = logging.getLogger("mpsteal")
    handler, propagate = handler or logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
