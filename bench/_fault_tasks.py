"""What `bench.faults` lets workers do: tasks that die, freeze, refuse to travel, or are just asked for a square.

In a module of its own, which imports next to nothing, so that workers of every start method can load it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn


def square(value: int) -> int:
    return value * value


def pid_of(_: int) -> int:
    return os.getpid()


def note(path: str, text: object) -> None:
    """Append one line to a file in one write, so that lines of several processes never mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def meet(path: str, count: int) -> int:
    """Wait until ``count`` processes have noted their pid here (or 20 s): so each worker holds one of these."""
    note(path, os.getpid())
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with open(path) as file:
            if len(set(file.read().split())) >= count:
                break
        time.sleep(0.005)
    return os.getpid()


# -- ends ---------------------------------------------------------------------------------


def die(how: str) -> NoReturn:
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way
    elif how == "segfault":
        import ctypes
        import faulthandler

        faulthandler.disable()
        ctypes.string_at(0)
    elif how == "sys-exit":
        sys.exit(3)
    os._exit(int(how.removeprefix("exit-")))


def die_or_square(value: int, fatal: int) -> int:
    if value == fatal:
        die("sigkill")
    return value * value


def die_at_50000(value: int) -> int:
    return die_or_square(value, 50_000)


def die_at_5000(value: int) -> int:
    return die_or_square(value, 5_000)


def note_and_spin(path: str, number: int, spin_s: float) -> int:
    note(path, f"{number} {os.getpid()}")
    until = time.perf_counter() + spin_s
    while time.perf_counter() < until:
        pass
    return number


# -- large values -------------------------------------------------------------------------


def announce_and_return(path: str, size: int) -> bytes:
    data = b"\x01" * size
    note(path, os.getpid())
    return data


def length(data: bytes) -> int:
    return len(data)


def make_bytes(size: int) -> bytes:
    return b"\x01" * size


# -- never done ---------------------------------------------------------------------------


def note_and_sleep(path: str, seconds: float) -> None:
    note(path, os.getpid())
    time.sleep(seconds)


def note_and_ignore_sigterm(path: str, seconds: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_and_sleep(path, seconds)


def note_and_freeze(path: str, seconds: float) -> None:
    note(path, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(seconds)


def note_and_compute(path: str, _: float) -> None:
    """One call of C code that takes many minutes and looks at no signal."""
    note(path, os.getpid())
    pow(7, 1 << 28)


def spin_for_ever() -> NoReturn:
    while True:
        pass


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def nap_half_a_second(value: int) -> int:
    time.sleep(0.5)
    return value


# -- what does not travel -------------------------------------------------------------------


class CarriesLockError(Exception):
    """Cannot be pickled: no lock can."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class OddInitError(Exception):
    """Pickles, but ``__init__`` does not take what ``args`` holds, so it cannot be rebuilt."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def _refuse() -> NoReturn:
    raise ValueError("cannot be rebuilt")


class FailsToLoad:
    """Pickles well, and raises where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def return_lock() -> Any:
    return threading.Lock()


def raise_carries_lock() -> NoReturn:
    raise CarriesLockError


def raise_odd_init() -> NoReturn:
    raise OddInitError(1, 2)


def return_fails_to_load() -> FailsToLoad:
    return FailsToLoad()


def take(_: object) -> str:
    return "taken"


# -- tasks that spoil their process ----------------------------------------------------------


def close_descriptors() -> str:
    os.closerange(3, 4096)
    return "closed"


def set_late_alarm(seconds: float) -> str:
    """SIGALRM ends this process so many seconds later, in the middle of whatever it does then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return "set"


# -- initializers, nested pools ---------------------------------------------------------------


def init_raises() -> NoReturn:
    raise ValueError("the initializer is broken")


def init_exits() -> NoReturn:
    os._exit(3)


def nested_sum(pool: str, count: int) -> int:
    from bench import _fault_pools

    inner = _fault_pools.load(pool)
    inner.open(2, nested=True)
    try:
        return sum(inner.map(square, range(count)))
    finally:
        inner.end()
