"""The functions that agents run. Only ``time`` is imported at the top, since agents under spawn
import this file."""

from __future__ import annotations

import time

_flags: dict[str, object] = {}  # path -> mapped file, one per agent process


def noop(i: int) -> int:
    return i


def square(i: int) -> int:
    return i * i


def spin(i: int, cpu_ns: int) -> int:
    """Burn ``cpu_ns`` of this thread's CPU time."""
    clock = time.thread_time_ns
    end = clock() + cpu_ns
    while clock() < end:
        pass
    return i


def spin_wall(i: int, wall_ns: int) -> int:
    """Spin until ``wall_ns`` have passed; `bench.workloads.spin` says what that hides."""
    clock = time.perf_counter_ns
    end = clock() + wall_ns
    while clock() < end:
        pass
    return i


def spin_then_tell(i: int, wall_ns: int) -> tuple[int, float, float]:
    """Spin as `spin_wall`; return the number and when it began and ended, on the clock that all processes of a machine
    share."""
    began = time.perf_counter()
    if wall_ns:
        spin_wall(i, wall_ns)
    return i, began, time.perf_counter()


def fold(i: int, values: list[int]) -> int:
    """A number made of the task's own and, in their order, those that it needs."""
    number = i + 1
    for value in values:
        number = (number * 1_000_003 + value) % 0x1FFF_FFFF_FFFF_FFFF
    return number


def fold_after_100us(i: int, values: list[int]) -> int:
    """The same after 100 us of spinning."""
    return fold(spin_wall(i, 100_000), values)


def nap(item: tuple[int, float]) -> tuple[int, float]:
    """Sleep ``item[1]`` seconds; return the number and the seconds that the sleep really took."""
    start = time.perf_counter()
    time.sleep(item[1])
    return item[0], time.perf_counter() - start


def spin_and_flag(i: int, cpu_ns: int, path: str) -> tuple[int, float, int]:
    """Spin, then set byte ``i`` of the mapped file; return number, end time, CPU nanoseconds."""
    import mmap

    began = time.thread_time_ns()
    spin(i, cpu_ns)
    flags = _flags.get(path)
    if flags is None:
        with open(path, "r+b") as file:
            flags = _flags[path] = mmap.mmap(file.fileno(), 0)
    assert isinstance(flags, mmap.mmap)
    flags[i] = 1
    return i, time.perf_counter(), time.thread_time_ns() - began


def hold(arrived: str, gate: str) -> bool:
    """Say at one FIFO that an agent is held, then wait at the other until let go or orphaned."""
    with open(arrived, "wb", buffering=0) as out:
        out.write(b".")
    with open(gate, "rb", buffering=0) as held:
        return held.read(1) == b"."


def first_word(item: bytes) -> int:
    return int.from_bytes(item[:8], "little")


def same(item: bytes) -> bytes:
    return item


def pid_after(rest_s: float) -> int:
    import os

    if rest_s:
        time.sleep(rest_s)
    return os.getpid()
