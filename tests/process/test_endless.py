"""Tasks that never end pin nothing: not the page they came from, not the block of their argument (D2)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gate, Gates, pass_gate
from waiting import agent_pids, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]

SMALL = {"page_chunks": 4, "page_bytes": 4096, "pages": 3}
"""Twelve chunks in flight at most, and three pages that can be pinned."""


class Held:
    """A pool whose agents but one are held by endless tasks, each in a page of its own."""

    def __init__(self, pool: mpsteal.Pool, gates: Gates, payload: bytes) -> None:
        self.pool, self.payload = pool, payload
        self.gate: Gate = gates("endless")
        self.results: list[Any] = []
        for i in range(3):
            self.results.append(pool.apply_async(pass_gate, (self.gate, (i, payload))))
            self.gate.wait_arrived(1)
            # The rest of its page, and then some.
            assert pool.map(tasks.double, range(5), chunksize=1) == [0, 2, 4, 6, 8]

    def work_goes_on(self) -> None:
        """More than all pages hold, several times."""
        waiting = [self.pool.apply_async(tasks.double, (i,)) for i in range(100)]
        assert [r.get() for r in waiting] == list(range(0, 200, 2))
        assert list(self.pool.imap(tasks.double, range(50))) == list(range(0, 100, 2))

    def check_adrift(self) -> None:
        pages = self.pool._engine.dispatcher.pages
        assert len(pages.adrift) == 3
        assert not self.pool._engine.dispatcher.blocks.live_bytes
        self.pool._engine.validate()


@pytest.fixture(params=[b"small", bytes(1 << 20)], ids=["in the slab", "in a block"])
def held(request: pytest.FixtureRequest, open_pool: Open, gates: Gates) -> Held:
    made = Held(open_pool(4, "fork", geometry=SMALL), gates, request.param)
    made.work_goes_on()
    made.check_adrift()
    return made


def test_endless_tasks_may_end_after_all(held: Held) -> None:
    held.gate.open()
    assert [r.get() for r in held.results] == [(i, held.payload) for i in range(3)]
    held.work_goes_on()
    wait_until(lambda: not held.pool._engine.dispatcher.pages.adrift, "nobody adrift")
    held.pool._engine.validate()


def test_endless_task_dies_with_its_agent(held: Held) -> None:
    before = agent_pids(held.pool)
    idle = held.pool.apply(os.getpid)
    victim = next(pid for pid in before if pid != idle)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: any(r.ready() for r in held.results), "the death is known")
    (dead,) = [r for r in held.results if r.ready()]
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        dead.get()
    assert caught.value.pid == victim
    held.work_goes_on()
    held.gate.open()
    assert sum(r.get()[0] for r in held.results if r is not dead) == 3 - held.results.index(dead)


def test_endless_tasks_are_told_of_the_end(held: Held) -> None:
    held.pool.terminate()
    for result in held.results:
        with pytest.raises(mpsteal.PoolTerminatedError):
            result.get()


def test_endless_chunks_of_maps(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(4, "fork", geometry=SMALL)
    gate = gates("endless")
    mapped = []
    for _ in range(3):
        mapped.append(pool.map_async(pass_gate, [gate], chunksize=1))
        gate.wait_arrived(1)
        assert pool.map(tasks.double, range(5), chunksize=1) == [0, 2, 4, 6, 8]
    assert pool.map(tasks.double, range(100), chunksize=1) == list(range(0, 200, 2))
    assert len(pool._engine.dispatcher.pages.adrift) == 3
    pool._engine.validate()
    gate.open()
    assert [m.get() for m in mapped] == [[None]] * 3
