"""The reply ring of an agent: one writer (the parent), one reader (the agent); the mirror of its result ring.

What tasks have submitted comes to agents by it: calls to run, and what became of a task's own calls. A record is padded
to 8 bytes and never wraps:

    byte  0   kind   int64   see below; SKIP: the rest up to the end of the ring is unused
          8   key    int64   number of the child, or ticket of the call
         16   size   int64   bytes of payload
         24   payload        in a block where it is large: offset, size

`REPLY_TAIL` (parent) and `REPLY_HEAD` (agent) count bytes and never wrap. The parent never waits for room: what finds
none it keeps. A block is the parent's, and is given back once the head has passed its record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from struct import Struct
from typing import Any

from . import layout as L
from .arena import Blocks, Segment
from .locks import Locks

# Kinds: a child to run; of a call its pickled value, its error, an error of the pool's own, whether it was withdrawn.
RUN, VALUE, ERROR, OURS, WITHDRAWN = range(1, 6)
SKIP, STORED = 0, 8  # STORED is added to a kind whose payload lies in a block

RUN_HEADER = Struct("4q")
"""Before the bytes of a call: kind of call, depth, slot of the agent that waits for it (-1: none), its ticket there."""

_RECORD = Struct("3q")
_BLOCK = Struct("2q")


class ReplyWriter:
    """Parent's side."""

    def __init__(self, segment: Segment, slot: int, locks: Locks, blocks: Blocks) -> None:
        layout = segment.layout
        self._words, self._data, self._locks, self._blocks = segment.words, segment.data, locks, blocks
        self._base, self._size = layout.replies(slot), layout.geometry.reply_bytes
        self._tail_at = layout.agent(slot) + L.REPLY_TAIL
        self._head_at = layout.agent(slot) + L.REPLY_HEAD
        self._in_blocks: deque[tuple[int, int, int]] = deque()
        """`(tail behind its record, offset, size)` of blocks that the agent may still have to read."""

    def put(self, kind: int, key: int, payload: Any) -> bool:
        """Append a record; False if there is no room for it. Raises OSError when there is no memory for its block."""
        self.give_back_read()
        words, size = self._words, len(payload)
        is_large = size > self._size // 4
        need = 24 + ((_BLOCK.size if is_large else size) + 7 & -8)
        tail = words[self._tail_at]
        at = tail % self._size
        rest = self._size - at
        pad = rest if rest < need else 0
        if tail + pad + need - words[self._head_at] > self._size:
            return False
        if is_large:
            offset = self._blocks.put(payload)
            self._in_blocks.append((tail + pad + need, offset, size))
            kind, payload, size = kind + STORED, _BLOCK.pack(offset, size), _BLOCK.size
        if pad:
            if pad >= 24:
                _RECORD.pack_into(self._data, self._base + at, SKIP, 0, 0)
            at = 0
        at += self._base
        _RECORD.pack_into(self._data, at, kind, key, size)
        self._data[at + 24 : at + 24 + size] = payload
        self._locks.order()
        words[self._tail_at] = tail + pad + need
        return True

    def give_back_read(self) -> None:
        """Free the blocks of what the agent has read."""
        head = self._words[self._head_at]
        while self._in_blocks and self._in_blocks[0][0] <= head:
            _, offset, size = self._in_blocks.popleft()
            self._blocks.free(offset, size)

    def forget(self) -> None:
        """The agent is dead: drop what it has not read."""
        self._words[self._head_at] = self._words[self._tail_at]
        self.give_back_read()


class ReplyReader:
    """Agent's side."""

    def __init__(self, segment: Segment, slot: int, locks: Locks) -> None:
        layout = segment.layout
        self._segment, self._words, self._data, self._locks = segment, segment.words, segment.data, locks
        self._base, self._size = layout.replies(slot), layout.geometry.reply_bytes
        self._tail_at = layout.agent(slot) + L.REPLY_TAIL
        self._head_at = layout.agent(slot) + L.REPLY_HEAD

    def has_news(self) -> bool:
        """Whether there is a record to read."""
        return bool(self._words[self._tail_at] != self._words[self._head_at])

    def read(self) -> Iterator[tuple[int, int, Any]]:
        """The records that are there, each once: `(kind, key, payload)`."""
        words, data, size = self._words, self._data, self._size
        head, tail = words[self._head_at], words[self._tail_at]
        if head == tail:
            return
        self._locks.order()
        while head < tail:
            at = head % size
            if size - at < 24:
                head += size - at
                continue
            kind, key, length = _RECORD.unpack_from(data, self._base + at)
            if kind == SKIP:
                head += size - at
                continue
            at += self._base + 24
            payload: Any = bytes(data[at : at + length])
            if kind > STORED:
                kind -= STORED
                payload = self._segment.read_block(*_BLOCK.unpack(payload))
            head += 24 + (length + 7 & -8)
            words[self._head_at] = head
            yield kind, key, payload
        words[self._head_at] = head
