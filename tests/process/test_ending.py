"""How pools end: closed, terminated, forgotten; and what stays afterwards (nothing, I4)."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, is_gone, lines, manager_pid, program, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal._engine import crew

Open = Callable[..., mpsteal.Pool]

PROMPT_S = 10.0
"""An alarm for ends that should take a fraction of a second: tasks in these tests would run for minutes."""

TERMINATED_S = 2.0
"""Within this time `terminate` has returned, whatever the agents do; a promise, not an alarm."""


# -- terminate ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["terminate", "close"])
def test_end_that_is_asked_for_while_the_bell_is_read_is_seen(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The engine reads a bell that was rung for something else, and with it the one of the end."""
    pool = open_pool(1, "fork")
    wait_idle(pool)
    engine: Any = pool._engine
    wait_until(lambda: engine.guard.pid and engine._timeout() is None, "nothing else will wake it")
    asked: list[str] = []
    read = os.read

    def read_later(fd: int, count: int) -> bytes:
        if fd == engine._wake_r and not asked:
            asked.append(end)
            getattr(engine, end)()
        return read(fd, count)

    monkeypatch.setattr(os, "read", read_later)
    engine.wake()
    engine.join()
    assert asked == [end]


@pytest.mark.parametrize("busy", ["sleep", "ignore_sigterm", "compute", "stopped", "stopped while idle"])
def test_terminate_ends_whatever_runs_and_answers_everybody(
    open_pool: Open, start_method: str, gates: Gates, busy: str
) -> None:
    """Within two seconds; no handle and no thread that waits for one is left without an answer."""
    pool = open_pool(2, start_method)
    wait_idle(pool)
    gate = gates("running")
    task = {
        "ignore_sigterm": tasks.arrive_and_ignore_sigterm,
        "compute": tasks.arrive_and_compute,
    }.get(busy, tasks.arrive_and_sleep)
    if busy == "stopped while idle":
        for pid in agent_pids(pool):
            os.kill(pid, signal.SIGSTOP)
    handles: list[Any] = [pool.apply_async(task, (gate,)) for _ in range(2)]
    if busy != "stopped while idle":
        gate.wait_arrived(2)
    handles += [pool.apply_async(tasks.double, (i,)) for i in range(20)]
    handles += [pool.map_async(tasks.double, range(100)), pool.starmap_async(tasks.add, [(1, 2)] * 100)]
    iterators = [pool.imap(tasks.double, range(100)), pool.imap_unordered(tasks.double, range(100))]
    iterators += [pool.imap(tasks.double, numbers(100), buffersize=1), pool.imap(tasks.double, range(9), chunksize=3)]
    calls = [handle.get for handle in handles] + [it.next for it in iterators] + [lambda: pool.map(tasks.double, [1])]
    errors: list[BaseException] = []

    def wait(call: Callable[[], Any]) -> None:
        try:
            call()
        except mpsteal.PoolTerminatedError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    threads += [threading.Thread(target=handle.wait) for handle in handles]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(pool._engine.waiting) == len(threads), "all threads waiting")
    # Of an iterator that has sent nothing yet only the first `next` raises.
    jobs = pool._engine.dispatcher.jobs
    wait_until(lambda: len(jobs) == 7 and all(job.index for job in jobs), "something of each map is sent")
    pids = agent_pids(pool)
    if busy == "stopped":
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    pool.terminate()
    assert time.monotonic() - began < TERMINATED_S
    assert all(map(is_gone, pids))
    for thread in threads:
        thread.join(PROMPT_S)
    assert len(errors) == len(calls)
    for handle in handles:
        with pytest.raises(mpsteal.PoolTerminatedError, match="the pool was terminated"):
            handle.get(0)
    for it in iterators:
        with pytest.raises(mpsteal.PoolTerminatedError, match="the pool was terminated"):
            it.next(0)
    pool.join()


def test_terminate_by_two_threads_and_a_signal_handler(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2)
    gate = gates("running")
    results = [pool.apply_async(tasks.arrive_and_sleep, (gate,)) for _ in range(10)]
    gate.wait_arrived(2)
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.terminate())
    try:
        threads = [threading.Thread(target=pool.terminate) for _ in range(2)]
        for thread in threads:
            thread.start()
        os.kill(os.getpid(), signal.SIGUSR1)
        pool.terminate()
        for thread in threads:
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    for result in results:
        with pytest.raises(mpsteal.PoolTerminatedError):
            result.get(0)


def test_signal_handler_may_use_the_pool(open_pool: Open) -> None:
    """It interrupts the main thread anywhere, also while that holds the pool's own locks."""
    pool = open_pool(2)
    got: list[int] = []

    def use(*_: object) -> None:
        got.append(pool.apply(tasks.double, (21,)))
        signal.setitimer(signal.ITIMER_REAL, 0.002)  # the next one never comes while this one runs

    before = signal.signal(signal.SIGALRM, use)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        while len(got) < 50:
            results = [pool.apply_async(tasks.double, (i,)) for i in range(20)]
            assert [r.get() for r in results] == list(range(0, 40, 2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(got) == {42}


class Interrupting(list[object]):
    """A list whose first use is interrupted, as by a signal, when nothing has happened yet."""

    def __init__(self, handler: Callable[[], None]) -> None:
        self.handlers = [handler]

    def append(self, item: object) -> None:
        if self.handlers:
            self.handlers.pop()()
        super().append(item)


def test_signal_handler_between_waking_and_ringing(open_pool: Open) -> None:
    """Who submits in a handler may not rely on the ring that it interrupted."""
    pool = open_pool(1)
    wait_idle(pool)
    manager_pid(pool)
    wait_until(lambda: pool._engine.asleep, "nothing else will wake the engine")
    got: list[int] = []
    pool._engine._ringing = Interrupting(lambda: got.append(pool.apply(tasks.double, (21,))))
    assert pool.apply(tasks.double, (4,)) == 8
    assert got == [42]


def test_signal_handler_needs_another_thread_of_the_pool(open_pool: Open) -> None:
    """The feeder of its `imap` rings, too, and may not wait for the ringing that the handler interrupted."""
    pool = open_pool(1)
    wait_idle(pool)
    manager_pid(pool)
    wait_until(lambda: pool._engine.asleep, "nothing else will wake the engine")
    got: list[int] = []
    pool._engine._ringing = Interrupting(lambda: got.extend(pool.imap(tasks.double, iter(range(6)))))
    assert pool.apply(tasks.double, (4,)) == 8
    assert got == [0, 2, 4, 6, 8, 10]


def test_handler_that_raises_before_the_ring(open_pool: Open) -> None:
    """The next submit rings for both."""
    pool = open_pool(1)
    wait_idle(pool)
    manager_pid(pool)
    wait_until(lambda: pool._engine.asleep, "nothing else will wake the engine")

    def interrupt() -> None:
        raise KeyboardInterrupt

    pool._engine._ringing = Interrupting(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.apply_async(tasks.double, (4,))
    assert pool.apply(tasks.double, (4,)) == 8


@pytest.mark.parametrize("what", ["terminate", "join"])
def test_wait_that_was_interrupted_is_one_when_it_is_begun_again(
    open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """`Thread.join` is not: once a handler has raised in it, it returns at once for ever (CPython 3.10 to 3.12)."""
    monkeypatch.setattr(crew, "TERM_GRACE_S", 60.0)
    pool = open_pool(1)
    gate, told = gates("running"), gates("told")
    pool.apply_async(tasks.arrive_and_tell_of_sigterm, (gate, told))
    gate.wait_arrived()
    (pid,) = agent_pids(pool)

    def interrupt(*_: object) -> None:
        raise InterruptedError

    def interrupt_soon() -> None:
        told.wait_arrived()
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    helper = threading.Thread(target=interrupt_soon)
    helper.start()
    try:
        with pytest.raises(InterruptedError):
            pool.terminate()
    finally:
        helper.join()
        signal.signal(signal.SIGUSR1, before)
    pool._engine.crew._kill_at = 0.0
    pool._engine.wake()
    getattr(pool, what)()
    assert is_gone(pid)
    assert not pool._engine.guard.folder or not os.path.exists(pool._engine.guard.folder)


# -- forgotten --------------------------------------------------------------------------------


def test_forgotten_pool_warns_and_goes(start_method: str) -> None:
    pool = mpsteal.Pool(2, context=multiprocessing.get_context(start_method))
    wait_idle(pool)
    pids = agent_pids(pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    wait_gone(pids, PROMPT_S)


def test_forgotten_busy_pool_goes_when_its_tasks_are_done(gates: Gates) -> None:
    """Pending results keep their pool, as in the stock one; the last of them lets it go."""
    pool = mpsteal.Pool(2)
    gate = gates("running")
    for _ in range(4):
        pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived(2)
    pids = agent_pids(pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as told:
        del pool
        gc.collect()
        assert not any(map(is_gone, pids))
        gate.open()
        wait_until(told.list.__len__, "the warning")
    del told  # it holds the pool
    wait_gone(pids, PROMPT_S)


def test_forgotten_after_close_is_silent(open_pool: Open) -> None:
    pool = mpsteal.Pool(1)
    pool.apply(tasks.double, (1,))
    pids = agent_pids(pool)
    pool.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del pool
        gc.collect()
    wait_gone(pids, PROMPT_S)


def test_pool_in_a_reference_cycle(open_pool: Open) -> None:
    pool = mpsteal.Pool(1)
    pool.myself = pool  # type: ignore[attr-defined]
    wait_idle(pool)
    pids = agent_pids(pool)
    with pytest.warns(ResourceWarning):
        del pool
        gc.collect()
    wait_gone(pids, PROMPT_S)


# -- closed -------------------------------------------------------------------------------------


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@pytest.mark.parametrize("buffersize", [None, 1, 5])
@pytest.mark.parametrize("source", [numbers, range], ids=["generator", "sequence"])
@pytest.mark.parametrize("form", ["imap", "imap_unordered"])
def test_join_after_a_partial_read(
    open_pool: Open, buffersize: int | None, source: Callable[[int], Any], form: str
) -> None:
    """`close` lets what was submitted finish, read or not; the rest can still be read afterwards."""
    pool = open_pool(2)
    results = getattr(pool, form)(tasks.double, source(300), buffersize=buffersize)
    got = [next(results) for _ in range(3)]
    pool.close()
    pool.join()
    got += results
    assert sorted(got) == list(range(0, 600, 2))


@pytest.mark.parametrize("buffersize", [None, 1])
def test_join_without_any_read(open_pool: Open, buffersize: int | None) -> None:
    """The job may still be on its way to the engine when `join` is called."""
    for _ in range(20):
        pool = open_pool(1)
        results = pool.imap(tasks.double, range(50), buffersize=buffersize)
        pool.close()
        pool.join()
        assert list(results) == list(range(0, 100, 2))


def test_dropped_iterator_does_not_hold_up_the_end(open_pool: Open) -> None:
    pool = open_pool(2)
    next(pool.imap(tasks.double, numbers(1000), buffersize=2))
    pool.close()
    pool.join()


def test_short_lived_agents_under_load(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    """Agents leave after 7 chunks each while others steal from them: nothing twice, nothing lost."""
    noted = str(tmp_path / "noted")
    count = 300 if start_method == "fork" else 60
    pool = open_pool(3, start_method, maxtasksperchild=7)
    results = [pool.apply_async(tasks.note_and_spin, (noted, i, 0.003 * (i % 5 == 0))) for i in range(count)]
    assert [r.get() for r in results] == list(range(count))
    pool.close()
    pool.join()
    assert Counter(map(int, lines(noted))) == Counter(range(count))


def test_maxtasksperchild_is_kept_exactly(open_pool: Open) -> None:
    pool = open_pool(2, maxtasksperchild=3)
    pids = Counter(pool.map(tasks.my_pid, range(31), 1))
    assert sum(pids.values()) == 31
    assert max(pids.values()) <= 3


# -- many -----------------------------------------------------------------------------------------


def belongings() -> tuple[int, int, int]:
    """Descriptors, threads and child processes of this process."""
    gc.collect()
    me = psutil.Process()
    return me.num_fds(), threading.active_count(), len(me.children(recursive=True))


def open_and_end(rounds: int, method: str) -> None:
    context = multiprocessing.get_context(method)
    for i in range(rounds):
        pool = mpsteal.Pool(2, context=context)
        if i % 3:
            assert pool.map(tasks.double, range(5)) == [0, 2, 4, 6, 8]
        if i % 2:
            pool.close()
        else:
            pool.terminate()
        pool.join()


def test_many_pools_leave_nothing(start_method: str) -> None:
    open_and_end(2, start_method)  # helpers of multiprocessing start with the first
    before = belongings()
    open_and_end(50 if start_method == "fork" else 6, start_method)
    assert belongings() == before


def test_few_descriptors(start_method: str) -> None:
    """64 descriptors are enough for two agents."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with mpsteal.Pool(2, context=multiprocessing.get_context(start_method)) as pool:
            assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
            with pytest.raises(mpsteal.AgentDiedError):
                pool.apply(tasks.die_at_once, (1,))
            assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_descriptors_leave_nothing(start_method: str) -> None:
    """A pool that cannot start raises OSError, keeps nothing, and the next one works."""
    before = belongings()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (24, 32, 40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, before[0] + limit - 20), hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                mpsteal.Pool(40, context=multiprocessing.get_context(start_method))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with mpsteal.Pool(1) as pool:
        assert pool.apply(tasks.double, (2,)) == 4


def test_agent_with_few_descriptors_of_its_own(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    assert pool.apply(pass_gate_free, (5,)) == 5


def pass_gate_free(value: int) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return value


def test_pool_is_first_used_when_the_main_thread_is_over(tmp_path: Path) -> None:
    """As the stock pool may be; `concurrent.futures.process` cannot be imported then."""
    with program(tmp_path, FIRST_USED_LATE) as run:
        assert run.wait() == 0, run.errors
        assert run.output == "3\n"


FIRST_USED_LATE = """
import threading

def late():
    threading.main_thread().join()
    import mpsteal
    with mpsteal.Pool(1) as pool:
        print(pool.apply(abs, (-3,)))

threading.Thread(target=late).start()
"""
