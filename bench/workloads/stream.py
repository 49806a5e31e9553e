"""Question: does a long generator pass through ``imap_unordered`` in flat memory?

    stream           200,000 items of 2 KiB (400 MiB; in the suite 20,000), short results, a consumer that keeps up
    stream-buffered  20,000 items of 2 KiB that come back whole, a consumer that rests 0.1 ms after
                     each; mpsteal is called with ``buffersize=64``. The stock Pool has no such
                     keyword and runs without: its growth is what the keyword is there to prevent,
                     and shows that this row can fail.

The figure is the parent's peak resident size over its size before the call: the kernel's own peak
where it keeps one (Linux), else read every 500 results. ``lead_items`` is the most items drawn
from the generator beyond those handed to the consumer. Every result is checked, by number and by
sum.

Not told: the agents' memory, a consumer slower than that without ``buffersize`` (results nobody
fetched do grow), or items of other sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bench import _rss
from bench._model import AGENTS, Figure, Goal, Row, Setup, check
from bench._targets import IMAP, warm
from bench._tasks import first_word, same

ITEM_BYTES = 2048
LOOK_EVERY = 500


class Source:
    """Distinct items, and how many were drawn so far."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.drawn = 0

    def __iter__(self) -> Iterator[bytes]:
        for i in range(self.count):
            self.drawn = i + 1
            yield i.to_bytes(8, "little") * (ITEM_BYTES // 8)


def measure(setup: Setup, full: int, quick: int, rest_s: float) -> dict[str, float]:
    n = setup.size(full, quick, min(full, 20_000))
    source = Source(n)
    returns_items = rest_s > 0
    function = same if returns_items else first_word
    options = {"buffersize": 64} if returns_items and setup.target.has_buffersize else {}
    got = total = lead = 0
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS, lazy=True)
        before = highest = _rss.settled(_rss.rss)
        kernel_knows = _rss.reset_peak()
        began = time.perf_counter()
        for result in pool.imap_unordered(function, iter(source), **options):
            got += 1
            total += first_word(result) if isinstance(result, bytes) else result
            lead = max(lead, source.drawn - got)
            if rest_s:
                time.sleep(rest_s)
            if not kernel_knows and got % LOOK_EVERY == 0:
                highest = max(highest, _rss.rss())
        wall_s = time.perf_counter() - began
        if kernel_knows:
            highest = max(highest, _rss.peak())
    check((got, total), (n, n * (n - 1) // 2), "stream")
    return {
        "grown_mib": (highest - before) / _rss.MIB,
        "lead_items": lead,
        "us_per_item": wall_s / n * 1e6,
    }


FIGURES = (
    Figure("grown_mib", "parent grows by", "MiB", Goal("value", "<", 16), has_ratio=False),
    Figure("lead_items", "items drawn ahead, at most", "", has_ratio=False),
    Figure("us_per_item", "time per item", "us"),
)
ROWS = (
    Row(
        "stream",
        "imap_unordered over items of 2 KiB, consumer keeps up",
        partial(measure, full=200_000, quick=20_000, rest_s=0.0),
        FIGURES,
        not_for=frozenset({"ray", "dask"}),  # so many items would take them minutes
        needs=frozenset({IMAP}),
        best_chunk=64,
    ),
    Row(
        "stream-buffered",
        "the same with a slow consumer; mpsteal with buffersize=64",
        partial(measure, full=20_000, quick=10_000, rest_s=1e-4),
        FIGURES[:2],
        not_for=frozenset({"ray", "dask"}),
        needs=frozenset({IMAP}),
    ),
)
