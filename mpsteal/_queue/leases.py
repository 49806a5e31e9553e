"""Leases: who reads the parent's blocks in place, and so when their memory may be used again (D8).

    parent                                          agent
 1  write the block, then the chunk that names it   start the chunk
 2                                                  map the block, copy-on-write
 3                                                  write its offset into the table, order
 4                                                  LOADED := chunk; run; commit the result
 5  collect: the chunk is done with its blocks      the last object that reads the mapping dies: clear the entry,
 6  offset in no table: free the block              LEASES_ENDED + 1
 7  else look again when LEASES_ENDED has moved

A task may keep its argument, in a global say. A private mapping shows what is written to the file later, page by page,
until the page is written through the mapping; so the memory of a block is neither used again nor given back while
anybody maps it. The lease is the mapping itself: everything that reads it keeps it alive, and a weak reference tells of
its end. Each entry has one writer, the agent; after its death the parent.

A child that a task forks has the mapping too, and nobody would know of it. So what is on lease becomes the agent's own
memory before a fork (`MADV_POPULATE_WRITE`, as if each page were written), and leases end there. What is mapped for
reading alone (a shared object) cannot; it is pinned: the lowest bit of the entry says that the block must not be used
again as long as the pool lives.

An agent that has left its slot may go on for a while (threads, `atexit`); its leases go by its process number then, and
its table belongs to the next one.
"""

from __future__ import annotations

import errno
import mmap
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from . import layout as L
from .arena import Blocks, Segment
from .locks import Locks
from .result_blocks import COOL_MS

MAP_FROM = 1 << 18
"""Buffers of so many bytes are read in place, smaller ones are copied. Too small: a mapping costs 10 us and a
descriptor, more than the copy; too big: copies, whose memory has to be found (0.2 ms per MiB, 0.8 where it is new)."""

WARM_BYTES = 32 << 20
"""Memory of freed blocks that the parent keeps for the next ones while there is work. Too small: large arguments find
no memory and pay for new pages (8 MiB in 3.0 ms rather than 0.9); too big: memory is held that others could use."""

PINNED = 1

MADV_POPULATE_WRITE = 23
"""From linux/mman.h, Linux 5.14."""

_WORD = struct.Struct("q")


class Leases:
    """Agent side: maps blocks, and tells when nobody reads them any more."""

    def __init__(self, segment: Segment, slot: int, locks: Locks, ring_parent: Callable[[], None]) -> None:
        self._segment, self._words, self._locks, self._ring = segment, segment.words, locks, ring_parent
        at = segment.layout.leases(slot)
        self._unused = range(at, at + segment.layout.geometry.leases)
        self._free: list[int] = []
        self._live: dict[int, tuple[weakref.ref[mmap.mmap], bool]] = {}
        self._ended_at = segment.layout.agent(slot) + L.LEASES_ENDED
        self._parked_at = segment.layout.agent(slot) + L.PARKED
        # The garbage collector may end one lease while another is being written down, in the same thread.
        self._lock = threading.RLock()
        self._is_over = False

    def map(self, offset: int, size: int, *, writable: bool = True) -> mmap.mmap | None:
        """A mapping of a block, on lease; copy-on-write, or for reading alone. None: it has to be copied."""
        with self._lock:
            self._free.extend(self._unused)  # not before it is needed: few agents need it, and all have to start
            self._unused = range(0)
            if not self._free or self._is_over:
                return None
            access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
            options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            try:
                window = mmap.mmap(self._segment.fd, size, access=access, offset=offset, **options)
            except (OSError, ValueError, MemoryError):  # no descriptor, no address space
                return None
            word = self._free.pop()
            self._live[word] = (weakref.ref(window, partial(self._end, word)), writable)
            self._words[word] = offset
        self._locks.order()  # who learns that the chunk was read, or is done, sees the lease
        return window

    def _end(self, word: int, _: object = None) -> None:
        with self._lock:
            if self._is_over or self._live.pop(word, None) is None or self._words[word] & PINNED:
                return
            self._words[word] = 0
            self._locks.order()
            self._words[self._ended_at] += 1
            self._free.append(word)
        if self._words[self._parked_at]:  # a thread of the task's own has dropped it: nobody else would tell
            self._ring()

    def own(self) -> None:
        """A fork is about to be made: have what is on lease be memory of this process, or pin it."""
        with self._lock:
            for word, (ref, writable) in list(self._live.items()):
                window = ref()
                if window is None:
                    continue
                if writable and _populate(window):
                    self._end(word)
                elif not self._is_over:
                    self._words[word] |= PINNED
        self._locks.order()

    def stop(self) -> None:
        """Write nothing any more: this is a fork of the agent, or the agent leaves and its table goes to the next."""
        self._is_over = True

    def stop_in_fork(self) -> None:
        """The same in a child, where another thread may have held the lock."""
        self._lock = threading.RLock()
        self._is_over = True


def _populate(window: mmap.mmap) -> bool:
    """Make every page of a copy-on-write mapping this process's own; False when there is no memory for it."""
    try:
        window.madvise(MADV_POPULATE_WRITE)
    except (OSError, AttributeError) as error:
        if getattr(error, "errno", errno.EINVAL) != errno.EINVAL:
            return False
        for at in range(0, len(window), mmap.PAGESIZE):
            window[at] = window[at]
    return True


class LentBlocks(Blocks):
    """Parent side: the blocks of arguments, some of which agents read in place."""

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment, 0, WARM_BYTES)
        self.lent: dict[int, int] = {}
        """Blocks that are done with, but for agents that still read them: offset to size."""
        self._pinned: set[int] = set()
        self._lingering: dict[int, set[int]] = {}
        self._seen = 0
        self._cool_at = 0.0

    def turn(self, now: float, *, is_idle: bool) -> None:
        """Give the memory of freed blocks back when there has been no work for a while (monotonic clock, s)."""
        if not self.warm or not is_idle:
            self._cool_at = 0.0
        elif not self._cool_at:
            self._cool_at = now + COOL_MS / 1000
        elif now >= self._cool_at:
            self.cool()
            self._cool_at = 0.0

    def due(self) -> list[float]:
        """When `turn` has something to do."""
        return [self._cool_at] if self._cool_at else []

    def free(self, offset: int, size: int, luggage: Any = None) -> None:
        """A chunk is done with the block of its payload (size 0: it has none) and with its luggage."""
        if size:
            super().free(offset, size)
        if luggage is not None:
            for at, length in luggage.blocks:
                if length < MAP_FROM:
                    super().free(at, length)
                else:
                    self.give_back(at, length)

    def give_back(self, offset: int, size: int) -> bool:
        """Free a block as soon as nobody reads it; whether that is now."""
        if self.is_lent(offset):
            self.lent[offset] = size
            return False
        super().free(offset, size)
        return True

    def is_lent(self, offset: int) -> bool:
        """Whether anybody reads this block in place."""
        if offset in self._pinned or any(offset in held for held in self._lingering.values()):
            return True
        layout = self.segment.layout
        tables = bytes(self.segment.data[8 * layout.leases_word : 8 * layout.slots_word])
        return _has_word(tables, offset) or _has_word(tables, offset | PINNED)

    def sweep(self) -> None:
        """Free what nobody reads any more. Costs a word per agent when no lease has ended."""
        if not self.lent:
            return
        layout, words = self.segment.layout, self.segment.words
        ended = sum([words[layout.agent(slot) + L.LEASES_ENDED] for slot in range(layout.geometry.slots)])
        if ended != self._seen:
            self._seen = ended
            self._sweep()

    def _sweep(self) -> None:
        for offset in [offset for offset in self.lent if not self.is_lent(offset)]:
            super().free(offset, self.lent.pop(offset))

    def settle(self, slot: int, lingerer: int | None) -> None:
        """The agent of a slot has died, or has left it and goes on as process `lingerer`."""
        layout, words = self.segment.layout, self.segment.words
        at = layout.leases(slot)
        held = [word for word in words[at : at + layout.geometry.leases] if word]
        if not held:
            return
        self._pinned.update(word & ~PINNED for word in held if word & PINNED)
        if lingerer is not None:
            self._lingering[lingerer] = {word for word in held if not word & PINNED}
        for word in range(at, at + layout.geometry.leases):
            words[word] = 0
        self._sweep()

    def lingered(self, pid: int) -> None:
        """A process that had left its slot has ended."""
        if self._lingering.pop(pid, None):
            self._sweep()


def _has_word(table: bytes, word: int) -> bool:
    wanted = _WORD.pack(word)
    at = table.find(wanted)
    while at >= 0 and at % _WORD.size:
        at = table.find(wanted, at + 1)
    return at >= 0
