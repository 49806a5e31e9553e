"""Which queued tasks the parent moves, and which it leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsteal._policy.rebalance import Move, is_severe, plan


@pytest.mark.parametrize(
    ("lengths", "severe"),
    [
        pytest.param([], False, id="nobody"),
        pytest.param([99], False, id="one agent"),
        pytest.param([3, 1], False, id="three times is not more than three times"),
        pytest.param([4, 1], True, id="more than three times"),
        pytest.param([30, 9, 20], True, id="the longest against the shortest"),
        pytest.param([30, 10, 20], False, id="long queues, evenly"),
        pytest.param([5, 0], False, id="one is empty, nobody is busy"),
        pytest.param([6, 0], True, id="one is empty, another busy"),
        pytest.param([0, 0], False, id="all empty"),
    ],
)
def test_severe(lengths: list[int], severe: bool) -> None:
    assert is_severe(iter(lengths), ratio=3.0, busy_above=5) is severe


ALL = frozenset[tuple[int, int]]()


@pytest.mark.parametrize(
    ("lengths", "kept", "forbidden", "max_tasks", "moves"),
    [
        pytest.param([20, 1], {}, ALL, 3, [(0, 1, 3)], id="no more than allowed"),
        pytest.param([20, 1], {}, ALL, 1, [(0, 1, 1)], id="no more than one"),
        pytest.param([20, 1], {}, ALL, 100, [(0, 1, 5)], id="until neither severe nor idle"),
        pytest.param([6, 2, 1], {}, ALL, 3, [(0, 2, 1)], id="from busy to idle"),
        pytest.param([9, 3], {}, ALL, 3, [], id="nobody is idle"),
        pytest.param([5, 2], {}, ALL, 3, [], id="nobody is busy"),
        pytest.param([9, 2], {}, ALL, 3, [(0, 1, 1)], id="nobody is idle, but it is severe until one has moved"),
        pytest.param([4, 1], {}, ALL, 3, [(0, 1, 1)], id="nobody is busy, but it is severe until one has moved"),
        pytest.param([1, 0], {}, ALL, 3, [], id="one task here, none there"),
        pytest.param([7, 9, 0], {}, ALL, 2, [(1, 2, 2)], id="the busiest first"),
        pytest.param([7, 8, 0], {}, ALL, 3, [(1, 2, 1), (0, 2, 1), (1, 2, 1)], id="the busiest by turns"),
        pytest.param([9, 0, 0], {}, ALL, 3, [(0, 1, 1), (0, 2, 1), (0, 1, 1)], id="the idlest by turns"),
        pytest.param([9, 7, 0], {0: 9}, ALL, 3, [(1, 2, 3)], id="protected tasks stay"),
        pytest.param([9, 7, 0], {0: 8}, ALL, 3, [(0, 2, 1), (1, 2, 2)], id="all but the protected"),
        pytest.param([9, 0], {0: 9}, ALL, 3, [], id="only protected tasks"),
        pytest.param([9, 0, 1], {}, {(0, 1)}, 3, [(0, 2, 3)], id="what may not go there goes elsewhere"),
        pytest.param([9, 8, 0], {}, {(0, 2)}, 3, [(1, 2, 2), (0, 1, 1)], id="what may not go lets others go first"),
        pytest.param([9, 6, 2], {}, {(0, 2)}, 1, [(0, 1, 1)], id="severe, so that it goes where it may"),
        pytest.param([9, 0], {}, {(0, 1)}, 3, [], id="nothing may go"),
        pytest.param([9, 0], {}, ALL, 0, [], id="nothing is allowed"),
        pytest.param([9], {}, ALL, 3, [], id="one agent"),
        pytest.param([], {}, ALL, 3, [], id="nobody"),
    ],
)
def test_moves(
    lengths: list[int],
    kept: dict[int, int],
    forbidden: frozenset[tuple[int, int]],
    max_tasks: int,
    moves: list[tuple[int, int, int]],
) -> None:
    queued = dict(enumerate(lengths))
    movable = {agent: n - kept.get(agent, 0) for agent, n in queued.items()}
    before = dict(queued), dict(movable)
    made = plan(
        queued,
        movable,
        lambda source, target: (source, target) not in forbidden,
        max_tasks=max_tasks,
        busy_above=5,
        idle_below=2,
        severe_ratio=3.0,
    )
    merged: dict[tuple[int, int], int] = {}
    for source, target, count in moves:
        merged[source, target] = merged.get((source, target), 0) + count
    assert made == [Move(source, target, count) for (source, target), count in merged.items()]
    assert (queued, movable) == before


@given(st.data(), st.dictionaries(st.integers(0, 20), st.integers(0, 30), max_size=8), st.integers(0, 40))
def test_never_more_than_allowed_and_never_a_wider_gap(data: st.DataObject, lengths: dict[int, int], most: int) -> None:
    movable = {agent: data.draw(st.integers(0, n)) for agent, n in lengths.items()}
    forbidden = data.draw(st.sets(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
    moves = plan(
        lengths,
        movable,
        lambda source, target: (source, target) not in forbidden,
        max_tasks=most,
        busy_above=data.draw(st.integers(0, 10)),
        idle_below=data.draw(st.integers(0, 10)),
        severe_ratio=data.draw(st.sampled_from([1.0, 3.0, 10.0])),
    )
    assert sum(move.count for move in moves) <= most
    assert len({(move.source, move.target) for move in moves}) == len(moves)
    after, taken = dict(lengths), dict.fromkeys(lengths, 0)
    for source, target, count in moves:
        assert count > 0 and source != target and (source, target) not in forbidden
        after[source] -= count
        after[target] += count
        taken[source] += count
    assert all(taken[agent] <= movable[agent] for agent in lengths)
    if lengths:
        assert max(after.values()) <= max(lengths.values())
        assert min(after.values()) >= min(lengths.values())
