"""Circles among dependencies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsteal._policy.graph import find_cycle


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"a": "b", "b": "c"}, None, id="a chain whose end has no entry"),
        pytest.param({"a": "bc", "b": "d", "c": "d", "d": ""}, None, id="a diamond"),
        pytest.param({"a": "bb", "b": ""}, None, id="the same edge twice"),
        pytest.param({"a": "a"}, "a", id="on itself"),
        pytest.param({"a": "b", "b": "a"}, "ab", id="two"),
        pytest.param({"x": "a", "a": "b", "b": "c", "c": "a"}, "abc", id="the way there is not part of it"),
        pytest.param({"x": "", "a": "xb", "b": "xc", "c": "xb"}, "bc", id="among dead ends"),
    ],
)
def test_cycle(edges: dict[str, str], cycle: str | None) -> None:
    assert find_cycle(edges) == (None if cycle is None else list(cycle))


@pytest.mark.parametrize("closed", [False, True])
def test_long_chains_do_not_recurse(closed: bool) -> None:
    n = 10_000
    edges = {i: [i + 1] for i in range(n)}
    edges[n] = [0] if closed else []
    assert find_cycle(edges) == (list(range(n + 1)) if closed else None)


@given(st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=3)))
def test_what_it_finds_is_a_cycle_and_it_finds_one_if_there_is(edges: dict[int, list[int]]) -> None:
    cycle = find_cycle(edges)
    if cycle is not None:
        assert len(set(cycle)) == len(cycle)
        for node, head in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            assert head in edges[node]
        return
    # Without a cycle, nodes that lead nowhere can be taken away until nothing is left.
    left = {node: set(heads) for node, heads in edges.items()}
    while left:
        ends = {node for node, heads in left.items() if not heads & left.keys()}
        assert ends
        left = {node: heads for node, heads in left.items() if node not in ends}
