"""Pages of chunk numbers, blocks, functions, and memory that is really given back (D2, D8)."""

from __future__ import annotations

import errno
import itertools
import os
import random
import sys
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from mpsteal._queue import arena
from mpsteal._queue import layout as L
from mpsteal._queue.arena import Blocks, Functions, Page, Pages, Segment

PAGES, PAGE_CHUNKS = 4, 4


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(
        L.Geometry(
            2,
            page_chunks=PAGE_CHUNKS,
            page_bytes=4 * 4096,
            pages=PAGES,
            ring_bytes=4096,
            functions=3,
        )
    )
    made.words[L.SLOTS_USED] = 2
    yield made
    made.close()


def stored_bytes(segment: Segment) -> int:
    return os.fstat(segment.fd).st_blocks * 512


def number(pages: Pages, sinks: list[Any], data: bytes = b"") -> int | None:
    """Number some chunks that fit on one page; None when no page can be had."""
    page = pages.open()
    if page is None:
        return None
    slots = array("q", [0, 0, 0, 0] * len(sinks))
    return pages.append(page, slots, data, sinks)


def finish(pages: Pages, chunk: int) -> None:
    assert pages.finish(chunk) is not None


class TestPages:
    def test_chunks_of_a_page_are_consecutive(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        assert [number(pages, ["x"]) for _ in range(3)] == [0, 1, 2]
        assert number(pages, ["x"]) == 3
        assert number(pages, ["x"]) == 4

    def test_no_page_when_all_are_taken(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        chunks = [number(pages, ["x"]) for _ in range(PAGES * PAGE_CHUNKS)]
        assert None not in chunks
        assert number(pages, ["x"]) is None
        for chunk in chunks[:PAGE_CHUNKS]:
            assert chunk is not None
            finish(pages, chunk)
        assert number(pages, ["x"]) is not None

    @pytest.mark.parametrize("seed", range(5))
    def test_pages_are_freed_in_any_order(self, segment: Segment, seed: int) -> None:
        chance = random.Random(seed)
        pages = Pages(segment, Blocks(segment, 0))
        living: dict[int, Page] = {}
        seen: set[int] = set()
        for _ in range(2_000):
            chunk = number(pages, ["x"]) if chance.random() < 0.6 else None
            if chunk is not None:
                assert chunk not in seen, "a number came twice"
                seen.add(chunk)
                page = pages.find(chunk)
                assert page is not None
                living[chunk] = page
            elif living:
                done = chance.choice(list(living))
                finish(pages, done)
                del living[done]
            for chunk, page in living.items():
                assert pages.find(chunk) is page, "a chunk in flight lost its page"
            slots = [segment.layout.chunk(chunk) for chunk in living]
            assert len(slots) == len(set(slots)), "two chunks in flight share a slot"
        for chunk in living:
            finish(pages, chunk)
        pages.close_current()
        assert pages.live == 0

    def test_unread_chunk_pins_one_page_and_numbers_never_repeat(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        pinned = number(pages, ["pinned"])
        assert pinned is not None
        pinned_page = pages.find(pinned)
        seen = {pinned}
        for _ in range(10_000):
            chunk = number(pages, ["x"])
            assert chunk is not None
            assert chunk not in seen
            seen.add(chunk)
            finish(pages, chunk)
            assert pages.find(pinned) is pinned_page
        assert pages.live <= 2

    def test_page_goes_back_when_all_that_is_unfinished_was_read(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        chunks = [number(pages, [f"sink {i}"]) for i in range(PAGES * PAGE_CHUNKS)]
        pinned, other = chunks[0], chunks[1]
        assert pinned is not None
        assert other is not None
        pages.close_current()
        for chunk in chunks[2:PAGE_CHUNKS]:
            assert chunk is not None
            finish(pages, chunk)
        segment.words[segment.layout.agent(0) + L.LOADED] = pinned
        assert number(pages, ["x"]) is None, "the other chunk of its page was not read"
        finish(pages, other)
        again = number(pages, ["x"])
        assert again is not None
        assert segment.layout.chunk(again) == segment.layout.chunk(pinned)
        assert pages.find(pinned) is None
        assert pages.sink_of(pinned) == "sink 0"
        assert pages.finish(pinned) == "sink 0"
        assert pages.sink_of(pinned) is None
        assert pages.finish(pinned) is None

    def test_block_of_a_chunk_that_was_read_goes_back_with_the_page(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        pages = Pages(segment, blocks)
        chunks = [number(pages, ["x"]) for _ in range(PAGES * PAGE_CHUNKS)]
        page = pages.find(0)
        assert page is not None
        page.blocks[0] = (blocks.put(b"large"), 5)
        pages.close_current()
        for chunk in chunks[1:PAGE_CHUNKS]:
            assert chunk is not None
            finish(pages, chunk)
        segment.words[segment.layout.agent(0) + L.LOADED] = 0
        assert number(pages, ["x"]) is not None
        assert blocks.live_bytes == 0

    def test_finished_chunk_of_a_freed_page_is_not_found(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        chunk = number(pages, ["x"])
        assert chunk is not None
        finish(pages, chunk)
        pages.close_current()
        assert pages.find(chunk) is None
        assert pages.find(chunk + PAGES * PAGE_CHUNKS) is None

    def test_slots_and_payload_are_where_agents_look(self, segment: Segment) -> None:
        pages = Pages(segment, Blocks(segment, 0))
        page = pages.open()
        assert page is not None
        at = pages.slab_at(page)
        slots = array("q", [at, 3, 7, 0, at + 3, 2, 8, 1])
        first = pages.append(page, slots, b"abcde", ["x", "y"])
        for i, payload in enumerate((b"abc", b"de")):
            word = segment.layout.chunk(first + i)
            offset, size = segment.words[word], segment.words[word + 1]
            assert bytes(segment.data[offset : offset + size]) == payload
        assert pages.slab_at(page) == at + 5

    def test_no_page_without_memory(self, segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
        pages = Pages(segment, Blocks(segment, 0))

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(Segment, "reserve", refuse)
        assert pages.open() is None
        monkeypatch.undo()
        assert number(pages, ["x"]) is not None

    @pytest.mark.skipif(sys.platform != "linux", reason="MADV_REMOVE is Linux's")
    def test_memory_of_cold_pages_goes_back(self, segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arena, "WARM_PAGES", 1)
        pages = Pages(segment, Blocks(segment, 0))
        before = stored_bytes(segment)
        data = b"x" * (segment.layout.geometry.page_bytes // PAGE_CHUNKS)
        chunks = [number(pages, ["x"], data) for _ in range(PAGES * PAGE_CHUNKS)]
        full = stored_bytes(segment)
        assert full >= before + PAGES * segment.layout.geometry.page_bytes
        for chunk in chunks:
            assert chunk is not None
            finish(pages, chunk)
        pages.close_current()
        left = stored_bytes(segment) - before
        assert left <= 2 * segment.layout.geometry.page_bytes
        # And they can be used again.
        assert all(number(pages, ["x"]) is not None for _ in range(PAGES * PAGE_CHUNKS))


class TestBlocks:
    def test_round_trip(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        payloads = [b"", b"x", os.urandom(4096), os.urandom(100_001)]
        offsets = [blocks.put(payload) for payload in payloads]
        assert len(set(offsets)) == len(offsets)
        for offset, payload in zip(offsets, payloads, strict=True):
            assert segment.read_block(offset, len(payload)) == payload

    def test_any_buffer_will_do(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        offset = blocks.put(memoryview(array("q", [1, 2, 3])))
        assert segment.read_block(offset, 24) == array("q", [1, 2, 3]).tobytes()

    def test_blocks_do_not_overlap(self, segment: Segment) -> None:
        blocks = Blocks(segment, 1)
        sizes = [1, 4096, 4097, 9000]
        spans = sorted((blocks.put(b"x" * size), size) for size in sizes)
        for (offset, size), (following, _) in itertools.pairwise(spans):
            assert offset + size <= following

    def test_owners_have_spans_of_their_own(self, segment: Segment) -> None:
        bases = [Blocks(segment, owner).base for owner in range(3)]
        assert bases[0] >= segment.layout.mapped_bytes
        assert [b - a for a, b in itertools.pairwise(bases)] == [segment.block_span] * 2

    def test_starts_over_when_all_is_freed(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        first, second = blocks.put(b"x" * 5000), blocks.put(b"y")
        blocks.free(first, 5000)
        assert blocks.put(b"z") > second
        blocks.free(second, 1)
        blocks.free(second + blocks.span(1), 1)
        assert blocks.live_bytes == 0
        assert blocks.put(b"again") == first

    @pytest.mark.skipif(sys.platform != "linux", reason="MADV_REMOVE is Linux's")
    def test_freed_memory_goes_back(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        before = stored_bytes(segment)
        offset = blocks.put(b"x" * (1 << 20))
        assert stored_bytes(segment) >= before + (1 << 20)
        blocks.free(offset, 1 << 20)
        assert stored_bytes(segment) == before

    @pytest.mark.skipif(sys.platform != "linux", reason="MADV_REMOVE is Linux's")
    def test_freed_memory_goes_back_whatever_the_geometry(self) -> None:
        """The mapped part need not end where a page does, and only whole pages can be given back."""
        odd = Segment.create(L.Geometry(1, page_chunks=4, page_bytes=72, pages=3, ring_bytes=64))
        try:
            assert odd.layout.mapped_bytes % 4096
            for owner in (0, 1):
                blocks = Blocks(odd, owner)
                before = stored_bytes(odd)
                offset = blocks.put(b"x" * 10_000)
                blocks.free(offset, 10_000)
                assert stored_bytes(odd) == before
        finally:
            odd.close()

    @pytest.mark.skipif(sys.platform != "linux", reason="MADV_REMOVE is Linux's")
    def test_all_of_one_owner_goes_back(self, segment: Segment) -> None:
        """That of a dead agent, which nobody has counted; the blocks of its neighbours stay."""
        data = b"x" * (1 << 20)
        kept = [(Blocks(segment, owner), owner) for owner in (1, 3)]
        offsets = [blocks.put(data) for blocks, _ in kept]
        before = stored_bytes(segment)
        dead = Blocks(segment, 2)
        for _ in range(3):
            dead.put(data)
        dead.at += 7 << 20  # what it had begun somewhere behind
        dead.put(data[:5000])
        assert stored_bytes(segment) > before
        segment.punch_blocks(2)
        assert stored_bytes(segment) == before
        assert [segment.read_block(offset, len(data)) for offset in offsets] == [data, data]
        segment.punch_blocks(2)

    def test_full_span_is_refused(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        blocks.limit = blocks.base + 2 * blocks.span(1)
        blocks.put(b"x")
        blocks.put(b"x")
        with pytest.raises(OSError, match="too many blocks"):
            blocks.put(b"x")

    def test_short_memory_leaves_nothing_behind(self, segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks = Blocks(segment, 0)
        before = (blocks.at, blocks.live_bytes, stored_bytes(segment))
        write = Segment.write_block

        def refuse(self: Segment, offset: int, data: Any) -> None:
            write(self, offset, b"half of it")
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(Segment, "write_block", refuse)
        with pytest.raises(OSError, match="full"):
            blocks.put(b"x" * 10_000)
        assert (blocks.at, blocks.live_bytes) == before[:2]
        if sys.platform == "linux":
            assert stored_bytes(segment) == before[2]

    def test_block_beyond_the_end_is_an_error(self, segment: Segment) -> None:
        with pytest.raises(OSError, match="ended early"):
            segment.read_block(segment.blocks_base(segment.layout.geometry.slots + 2), 10)


class TestFunctions:
    def test_read_by_number(self, segment: Segment) -> None:
        table = Functions(segment)
        numbers = [table.add(b"f%d" % i) for i in range(3)]
        assert len(set(numbers)) == 3
        for i, of in enumerate(numbers):
            assert arena.read_function(segment, of) == (b"f%d" % i, False, False)

    def test_full_table_sends_functions_inline(self, segment: Segment) -> None:
        table = Functions(segment)
        numbers = [table.add(b"f") for _ in range(4)]
        assert numbers[3] == L.INLINE_FUNCTION
        table.remove(numbers[1])
        again = table.add(b"g")
        assert again not in numbers, "numbers never repeat"
        assert arena.read_function(segment, again) == (b"g", False, False)

    def test_stale_number_is_refused(self, segment: Segment) -> None:
        table = Functions(segment)
        old = table.add(b"f")
        table.remove(old)
        while table.add(b"g") % 3 != old % 3:
            pass
        with pytest.raises(LookupError):
            arena.read_function(segment, old)

    def test_function_of_one_job_says_so(self, segment: Segment) -> None:
        """An agent forgets such functions sooner: they may hold large payloads."""
        number = Functions(segment).add(b"f", for_one_job=True)
        assert arena.read_function(segment, number) == (b"f", True, False)

    def test_functions_leave_the_payloads_blocks_alone(self, segment: Segment) -> None:
        blocks = Blocks(segment, 0)
        offset = blocks.put(b"payload")
        Functions(segment).add(b"f")
        blocks.free(offset, 7)
        assert blocks.put(b"next") == offset

    def test_removing_inline_does_nothing(self, segment: Segment) -> None:
        Functions(segment).remove(L.INLINE_FUNCTION)


class TestSegment:
    def test_starts_clean(self, segment: Segment) -> None:
        words, layout = segment.words, segment.layout
        assert words[L.MAGIC] == L.MAGIC_VALUE
        for slot in range(2):
            base = layout.agent(slot)
            assert words[base + L.CLAIM] == L.NONE
            assert words[base + L.MARK] == words[base + L.J_VICTIM] == 0

    def test_file_has_no_name_and_only_we_may_read_it(self, segment: Segment) -> None:
        facts = os.fstat(segment.fd)
        assert facts.st_nlink == 0
        assert facts.st_mode & 0o777 == 0o600
        assert facts.st_uid == os.geteuid()
        assert not os.get_inheritable(segment.fd)

    @pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files are not sealed")
    def test_nobody_can_cut_the_ground_from_under_the_mapping(self, segment: Segment) -> None:
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, 4096)

    @pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd here")
    def test_kernel_that_knows_no_noexec_seal_still_gives_a_memfd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make = os.memfd_create

        def before_6_3(name: str, flags: int) -> int:
            if flags & arena.MFD_NOEXEC_SEAL:
                raise OSError(errno.EINVAL, "Invalid argument")
            return make(name, flags)

        monkeypatch.setattr(os, "memfd_create", before_6_3)
        made = Segment.create(L.Geometry(1, pages=1, page_chunks=4, page_bytes=4096))
        try:
            assert os.readlink(f"/proc/self/fd/{made.fd}").startswith("/memfd:")
            assert os.fstat(made.fd).st_mode & 0o777 == 0o600
        finally:
            made.close()

    def test_without_memfd_a_temporary_file_stands_in(self) -> None:
        fd = arena.anonymous_file("test", 1 << 16, memfd=False)
        try:
            assert os.fstat(fd).st_nlink == 0
            assert os.fstat(fd).st_size == 1 << 16
            assert os.fstat(fd).st_mode & 0o777 == 0o600
        finally:
            os.close(fd)

    def test_closed_segment_is_out_of_reach(self) -> None:
        made = Segment.create(L.Geometry(1, pages=1, page_chunks=4, page_bytes=4096))
        words = made.words
        made.close()
        with pytest.raises(ValueError, match="released"):
            words[0]
