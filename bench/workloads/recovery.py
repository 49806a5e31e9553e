"""Question: how long until a pool works again when one of its workers was killed?

A worker that rests is killed by SIGKILL; then calls that return their pid are submitted, two at a time, until two
different workers have answered that were not the one that died. Calls take 5 ms, after the first second 200 ms: as
long as they are short, one worker of ray takes both. Where the pool has declared itself broken, a new one is opened, as
its documentation says to do; ``reopened`` counts that. The figure is the median over 7 kills, from the signal to the
second answer. A call that has not answered within ten seconds is a hang, and the run fails.

The kill falls on a worker at rest, since that is where the stock Pool's worker holds the lock of the task queue most of
the time: the pool then hangs in most runs, and the row says so. Not told: what a kill costs the task that was running
(`python -m bench faults` looks at that, among forty other faults).
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import threading
import time
from typing import Any

import psutil

from bench._model import AGENTS, Figure, Row, Setup
from bench._targets import KILL, SUBMIT, Session, warm
from bench._tasks import pid_after

LIMIT_S = 10.0
KILLS = 7
CALL_S, LONG_CALL_S, SHORT_CALLS_S = 0.005, 0.2, 1.0
"""Calls that take the first, and after so many seconds the second."""


class Hang(Exception):
    """No answer within the limit."""


def ask(pool: Session, calls: int, rest_s: float) -> list[int]:
    """The pids of the workers that answer so many calls, or an exception; `Hang` when they do not all come."""
    answer: list[Any] = []

    def wait() -> None:
        try:
            answer.append(pool.gather([pool.apply_async(pid_after, (rest_s,)) for _ in range(calls)]))
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if not answer:
        raise Hang(f"no answer within {LIMIT_S:.0f} s of a kill")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return list(answer[0])


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def measure(setup: Setup) -> dict[str, float]:
    took, reopened, failed = [], 0, 0
    pool = setup.open(AGENTS)
    try:
        warm(pool, AGENTS)
        for _ in range(setup.size(KILLS, 3)):
            (victim,) = ask(pool, 1, 0.0)
            time.sleep(0.02)  # everybody rests
            began = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            seen: set[int] = set()
            while len(seen) < AGENTS:
                rest_s = CALL_S if time.perf_counter() - began < SHORT_CALLS_S else LONG_CALL_S
                try:
                    seen.update(ask(pool, AGENTS, rest_s))
                except Hang:
                    raise
                except Exception:
                    failed += 1
                    pool.abandon()
                    pool = setup.open(AGENTS)
                    reopened += 1
                seen.discard(victim)
                if time.perf_counter() - began > LIMIT_S:
                    raise Hang(f"one worker only after {LIMIT_S:.0f} s")
            took.append((time.perf_counter() - began) * 1e3)
    except Hang as hang:
        # Whoever hangs would also hang in its own close, so all that is left is killed, and whoever takes their place.
        while alive := [process for process in psutil.Process().children(recursive=True) if is_alive(process)]:
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        print(f"Hang: {hang}", flush=True, file=sys.stderr)
        os._exit(1)
    pool.abandon()
    return {"ms": statistics.median(took), "worst_ms": max(took), "reopened": reopened / len(took), "failed": failed}


ROWS = (
    Row(
        "recovery",
        "a worker at rest is killed, until two work again",
        measure,
        (
            Figure("ms", "until two answer", "ms"),
            Figure("worst_ms", "the worst of them", "ms"),
            Figure("reopened", "new pools needed per kill", "", has_ratio=False),
            Figure("failed", "calls that failed", "", has_ratio=False),
        ),
        needs=frozenset({SUBMIT, KILL}),
        not_for=frozenset({"serial"}),
    ),
)
