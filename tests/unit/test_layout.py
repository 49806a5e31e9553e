"""Where words live: nothing overlaps, everything is aligned."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mpsteal._queue import layout as L

GEOMETRIES = [
    L.Geometry(1),
    L.Geometry(8),
    L.Geometry(64, levels=5, classes=7),
    L.Geometry(3, levels=2, entries=2, page_chunks=4, page_bytes=4096, pages=4, ring_bytes=256),
    L.Geometry(2, levels=1, entries=3, page_chunks=5, page_bytes=72, pages=3, ring_bytes=64),
]

HEADER = ("MAGIC", "STOP", "SLOTS_USED", "NESTED", "FEW", "RING_AFTER_NS", "LOOKED_NS", "LINGERERS")
NOT_WORDS = {"NONE", "INT_LIMIT", "VACANT", "STARTING", "READY", "LEAVING", "INIT_FAILED", "CLASS_SHIFT", "FLAGS_MASK"}
FLAGS = ("IN_BLOCK", "APART", "TIMED", "ITEMWISE", "FIRST_ONLY")
NOT_WORDS |= {"NO_PLACE", "CHILDREN", "CHILDREN_USED"}
AGENT_PREFIXES_OF_OTHERS = ("SLOT_", "KIND_", "HEADER_", "MAGIC", "FUNCTION_", "LEVELS_", "INLINE_", "MASK_")


def agent_words() -> dict[str, int]:
    """All constants of layout.py that are words of an agent."""
    return {
        name: value
        for name, value in vars(L).items()
        if name.isupper()
        and isinstance(value, int)
        and name not in (*HEADER, *NOT_WORDS, *FLAGS, "LEAVE_WHEN_IDLE", "LEAVE_NOW")
        and not name.startswith(AGENT_PREFIXES_OF_OTHERS)
    }


def test_words_of_an_agent_are_distinct() -> None:
    words = agent_words()
    assert len(words) >= 25, "the constants were renamed, and this test no longer sees them"
    assert len(set(words.values())) == len(words), sorted(words.items(), key=lambda x: x[1])
    assert all(0 <= at < L.LEVELS_AT for at in words.values())


def test_words_of_the_header_are_distinct() -> None:
    at = [getattr(L, name) for name in HEADER]
    assert len(set(at)) == len(at)
    assert all(0 <= word < L.HEADER_WORDS for word in at)


def test_writers_have_cache_lines_of_their_own() -> None:
    """What the agent, the parent and lock holders write lies in different lines of 64 bytes."""
    agent = {L.CLAIM, L.STARTED_NS, L.RESULT_TAIL, L.DONE, L.BUSY_NS, L.LOADED, L.CLAIM_AT, L.LEASES_ENDED}
    parent = {L.RESULT_HEAD, L.BLOCKS_FREED, L.LEAVE, L.HELD, L.NEWS}
    locked = {L.MARK, L.J_VICTIM, L.J_ENTRY, L.J_MID, L.J_HI, L.J_LEVEL}
    lines = [{word // 8 for word in group} for group in (agent, parent, locked)]
    assert not lines[0] & lines[1]
    assert not lines[0] & lines[2]
    assert not lines[1] & lines[2]


def test_every_agent_has_a_bit_of_its_own_in_a_class() -> None:
    layout = L.Layout(L.Geometry(130, classes=3))
    bits = [layout.class_mask(number, slot) for number in range(3) for slot in range(130)]
    assert len(set(bits)) == len(bits)
    assert all(layout.classes_word <= at < layout.slots_word and 0 < bit < 1 << 63 for at, bit in bits)


def test_flags_of_a_slot_do_not_overlap() -> None:
    kinds = (L.KIND_CALL, L.KIND_CALL_KWDS, L.KIND_MAP, L.KIND_STARMAP)
    assert len(set(kinds)) == 4
    assert all(kind & ~L.KIND_MASK == 0 for kind in kinds)
    assert L.IN_BLOCK & L.KIND_MASK == 0
    assert L.KIND_INT & (L.KIND_MASK | L.IN_BLOCK) == 0
    assert L.KIND_TWO_INTS & (L.KIND_MASK | L.IN_BLOCK | L.KIND_INT) == 0


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
class TestRegions:
    def test_regions_follow_one_another(self, geometry: L.Geometry) -> None:
        layout, g = L.Layout(geometry), geometry
        regions = [("header", 0, L.HEADER_WORDS * 8)]
        for slot in range(g.slots):
            start = layout.agent(slot) * 8
            regions.append((f"agent {slot}", start, start + layout.agent_words * 8))
        start = layout.functions_word * 8
        regions.append(("functions", start, start + g.functions * L.FUNCTION_WORDS * 8))
        start = layout.classes_word * 8
        regions.append(("classes", start, start + g.classes * layout.mask_words * 8))
        start = layout.slots_word * 8
        regions.append(("slots", start, start + g.pages * g.page_chunks * L.SLOT_WORDS * 8))
        regions += [(f"slab {p}", layout.slab(p), layout.slab(p) + g.page_bytes) for p in range(g.pages)]
        regions += [(f"ring {s}", layout.ring(s), layout.ring(s) + g.ring_bytes) for s in range(g.slots)]
        for (_, _, end), (name, start, _) in pairwise(regions):
            assert end <= start, f"{name} begins before its neighbour ends"
            assert start % 8 == 0, name
        assert regions[-1][2] <= layout.mapped_bytes

    def test_levels_lie_within_their_agent(self, geometry: L.Geometry) -> None:
        layout, g = L.Layout(geometry), geometry
        for slot in range(g.slots):
            taken = set(range(L.LEVELS_AT))
            for level in range(g.levels):
                head = layout.head(slot, level) - layout.agent(slot)
                entries = layout.entries(slot, level) - layout.agent(slot)
                for word in (head, head + 1, *range(entries, entries + 2 * g.entries)):
                    assert word not in taken
                    taken.add(word)
            assert max(taken) < layout.agent_words

    def test_every_chunk_in_flight_has_a_slot_of_its_own(self, geometry: L.Geometry) -> None:
        layout = L.Layout(geometry)
        first = 7 * layout.chunks + 3
        words = {layout.chunk(first + i) for i in range(layout.chunks)}
        assert len(words) == layout.chunks
        assert min(words) == layout.slots_word
        assert max(words) + L.SLOT_WORDS <= layout.slots_word + layout.chunks * L.SLOT_WORDS
