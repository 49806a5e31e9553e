"""Pure decisions: chunk sizes, placement, whom to rob and of how much."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsteal._policy import chunking, placement, stealing, waking

agents = st.integers(1, 64)


def cut(items: int, agents: int, item_ns: Callable[[int], int]) -> list[int]:
    """All sizes of a map whose i-th item takes `item_ns(i)`; one chunk per agent is running."""
    cutter = chunking.MapCutter(items, agents)
    sizes: list[int] = []
    at = 0
    running: list[tuple[int, int]] = []
    while True:
        size = cutter.next_size()
        if size:
            sizes.append(size)
            running.append((size, sum(item_ns(i) for i in range(at, at + size))))
            at += size
        if running and (len(running) > agents or not size):
            cutter.observe(*running.pop(0))
        elif not size:
            return sizes


class TestChunking:
    @given(st.integers(0, 20_000), agents, st.integers(0, 10**7))
    def test_sizes_sum_to_the_items(self, n: int, k: int, item_ns: int) -> None:
        sizes = cut(n, k, lambda i: item_ns)
        assert sum(sizes) == n
        assert all(size >= 1 for size in sizes)

    @given(agents)
    def test_few_items_go_one_by_one(self, k: int) -> None:
        n = chunking.PROBES_PER_AGENT * k
        assert cut(n, k, lambda i: 1) == [1] * n

    @given(st.integers(1, 20_000), agents)
    def test_long_items_go_one_by_one(self, n: int, k: int) -> None:
        assert set(cut(n, k, lambda i: chunking.CHUNK_NS)) == {1}

    @given(st.integers(1, 200_000), agents)
    def test_short_items_are_bundled_and_the_last_bundles_are_small(self, n: int, k: int) -> None:
        sizes = cut(n, k, lambda i: 1)[chunking.PROBES_PER_AGENT * k :]
        assert sizes == sorted(sizes, reverse=True)
        assert not sizes or sizes[-1] == 1

    def test_no_chunk_takes_much_longer_than_it_should(self) -> None:
        for item_ns in (1_000, 10_000, 100_000):
            assert max(cut(100_000, 4, lambda i, ns=item_ns: ns)) * item_ns <= chunking.CHUNK_NS

    def test_estimate_follows_the_input(self) -> None:
        sizes = cut(20_000, 2, lambda i: 1_000 if i < 10_000 else 200_000)
        assert max(sizes) > 50
        assert max(sizes[-100:]) == 1

    def test_waits_for_the_first_times(self) -> None:
        cutter = chunking.MapCutter(1_000, 1)
        probes = [cutter.next_size() for _ in range(chunking.PROBES_PER_AGENT)]
        assert probes == [1] * chunking.PROBES_PER_AGENT
        assert cutter.next_size() == 0
        for _ in range(chunking.PROBES_PER_AGENT // 2):
            assert cutter.next_size() == 0
            cutter.observe(1, 1_000)
        assert cutter.next_size() > 1

    @pytest.mark.parametrize(
        ("item_ns", "ahead"),
        [
            pytest.param(1_000, chunking.CHUNKS_AHEAD_PER_AGENT, id="bundles of short items"),
            pytest.param(chunking.AHEAD_NS // 10, 10, id="so many as fill the time"),
            pytest.param(10 * chunking.AHEAD_NS, chunking.LEAST_AHEAD_PER_AGENT, id="long items"),
        ],
    )
    def test_hands_out_so_much_ahead(self, item_ns: int, ahead: int) -> None:
        k = 3
        cutter = chunking.MapCutter(1_000_000, k)
        probes = [cutter.next_size() for _ in range(k * chunking.PROBES_PER_AGENT)]
        for _ in probes:
            cutter.observe(1, item_ns)
        sent = 0
        while cutter.next_size():
            sent += 1
        assert sent == ahead * k

    def test_no_items_no_chunks(self) -> None:
        assert chunking.MapCutter(0, 4).next_size() == 0


class TestPlacement:
    @pytest.mark.parametrize(
        ("lo", "hi", "loads", "pieces"),
        [
            pytest.param(0, 1, [1, 0], [(1, 0, 1)], id="one chunk goes to the idle agent"),
            pytest.param(5, 7, [0, 0], [(0, 5, 6), (1, 6, 7)], id="two chunks to two agents"),
            pytest.param(0, 2, [3, 1, 2], [(1, 0, 1), (2, 1, 2)], id="few go to the shortest"),
            pytest.param(
                0,
                10,
                [1, 0],
                [(1, 0, 1), (0, 1, 2), (1, 2, 3), (0, 3, 4), (1, 4, 6), (0, 6, 8), (1, 8, 10)],
                id="the front one by one, then doubling",
            ),
            pytest.param(3, 3, [0, 0], [], id="nothing"),
        ],
    )
    def test_deal(self, lo: int, hi: int, loads: list[int], pieces: list[tuple[int, int, int]]) -> None:
        assert placement.split_range(lo, hi, loads) == pieces

    @given(
        st.integers(0, 10**9),
        st.integers(0, 5000),
        st.lists(st.integers(0, 9), min_size=1, max_size=20),
    )
    def test_pieces_make_up_the_range_in_order(self, lo: int, n: int, loads: list[int]) -> None:
        at, k = lo, len(loads)
        pieces = placement.split_range(lo, lo + n, loads)
        for agent, a, b in pieces:
            assert 0 <= agent < k
            assert a == at < b
            at = b
        assert at == lo + n
        assert len(pieces) <= k * (2 + n.bit_length())
        agents_in_turn = [agent for agent, _, _ in pieces]
        assert agents_in_turn[k:] == agents_in_turn[:-k] or n <= k


class TestStealing:
    @pytest.mark.parametrize(
        ("lengths", "thief", "order"),
        [
            pytest.param([0, 3, 5], 0, [2, 1], id="the longest queue first"),
            pytest.param([2, 0, 2, 2], 1, [2, 3, 0], id="ties go to the nearest after the thief"),
            pytest.param([7, 0], 0, [], id="never itself, never an empty queue"),
            pytest.param([0], 0, [], id="nobody"),
        ],
    )
    def test_victims(self, lengths: list[int], thief: int, order: list[int]) -> None:
        assert stealing.victims(lengths, thief) == order

    @given(st.integers(0, 1 << 62), st.integers(1, 1 << 40))
    def test_half_moves_rounded_up(self, lo: int, n: int) -> None:
        mid = stealing.steal_point(lo, lo + n)
        assert lo <= mid < lo + n
        assert lo + n - mid == (n + 1) // 2

    @pytest.mark.parametrize(
        ("max_tasks", "lo", "hi", "point"),
        [
            pytest.param(3, 0, 100, 97, id="no more than allowed"),
            pytest.param(3, 10, 14, 12, id="no more than half"),
            pytest.param(3, 10, 15, 12, id="half rounded up is just allowed"),
            pytest.param(1, 7, 8, 7, id="the last one"),
            pytest.param(0, 0, 100, 50, id="no bound"),
        ],
    )
    def test_a_bounded_thief_takes_less(self, max_tasks: int, lo: int, hi: int, point: int) -> None:
        assert stealing.steal_point_of(max_tasks)(lo, hi) == point

    @given(st.integers(0, 1 << 62), st.integers(1, 1 << 40), st.integers(1, 1 << 41))
    def test_a_bounded_thief_takes_the_smaller_of_bound_and_half(self, lo: int, n: int, bound: int) -> None:
        assert lo + n - stealing.steal_point_of(bound)(lo, lo + n) == min(bound, (n + 1) // 2)


@pytest.mark.parametrize(("lo", "hi", "agents"), [(0, 1, 4), (5, 9, 4), (3, 100, 7), (10, 10, 2), (0, 3, 1)])
def test_even_pieces_make_up_the_range(lo: int, hi: int, agents: int) -> None:
    pieces = placement.split_evenly(lo, hi, agents)
    assert [c for _, a, b in pieces for c in range(a, b)] == list(range(lo, hi))
    assert len({agent for agent, _, _ in pieces}) == len(pieces) <= agents
    assert max((b - a for _, a, b in pieces), default=0) <= -(-(hi - lo) // agents)


# -- many agents ------------------------------------------------------------------------------------------------------


def test_a_thief_looks_at_few_queues_however_many_there_are() -> None:
    looked: list[int] = []

    def length(slot: int) -> int:
        looked.append(slot)
        return slot % 5

    found = stealing.choose_victims(stealing.around(range(1_000), 499), length)
    assert looked == list(range(500, 510)), "the nearest after it, two of which have nothing"
    assert found == [504, 509, 503, 508, 502, 507, 501, 506], "the longest first, the nearest of equals"


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 30))
def test_a_thief_finds_whoever_has_a_queue(lengths: list[int], thief: int) -> None:
    found = stealing.choose_victims(stealing.around(range(len(lengths)), thief), lengths.__getitem__)
    worth = {slot for slot, n in enumerate(lengths) if n and slot != thief}
    assert set(found) <= worth
    assert len(found) == min(len(worth), stealing.LOOKS)


@pytest.mark.parametrize(
    ("chunks", "each_ns", "verdict"),
    [
        pytest.param([0, 0], [0, 0], None, id="nothing ran"),
        pytest.param([16, 16], [1_000, 2_000], True, id="all short"),
        pytest.param([3, 3], [1_000, 1_000], None, id="too few to tell"),
        pytest.param([1, 0], [10_000_000, 0], False, id="one long one tells"),
        pytest.param([20, 20, 20], [1_000, 1_000, 500_000], True, id="one has lost its core"),
        pytest.param([20, 20, 20], [1_000, 90_000, 500_000], False, id="most are long"),
        pytest.param([20, 0, 0, 20], [1_000, 0, 0, 40_000], True, id="the lower one of two"),
    ],
)
def test_chunks_are_short(chunks: list[int], each_ns: list[int], verdict: bool | None) -> None:
    assert waking.are_short(chunks, [n * ns for n, ns in zip(chunks, each_ns, strict=True)]) is verdict


@pytest.mark.parametrize(("agents", "ahead"), [(2, 3), (8, 3), (16, 7), (64, 30)])
def test_more_is_handed_out_ahead_where_there_are_many_agents(agents: int, ahead: int) -> None:
    cutter = chunking.MapCutter(1_000_000, agents)
    probes = chunking.PROBES_PER_AGENT * agents
    assert [cutter.next_size() for _ in range(probes)] == [1] * probes
    for _ in range(probes):
        cutter.observe(1, 4_000_000)
    sent = 0
    while cutter.next_size():
        sent += 1
    assert sent == ahead * agents
