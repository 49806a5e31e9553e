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
from struct import Struct
from typing import Any

from . import layout as L
from .arena import Blocks, Segment
from .locks import STORES_ARE_ORDERED, Locks

VALUE, ERROR, INT, VOID, STORED_VALUE, STORED_ERROR = range(6)
"""Kinds: a pickled value, a pickled error, a small int, None, and value or error in a block (payload: offset, size)."""

SKIP = -3
INIT_ERROR = -4  # chunk number of the record that carries an initializer's exception

_RECORD = Struct("3q")
_BLOCK = Struct("2q")
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
        self.freed_at = layout.agent(slot) + L.BLOCKS_FREED
        self.tail = self.words[self.tail_at]
        self.safe_until = 0
        self.largest = self.size // 4
        self.blocks = Blocks(segment, slot + 1)
        self.blocks_made = self.words[self.freed_at]
        self.wait_for_room = wait_for_room

    def make_write_small(self) -> Callable[[int, int, int], None]:
        """Commit an INT or VOID: `write` as one closure, since it is paid for every task."""
        words, data, base, size, tail_at = self.words, self.data, self.base, self.size, self.tail_at
        order = None if STORES_ARE_ORDERED else self.locks.order

        def write_small(chunk: int, kind: int, value: int) -> None:
            tail = words[tail_at]
            if tail >= self.safe_until:
                self.write(chunk, kind, b"", value)
                return
            _pack(data, base + tail % size, chunk, kind, value)
            if order:
                order()
            words[tail_at] = tail + 24

        return write_small

    def write(self, chunk: int, kind: int, payload: bytes = b"", value: int = 0) -> None:
        """Commit one result. `value` stands in the size field for INT. Waits while the ring is full."""
        self.tail = self.words[self.tail_at]
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
        # Up to here records of 24 bytes neither meet the reader nor the end of the ring.
        rest = self.size - self.tail % self.size
        free = self.size - (self.tail - self.words[self.head_at])
        self.safe_until = self.tail + min(rest, free) - 23

    def _store(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        """Put a large payload in a block of its own; raises OSError when there is no memory for it."""
        if self.words[self.freed_at] == self.blocks_made:
            self.blocks.at = self.blocks.base
        offset = self.blocks.put(payload)
        self.blocks_made += 1
        return (STORED_VALUE if kind == VALUE else STORED_ERROR), _BLOCK.pack(offset, len(payload))


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
            self.segment.punch(offset, Blocks.span(size))
            self.words[self.freed_at] = self.words[self.freed_at] + 1
