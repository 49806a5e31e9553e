"""Buffers that travel beside a pickle rather than in it (pickle protocol 5), both ways.

    call    parent: pickle + where its buffers are --> slab      agent: pickle.loads(..., buffers = mappings of blocks)
                    each buffer --> a block of its own
    result  agent:  [ n, sizes | pickle | buffer | buffer ... ] --> one block
            parent: reads each buffer into memory of its own, pickle.loads(..., buffers = those)

An argument's buffers are mapped where they lie (`_queue/leases.py`). A result's are copied once more by the parent:
what it holds must outlive the pool, and forked children of the parent, whom no lease could follow.

Where a call has buffers apart, its payload ends with a table:

    pickle | offset, 2 * size + read-only | ... | n        (int64 each, n pairs)
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from struct import Struct
from typing import Any

from .._queue.arena import Segment
from .._queue.leases import MAP_FROM, Leases

APART_BYTES = 1 << 16
"""From here on a buffer travels apart from its pickle (bytes). Smaller: each costs two system calls and its words (10
us), more than to copy it; bigger: it is copied three times more."""

_PAIR, _COUNT = Struct("2q"), Struct("q")


class Ticket(bytearray):
    """What stands for something in a pickle that must not go while the pickle is under way.

    A `PickleBuffer` of it tells the encoder of it; the pickle itself has its bytes, of which nobody makes anything.
    """

    keeps: Any


def table_of(blocks: Sequence[tuple[int, int]], views: Sequence[memoryview]) -> bytes:
    """The end of a payload whose buffers lie in these blocks."""
    pairs = [_PAIR.pack(at, 2 * size + view.readonly) for (at, size), view in zip(blocks, views, strict=True)]
    return b"".join(pairs) + _COUNT.pack(len(pairs))


def load_call(payload: Any, segment: Segment, leases: Leases | None = None) -> Any:
    """Agent: what was pickled with its buffers apart. Those that are large are read in place, on lease.

    Without `leases` they are copied: a function, which agents keep for longer than its job lasts.
    """
    view = memoryview(payload)
    end = len(view) - _COUNT.size
    (count,) = _COUNT.unpack(view[end:])
    buffers: list[Any] = []
    for offset, size in _PAIR.iter_unpack(view[end - count * _PAIR.size : end]):
        is_readonly, size = size & 1, size >> 1
        window = leases.map(offset, size) if leases is not None and size >= MAP_FROM else None
        if window is not None:
            buffers.append(memoryview(window))
        else:
            copy = segment.read_block(offset, size)
            buffers.append(bytes(copy) if is_readonly else copy)
    return pickle.loads(view, buffers=buffers)
