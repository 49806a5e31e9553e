"""The result ring of an agent: one writer (the agent), one reader (the parent), committed by one store (D6).

A record, padded to 8 bytes, never wraps:

    byte  0   chunk  int64   chunk number; SKIP: the rest up to the end of the ring is unused
          8   kind   int64   see below
         16   size   int64   bytes of payload, or the value itself for INT
         24   payload

`RESULT_TAIL` (agent) and `RESULT_HEAD` (parent) count bytes since the start and never wrap; position = count modulo
the ring's size. A result is delivered if and only if the tail has passed its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from struct import Struct
from typing import Any

from . import layout as L
from .arena import Blocks, Segment
from .locks import STORES_ARE_ORDERED, Locks
from .result_blocks import OUT_BYTES, WARM_BYTES, ResultBlocks, aligned

VALUE, ERROR, INT, VOID, STORED_VALUE, STORED_ERROR, STORED_APART, LOGGED = range(8)
"""Kinds: a pickled value, a pickled error, a small int, None, value or error in a block (payload: offset, size), and a
value in a block with its buffers apart (payload: offset, size, size of the pickle, number of buffers):

    block:  2 * size + read-only of each buffer (int64) | pickle | buffer | ...     each from a multiple of 64 on
"""

CHILD, STORED_CHILD, ANSWER, STORED_ANSWER, FAILURE, STORED_FAILURE = range(8, 14)
KEPT, SUSPENDED, GIVEN_BACK, WITHDRAW = range(14, 18)
"""Kinds of what tasks submit (README.md, "Children"): a call and its ticket; value or error of a child and its number;
a child whose outcome its own agent keeps; a task that waits below another; a child not begun; a ticket to withdraw."""

NO_RESULTS = frozenset({LOGGED, CHILD, STORED_CHILD, SUSPENDED, GIVEN_BACK, WITHDRAW})
"""Those after which no chunk is over."""

CHILD_HEADER = Struct("6q")
"""Before the bytes of a call: chunk that submits it, depth, kind of call, time limit (ns), tries, bytes of its name."""

SUSPENSION = Struct("2q")
"""Of a task that waits below another: how many are below it, when it was started (monotonic clock, ns)."""

_STORED = {
    VALUE: STORED_VALUE,
    ERROR: STORED_ERROR,
    CHILD: STORED_CHILD,
    ANSWER: STORED_ANSWER,
    FAILURE: STORED_FAILURE,
}

SKIP = -3
INIT_ERROR = -4  # chunk number of the record that carries an initializer's exception

_RECORD = Struct("3q")
_BLOCK = Struct("2q")
_APART = Struct("4q")
_SIZE = Struct("q")
_pack, _unpack, _iter_unpack = _RECORD.pack_into, _RECORD.unpack_from, _RECORD.iter_unpack


class ResultWriter:
    """Agent side.

    `wait_for_room(head)` is called while the ring is full; it rings the parent and returns when it may be worth another
    look, or raises when the parent is gone.
    """

    def __init__(self, segment: Segment, slot: int, locks: Locks, wait_for_room: Callable[[int], None]) -> None:
        layout = segment.layout
        self.segment, self.locks = segment, locks
        self.words, self.data = segment.words, segment.data
        self.base = layout.ring(slot)
        self.size = layout.geometry.ring_bytes
        self.tail_at = layout.agent(slot) + L.RESULT_TAIL
        self.head_at = layout.agent(slot) + L.RESULT_HEAD
        self.tail = self.words[self.tail_at]
        """The word of that name; nobody else writes it while this agent lives."""
        self.safe_until = 0
        """Records that end here or before meet neither the reader nor the end of the ring; before `write` has found out
        it is 0. Until then the byte of the segment where a record starts is the tail and `shift`."""
        self.shift = 0
        self.largest = self.size // 4
        self._slot = slot
        self.wait_for_room = wait_for_room

    @cached_property
    def blocks(self) -> ResultBlocks:
        """Where large payloads go. Made with the first: few agents need it, and all have to start."""
        return ResultBlocks(self.segment, self._slot)

    @property
    def is_warm(self) -> bool:
        """See `ResultBlocks`."""
        return "blocks" in self.__dict__ and self.blocks.is_warm

    def make_write_small(self) -> Callable[[int, int, int], None]:
        """Commit an INT or VOID: `write` as one closure, since it is paid for every task."""
        words, data, tail_at = self.words, self.data, self.tail_at
        order = None if STORES_ARE_ORDERED else self.locks.order

        def write_small(chunk: int, kind: int, value: int) -> None:
            tail = self.tail
            end = tail + 24
            if end > self.safe_until:
                self.write(chunk, kind, b"", value)
                return
            _pack(data, tail + self.shift, chunk, kind, value)
            if order:
                order()
            words[tail_at] = self.tail = end

        return write_small

    def make_write_value(self) -> Callable[[int, bytes], None]:
        """The same of a VALUE that is pickled; raises OSError as `write` does."""
        words, data, tail_at = self.words, self.data, self.tail_at
        order = None if STORES_ARE_ORDERED else self.locks.order

        def write_value(chunk: int, payload: bytes) -> None:
            tail, size = self.tail, len(payload)
            end = tail + 24 + ((size + 7) & -8)
            if end > self.safe_until or size > self.largest:
                self.write(chunk, VALUE, payload)
                return
            at = tail + self.shift
            _pack(data, at, chunk, VALUE, size)
            data[at + 24 : at + 24 + size] = payload
            if order:
                order()
            words[tail_at] = self.tail = end

        return write_value

    def write(self, chunk: int, kind: int, payload: bytes = b"", value: int = 0) -> None:
        """Commit one result. `value` stands in the size field for INT. Waits while the ring is full."""
        size = len(payload)
        if size > self.largest:
            kind, payload = self._store(kind, payload)
            size = len(payload)
        need = 24 + ((size + 7) & -8)
        while True:
            at = self.tail % self.size
            rest = self.size - at
            pad = rest if rest < need else 0
            head = self.words[self.head_at]
            if self.tail + pad + need - head <= self.size:
                break
            self.wait_for_room(head)
        if pad:
            if pad >= 24:
                _pack(self.data, self.base + at, SKIP, 0, 0)
            self.tail += pad
            at = 0
        at += self.base
        _pack(self.data, at, chunk, kind, size or value)
        if size:
            self.data[at + 24 : at + 24 + size] = payload
        self.locks.order()
        self.tail += need
        self.words[self.tail_at] = self.tail
        at = self.tail % self.size
        self.shift = self.base + at - self.tail
        free = self.size - (self.tail - self.words[self.head_at])
        self.safe_until = self.tail + min(self.size - at, free)

    def _store(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        """Put a large payload in a block of its own; raises OSError when there is no memory for it."""
        self._wait_for_blocks(len(payload))
        offset = self.blocks.put([payload])
        return _STORED[kind], _BLOCK.pack(offset, len(payload))

    def write_apart(self, chunk: int, payload: bytes, buffers: list[memoryview]) -> None:
        """Commit a value whose buffers are not in its pickle; raises OSError when there is no memory for them."""
        sizes = b"".join([_SIZE.pack(2 * buffer.nbytes + buffer.readonly) for buffer in buffers])
        parts = [sizes, payload, *buffers]
        size = self.blocks.size_of(parts)
        self._wait_for_blocks(size)
        offset = self.blocks.put(parts)
        self.write(chunk, STORED_APART, _APART.pack(offset, size, len(payload), len(buffers)))

    def _wait_for_blocks(self, size: int) -> None:
        """Let the parent read what lies there before yet more is added, as for room in the ring."""
        blocks = self.blocks
        while True:
            head = self.words[self.head_at]  # before we look at what was freed: the parent moves it afterwards
            blocks.see_freed()
            if not blocks.bytes_out or blocks.bytes_out + size <= OUT_BYTES:
                return
            self.wait_for_room(head)


class ResultReader:
    """Parent side."""

    def __init__(self, segment: Segment, slot: int, locks: Locks) -> None:
        layout = segment.layout
        self.segment, self.locks = segment, locks
        self.words, self.data = segment.words, segment.data
        self.base = layout.ring(slot)
        self.size = layout.geometry.ring_bytes
        self.tail_at = layout.agent(slot) + L.RESULT_TAIL
        self.head_at = layout.agent(slot) + L.RESULT_HEAD
        self.freed_at = layout.agent(slot) + L.BLOCKS_FREED
        self.blocks_base = segment.blocks_base(slot + 1)

    def drain(self) -> Iterator[tuple[int, int, Any]]:
        """All committed records: `(chunk, kind, payload)`; for INT the payload is the value itself, for VOID 0.

        The ring has room again once the last one has been asked for. Records without a payload, which most are where
        speed matters, are unpacked in runs: tuples that live for one step only do not call the garbage collector.
        """
        words, data, size, base = self.words, self.data, self.size, self.base
        head, tail = words[self.head_at], words[self.tail_at]
        if head == tail:
            return
        self.locks.order()
        while head < tail:
            at = head % size
            stop = min(size, at + tail - head)
            head += stop - at
            while stop - at >= 24:  # fewer are left over at the end of the ring
                chunk, kind, n = _unpack(data, base + at)
                if n and kind != INT:
                    at += 24
                    yield chunk, kind, bytes(data[base + at : base + at + n])
                    at += (n + 7) & -8
                    continue
                for record in _iter_unpack(data[base + at : base + stop - (stop - at) % 24]):
                    chunk, kind, n = record
                    if n and kind != INT:
                        break
                    if chunk == SKIP:
                        at = stop
                        break
                    yield record
                    at += 24
        words[self.head_at] = head

    def fetch(self, payload: bytes) -> bytearray:
        """The bytes of a stored result, whose block is freed."""
        offset, size = _BLOCK.unpack(payload)
        try:
            return self.segment.read_block(offset, size)
        finally:
            self._free(offset, size)

    def fetch_apart(self, payload: bytes) -> tuple[bytearray, list[bytearray | bytes]]:
        """Pickle and buffers of a value that was stored so, in memory of this process; its block is freed."""
        offset, size, pickle_size, count = _APART.unpack(payload)
        read, at = self.segment.read_block, offset
        try:
            sizes = _SIZE.iter_unpack(read(at, 8 * count))
            at += aligned(8 * count)
            pickled = read(at, pickle_size)
            at += aligned(pickle_size)
            buffers: list[bytearray | bytes] = []
            for (word,) in sizes:
                buffer = read(at, word >> 1)
                at += aligned(word >> 1)
                # As they would come out of the pickle: `bytes` where nobody may write.
                buffers.append(bytes(buffer) if word & 1 else buffer)
            return pickled, buffers
        finally:
            self._free(offset, size)

    def _free(self, offset: int, size: int) -> None:
        """The agent may use the block's place again. The memory of the first ones stays, see `ResultBlocks`."""
        if offset >= self.blocks_base + WARM_BYTES:
            self.segment.punch(offset, Blocks.span(size))
        self.words[self.freed_at] = self.words[self.freed_at] + 1
