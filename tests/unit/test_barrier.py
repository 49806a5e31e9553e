"""`membarrier`: who registered passes a fence when somebody else asks for one (D5)."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from mpsteal._queue import barrier

loaded = barrier.load_barrier()
needs_barrier = pytest.mark.skipif(loaded is None, reason="no membarrier() here: owners take their locks")

ROUNDS = 100_000


def test_where_it_is_known_it_is_found() -> None:
    """Linux 4.16 and later on x86-64; a sandbox may refuse it."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        assert loaded is None
        assert not barrier.register()


@needs_barrier
def test_registering_again_does_no_harm() -> None:
    assert barrier.register()
    assert barrier.register()


@needs_barrier
def test_refused_later_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief that goes on without the fence would run a chunk twice."""
    monkeypatch.setattr(barrier, "_GLOBAL_EXPEDITED", 1 << 30)
    with pytest.raises(OSError, match="membarrier"):
        loaded()


@needs_barrier
def test_one_sided_fence_lets_nobody_miss_the_other() -> None:
    """Dekker's flags between two processes that count as fast as they can, with the fence on one side alone.

    Each stores its own count, then notes the other's. If the owner's round `i` missed the thief's round `j`, that
    one must have seen `i`. Without any fence both miss each other in some rounds on two cores (D5 tells of up to 4 %);
    on two threads of one core they may not, and then this test says little.
    """
    for _ in range(20):
        missed, both = _race()
        assert not both
        if missed:
            return
    pytest.skip("the two never ran side by side: other programs had the cores")


def _race() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Rounds in which the owner missed the thief, and those in which both missed each other."""
    shared = mmap.mmap(-1, 4096 + 16 * ROUNDS)
    words = memoryview(shared).cast("q")
    owner_at, thief_at, state = 0, 64, 128
    owner_saw, thief_saw = words[512 : 512 + ROUNDS], words[512 + ROUNDS : 512 + 2 * ROUNDS]
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if barrier.register():
                words[state] = 1
                while not words[thief_at]:
                    os.sched_yield()
                for i in range(1, ROUNDS):
                    words[owner_at] = i
                    owner_saw[i] = words[thief_at]
                words[state] = 2
                status = 0
        finally:
            os._exit(status)
    while words[state] < 1:
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the other process ended early"
        os.sched_yield()
    last = 0
    while words[state] < 2 and last < ROUNDS - 1:
        last += 1
        words[thief_at] = last
        loaded()
        thief_saw[last] = words[owner_at]
    assert os.waitpid(pid, 0)[1] == 0
    missed = [(i, owner_saw[i] + 1) for i in range(1, ROUNDS) if 0 < owner_saw[i] < last]
    both = [(i, j) for i, j in missed if thief_saw[j] < i]
    for view in (owner_saw, thief_saw, words):
        view.release()
    shared.close()
    return missed, both
