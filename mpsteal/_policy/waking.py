"""How many agents are woken where there are more of them than cores."""

from __future__ import annotations

from collections.abc import Sequence

WORTH_NS = 30_000
"""Chunks that take less than this are short (ns). To wake an agent costs some 100 us of a core, more than such a chunk
and a few behind it; and it can hardly wait for anything, so that others could use the core meanwhile: the shortest
sleep takes 50 us. Smaller: more agents than cores get in each other's way; larger: too few run chunks that wait."""

TELLING = 16
"""Chunks that tell that all are short; a single long one tells that they are not. Fewer: chance decides; more: it takes
longer."""

STUCK_NS = 1_000_000
"""An agent that has run the same chunk for this long (ns) does not count among those that get on. Shorter: one that has
merely lost its core is replaced; longer: what is queued behind a long chunk waits for that long."""


def are_short(chunks: Sequence[int], elapsed_ns: Sequence[int]) -> bool | None:
    """Whether chunks are short, from how many each agent has run and how long that took; None: too few to tell.

    The middle one of the agents' means counts (the lower of two), so that one that lost its core has no say.
    """
    means = sorted(ns / n for n, ns in zip(chunks, elapsed_ns) if n > 0)  # noqa: B905
    if not means:
        return None
    if means[(len(means) - 1) // 2] >= WORTH_NS:
        return False
    return True if sum(chunks) >= TELLING else None
