"""Input is pulled, not swallowed (D11): how far iterables are read, and what they may do meanwhile."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate

import mpsteal
from mpsteal._engine.jobs import FEEDER_DEPTH, WINDOW_BYTES

Open = Callable[..., mpsteal.Pool]

FORMS = ["imap", "imap_unordered"]


@pytest.mark.parametrize("form", FORMS)
def test_input_that_waits_for_a_result_of_the_same_pool(open_pool: Open, form: str) -> None:
    pool = open_pool(2)

    def chain() -> Iterator[int]:
        value = 1
        for _ in range(8):
            yield value
            value = pool.apply(tasks.double, (value,))

    results = sorted(getattr(pool, form)(tasks.double, chain()))
    assert results == [2 << i for i in range(8)]


def test_input_that_waits_for_the_results_of_its_own_iterator(open_pool: Open) -> None:
    """The consumer feeds the producer: a loop through the pool."""
    pool = open_pool(1)
    came: list[int] = [1]
    more = threading.Event()
    more.set()

    def loop() -> Iterator[int]:
        for _ in range(10):
            assert more.wait(30)
            more.clear()
            yield came[-1]

    for value in pool.imap(tasks.double, loop()):
        came.append(value)
        more.set()
    assert came == [1 << i for i in range(11)]


def test_input_that_blocks_does_not_block_other_work(open_pool: Open) -> None:
    pool = open_pool(2)
    go_on = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        assert go_on.wait(30)
        yield 2

    results = pool.imap(tasks.double, stuck())
    assert next(results) == 2
    with pytest.raises(mpsteal.pool.multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    assert list(pool.imap(tasks.double, range(100))) == list(range(0, 200, 2))
    go_on.set()
    assert list(results) == [4]


@pytest.mark.parametrize("form", FORMS)
def test_reading_ahead_is_bounded_in_bytes(open_pool: Open, form: str) -> None:
    """10,000 items of 16 KiB (160 MiB): never more than the window ahead of what is finished.

    How far ahead of the consumer is another matter: results that nobody has fetched are not in the window.
    """
    pool = open_pool(2)
    count, size = 10_000, 16 << 10
    counter = [0]
    # The window in flight, what the feeder has read and not sent, and a few for those at work.
    limit = WINDOW_BYTES // size + FEEDER_DEPTH + 64
    most = done = 0
    results = getattr(pool, form)(len, tasks.read_ahead(counter, count, size))
    for _ in results:
        done += 1
        read = counter[0]  # first: what is finished meanwhile counts for us
        most = max(most, read - results._job.finished)
    assert done == counter[0] == count
    assert most <= limit < count // 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("buffersize", [1, 3, 50])
def test_buffersize_bounds_a_slow_consumer(open_pool: Open, form: str, buffersize: int) -> None:
    """What is in flight or finished and not fetched: never more than `buffersize`, fetch by fetch."""
    pool = open_pool(2)
    ran = 0
    fed = [0]

    def items() -> Iterator[int]:
        for i in range(200):
            fed[0] += 1
            yield i

    results = getattr(pool, form)(tasks.double, items(), buffersize=buffersize)
    for _ in results:
        ran += 1
        job = results._job
        assert job.index - job.consumed <= buffersize
    assert ran == 200


def test_nothing_is_sent_before_it_is_fetched(open_pool: Open, gates: Gates) -> None:
    """With `buffersize=2`, two tasks start and no third one until a result is taken."""
    pool = open_pool(4)
    gate = gates("started")
    gate.open()
    results = pool.imap(pass_gate, [gate] * 6, buffersize=2)
    gate.wait_arrived(2)
    pool.apply(tasks.double, (1,))  # a whole round of the loop passes
    assert gate.arrived_nowait() == 0
    next(results)
    gate.wait_arrived()
    assert gate.arrived_nowait() == 0
    assert len(list(results)) == 5


def test_endless_input_is_left_when_the_pool_ends(open_pool: Open) -> None:
    pool = open_pool(2)
    results = pool.imap(tasks.double, itertools.count())
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    pool.terminate()
    with pytest.raises(mpsteal.PoolTerminatedError):
        list(results)


def test_generators_finaliser_may_use_the_pool(open_pool: Open) -> None:
    pool = open_pool(1)
    seen: list[Any] = []

    def items() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            seen.append(pool.apply(tasks.double, (4,)))

    assert list(pool.imap(tasks.double, items())) == [0, 2, 4]
    assert seen == [8]


def test_two_iterators_read_in_turn(open_pool: Open) -> None:
    pool = open_pool(2)
    a = pool.imap(tasks.double, range(500), buffersize=3)
    b = pool.imap(tasks.double, (i for i in range(500)), buffersize=3)
    pairs = list(zip(a, b, strict=True))
    assert pairs == [(2 * i, 2 * i) for i in range(500)]


def test_iterator_read_by_several_threads(open_pool: Open) -> None:
    pool = open_pool(2)
    results = pool.imap_unordered(tasks.identity, range(2000))
    got: list[int] = []

    def read() -> None:
        for value in results:
            got.append(value)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(2000))


def test_map_reads_its_list_when_it_is_called(open_pool: Open, gates: Gates) -> None:
    """What the caller does to the list afterwards changes nothing."""
    pool = open_pool(1)
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    shrinks, grows = list(range(3_000)), list(range(3_000))
    results = [pool.map_async(tasks.double, items) for items in (shrinks, grows)]
    del shrinks[100:]
    grows.append(-1)
    gate.open()
    assert [r.get() for r in results] == [list(range(0, 6_000, 2))] * 2
    held.get()


class TenTimes(list[int]):
    def __iter__(self) -> Iterator[int]:
        return (10 * x for x in super().__iter__())


def test_map_iterates_as_the_input_wants(open_pool: Open) -> None:
    assert open_pool(1).map(tasks.double, TenTimes([1, 2, 3])) == [20, 40, 60]
