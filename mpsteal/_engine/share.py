"""Sharing objects: the parent's side of `_agent/shared.py`.

    any thread:    pickle --> take a place (engine thread) --> write the block --> handle
    any thread:    the last handle dies --> its place in `Shares.dropped`, wake the engine
    engine thread: overwrite the id, fence, ring who has it on lease --> free it, now or when the leases have ended

A chunk that carries a handle keeps it (`Luggage.keeps`) until it is finished.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from .._agent import by_value
from .._agent.buffers import Ticket
from .._agent.serialize import Encoder
from .._agent.shared import Place, Shared, made, parts_of
from .._queue.result_blocks import aligned
from ..errors import PoolTerminatedError

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .loop import Engine


class Shares:
    """What this pool has shared. Engine thread only, but for `dropped`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.dropped: deque[tuple[int, int]] = deque()
        """Blocks (offset, size) whose last handle is gone; any thread appends."""

    def free(self) -> None:
        """Free what was dropped, and tell agents that keep it."""
        dispatcher = self._dispatcher
        blocks, locks = dispatcher.blocks, dispatcher.locks
        is_kept = False
        while self.dropped:
            offset, size = self.dropped.popleft()
            with contextlib.suppress(OSError):  # written before, so it is there, unless the file system fails
                dispatcher.segment.write_block(offset, bytes(8))
            locks.fence()
            is_kept = not blocks.give_back(offset, size) or is_kept
        if is_kept:
            for slot in dispatcher.slots:
                dispatcher.ring(slot)


def share(engine: Engine, value: Any) -> Shared[Any]:
    """Put an object into the segment of this engine; see `Pool.share`."""
    try:
        pickled, aside = Encoder().dumps_apart(value)
    except by_value.REFUSALS as error:
        told = by_value.explain(error)
        if told is error:
            raise
        raise told from error
    number, parts = parts_of(pickled, [one for one in aside if type(one) is memoryview])
    inner = [one.keeps for one in aside if type(one) is Ticket]  # handles within it live as long as this one
    size = sum([aligned(memoryview(part).nbytes) for part in parts])
    blocks, segment = engine.dispatcher.blocks, engine.segment

    def take() -> tuple[int, int]:
        # A descriptor of our own: the engine may end, and close its, while the block is being written.
        return os.dup(segment.fd), blocks.take(size)

    def give_back() -> None:
        with contextlib.suppress(PoolTerminatedError):
            engine.call(lambda: blocks.drop(offset, size))

    fd, offset = engine.call(take)
    try:
        at = offset
        for part in parts:
            _write(fd, at, part)
            at += aligned(memoryview(part).nbytes)
        found = os.fstat(fd)
    except OSError as error:
        give_back()
        raise MemoryError(f"no shared memory for an object of {size} bytes: {error}") from None
    except BaseException:
        give_back()
        raise
    finally:
        os.close(fd)
    handle = made(Place(os.getpid(), segment.fd, found.st_dev, found.st_ino, offset, size, number))
    dropped = engine.dispatcher.shares.dropped
    weakref.finalize(handle, _drop, weakref.ref(engine), dropped, (offset, size), inner).atexit = False
    return handle


def _write(fd: int, offset: int, data: Any) -> None:
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + (1 << 30)], offset + done)


def _drop(engine: weakref.ref[Engine], dropped: deque[tuple[int, int]], block: tuple[int, int], _inner: Any) -> None:
    """The last handle is gone; in any thread, or in a fork, whose copy it was."""
    alive = engine()
    if alive is not None and alive.owner_pid == os.getpid():
        dropped.append(block)
        alive.poke()
