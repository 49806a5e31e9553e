"""Run rows: every (row, pool) pair of every round in a fresh process, one process at a time, A B,
A B, A B.

A and B alternate so that a drift of the machine (heat, a neighbour) falls on both. A run that
fails, answers wrongly or passes its time limit is recorded as failed and the others go on; a
figure with a failed run is never called met.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench import _machine
from bench._model import Figure, Row
from bench._targets import EXECUTORS, POOLS


@dataclass
class Run:
    """What one measurement process answered; ``error`` is empty if ``figures`` can be used."""

    row: str
    pool: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    others_cores: float = 0.0  # cores that other programs kept busy meanwhile, on average
    error: str = ""


class Meter:
    """How much of the machine went to programs other than the measurement, from now on.

    All CPU time of the machine, less that of the children this process has waited for since: a
    measurement's agents are counted as its own once it has waited for them. Good to some 0.05 core.
    """

    def __init__(self) -> None:
        self._began = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = ("user", "nice", "system", "irq", "softirq", "steal")
        spent = os.times()
        own = spent.children_user + spent.children_system + spent.user + spent.system
        return time.monotonic(), sum(getattr(times, name, 0.0) for name in busy), own

    def others_cores(self) -> float:
        wall_s, machine_s, own_s = (late - early for early, late in zip(self._began, self._read(), strict=True))
        return max(0.0, round((machine_s - own_s) / wall_s, 3)) if wall_s > 0 else 0.0


@dataclass(frozen=True)
class Spread:
    """Median and range of one figure over the rounds."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread | None:
        kept = tuple(samples)
        if not kept:
            return None
        return cls(statistics.median(kept), min(kept), max(kept), kept)


@dataclass(frozen=True)
class Outcome:
    """One figure of one row over all rounds; ``met`` is None where nothing can be judged."""

    row: Row
    figure: Figure
    stock: Spread | None
    ours: Spread | None
    ratio: float | None  # of the medians
    ratio_range: tuple[float, float] | None  # of the rounds, each paired with its neighbour
    met: bool | None


def twins(row: Row) -> tuple[str, str]:
    """The stock target and ours that a table of goals sets side by side."""
    return EXECUTORS if row.of == "executor" else POOLS


def measure_once(
    row: Row,
    pool: str,
    round_number: int,
    *,
    quick: bool,
    cores: int,
    share: float = 1.0,
    limit_s: float | None = None,
    loud: bool = True,
) -> Run:
    """Run one measurement in a process of its own; never raises for what happens inside it. `loud` shows what a failed
    one wrote to its standard error."""
    limit_s = row.limit_s if limit_s is None else min(limit_s, row.limit_s)
    command = [sys.executable, "-m", "bench._child", row.name, pool, "--json", f"--cores={cores}", f"--share={share}"]
    if quick:
        command.append("--quick")
    run = Run(row.name, pool, round_number)
    timed_out = False
    # Files and no pipes: a worker that outlives the row would keep a pipe open, and who reads it waiting. And a folder
    # for what a pool that is killed cannot remove; its name is short, since paths of sockets are.
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder,
    ):
        meter = Meter()
        release = _hold_signals()
        child: subprocess.Popen[bytes] | None = None
        try:
            child = subprocess.Popen(
                command,
                cwd=_machine.ROOT,
                stdout=output,
                stderr=errors,
                # Empty values: bytecode is cached, as it is for every installed package; without it each spawned agent
                # would compile mpsteal anew, and the stock Pool's modules come compiled. And `bench` is found in the
                # folder it runs in, which PYTHONSAFEPATH would forbid.
                env=os.environ
                | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "", "PYTHONSAFEPATH": "", "TMPDIR": folder},
                start_new_session=True,
            )
            release()
            child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            release()
            if child is not None:
                _end(child)
        run.others_cores = meter.others_cores()
        output.seek(0)
        errors.seek(0)
        out, err = output.read(), errors.read()
    if timed_out:
        run.error = f"no answer within {limit_s:.0f} s"
    elif child.returncode != 0:
        run.error = (err.strip().splitlines() or [f"exit code {child.returncode}"])[-1][:300]
    else:
        try:
            answer = json.loads(out.strip().splitlines()[-1])
            run.figures = answer.pop("figures")
            run.facts = answer
        except (IndexError, KeyError, ValueError) as error:
            run.error = f"unreadable answer ({error})"
    if loud and run.error and err.strip():
        print(err.rstrip(), file=sys.stderr)
    return run


def _hold_signals() -> Callable[[], None]:
    """Keep what would end this program until the function that is returned is called: between the start of a process
    and the `try` that ends it, nobody would."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    came: list[int] = []
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))

    def release() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        first = came[:1]
        came.clear()
        for number in first:
            signal.raise_signal(number)

    return release


GRACE_S = 1.0
"""For what sees its parent end and cleans up: loky's tracker removes semaphores, mpsteal's manager folders. Less: they
stay; more: each run of a pool that leaves workers behind takes longer."""


def _wait_for_group(group: int, seconds: float) -> None:
    """Until no process of it runs, or the time is over."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            # In a container nobody may collect those that have ended, and a signal reaches them for ever.
            if not any(_runs_in(process, group) for process in psutil.process_iter()):
                return
            time.sleep(0.02)


def _runs_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _is_tracker(process: psutil.Process) -> bool:
    """Whether it is a `resource_tracker`, of multiprocessing or loky."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of a run: the next one needs quiet. If its process still lives, all stacks are asked for first.

    A pool that replaces workers may start one while the row gives up, and nobody else would end that.
    """
    below: list[psutil.Process] = []
    if child.poll() is None:
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(child.pid).children(recursive=True)
    try:
        if child.poll() is None:
            child.send_signal(signal.SIGUSR1)
            time.sleep(1)
            child.kill()
            child.wait()
            # A tracker cleans up when the last of those that it works for has ended, so they go first.
            for process in below:
                if not _is_tracker(process):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
        _wait_for_group(child.pid, GRACE_S)
    finally:  # a second Ctrl-C ends the waiting, and not what follows
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.wait()


def measure_rows(
    rows: Sequence[Row], *, rounds: int, quick: bool, cores: int, tell: Callable[[Run], None]
) -> list[Run]:
    runs = []
    for row in rows:
        for round_number in range(rounds):
            for pool in twins(row):
                run = measure_once(row, pool, round_number, quick=quick, cores=cores)
                tell(run)
                runs.append(run)
    return runs


def outcomes(rows: Sequence[Row], runs: Sequence[Run]) -> Iterator[Outcome]:
    """Figures of all rows over all rounds, each held against its goal."""
    for row in rows:
        mine = [run for run in runs if run.row == row.name]
        for figure in row.figures:
            yield _outcome(row, figure, mine)


def _outcome(row: Row, figure: Figure, runs: Sequence[Run]) -> Outcome:
    stock_name, our_name = twins(row)
    values: dict[str, dict[int, float]] = {stock_name: {}, our_name: {}}
    for run in runs:
        if not run.error:
            values[run.pool][run.round] = run.figures[figure.key]
    stock, ours = (Spread.of(values[pool].values()) for pool in (stock_name, our_name))
    ratio, ratio_range = None, None
    if stock and ours and figure.has_ratio and stock.median > 0:
        ratio = ours.median / stock.median
        pairs = [
            ours_value / values[stock_name][number]
            for number, ours_value in values[our_name].items()
            if values[stock_name].get(number, 0) > 0
        ]
        if pairs:
            ratio_range = (min(pairs), max(pairs))
    met = None
    if figure.goal:
        of_ours = ours.median if ours else None
        reached = ratio if figure.goal.of == "ratio" else of_ours
        needs = (stock_name, our_name) if figure.goal.of == "ratio" else (our_name,)
        failed = any(run.error and run.pool in needs for run in runs)
        if failed:
            met = False
        elif reached is not None:
            met = figure.goal.met(reached)
    return Outcome(row, figure, stock, ours, ratio, ratio_range, met)
