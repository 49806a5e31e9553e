"""What a chunk has in the segment beside its payload: blocks of buffers, and what must not go while it is under way."""

from __future__ import annotations

from typing import Any

from .._agent.buffers import Ticket, table_of
from .._queue.leases import LentBlocks


class Luggage:
    """A chunk's, until it is finished.

    Attributes:
        blocks: `(offset, size)` of its buffers.
        keeps: handles of shared objects that it carries.
    """

    __slots__ = ("blocks", "keeps")

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int]] = []
        self.keeps: list[Any] = []

    @property
    def size(self) -> int:
        """Bytes of buffers."""
        return sum(size for _, size in self.blocks)


def pack(blocks: LentBlocks, aside: list[Any]) -> tuple[Luggage, bytes]:
    """Write the buffers that an encoder has put aside; with them, what has to follow the pickle (nothing, if none).

    Raises OSError when there is no memory for them; then none is left.
    """
    luggage = Luggage()
    views = []
    try:
        for one in aside:
            if type(one) is Ticket:
                luggage.keeps.append(one.keeps)
            else:
                views.append(one)
                luggage.blocks.append((blocks.put(one), one.nbytes))
    except BaseException:
        blocks.free(0, 0, luggage)
        raise
    return luggage, table_of(luggage.blocks, views) if views else b""
