"""The result ring: what was committed comes out once and in order, and nothing else (D6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsteal._queue import layout as L
from mpsteal._queue import result_blocks
from mpsteal._queue import results as R
from mpsteal._queue.arena import Segment, anonymous_file
from mpsteal._queue.locks import Locks

RING_BYTES = 256

Record = tuple[int, bytes, int]


class Ring:
    """A ring of 256 bytes with both of its ends."""

    def __init__(self) -> None:
        self.segment = Segment.create(L.Geometry(1, page_chunks=4, page_bytes=4096, pages=4, ring_bytes=RING_BYTES))
        self.lock_fd = anonymous_file("test-locks", 2)
        self.locks = Locks([self.lock_fd], 1)
        self.reader = R.ResultReader(self.segment, 0, self.locks)
        self.got: list[tuple[int, int, object]] = []
        self.on_full: Callable[[], None] = self.drain
        self.writer = self.new_writer()

    def new_writer(self) -> R.ResultWriter:
        """As a new agent in the slot makes one."""
        return R.ResultWriter(self.segment, 0, self.locks, lambda head: self.on_full())

    def drain(self) -> None:
        self.got += [(c, k, b"" if k == R.VOID else p) for c, k, p in self.reader.drain()]

    def close(self) -> None:
        del self.writer, self.reader
        self.segment.close()
        os.close(self.lock_fd)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    made.close()


def refuse() -> None:
    raise InterruptedError("the ring is full")


records = st.one_of(
    st.tuples(st.just(R.VOID), st.just(b""), st.just(0)),
    st.tuples(st.just(R.INT), st.just(b""), st.integers(-(1 << 62), 1 << 62)),
    st.tuples(st.just(R.VALUE), st.binary(min_size=1, max_size=64), st.just(0)),
    st.tuples(st.just(R.ERROR), st.binary(min_size=1, max_size=64), st.just(0)),
    st.tuples(st.just(R.VALUE), st.binary(min_size=65, max_size=5000), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(records, st.booleans(), st.booleans()), max_size=60))
def test_what_goes_in_comes_out_in_order(actions: list[tuple[Record, bool, bool]]) -> None:
    """By `write`, and by the closures that are paid for every task, in any order."""
    ring = Ring()
    write_small, write_value = ring.writer.make_write_small(), ring.writer.make_write_value()
    try:
        for chunk, ((kind, payload, value), drain, is_spelled_out) in enumerate(actions):
            if is_spelled_out and kind in (R.VOID, R.INT):
                write_small(chunk, kind, value)
            elif is_spelled_out and kind == R.VALUE:
                write_value(chunk, payload)
            else:
                ring.writer.write(chunk, kind, payload, value)
            if drain:
                ring.drain()
        ring.drain()
        assert len(ring.got) == len(actions)
        for chunk, ((kind, payload, value), _, _) in enumerate(actions):
            number, got_kind, got = ring.got[chunk]
            assert number == chunk
            if got_kind == R.STORED_VALUE:
                assert isinstance(got, bytes)
                got_kind, got = R.VALUE, ring.reader.fetch(got)
            assert got_kind == kind
            assert got == (value if kind == R.INT else payload)
        assert list(ring.reader.drain()) == []
    finally:
        ring.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 64), max_size=12), st.lists(st.integers(0, 64), min_size=1))
def test_full_ring_waits_and_overwrites_nothing(before: list[int], sizes: list[int]) -> None:
    """From any place in the ring: it takes what fits, and gives it all back."""
    ring = Ring()
    try:
        for size in before:
            ring.writer.write(0, R.VALUE if size else R.VOID, b"b" * size)
            ring.drain()
        ring.got.clear()
        ring.on_full = refuse
        written = []
        for chunk, size in enumerate(sizes):
            try:
                ring.writer.write(chunk, R.VALUE if size else R.VOID, bytes([chunk % 256]) * size)
            except InterruptedError:
                break
            written.append((chunk, bytes([chunk % 256]) * size))
        used = ring.segment.words[ring.writer.tail_at] - ring.segment.words[ring.writer.head_at]
        assert used <= RING_BYTES
        ring.drain()
        assert [(chunk, payload) for chunk, _, payload in ring.got] == written
    finally:
        ring.close()


@pytest.mark.parametrize("start", range(0, RING_BYTES, 8))
def test_exactly_full_and_exactly_empty(ring: Ring, start: int) -> None:
    """Four records of 64 bytes fill the ring wherever the first one begins, if none has to wrap."""
    for at in (ring.writer.tail_at, ring.writer.head_at):
        ring.segment.words[at] = start
    ring.writer = ring.new_writer()
    ring.on_full = refuse
    written = 0
    with suppress(InterruptedError):
        while True:
            ring.writer.write(written, R.VALUE, bytes(40))
            written += 1
    if start % 64 == 0:
        assert written == 4
        assert ring.segment.words[ring.writer.tail_at] == start + RING_BYTES
    ring.drain()
    assert [chunk for chunk, _, _ in ring.got] == list(range(written))
    ring.writer.write(99, R.INT, value=-7)
    ring.drain()
    assert ring.got[-1] == (99, R.INT, -7)


def test_nothing_uncommitted_is_seen(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written but the tail: the reader sees nothing; the next agent starts there."""
    ring.writer.write(1, R.INT, value=5)
    tail = ring.segment.words[ring.writer.tail_at]
    ring.writer.write(2, R.VALUE, b"half")
    ring.segment.words[ring.writer.tail_at] = tail  # as if it had died before its last store
    ring.drain()
    assert ring.got == [(1, R.INT, 5)]
    ring.writer = ring.new_writer()
    ring.writer.write(3, R.VOID)
    ring.drain()
    assert ring.got == [(1, R.INT, 5), (3, R.VOID, b"")]


def test_death_before_the_wrap_is_committed(ring: Ring) -> None:
    """The skip mark lies behind the tail, where the next agent writes its own record."""
    for chunk in range(3):
        ring.writer.write(chunk, R.VALUE, bytes(40))
    ring.drain()
    tail = ring.segment.words[ring.writer.tail_at]
    ring.writer.write(3, R.VALUE, bytes(64))  # 88 bytes, 64 are left: it wraps
    assert ring.segment.words[ring.writer.tail_at] == RING_BYTES + 88
    ring.segment.words[ring.writer.tail_at] = tail
    ring.writer = ring.new_writer()
    ring.writer.write(4, R.VALUE, bytes(40))
    ring.drain()
    assert [chunk for chunk, _, _ in ring.got] == [0, 1, 2, 4]


def test_empty_ring_gives_nothing(ring: Ring) -> None:
    assert list(ring.reader.drain()) == []


@pytest.mark.parametrize("value", [0, 1, -1, (1 << 62) - 1, -(1 << 62), R.SKIP])
def test_small_ints_travel_without_a_pickle(ring: Ring, value: int) -> None:
    ring.writer.write(7, R.INT, b"", value)
    assert list(ring.reader.drain()) == [(7, R.INT, value)]


@pytest.mark.parametrize(("kind", "stored"), [(R.VALUE, R.STORED_VALUE), (R.ERROR, R.STORED_ERROR)])
def test_large_results_go_to_blocks_that_are_freed(ring: Ring, kind: int, stored: int) -> None:
    payload = os.urandom(100_000)
    ring.writer.write(0, kind, payload)
    [(_, _, first)] = ring.reader.drain()
    ring.reader.fetch(first)  # from here on the ring itself takes no new memory
    ring.writer.blocks.cool()
    before = os.fstat(ring.segment.fd).st_blocks
    ring.writer.write(1, kind, payload)
    [(chunk, got_kind, where)] = list(ring.reader.drain())
    assert (chunk, got_kind) == (1, stored)
    assert os.fstat(ring.segment.fd).st_blocks > before
    assert ring.reader.fetch(where) == payload
    ring.writer.blocks.cool()
    assert os.fstat(ring.segment.fd).st_blocks == before


def test_memory_of_large_blocks_is_given_back_at_once(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (R, result_blocks):
        monkeypatch.setattr(module, "WARM_BYTES", 1 << 16)
    before = os.fstat(ring.segment.fd).st_blocks
    ring.writer.write(0, R.VALUE, bytes(1 << 20))
    [(_, _, where)] = ring.reader.drain()
    assert os.fstat(ring.segment.fd).st_blocks > before + (1 << 20) // 512 - 1
    ring.reader.fetch(where)
    assert os.fstat(ring.segment.fd).st_blocks < before + (1 << 16) // 512


def test_writer_waits_until_large_results_are_read(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(R, "OUT_BYTES", 3 * 4096)
    waits = []

    def read() -> None:
        waits.append(ring.writer.blocks.bytes_out)
        for _, _, where in ring.reader.drain():
            ring.reader.fetch(where)

    ring.on_full = read
    for chunk in range(9):
        ring.writer.write(chunk, R.VALUE, bytes(4096))
    assert waits == [3 * 4096, 3 * 4096]
    ring.writer.write(9, R.VALUE, bytes(1 << 20))  # more than it ever may, so it goes alone
    assert len(waits) == 3


sizes = st.integers(0, 9000)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(sizes, max_size=3), st.integers(0, 3)), max_size=40))
def test_blocks_of_results_never_overlap(actions: list[tuple[list[int], int]]) -> None:
    """Values with their buffers apart, in a warm part of 16 KiB, read one or more at a time."""
    ring = Ring()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for module in (R, result_blocks):
                patch.setattr(module, "WARM_BYTES", 1 << 14)
            sent: list[list[bytes]] = []
            got: list[list[bytes]] = []
            waiting: list[bytes] = []

            def read(count: int) -> None:
                for where in waiting[:count]:
                    pickled, buffers = ring.reader.fetch_apart(where)
                    got.append([bytes(pickled), *map(bytes, buffers)])
                del waiting[:count]

            for chunk, (lengths, count) in enumerate(actions):
                parts = [os.urandom(length) for length in lengths]
                ring.writer.write_apart(chunk, b"pickle %d" % chunk, list(map(memoryview, parts)))
                sent.append([b"pickle %d" % chunk, *parts])
                waiting += [payload for _, _, payload in ring.reader.drain()]
                read(count)
            read(len(waiting))
            assert got == sent
            ring.writer.blocks.see_freed()
            assert ring.writer.blocks.bytes_out == 0
    finally:
        ring.close()


def test_block_space_is_used_again_once_all_are_fetched(ring: Ring) -> None:
    offsets = []
    for _ in range(3):
        ring.writer.write(1, R.VALUE, bytes(1000))
        ring.writer.write(2, R.VALUE, bytes(1000))
        for _, _, where in ring.reader.drain():
            offsets.append(where)
            ring.reader.fetch(where)
    assert len(set(offsets)) == 2


def test_a_quarter_of_the_ring_is_the_limit(ring: Ring) -> None:
    ring.writer.write(1, R.VALUE, bytes(RING_BYTES // 4))
    ring.writer.write(2, R.VALUE, bytes(RING_BYTES // 4 + 1))
    assert [kind for _, kind, _ in ring.reader.drain()] == [R.VALUE, R.STORED_VALUE]
