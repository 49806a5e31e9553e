"""How far an agent reads slots ahead of the chunk that it starts (`Agent.read_slots`)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from mpsteal._agent.loop import SLOTS_AHEAD, Agent
from mpsteal._queue import layout as L
from mpsteal._queue.arena import Segment

PAGES, PAGE_CHUNKS = 4, 16
CHUNKS = PAGES * PAGE_CHUNKS


@pytest.fixture
def agent() -> Iterator[Any]:
    """An agent of slot 0 without a process, over a segment in which slot `i` holds `i, 0, 0, 8`."""
    segment = Segment.create(L.Geometry(1, page_chunks=PAGE_CHUNKS, page_bytes=4096, pages=PAGES), 1)
    agent: Any = Agent.__new__(Agent)
    agent.segment, agent.words, agent.base = segment, segment.words, segment.layout.agent(0)
    at = segment.layout.slots_word
    slots = array("q", [word for i in range(CHUNKS) for word in (i, 0, 0, L.KIND_INT)])
    segment.words[at : at + 4 * CHUNKS] = memoryview(slots)
    yield agent
    segment.close()


def claim(agent: Any, chunk: int, end: int) -> None:
    """As `take` leaves it: the range in the loot register is [chunk + 1, end)."""
    words, base = agent.words, agent.base
    words[base + L.LOOT_LO], words[base + L.LOOT_HI] = chunk + 1, end
    words[base + L.CLAIM], words[base + L.CLAIM_AT] = chunk, base + L.LOOT_LO


@pytest.mark.parametrize(
    ("chunk", "end", "count"),
    [
        (3, 4, 1),
        (3, 10, 7),
        (3, 3 + SLOTS_AHEAD + 20, SLOTS_AHEAD),
        (CHUNKS - 2, CHUNKS + 5, 2),
        (5 * CHUNKS + 7, 5 * CHUNKS + 9, 2),
        (9, 2, 1),
    ],
    ids=[
        "the last",
        "to the end of the range",
        "so many at most",
        "not past the last slot",
        "numbers go on",
        "all stolen",
    ],
)
def test_reads_no_further_than_what_is_queued_behind(agent: Any, chunk: int, end: int, count: int) -> None:
    claim(agent, chunk, end)
    assert [slot[0] for slot in agent.read_slots(chunk)] == [(chunk + i) % CHUNKS for i in range(count)]


def test_a_claim_from_no_range_reads_its_own_slot_alone(agent: Any) -> None:
    claim(agent, 5, 20)
    agent.words[agent.base + L.CLAIM_AT] = L.NO_PLACE
    assert agent.read_slots(5) == [(5, 0, 0, L.KIND_INT)]
