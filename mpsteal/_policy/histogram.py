"""How long things took: counts per size of duration, small enough to keep for ever, exact enough for percentiles."""

from __future__ import annotations

from math import ceil

SUB_BITS = 4
SUB_BUCKETS = 1 << SUB_BITS
"""Buckets per power of two (log-linear, as in HdrHistogram: Tene, hdrhistogram.org). A percentile is off by at most
half a bucket, 1 / (2 * SUB_BUCKETS) = 3.1 %. Fewer: less exact; more: larger (one hour needs 39 * 16 counts)."""

RELATIVE_ERROR = 1 / (2 * SUB_BUCKETS)

EXACT_BELOW = 2 * SUB_BUCKETS
"""Below so many ns each value has a bucket of its own."""


class Histogram:
    """Durations in ns. `mean` and `max_ns` are exact, percentiles within RELATIVE_ERROR.

    The bucket of a value of b bits (at least 5) is given by b and the 4 bits after the leading one:

        1 | xxxx | the rest, b - 5 bits, is dropped      bucket = (b - 5) * 16 + 1xxxx

    so that buckets follow one another without a gap, and equal the value itself below 32. One thread adds; another may
    read, and sees counts and total at most one `add` apart.
    """

    __slots__ = ("_counts", "max_ns", "total_ns")

    def __init__(self) -> None:
        self._counts: list[int] = [0] * EXACT_BELOW  # grows with the greatest value
        self.total_ns = 0
        self.max_ns = 0

    def add(self, ns: int) -> None:
        """Count one duration; below 0 counts as 0 (clocks of two processes may differ a little)."""
        if ns >= EXACT_BELOW:
            shift = ns.bit_length() - 5  # SUB_BITS + 1
            bucket = (shift << 4) + (ns >> shift)
        else:
            if ns < 0:
                ns = 0
            bucket = ns
        try:
            self._counts[bucket] += 1
        except IndexError:
            self._grow(bucket + 1)
            self._counts[bucket] += 1
        self.total_ns += ns
        if ns > self.max_ns:
            self.max_ns = ns

    @property
    def count(self) -> int:
        """Durations counted."""
        return sum(self._counts)

    @property
    def mean(self) -> float:
        """Mean in ns; 0.0 of none."""
        return self.total_ns / max(1, self.count)

    def percentile(self, share: float) -> float:
        """A duration in ns that at least `share` (0..1) of all do not exceed, and the least such; 0.0 of none."""
        counts = self._counts.copy()
        rank = max(1, ceil(share * sum(counts)))
        seen = 0
        for bucket, count in enumerate(counts):
            seen += count
            if seen >= rank:
                return min(_middle(bucket), float(self.max_ns))
        return 0.0

    def merge(self, other: Histogram) -> None:
        """Add all that `other` counted."""
        theirs = other._counts.copy()
        self._grow(len(theirs))
        for bucket, count in enumerate(theirs):
            self._counts[bucket] += count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def snapshot(self) -> dict[str, float]:
        """What to show, ready for JSON."""
        return {
            "count": self.count,
            "mean_s": self.mean / 1e9,
            "p50_s": self.percentile(0.50) / 1e9,
            "p95_s": self.percentile(0.95) / 1e9,
            "p99_s": self.percentile(0.99) / 1e9,
            "max_s": self.max_ns / 1e9,
        }

    def _grow(self, buckets: int) -> None:
        self._counts.extend([0] * (buckets - len(self._counts)))


def _middle(bucket: int) -> float:
    """The value that stands for a bucket."""
    if bucket < EXACT_BELOW:
        return float(bucket)
    shift = (bucket >> SUB_BITS) - 1
    lowest = (bucket - (shift << SUB_BITS)) << shift
    return lowest + ((1 << shift) - 1) / 2
