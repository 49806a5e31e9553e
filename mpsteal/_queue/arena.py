"""The segment and what is allocated in it: pages of chunk slots with their slabs, and blocks (D2, D7, D8).

    file:  [ mapped part: layout.py ... ][ blocks of the parent ][ blocks of agent 0 ][ blocks of agent 1 ] ...
                                          never mapped: written with pwrite, read with pread

The file has no name: `memfd_create` where the system has it (it is not bounded by the size of /dev/shm, so a stock
container's 64 MB do not matter), else a temporary file that is unlinked as soon as it is open. Blocks are reached by
pread and pwrite rather than by mapping: a full device gives ENOSPC there, and SIGBUS in a mapping.

Pages belong to the parent alone; agents only read slots and slabs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import mmap
import os
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import layout as L

BLOCK_SPAN = 1 << 36
"""Bytes of file offset per owner of blocks, in a temporary file. Offsets, not memory; an owner starts over when all its
blocks have been freed, so this bounds what may flow without such a moment (ext4 ends at 16 TiB for all owners)."""

MEMFD_BLOCK_SPAN = 1 << 52
"""The same in a memfd, which has room for it: seven weeks at 1 GB/s."""

WARM_PAGES = 8
"""Freed pages whose memory is kept for the next ones: 5 MiB at most with the default geometry, and without it every
page costs its memory being given back and faulted in again (about 0.1 ms)."""

FEWEST_PAGES = 4
"""Pages below which a pool would rather not start: fewer leave batches waiting for one another, more refuse a program
with little address space (each takes 640 KiB of it)."""

_PAGE = mmap.ALLOCATIONGRANULARITY


ROOMY_BYTES = 1 << 30
"""Free space from which on /dev/shm is preferred to the temporary directory. It is memory, and so faster, but in a
stock container it has 64 MB; a limit too low lets tasks with large arguments fail, one too high costs speed."""


MFD_NOEXEC_SEAL = 8
"""From linux/memfd.h, Linux 6.3 and later: never executable. Where `vm.memfd_noexec` is 2 there is no memfd without."""


def anonymous_file(tag: str, size: int, *, memfd: bool = True) -> int:
    """Descriptor of a sparse file of `size` bytes that no directory names (mode 0600, close on exec)."""
    for fd in anonymous_files(tag, size, memfd=memfd):
        return fd
    raise OSError(errno.ENOSPC, f"no place for a shared file of {size} bytes")


def anonymous_files(tag: str, size: int, *, memfd: bool = True) -> Iterator[int]:
    """The same in every place there is, the best first; whoever takes the next one closes the one before.

    Raises OSError when no descriptor is left: another place would not help.
    """
    if memfd and hasattr(os, "memfd_create"):
        with _next_place():
            yield _sized(_memfd(f"mpsteal-{tag}"), size)
    import tempfile  # here: a spawned agent never needs it, and it takes 2 ms to import

    for folder in sorted(("/dev/shm", tempfile.gettempdir()), key=_free_bytes, reverse=True):
        with _next_place():
            fd, name = tempfile.mkstemp(prefix="mpsteal-", dir=folder)
            os.unlink(name)
            yield _sized(fd, size)


@contextlib.contextmanager
def _next_place() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def _sized(fd: int, size: int) -> int:
    """`fd` at `size` bytes and mode 0600; closed if that cannot be."""
    try:
        os.fchmod(fd, 0o600)  # the kernel gives a memfd 0777
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _free_bytes(folder: str) -> float:
    """Free space, but a roomy /dev/shm before everything else."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return -1
    free = system.f_bavail * system.f_frsize
    return math.inf if folder == "/dev/shm" and free >= ROOMY_BYTES else free


def _path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


class Segment:
    """The mapped part, as int64 words and as bytes. Travels to spawned agents by descriptor.

    Attributes:
        words: memoryview('q') of the mapped part.
        data: memoryview('B') of the same.
    """

    def __init__(self, fd: int, layout: L.Layout) -> None:
        self.fd, self.layout = fd, layout
        self._is_memfd = os.path.basename(_path_of(fd)).startswith("memfd:")
        owners = layout.geometry.slots + 2
        self.block_span = min(MEMFD_BLOCK_SPAN, (1 << 62) // owners // _PAGE * _PAGE) if self._is_memfd else BLOCK_SPAN
        self.map = mmap.mmap(fd, layout.mapped_bytes)
        self.data = memoryview(self.map)
        self.words = self.data.cast("q")

    @classmethod
    def create(cls, geometry: L.Geometry, agents: int | None = None) -> Segment:
        """A new segment, zeroed, with the header and the agents set up.

        Where the address space is limited (`ulimit -v`) it has fewer slots than asked for, and then fewer pages.

        Args:
            agents: slots that are needed from the start; None: all. See `add_slot`.
        """
        agents = geometry.slots if agents is None else agents
        while True:
            layout = L.Layout(geometry)
            try:
                segment = cls._place(layout, agents)
                break
            except OSError as error:
                if error.errno == errno.ENOMEM and geometry.slots > agents:
                    geometry = geometry._replace(slots=agents)
                    continue
                if error.errno != errno.ENOMEM or geometry.pages < 2 * FEWEST_PAGES:
                    raise
                geometry = geometry._replace(pages=geometry.pages // 2)
        words = segment.words
        words[L.MAGIC] = L.MAGIC_VALUE
        for slot in range(agents):
            segment._set_up(slot)
        return segment

    def add_slot(self, slot: int) -> None:
        """One of those that were not needed from the start is now. Raises OSError (ENOSPC) when there is no memory."""
        self.reserve(self.layout.ring(slot), self.layout.geometry.ring_bytes)
        self.reserve(self.layout.replies(slot), self.layout.geometry.reply_bytes)
        self._set_up(slot)

    def _set_up(self, slot: int) -> None:
        base = self.layout.agent(slot)
        self.words[base + L.CLAIM] = self.words[base + L.LOADED] = L.NONE

    @classmethod
    def _place(cls, layout: L.Layout, agents: int) -> Segment:
        """A segment in the best place that can hold what every pool needs."""
        refused: OSError | None = None
        slots = layout.geometry.slots
        for fd in anonymous_files("segment", layout.mapped_bytes):
            try:
                segment = cls(fd, layout)
            except OSError:
                os.close(fd)
                raise
            try:
                os.ftruncate(fd, segment.blocks_base(slots + 2))
                segment.reserve(0, layout.slots_word * 8)
                segment.reserve(layout.rings_byte, agents * layout.geometry.ring_bytes)
                segment.reserve(layout.replies_byte, agents * layout.geometry.reply_bytes)
                segment.seal()
            except OSError as error:
                refused = error
                segment.close()
                continue
            if hasattr(os, "memfd_create") and not segment._is_memfd:
                where = os.path.dirname(_path_of(fd)) or "a temporary file"
                warnings.warn(f"mpsteal: no memfd here, tasks go through {where}", RuntimeWarning, stacklevel=2)
            return segment
        raise OSError(errno.ENOSPC, f"no space for a shared segment in memory or the temporary directory: {refused}")

    def reserve(self, offset: int, size: int) -> None:
        """Back a part with memory before anybody writes it; OSError (ENOSPC) when there is none.

        On a file system that can be full, writing to a hole of a mapping ends the writer with SIGBUS. A memfd has no
        such bound, and reserving it would only cost (0.12 ms per MiB) and hold memory that nobody uses.
        """
        if not self._is_memfd and hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(self.fd, offset, size)

    def seal(self) -> None:
        """Never shorter from now on: a mapping that reaches beyond its file's end kills whoever looks (SIGBUS), and
        every task has the descriptor."""
        if self._is_memfd:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    def blocks_base(self, owner: int) -> int:
        """First byte of an owner's blocks: 0 is the parent, 1 + slot an agent, the last one the table of functions."""
        # On a page of this system, which may be larger than 4 KiB: only whole pages can be given back.
        return -(-self.layout.mapped_bytes // _PAGE) * _PAGE + owner * self.block_span

    def punch(self, offset: int, size: int) -> None:
        """Give the memory of [offset, offset + size) back to the system; both are multiples of the page size."""
        if size <= 0 or not hasattr(mmap, "MADV_REMOVE"):
            return
        # Not every file system can; then the space is merely used again.
        with contextlib.suppress(OSError, ValueError):
            if offset + size <= self.layout.mapped_bytes:
                self.map.madvise(mmap.MADV_REMOVE, offset, size)
            else:
                with mmap.mmap(self.fd, size, offset=offset) as window:
                    window.madvise(mmap.MADV_REMOVE)

    def punch_blocks(self, owner: int) -> None:
        """Give the memory of all blocks of an owner back: it is dead, and nobody will read any of them again.

        What is there is asked of the system (`SEEK_DATA`), since nobody else knows how far it came.
        """
        at = self.blocks_base(owner)
        end = at + self.block_span
        # Not every file system can. And no data behind `at` is an error, too (ENXIO). Nobody uses the file's position.
        with contextlib.suppress(OSError, AttributeError):
            while (at := os.lseek(self.fd, at, os.SEEK_DATA)) < end:
                start, at = at // _PAGE * _PAGE, min(end, os.lseek(self.fd, at, os.SEEK_HOLE))
                self.punch(start, -(-(at - start) // _PAGE) * _PAGE)

    def read_block(self, offset: int, size: int) -> bytearray:
        """The bytes of a block."""
        out = bytearray(size)
        view, done = memoryview(out), 0
        while done < size:
            got = os.preadv(self.fd, [view[done:]], offset + done)
            if not got:
                raise OSError(errno.EIO, "a block ended early")
            done += got
        return out

    def write_block(self, offset: int, data: Any) -> None:
        """Write a block; OSError (ENOSPC) when memory is short, with nothing but its own space touched."""
        view, done = memoryview(data).cast("B"), 0
        while done < len(view):
            done += os.pwrite(self.fd, view[done : done + (1 << 30)], offset + done)

    def close(self) -> None:
        """Unmap and close. Further access raises ValueError."""
        self.words.release()
        self.data.release()
        self.map.close()
        os.close(self.fd)


class Blocks:
    """Bump allocator over one owner's file offsets; starts over when everything has been freed.

    Offsets cost nothing (the file is sparse), so nothing cleverer is needed. Memory does: a block that finds its pages
    there is written at 9 GB/s, one that does not at 2.8, and giving it back takes as long as writing it. So of what was
    freed last up to `warm_bytes` stay, for blocks of the same size.
    """

    def __init__(self, segment: Segment, owner: int, warm_bytes: int = 0) -> None:
        self.segment = segment
        self._warm_limit = warm_bytes
        self.warm: dict[int, int] = {}
        """Freed blocks that have their memory, offset to span, the last one freed last."""
        self.warm_bytes = 0
        self.base = self.at = segment.blocks_base(owner)
        self.limit = self.base + segment.block_span
        self.live_bytes = 0

    def put(self, data: Any) -> int:
        """Write `data` to a new block and return its offset. Raises OSError when there is no room."""
        size = memoryview(data).nbytes
        try:
            return self._put(data, size)
        except OSError:
            if not self.warm:
                raise
        self.cool()  # what is kept for later is needed now
        return self._put(data, size)

    def _put(self, data: Any, size: int) -> int:
        offset = self.take(size)
        try:
            self.segment.write_block(offset, data)
        except BaseException:
            self.drop(offset, size)
            raise
        return offset

    def take(self, size: int) -> int:
        """A place for a new block of `size` bytes, to be written. Raises OSError when there is none."""
        span = self.span(size)
        offset = next((at for at in reversed(self.warm) if self.warm[at] == span), None) if self.warm else None
        if offset is not None:
            del self.warm[offset]
            self.warm_bytes -= span
        elif self.at + span > self.limit:
            raise OSError(errno.ENOSPC, "too many blocks in flight")
        else:
            offset = self.at
            self.at += span
        self.live_bytes += span
        return offset

    def drop(self, offset: int, size: int) -> None:
        """Give a block back, and its memory at once."""
        span = self.span(size)
        self.segment.punch(offset, span)
        self.live_bytes -= span
        self._start_over()

    def free(self, offset: int, size: int) -> None:
        """Give a block back."""
        span = self.span(size)
        if span > self._warm_limit:
            self.drop(offset, size)
            return
        self.live_bytes -= span
        self.warm[offset] = span
        self.warm_bytes += span
        while self.warm_bytes > self._warm_limit:
            oldest = next(iter(self.warm))
            span = self.warm.pop(oldest)
            self.warm_bytes -= span
            self.segment.punch(oldest, span)

    def cool(self) -> None:
        """Give all memory back that nobody uses."""
        while self.warm:
            self.segment.punch(*self.warm.popitem())
        self.warm_bytes = 0
        self._start_over()

    def _start_over(self) -> None:
        if not self.live_bytes and not self.warm:
            self.at = self.base

    @staticmethod
    def span(size: int) -> int:
        """Bytes of offset a block of `size` bytes takes."""
        return max(1, -(-size // _PAGE)) * _PAGE


class Page:
    """Parent's side of one page: who waits for each chunk, and how many are unfinished.

    Attributes:
        first: number of its first chunk.
        sinks: per chunk who gets the result; None once it is finished.
        used: chunks numbered so far; `bytes_used` of the slab likewise.
        left: chunks numbered and not finished. The page is freed when it is closed and this is 0.
        blocks: by index in the page, what `blocks.free` of the parent's is called with when the chunk is finished.
    """

    __slots__ = ("blocks", "bytes_used", "closed", "first", "left", "sinks", "used")

    def __init__(self, first: int) -> None:
        self.first = first
        self.sinks: list[Any] = []
        self.used = self.bytes_used = self.left = 0
        self.closed = False
        self.blocks: dict[int, Sequence[Any]] = {}


class Pages:
    """Chunk numbers, their slots and their slabs. Parent only.

    Physical page = page number modulo `pages`. Numbers need not be dense and never run out, so the next number is
    simply the next one that falls on the page we want, and no table has to be searched by anybody. Pages that were
    freed last are used first: their memory is there already.
    """

    def __init__(self, segment: Segment, blocks: Blocks) -> None:
        self.segment, self.blocks = segment, blocks
        self.layout = segment.layout
        g = self.layout.geometry
        self.page_chunks, self.page_bytes, self.pages = g.page_chunks, g.page_bytes, g.pages
        self.table: list[Page | None] = [None] * g.pages
        self.live = 0
        self.current: Page | None = None
        self._last = -1
        self._warm: list[int] = []
        self._cold = list(range(g.pages - 1, -1, -1))
        self.adrift: dict[int, Any] = {}
        """Who waits for chunks that run on after their page was given back, by number."""
        self.must_stay: Callable[[Any], bool] | None = None
        """Tells by who waits for it that a chunk may have to be read again, though an agent has read it."""

    def open(self) -> Page | None:
        """The page to number chunks in, a fresh one if need be; None when all are taken or memory is short."""
        page = self.current
        if page is not None and page.used < self.page_chunks:
            return page
        self.close_current()
        self.give_back_read()
        if self.live == self.pages:
            return None
        if self._warm:
            at = self._warm.pop()
        else:
            at = self._cold.pop()
            try:
                self._reserve(at)
            except OSError:
                self._cold.append(at)
                return None
        number = self._last - self._last % self.pages + at
        if number <= self._last:
            number += self.pages
        self._last = number
        page = Page(number * self.page_chunks)
        self.table[at] = self.current = page
        self.live += 1
        return page

    def _reserve(self, at: int) -> None:
        """Back a page's slots and slab with memory before anybody writes them."""
        size = self.page_chunks * L.SLOT_WORDS * 8
        self.segment.reserve((self.layout.slots_word * 8) + at * size, size)
        self.segment.reserve(self.layout.slab(at), self.page_bytes)

    def give_back_read(self) -> None:
        """Free the pages of which nobody will read anything again: all that is unfinished there has been loaded by the
        agent that runs it. So a task that never ends pins nothing."""
        words, layout = self.segment.words, self.layout
        unfinished: dict[int, list[int]] = {}
        for slot in range(words[L.SLOTS_USED]):
            chunk = words[layout.agent(slot) + L.LOADED]
            page = self.find(chunk) if chunk >= 0 else None
            sink = None if page is None or not page.closed else page.sinks[chunk - page.first]
            if page is not None and sink is not None and not (self.must_stay is not None and self.must_stay(sink)):
                unfinished.setdefault(page.first, []).append(chunk)
        for first, chunks in unfinished.items():
            page = self.find(first)
            if page is None or page.left != len(chunks):
                continue
            for chunk in chunks:
                i = chunk - first
                self.adrift[chunk] = page.sinks[i]
                if i in page.blocks:
                    self.blocks.free(*page.blocks.pop(i))
            self.free(page)

    def close_current(self) -> None:
        """No more chunks in the current page."""
        page, self.current = self.current, None
        if page is not None:
            page.closed = True
            if page.left == 0:
                self.free(page)

    def find(self, chunk: int) -> Page | None:
        """The page of a chunk, if it is still there."""
        page = self.table[(chunk // self.page_chunks) % self.pages]
        if page is None or not page.first <= chunk < page.first + self.page_chunks:
            return None
        return page

    def slab_at(self, page: Page) -> int:
        """First free byte of a page's slab."""
        return self.layout.slab((page.first // self.page_chunks) % self.pages) + page.bytes_used

    def append(self, page: Page, slots: array[int], data: Any, sinks: list[Any]) -> int:
        """Number `len(sinks)` chunks, write their slots and payload; returns the first number.

        The caller has checked that both fit; `data` goes to `slab_at(page)`, `slots` hold four words per chunk with
        absolute offsets.
        """
        first = page.first + page.used
        at, size, n = self.slab_at(page), len(data), len(sinks)
        self.segment.data[at : at + size] = data
        word = self.layout.chunk(first)
        self.segment.words[word : word + 4 * n] = memoryview(slots)
        page.sinks += sinks  # the last step that can fail for memory: all or nothing
        page.bytes_used += size
        page.used += n
        page.left += n
        return first

    def sink_of(self, chunk: int) -> Any:
        """Who waits for a chunk; None: nobody, or not any more."""
        page = self.find(chunk)
        if page is None:
            return self.adrift.get(chunk)
        i = chunk - page.first
        return page.sinks[i] if i < page.used else None

    def finish(self, chunk: int) -> Any:
        """A chunk is done with; returns who waited for it, as `sink_of` does."""
        page = self.find(chunk)
        if page is None:
            return self.adrift.pop(chunk, None)
        i = chunk - page.first
        sink = page.sinks[i] if i < page.used else None
        if sink is not None:
            page.sinks[i] = None
            if i in page.blocks:
                self.blocks.free(*page.blocks.pop(i))
            page.left -= 1
            if page.left == 0 and page.closed:
                self.free(page)
        return sink

    def free(self, page: Page) -> None:
        """Every chunk of a closed page is finished: its place can be used again."""
        at = (page.first // self.page_chunks) % self.pages
        self.table[at] = None
        self.live -= 1
        if len(self._warm) < WARM_PAGES:
            self._warm.append(at)
            return
        self._cold.append(at)
        size = self.page_chunks * L.SLOT_WORDS * 8
        self._punch_inside(self.layout.slots_word * 8 + at * size, size)
        self._punch_inside(self.layout.slab(at), self.page_bytes)

    def _punch_inside(self, start: int, size: int) -> None:
        """Give back the whole pages of memory within [start, start + size)."""
        lo, hi = -(-start // _PAGE) * _PAGE, (start + size) // _PAGE * _PAGE
        self.segment.punch(lo, hi - lo)


class Functions:
    """The table of functions that agents know by number. Parent side.

    Numbers never repeat; entry = number modulo the table's size. A function sent by reference stays for the life of
    the pool, those of one map go with their job. When no entry is free the function travels in the payload.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        # Apart from the payloads' blocks: those start over when all are freed, and functions may stay for ever.
        self.blocks = Blocks(segment, segment.layout.geometry.slots + 1)
        self.size = segment.layout.geometry.functions
        self._next = 0
        self._taken: dict[int, tuple[int, int, int]] = {}

    def add(self, pickled: bytes, *, for_one_job: bool = False, apart: bool = False) -> int:
        """Store a pickled function; returns its number, or `INLINE_FUNCTION` when there is no room."""
        if len(self._taken) >= self.size:
            return L.INLINE_FUNCTION
        while self._next % self.size in self._taken:
            self._next += 1
        number = self._next
        self._next += 1
        try:
            offset = self.blocks.put(pickled)
        except OSError:
            return L.INLINE_FUNCTION
        word = self.segment.layout.functions_word + number % self.size * L.FUNCTION_WORDS
        words = self.segment.words
        words[word + 1], words[word + 2], words[word + 3] = offset, len(pickled), for_one_job + 2 * apart
        words[word] = number
        self._taken[number % self.size] = (number, offset, len(pickled))
        return number

    def remove(self, number: int) -> None:
        """Forget a job's function."""
        if number >= 0:
            _, offset, size = self._taken.pop(number % self.size)
            self.blocks.free(offset, size)


def read_function(segment: Segment, number: int) -> tuple[bytearray, bool, bool]:
    """Agent side: the pickled function of that number, whether it serves one job only, whether it has buffers apart."""
    layout, words = segment.layout, segment.words
    word = layout.functions_word + number % layout.geometry.functions * L.FUNCTION_WORDS
    if words[word] != number:
        raise LookupError(f"function {number} is not in the table")
    flags = words[word + 3]
    return segment.read_block(words[word + 1], words[word + 2]), bool(flags & 1), bool(flags & 2)
