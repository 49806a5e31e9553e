"""What the demos' tasks run. Importable by name, so that agents find it under every start method."""

from __future__ import annotations

import os
import time
from pathlib import Path

HOLD_POLL_S = 0.002
"""Time between two looks at the gate: longer starts the agents further apart, shorter costs CPU."""

HOLD_LIMIT_S = 60.0
"""An alarm: nobody is held for so long."""


def hold(gate: str) -> None:
    """Wait until there is a file of that name."""
    limit = time.monotonic() + HOLD_LIMIT_S
    while not os.path.exists(gate):
        if time.monotonic() > limit:
            raise TimeoutError(f"the gate {gate} was not opened within {HOLD_LIMIT_S:g} s")
        time.sleep(HOLD_POLL_S)


def count_primes(below: int) -> int:
    """How many primes there are below a number, by trial division: real work, whose result can be checked."""
    found: list[int] = []
    for number in range(2, below):
        for prime in found:
            if prime * prime > number:
                found.append(number)
                break
            if not number % prime:
                break
        else:
            found.append(number)
    return len(found)


def spend(cpu_s: float, pause_s: float = 0.0) -> int:
    """Compute for a while, then wait for a while; returns the process that did."""
    end = time.process_time() + cpu_s
    value = 1
    while time.process_time() < end:
        for _ in range(500):
            value = value * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
    time.sleep(pause_s)
    return os.getpid()


def note(journal: str, number: int, seconds: float) -> int:
    """Append when the task starts and when it ends, with the process that it runs in, which is also the result."""
    pid = os.getpid()
    _append(journal, f"start {number} {pid}\n")
    time.sleep(seconds)
    _append(journal, f"end {number} {pid}\n")
    return pid


def _append(journal: str, line: str) -> None:
    """One write to a file opened for appending: lines of several processes do not mix, and a kill leaves none half."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def read_journal(journal: Path) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """What `note` wrote: processes that started each task, and processes that ended it, in order."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for line in journal.read_text().splitlines():
        kind, number, pid = line.split()
        (starts if kind == "start" else ends).setdefault(int(number), []).append(int(pid))
    return starts, ends


def load(size: int, pause_s: float) -> list[int]:
    """The head of a small pipeline."""
    time.sleep(pause_s)
    return list(range(size))


def power(numbers: list[int], exponent: int, pause_s: float) -> int:
    """Its middle: a sum of powers."""
    time.sleep(pause_s)
    return int(sum(number**exponent for number in numbers))


def merge(*parts: int) -> int:
    """Its end."""
    return sum(parts)


def fail(text: str) -> None:
    """A task that goes wrong."""
    raise ValueError(text)
