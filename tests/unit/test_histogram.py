"""Durations counted in buckets: what is exact, and how far off the rest is."""

from __future__ import annotations

import json
from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsteal._policy.histogram import EXACT_BELOW, RELATIVE_ERROR, Histogram, bucket_of

durations = st.one_of(st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 1 << 62))


def of(*values: int) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@given(st.lists(durations, min_size=1, max_size=100), st.integers(0, 100).map(lambda n: n / 100))
def test_percentiles_are_near(values: list[int], share: float) -> None:
    true = sorted(values)[max(1, ceil(share * len(values))) - 1]
    assert of(*values).percentile(share) == pytest.approx(true, rel=RELATIVE_ERROR, abs=0)


@given(st.lists(durations, max_size=50))
def test_count_mean_and_greatest_are_exact(values: list[int]) -> None:
    histogram = of(*values)
    assert histogram.count == len(values)
    assert histogram.max_ns == max(values, default=0)
    assert histogram.mean == sum(values) / max(1, len(values))


@given(st.lists(st.lists(durations, max_size=5), max_size=5), st.integers(1, 8))
def test_in_whatever_portions_they_come(portions: list[list[int]], fold: int) -> None:
    """Kept as they are or counted already: nobody sees a difference."""
    histogram = Histogram()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpsteal._policy.histogram.FOLD", fold)
        for portion in portions:
            histogram.add(portion)
    whole = of(*[value for portion in portions for value in portion])
    assert histogram.snapshot() == whole.snapshot()
    assert all(histogram.percentile(n / 20) == whole.percentile(n / 20) for n in range(21))


@pytest.mark.parametrize(
    ("values", "share", "ns"),
    [
        pytest.param([], 0.5, 0.0, id="none"),
        pytest.param([7], 0.0, 7.0, id="the least"),
        pytest.param([7, 9], 0.5, 7.0, id="half do not exceed it"),
        pytest.param([7, 9], 0.51, 9.0, id="more than half"),
        pytest.param([5, 30, 31], 1.0, 31.0, id="small values are exact"),
        pytest.param([32, 32], 0.5, 32.0, id="never more than the greatest"),
        pytest.param([-5], 0.5, 0.0, id="below zero counts as zero"),
        pytest.param([0, 1 << 80], 0.9, float(1 << 80), id="of any size"),
    ],
)
def test_percentile(values: list[int], share: float, ns: float) -> None:
    assert of(*values).percentile(share) == pytest.approx(ns, rel=RELATIVE_ERROR, abs=0)


def test_each_bucket_follows_the_one_before() -> None:
    counts = Counter(map(bucket_of, range(1 << 12)))
    assert list(counts) == list(range(max(counts) + 1))
    assert [counts[i] for i in range(EXACT_BELOW)] == [1] * EXACT_BELOW
    assert list(counts.values()) == sorted(counts.values())  # wider ones hold more
    assert set(counts.values()) == {1 << i for i in range(8)}


@given(st.lists(durations, min_size=1, max_size=100))
def test_each_is_counted_in_its_bucket(values: list[int]) -> None:
    counts = of(*values)._state.folded().counts
    assert {i: n for i, n in enumerate(counts) if n} == Counter(map(bucket_of, values))


def test_snapshot_is_in_seconds_and_ready_for_json() -> None:
    snapshot = of(*[1_000_000] * 98, 2_000_000_000, 2_000_000_000).snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["count"] == 100
    assert snapshot["mean_s"] == pytest.approx(0.04098)
    assert snapshot["p50_s"] == snapshot["p95_s"] == pytest.approx(0.001, rel=RELATIVE_ERROR)
    assert snapshot["p99_s"] == pytest.approx(2.0, rel=RELATIVE_ERROR)
    assert snapshot["max_s"] == 2.0
    assert all(value == 0 for value in Histogram().snapshot().values())
