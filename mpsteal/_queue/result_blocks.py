"""Where an agent puts results that are too large for its ring. Agent side; the parent reads and frees in order.

    agent's blocks:  [ WARM_BYTES, used as a ring: their memory stays ][ everything that finds no room there ... ]

Records are read in the order they were committed, so `BLOCKS_FREED`, a count, says which blocks are free. The parent
gives back the memory of those beyond the first part; the first part's stays until the agent has been idle for a while,
since a block that finds its pages there is written three times as fast.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Any

from . import layout as L
from .arena import Blocks, Segment

WARM_BYTES = 32 << 20
"""Memory that an agent keeps for its large results while it works. Too small: they pay for new pages (8 MiB in 3.0 ms
rather than 0.9); too big: memory is held that others could use."""

OUT_BYTES = 256 << 20
"""Bytes of results that an agent lays down before it waits for the parent to read them (one larger than that may lie
alone). Too small: it waits; too big: memory, when it is faster than the parent."""

COOL_MS = 1000
"""How long an agent is parked before it gives the memory of its blocks back (ms): shorter pays for new pages after each
rest, longer holds memory that others could use."""


def aligned(size: int) -> int:
    """Room that a part of a block takes: parts start at multiples of 64, as processors copy best."""
    return (size + 63) & -64


class ResultBlocks:
    """Allocator over one agent's file offsets: first in, first out.

    Attributes:
        bytes_out: what is there, and not freed by the parent.
        is_warm: whether there may be memory to give back.
    """

    def __init__(self, segment: Segment, slot: int) -> None:
        self.segment = segment
        self.base = segment.blocks_base(slot + 1)
        self._words, self._freed_at = segment.words, segment.layout.agent(slot) + L.BLOCKS_FREED
        self._freed = self._words[self._freed_at]
        self._near: deque[tuple[int, int]] = deque()
        self._far: deque[tuple[int, int]] = deque()
        self._order: deque[deque[tuple[int, int]]] = deque()
        self.bytes_out = self._used = 0

    @property
    def is_warm(self) -> bool:
        """See above."""
        return self._used > 0

    def see_freed(self) -> None:
        """Take note of what the parent has freed."""
        freed = self._words[self._freed_at]
        while self._freed < freed:
            _, span = self._order.popleft().popleft()
            self.bytes_out -= span
            self._freed += 1

    @staticmethod
    def size_of(parts: list[Any]) -> int:
        """Bytes that these parts take together."""
        return sum([aligned(memoryview(part).nbytes) for part in parts])

    def put(self, parts: list[Any]) -> int:
        """Write a block of these parts; returns its offset. Raises OSError when there is no room."""
        self.see_freed()
        span = Blocks.span(self.size_of(parts))
        at = self._find(span)
        here = self._near if at is not None else self._far
        if at is None:
            at = sum(self._far[-1]) if self._far else WARM_BYTES
            if at + span > self.segment.block_span:
                raise OSError(errno.ENOSPC, "too many blocks in flight")
        else:
            self._used = max(self._used, at + span)
        offset = to = self.base + at
        try:
            for part in parts:
                self.segment.write_block(to, part)
                to += aligned(memoryview(part).nbytes)
        except OSError:
            self.segment.punch(offset, span)
            raise
        here.append((at, span))
        self._order.append(here)
        self.bytes_out += span
        return offset

    def _find(self, span: int) -> int | None:
        """A place in the warm part; None: there is none."""
        if not self._near:
            return 0 if span <= WARM_BYTES else None
        oldest, newest_end = self._near[0][0], sum(self._near[-1])
        if newest_end > oldest:
            if newest_end + span <= WARM_BYTES:
                return newest_end
            return 0 if span <= oldest else None
        return newest_end if newest_end + span <= oldest else None

    def cool(self) -> None:
        """Give the memory of the warm part back, if nothing is there."""
        self.see_freed()
        if not self._near:
            self.segment.punch(self.base, self._used)
            self._used = 0
