"""Shared objects: one copy in shared memory, for all agents to read in place.

    parent                              the handle travels                agent
    pool.share(value) --> one block  -- by its place, in any pickle -->   maps the block for reading, on lease
                                                                          handle.value: unpickled once, kept

    block:  id | size of the pickle | n | 2 * size + read-only of each buffer | pickle | buffer | ...

All words are int64, the pickle and each buffer start at multiples of 64. The id is random, and is overwritten with 0
before the block is used for anything else; who has mapped the block looks at it once more after a fence, so either it
sees the 0 or the parent sees the lease (`_queue/README.md`, "Shared objects").

Whoever is no agent of the pool (the parent, its forks, agents of other pools) reads a copy of its own, through
/proc where it has not the descriptor.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import weakref
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeVar

from .._queue.result_blocks import aligned
from . import here
from .buffers import Ticket

T = TypeVar("T")

_HEAD, _WORD = Struct("3q"), Struct("q")


class Place(NamedTuple):
    """Where a shared object lies.

    Attributes:
        owner: number of the process that shared it.
        fd: its descriptor of the segment; `device` and `inode` say which file that has to be.
        offset, size: of the block.
        id: the block's first word as long as it is there.
    """

    owner: int
    fd: int
    device: int
    inode: int
    offset: int
    size: int
    id: int


class Shared(Generic[T]):
    """A handle of an object in shared memory, made by `share` of a pool, an executor or a scheduler.

    It may be sent to agents as an argument, inside other objects, in a `functools.partial`, to any number of tasks:
    only its place is pickled. The memory is freed when the last handle in the process that made it is gone, all tasks
    that carry one are over (those that tasks submit do not count), and no agent reads the object any more.

    Attributes:
        nbytes: how much memory it takes.
    """

    __slots__ = ("__weakref__", "_is_read", "_place", "_value", "_window")

    def __init__(self, place: Place) -> None:
        self._place = place
        self._window: mmap.mmap | None = None
        self._is_read = False
        self._value: Any = None

    @property
    def nbytes(self) -> int:
        """How much memory it takes (bytes)."""
        return self._place.size

    @property
    def value(self) -> T:
        """The object, unpickled when it is first asked for.

        In an agent of the pool its large buffers (arrays) are read in place, and nobody can write them. In any other
        process, the one that shared it included, it is a copy, for this process alone.

        Raises:
            SharedObjectError: it has been freed, or its pool has ended.
        """
        if not self._is_read:
            self._value = self._read()
            self._is_read = True
        return self._value  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<mpsteal.Shared {self.nbytes} bytes>"

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, memo: Any) -> Shared[T]:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5 and _made.get(self._place.id) is self and self._place.owner == os.getpid():
            ticket = Ticket()
            ticket.keeps = self
            return _received, (*self._place, pickle.PickleBuffer(ticket))
        return _received, tuple(self._place)

    def map(self) -> None:
        """In an agent of its pool: map it, so that it stays as long as this handle does."""
        agent, place = here.running, self._place
        if agent is None or self._window is not None or not _is_file(agent.segment.fd, place):
            return
        window = agent.leases.map(place.offset, place.size, writable=False)
        if window is None:
            return
        agent.locks.fence()
        if _WORD.unpack_from(window)[0] == place.id:
            self._window = window
            kept[place.id] = self

    def _read(self) -> Any:
        self.map()
        return _load(memoryview(self._window or _copy_of(self._place)).toreadonly())

    def is_there(self) -> bool:
        """Whether the parent has not freed it; of one that is mapped."""
        return self._window is None or _WORD.unpack_from(self._window)[0] == self._place.id


_made: weakref.WeakValueDictionary[int, Shared[Any]] = weakref.WeakValueDictionary()
"""What this process has shared, by id."""

kept: dict[int, Shared[Any]] = {}
"""What this agent has mapped, by id: until the parent frees it, so that the next task need not unpickle it again."""


def forget_freed() -> bool:
    """Let go of what the parent has freed; whether there was any."""
    freed = [number for number, one in kept.items() if not one.is_there()]
    for number in freed:
        del kept[number]
    return bool(freed)


def _received(*parts: Any) -> Shared[Any]:
    """A handle has arrived."""
    place = Place(*parts[:7])
    if place.owner == os.getpid():
        return _made.get(place.id) or Shared(place)
    known = kept.get(place.id)
    if known is not None:
        return known
    handle: Shared[Any] = Shared(place)
    handle.map()
    return handle


def parts_of(pickled: bytes, buffers: list[memoryview]) -> tuple[int, list[Any]]:
    """What the block of a shared object consists of: its id, and the parts, each to start at a multiple of 64."""
    number = int.from_bytes(os.urandom(8), sys.byteorder) >> 2 | 1
    sizes = [_WORD.pack(2 * buffer.nbytes + buffer.readonly) for buffer in buffers]
    return number, [_HEAD.pack(number, len(pickled), len(buffers)) + b"".join(sizes), pickled, *buffers]


def made(place: Place) -> Shared[Any]:
    """The handle of what this process has just shared."""
    handle: Shared[Any] = Shared(place)
    _made[place.id] = handle
    return handle


def _load(view: memoryview) -> Any:
    """The object in a block."""
    _, size, count = _HEAD.unpack_from(view)
    end = _HEAD.size + count * _WORD.size
    at = aligned(end)
    pickled = view[at : at + size]
    at += aligned(size)
    buffers = []
    for (word,) in _WORD.iter_unpack(view[_HEAD.size : end]):
        buffers.append(view[at : at + (word >> 1)].toreadonly())
        at += aligned(word >> 1)
    return pickle.loads(pickled, buffers=buffers)


def _is_file(fd: int, place: Place) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (place.device, place.inode)


def _copy_of(place: Place) -> bytearray:
    """The block, read into memory of this process's own."""
    agent = here.running
    for fd in [place.fd] if agent is None else [place.fd, agent.segment.fd]:
        if _is_file(fd, place):  # the owner, or a fork of it
            return _read_block(fd, place)
    try:
        fd = os.open(f"/proc/{place.owner}/fd/{place.fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise _gone(
            f"process {place.owner}, which shared it, has ended, or its pool, or is not to be reached"
        ) from None
    try:
        if not _is_file(fd, place):
            raise _gone("its pool has ended")
        return _read_block(fd, place)
    finally:
        os.close(fd)


def _read_block(fd: int, place: Place) -> bytearray:
    block = bytearray(place.size)
    view, done = memoryview(block), 0
    while done < place.size:
        got = os.preadv(fd, [view[done:]], place.offset + done)
        if not got:
            break
        done += got
    # It may have been freed, and its memory used again, while it was read; before that, the id goes.
    if done < place.size or os.pread(fd, 8, place.offset) != _WORD.pack(place.id) or block[:8] != _WORD.pack(place.id):
        raise _gone("it was freed, since no handle of it was left")
    return block


def _gone(why: str) -> Exception:
    from ..errors import SharedObjectError  # here: agents need it seldom, and it takes long to import

    return SharedObjectError(f"a shared object is not there any more: {why}")
