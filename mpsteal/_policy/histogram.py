"""How long things took: counts per size of duration, small enough to keep for ever, exact enough for percentiles."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

SUB_BITS = 4
SUB_BUCKETS = 1 << SUB_BITS
"""Buckets per power of two (log-linear, as in HdrHistogram: Tene, hdrhistogram.org). A percentile is off by at most
half a bucket, 1 / (2 * SUB_BUCKETS) = 3.1 %. Fewer: less exact; more: larger (one hour needs 39 * 16 counts)."""

RELATIVE_ERROR = 1 / (2 * SUB_BUCKETS)

EXACT_BELOW = 2 * SUB_BUCKETS
"""Below so many ns each value has a bucket of its own."""


FOLD = 1024
"""Durations that are kept as they are before they are counted together: fewer cost more each (0.1 us against 0.35 us),
more memory."""


class Histogram:
    """Durations in ns. `mean` and `max_ns` are exact, percentiles within RELATIVE_ERROR.

    The bucket of a value of b bits (at least 5) is given by b and the 4 bits after the leading one:

        1 | xxxx | the rest, b - 5 bits, is dropped      bucket = (b - 5) * 16 + 1xxxx

    so that buckets follow one another without a gap, and equal the value itself below 32. One thread adds; others may
    read meanwhile: counts, totals and what is not counted yet are exchanged together, by one store.
    """

    __slots__ = ("_new", "_state")

    def __init__(self) -> None:
        self._new: list[int] = []
        self._state = _State([], 0, 0, 0, self._new)

    def add(self, durations_ns: Iterable[int]) -> None:
        """Take in some; what is below 0 counts as 0 (clocks of two processes may differ a little)."""
        new = self._new
        new.extend(durations_ns)
        if len(new) >= FOLD:
            self._state = folded = self._state.folded()
            self._new = folded.new

    @property
    def count(self) -> int:
        """Durations taken in."""
        return self._state.folded().n

    @property
    def mean(self) -> float:
        """Mean in ns; 0.0 of none."""
        state = self._state.folded()
        return state.total_ns / max(1, state.n)

    @property
    def max_ns(self) -> int:
        """The greatest; 0 of none."""
        return self._state.folded().max_ns

    def percentile(self, share: float) -> float:
        """A duration in ns that at least `share` (0..1) of all do not exceed, and the least such; 0.0 of none."""
        return self._state.folded().percentile(share)

    def snapshot(self) -> dict[str, float]:
        """What to show, ready for JSON."""
        state = self._state.folded()
        return {
            "count": state.n,
            "mean_s": state.total_ns / max(1, state.n) / 1e9,
            "p50_s": state.percentile(0.50) / 1e9,
            "p95_s": state.percentile(0.95) / 1e9,
            "p99_s": state.percentile(0.99) / 1e9,
            "max_s": state.max_ns / 1e9,
        }


class _State(NamedTuple):
    """All of a histogram; only `new` grows, and it is counted nowhere else."""

    counts: list[int]
    n: int
    total_ns: int
    max_ns: int
    new: list[int]

    def folded(self) -> _State:
        """The same with nothing new."""
        values = sorted(self.new)
        if not values:
            return self
        if values[0] < 0:
            values = [max(0, ns) for ns in values]
        counts = self.counts.copy()
        counts.extend([0] * (bucket_of(values[-1]) + 1 - len(counts)))
        at = 0
        while at < len(values):  # bucket by bucket, each one found from its least value
            bucket = bucket_of(values[at])
            end = bisect_left(values, _lowest(bucket + 1), at)
            counts[bucket] += end - at
            at = end
        return _State(counts, self.n + len(values), self.total_ns + sum(values), max(self.max_ns, values[-1]), [])

    def percentile(self, share: float) -> float:
        rank = max(1, ceil(share * self.n))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return min(_middle(bucket), float(self.max_ns))
        return 0.0


def bucket_of(ns: int) -> int:
    """The bucket of a duration of 0 or more."""
    if ns < EXACT_BELOW:
        return ns
    shift = ns.bit_length() - 1 - SUB_BITS
    return (shift << SUB_BITS) + (ns >> shift)


def _lowest(bucket: int) -> int:
    """The least duration of a bucket."""
    if bucket < EXACT_BELOW:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return (bucket - (shift << SUB_BITS)) << shift


def _middle(bucket: int) -> float:
    """The value that stands for a bucket."""
    return (_lowest(bucket) + _lowest(bucket + 1) - 1) / 2
