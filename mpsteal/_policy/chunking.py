"""How a `map` without `chunksize` is cut: single items first, then bundles by measured time, small ones at the end."""

from __future__ import annotations

PROBES_PER_AGENT = 8
"""Single items sent first, to learn what an item takes. Fewer: one odd item decides; more: a short map is all probes,
at about 7 us each."""

CHUNK_NS = 200_000
"""What a chunk should take (ns). Shorter: its own cost of about 7 us shows (3 % here); longer: a chunk of neighbours
that turn out heavy holds more of them up, since a started chunk is not split."""

GUIDE = 4
"""A chunk is at most 1/(GUIDE * agents) of what is left, so that chunks shrink towards the end (guided
self-scheduling: Polychronopoulos and Kuck, 1987, who took 1)."""

CHUNKS_AHEAD_PER_AGENT = 64
"""Chunks cut ahead of the agents, at most. Fewer: agents wait for a parent that is busy; more: later chunks are cut by
an older estimate."""

AHEAD_NS, LEAST_AHEAD_PER_AGENT = 15_000_000, 3
"""How much work is handed out ahead, per agent: so long (ns), and never fewer chunks than that. Less: agents wait for a
parent that is busy in one C call, or has not heard of their results yet (5 ms); more: a long item is the later for
those before it that agents take out of order (64 items of 4 ms, for 8 agents: a quarter of a second; the heavy tail of
the bench ended at up to 1.15 of its bound with 30 ms, at up to 1.14 with 20 ms and 4 chunks, at up to 1.06 with 15 ms
and 3; with 8 ms and 1 the agents waited for the parent where the heaviest came first: 1.06 in place of 1.04)."""


AHEAD_AGENTS = 8
"""With more agents than this as much more is handed out ahead as there are more of them: one parent hears of all (64
agents and naps of 4 ms, 2 cores: each time it came by, all were out of work). Smaller: a long item is the later, as
above; larger: agents wait for the parent."""

MEMORY = 0.5
"""Weight of what was known before, when a chunk is observed: the estimate follows an input whose items change."""


class MapCutter:
    """Decides the size of each next chunk from the times of those that are finished.

    Rejected: cutting everything at once into 64 chunks per agent, larger first (what comes first may be heaviest: 2,000
    items for 8 agents, sorted, took 1.5 times the bound), and into 256 (a map over 1,000 trivial items took six
    times as long as the stock pool's).
    """

    def __init__(self, items: int, agents: int) -> None:
        self.left = items
        self.agents = max(1, agents)
        self._probes = PROBES_PER_AGENT * self.agents
        self._sent = self._seen = 0
        self._mean_ns = 0.0

    def next_size(self) -> int:
        """Items of the next chunk; 0: wait for `observe` first (or nothing is left)."""
        if self._sent < self._probes:
            size = min(1, self.left)
        elif self._seen < self._probes // 2 or self._sent - self._seen >= self._ahead() * self.agents:
            # Half is enough: whoever is free keeps finishing probes, whatever the others are stuck in.
            return 0
        else:
            wanted = int(CHUNK_NS / max(1.0, self._mean_ns))
            guide = self.left // (GUIDE * self.agents)
            size = min(self.left, max(1, min(wanted, guide)))
        self.left -= size
        self._sent += 1
        return size

    def _ahead(self) -> int:
        """Chunks per agent that may be sent and not finished."""
        chunk_ns = max(CHUNK_NS, int(self._mean_ns))
        ahead_ns = AHEAD_NS * max(self.agents, AHEAD_AGENTS) // AHEAD_AGENTS
        return min(CHUNKS_AHEAD_PER_AGENT, max(LEAST_AHEAD_PER_AGENT, ahead_ns // chunk_ns))

    def observe(self, items: int, elapsed_ns: int) -> None:
        """A chunk of `items` items took `elapsed_ns`."""
        mean = elapsed_ns / max(1, items)
        self._mean_ns = mean if not self._seen else MEMORY * self._mean_ns + (1 - MEMORY) * mean
        self._seen += 1
