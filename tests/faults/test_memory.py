"""Large arguments and results, and systems where shared memory is small or missing (D8)."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from gates import Gates, pass_gate
from waiting import ALARM_S, agent_pids, program, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]

MIB = 1 << 20


def segment_bytes(pool: mpsteal.Pool) -> int:
    """Memory that the segment's file takes now."""
    return os.fstat(pool._engine.segment.fd).st_blocks * 512


# -- large things ---------------------------------------------------------------------------


def test_large_argument(open_pool: Open, start_method: str) -> None:
    """200 MiB; its block is given back when the call is done."""
    pool = open_pool(1, start_method)
    size = 200 * MIB
    data = b"\x03" + bytes(size - 2) + b"\x04"
    assert pool.apply(tasks.size_and_ends, (data,)) == (size, 3, 4)
    wait_until(lambda: segment_bytes(pool) < 32 * MIB, "the block given back")
    pool._engine.validate()


def test_large_result(open_pool: Open) -> None:
    """300 MiB; tests/stress has 1 GiB."""
    pool = open_pool(1)
    size = 300 * MIB
    assert tasks.size_and_ends(pool.apply(tasks.make_bytes, (size,))) == (size, 1, 2)
    wait_until(lambda: segment_bytes(pool) < 32 * MIB, "the block given back")
    pool._engine.validate()


def test_large_results_in_turn_take_no_more_memory(open_pool: Open) -> None:
    pool = open_pool(2)
    for value in pool.imap(tasks.make_bytes, [20 * MIB] * 12, buffersize=2):
        assert len(value) == 20 * MIB
        assert segment_bytes(pool) < 160 * MIB
    wait_until(lambda: segment_bytes(pool) < 32 * MIB, "all blocks given back")


def test_large_argument_of_a_dead_agent_is_given_back(open_pool: Open) -> None:
    pool = open_pool(1)
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(tasks.die_with, (bytes(50 * MIB),))
    wait_until(lambda: segment_bytes(pool) < 32 * MIB, "the block given back")


def test_sizes_around_every_limit(open_pool: Open) -> None:
    """Slab, page, block, ring and quarter of the ring: one byte less, exact, one more."""
    geometry = {"page_chunks": 8, "page_bytes": 1 << 16, "pages": 8, "ring_bytes": 1 << 14}
    pool = open_pool(2, geometry=geometry)
    edges = [1 << 12, 1 << 14, 1 << 15, 1 << 16, 1 << 17]
    sizes = [edge + d for edge in edges for d in (-70, -40, -25, -24, -8, -1, 0, 1, 8, 24)]
    values = [os.urandom(size) for size in sizes]
    assert [pool.apply(tasks.identity, (v,)) for v in values] == values
    assert pool.map(tasks.identity, values, 1) == values
    assert list(pool.imap(tasks.identity, values)) == values
    results = [pool.apply_async(tasks.identity, (v,)) for v in values]
    assert [r.get() for r in results] == values
    wait_idle(pool)
    pool._engine.validate()


def test_more_pending_than_the_segment_holds(open_pool: Open) -> None:
    geometry = {"page_chunks": 4, "page_bytes": 4096, "pages": 4, "entries": 4, "ring_bytes": 4096}
    pool = open_pool(2, geometry=geometry)
    results = [pool.apply_async(tasks.identity, (os.urandom(i % 900),)) for i in range(3000)]
    assert [len(r.get()) for r in results] == [i % 900 for i in range(3000)]
    wait_idle(pool)
    pool._engine.validate()


def test_generator_of_any_length_takes_flat_memory(open_pool: Open) -> None:
    """400 MiB pass through; the parent grows by a window, not by the input."""
    pool = open_pool(2)
    counter = [0]
    count, size = 100_000, 4096
    me = psutil.Process()
    stream = pool.imap_unordered(len, tasks.read_ahead(counter, count, size))
    for _ in range(5000):
        next(stream)
    before = me.memory_info().rss
    assert sum(1 for _ in stream) == count - 5000
    assert me.memory_info().rss - before < 64 * MIB


# -- little memory ----------------------------------------------------------------------------


class SmallDevice:
    """/dev/shm with `room` bytes, and no memfd: what a stock container has, on an old kernel.

    Patches the calls that reserve and write; forked agents inherit it. Stores into a mapping are not
    seen, which is the point: what was not reserved before must not be written.

    The disk of the temporary directory has room until `fill_disk`, for agents that are running, too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, *, honest: bool = True) -> None:
        self.room = room
        self._disk_is_full = mmap.mmap(-1, 1)
        self._fallocate, self._pwrite = os.posix_fallocate, os.pwrite
        self._statvfs = os.statvfs

        def no_memfd(*_: Any) -> int:
            raise OSError(errno.ENOSYS, "no memfd here")

        monkeypatch.setattr(os, "memfd_create", no_memfd)
        monkeypatch.setattr(os, "posix_fallocate", self.posix_fallocate)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        if honest:
            monkeypatch.setattr(os, "statvfs", self.statvfs)

    def statvfs(self, path: str) -> Any:
        if str(path) != "/dev/shm":
            return self._statvfs(path)
        return SimpleNamespace(f_bavail=self.room // 4096, f_frsize=4096)

    def _check(self, fd: int, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("/dev/shm"):
            is_full = os.fstat(fd).st_blocks * 512 + size > self.room
        else:
            is_full = self._disk_is_full[0] == 1
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fill_disk(self) -> None:
        self._disk_is_full[0] = 1

    def posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        self._check(fd, size)
        self._fallocate(fd, offset, size)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        self._check(fd, len(data))
        return self._pwrite(fd, data, offset)


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield caught


def about_memory(told: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in told if "mpsteal" in str(w.message)]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm and memfd are Linux's")


@needs_linux
@pytest.mark.parametrize("room", [0, 1 * MIB, 3 * MIB, 5 * MIB, 8 * MIB], ids=lambda r: f"{r // MIB}MiB")
def test_tiny_device_is_no_obstacle(
    open_pool: Open,
    monkeypatch: pytest.MonkeyPatch,
    told: list[warnings.WarningMessage],
    room: int,
) -> None:
    SmallDevice(monkeypatch, room)
    pool = open_pool(2, "fork")
    assert pool.map(tasks.double, range(20_000)) == list(range(0, 40_000, 2))
    results = [pool.apply_async(tasks.identity, (bytes(1000),)) for _ in range(5000)]
    assert all(len(r.get()) == 1000 for r in results)
    data = os.urandom(20 * MIB)
    assert pool.apply(tasks.identity, (data,)) == data
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    wait_idle(pool)
    pool._engine.validate()
    assert len(about_memory(told)) == 1


@needs_linux
@pytest.mark.parametrize("room", [0, 1 * MIB], ids=lambda r: f"{r // MIB}MiB")
def test_device_that_promises_more_than_it_has(
    open_pool: Open,
    monkeypatch: pytest.MonkeyPatch,
    told: list[warnings.WarningMessage],
    room: int,
) -> None:
    """A quota, say: free space is shown, and reserving fails. The next place is taken."""
    SmallDevice(monkeypatch, room, honest=False)
    pool = open_pool(2, "fork")
    data = os.urandom(20 * MIB)
    assert pool.apply(tasks.identity, (data,)) == data
    assert len(about_memory(told)) == 1


@needs_linux
def test_device_that_others_fill_later(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit any more fails by itself, with the reason; the rest goes on."""
    device = SmallDevice(monkeypatch, 1 << 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pool = open_pool(2, "fork")
    assert pool.map(tasks.double, range(1000)) == list(range(0, 2000, 2))
    device.room = 0
    with pytest.raises(MemoryError, match="no shared memory for an argument of 20971"):
        pool.apply(tasks.identity, (bytes(20 * MIB),))
    assert pool.map(tasks.double, range(1000)) == list(range(0, 2000, 2))
    wait_idle(pool)
    pool._engine.validate()


@needs_linux
def test_without_memfd_a_temporary_file_serves(
    open_pool: Open,
    start_method: str,
    monkeypatch: pytest.MonkeyPatch,
    told: list[warnings.WarningMessage],
) -> None:
    SmallDevice(monkeypatch, 1 << 40)
    pool = open_pool(2, start_method)
    assert pool.map(tasks.double, range(1000)) == list(range(0, 2000, 2))
    data = os.urandom(5 * MIB)
    assert pool.apply(tasks.identity, (data,)) == data
    assert list(Path("/dev/shm").glob("mpsteal*")) == []
    assert len(about_memory(told)) == 1


TINY_MOUNT = """
import os, subprocess, sys, warnings
import fault_tasks as tasks

def main():
    import mpsteal
    del os.memfd_create
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with mpsteal.Pool(2) as pool:
            assert pool.map(tasks.double, range(20000)) == list(range(0, 40000, 2))
            data = os.urandom(30 << 20)
            assert pool.apply(tasks.identity, (data,)) == data
    print(len([w for w in told if "mpsteal" in str(w.message)]))

if __name__ == "__main__":
    main()
"""


@needs_linux
@pytest.mark.parametrize("megabytes", [1, 8, 64])
def test_tiny_mount(tmp_path: Path, megabytes: int) -> None:
    """The same with a real /dev/shm of that size, where the system lets us mount one."""
    script = tmp_path / "program.py"
    script.write_text(TINY_MOUNT)
    mount = f"mount -t tmpfs -o size={megabytes}m none /dev/shm"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        probe = subprocess.run([*unshare, mount], capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode:
        pytest.skip(f"no mount of our own here: {probe.stderr.decode().strip()}")
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[1]))
    done = subprocess.run(
        [*unshare, f"{mount} && exec {sys.executable} {script}"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("0", "1"), done.stdout


@needs_linux
def test_start_that_fails_for_memory_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(os, "memfd_create", refuse)
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match=r"(?i)space"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mpsteal.Pool(2)
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("count", [1, 100, 1000])
@pytest.mark.parametrize("form", ["map", "map by ones", "imap", "apply_async"])
def test_no_memory_for_any_argument(open_pool: Open, monkeypatch: pytest.MonkeyPatch, form: str, count: int) -> None:
    """Also when whole batches come to nothing: each call is refused, nobody waits, and the pool ends."""

    def refuse(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    pool = open_pool(2, "fork")
    monkeypatch.setattr(pool._engine.dispatcher.blocks, "put", refuse)
    large = [bytes(200_000)] * count
    if form == "imap":
        results = pool.imap(len, large)
        for _ in large:
            with pytest.raises(MemoryError):
                results.next(ALARM_S)
    elif form == "apply_async":
        for handle in [pool.apply_async(len, (item,)) for item in large]:
            with pytest.raises(MemoryError):
                handle.get(ALARM_S)
    else:
        with pytest.raises(MemoryError):
            pool.map_async(len, large, chunksize=1 if form == "map by ones" else None).get(ALARM_S)
    assert pool.apply(len, ([1, 2],)) == 2
    pool.close()
    pool.join()


@needs_linux
def test_disk_that_is_full_under_the_fall_back(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, told: list[warnings.WarningMessage], gates: Gates
) -> None:
    """What was pending is done; what finds no room is refused with the reason, arguments and results alike."""
    device = SmallDevice(monkeypatch, 0)
    pool = open_pool(2, "fork")
    assert len(about_memory(told)) == 1
    wait_idle(pool)
    gate = gates("held")
    held = [pool.apply_async(pass_gate, (gate, i)) for i in range(2)]
    gate.wait_arrived(2)
    pending = [pool.apply_async(tasks.double, (i,)) for i in range(200)]
    large_result = pool.apply_async(tasks.make_bytes, (5 * MIB,))
    pool._engine.validate()
    device.fill_disk()
    with pytest.raises(MemoryError, match="no shared memory for an argument of 20971"):
        pool.apply_async(tasks.identity, (bytes(20 * MIB),)).get(ALARM_S)
    later = [pool.apply_async(tasks.double, (i,)) for i in range(200, 20_000)]
    gate.open()
    assert [r.get() for r in held] == [0, 1]
    assert [r.get() for r in [*pending, *later]] == list(range(0, 40_000, 2))
    with pytest.raises(MemoryError, match="no shared memory for a result of 5242"):
        large_result.get()
    wait_idle(pool)
    pool._engine.validate()


# -- little address space -------------------------------------------------------------------

linux_limits = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not kept elsewhere")


@linux_limits
def test_memory_error_of_a_task_is_its_own(open_pool: Open, start_method: str) -> None:
    """Under RLIMIT_AS; the agent goes on, and every other task has its result."""
    pool = open_pool(2, start_method)
    wait_idle(pool)
    before = agent_pids(pool)
    good = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    bad = [pool.apply_async(tasks.take_all_memory, (False,)) for _ in range(4)]
    good += [pool.apply_async(tasks.double, (i,)) for i in range(100, 200)]
    for result in bad:
        with pytest.raises(MemoryError):
            result.get()
    assert [r.get() for r in good] == list(range(0, 400, 2))
    data = os.urandom(300_000)
    assert pool.map(tasks.identity, [data] * 4, 1) == [data] * 4
    wait_idle(pool)
    assert agent_pids(pool) == before
    pool._engine.validate()


@linux_limits
def test_agent_without_memory_leaves_nobody_waiting(open_pool: Open) -> None:
    """A task has taken all there is, and keeps it: those after it in the same agent fail by themselves or are done."""
    pool = open_pool(1)
    pid = pool.apply(tasks.take_all_memory, (True,))
    results: list[Any] = [pool.apply_async(tasks.identity, (os.urandom(1 << 14),)) for _ in range(50)]
    results += [pool.apply_async(tasks.make_bytes, (5 * MIB,)), pool.map_async(tasks.identity, [[0] * 1000] * 50)]
    for result in results:
        try:
            result.get(ALARM_S)
        except (MemoryError, MaybeEncodingError, mpsteal.AgentDiedError):
            pass
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in agent_pids(pool), "the agent replaced")
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    wait_idle(pool)
    pool._engine.validate()


LITTLE_ADDRESS_SPACE = """
import multiprocessing, resource, sys
import mpsteal
from fault_tasks import double

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))
    with mpsteal.Pool(2, context=multiprocessing.get_context(sys.argv[1])) as pool:
        results = [pool.apply_async(double, (i,)) for i in range(20_000)]
        assert [r.get() for r in results] == list(range(0, 40_000, 2))
        print(pool._engine.segment.layout.geometry.pages)
"""


@linux_limits
def test_pool_starts_with_little_address_space(tmp_path: Path, start_method: str) -> None:
    """As under `ulimit -v`, where the usual 160 MiB of pages find no place."""
    with program(tmp_path, LITTLE_ADDRESS_SPACE, start_method) as run:
        assert run.wait() == 0, run.errors
        assert 4 <= int(run.output) < 256
        run.check_nothing_left()
