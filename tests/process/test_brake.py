"""Short chunks and more agents than cores: few agents are woken, and yet nothing stays behind a long one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from gates import Gate, Gates, pass_gate
from waiting import wait_idle, wait_until

import mpsteal
from mpsteal._queue import layout as L

Open = Callable[..., mpsteal.Pool]
AGENTS = 8


def put_on(pool: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The brake, on for good, as on a machine with two cores."""
    engine = pool._engine
    brake = engine.dispatcher.brake
    wait_idle(pool)
    monkeypatch.setattr(brake, "observe", lambda: None)

    def turn_on() -> None:
        brake._enough, brake.is_on = 2, True
        engine.words[L.FEW] = 1

    engine.call(turn_on)
    return brake


def meet(pool: mpsteal.Pool, gate: Gate, count: int = AGENTS) -> None:
    """Have so many tasks that wait for each other end."""
    held = pool.map_async(pass_gate, [gate] * count, chunksize=1)
    gate.wait_arrived(count)
    gate.open()
    assert held.get() == [None] * count


def test_as_many_tasks_run_as_there_are_agents(
    open_pool: Open, start_method: str, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may wait for each other."""
    gate = gates("held")
    pool = open_pool(AGENTS, start_method)
    put_on(pool, monkeypatch)
    meet(pool, gate)


def test_what_stands_behind_long_tasks_is_run_by_others(
    open_pool: Open, start_method: str, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gates("held")
    pool = open_pool(AGENTS, start_method)
    put_on(pool, monkeypatch)
    for _ in range(AGENTS - 1):
        held = pool.apply_async(pass_gate, (gate,))
        behind = [pool.apply_async(abs, (-i,)) for i in range(20)]
        assert [result.get() for result in behind] == list(range(20))
        assert not held.ready()
    gate.open()


def test_few_agents_run_what_is_short(open_pool: Open, start_method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpsteal._engine.brake.STUCK_NS", 1 << 60)  # else one that loses its core is replaced
    pool = open_pool(AGENTS, start_method)
    brake = put_on(pool, monkeypatch)
    monkeypatch.setattr(brake, "_deaf", lambda parked: set())  # the same
    rung: list[int] = []
    ring = pool._engine.dispatcher.ring
    monkeypatch.setattr(pool._engine.dispatcher, "ring", lambda slot: (rung.append(slot), ring(slot)))
    assert pool.map(abs, range(-400, 0), chunksize=1) == list(range(400, 0, -1))
    wait_idle(pool)
    assert set(rung) <= {0, 1}, "nobody is stuck, and two are enough"


def test_brake_is_let_go_where_chunks_are_long(open_pool: Open, start_method: str) -> None:
    pool = open_pool(AGENTS, start_method)
    wait_idle(pool)
    engine = pool._engine
    brake = engine.dispatcher.brake

    def turn_on() -> None:
        brake.observe()
        brake._enough, brake.is_on = 2, True
        engine.words[L.FEW] = 1

    engine.call(turn_on)
    assert pool.map(time.sleep, [0.001] * 4, chunksize=1) == [None] * 4
    wait_until(lambda: not engine.words[L.FEW], "the brake let go")
    assert not brake.is_on


def test_what_one_look_misses_the_next_one_finds(
    open_pool: Open, start_method: str, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths are read one after another, so a chunk that moves meanwhile may seem to be nowhere."""
    gate = gates("held")
    pool = open_pool(AGENTS, start_method)
    brake = put_on(pool, monkeypatch)
    real, missed = brake._queued, []

    def miss_some() -> int:
        if len(missed) < 3:
            missed.append(True)
            return 0
        return int(real())

    monkeypatch.setattr(brake, "_queued", miss_some)
    meet(pool, gate)


def test_look_that_was_to_come_late_comes_soon_where_something_is_queued(
    open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a map of long items follows one of short ones: the last look saw nothing queued and something running."""
    gate = gates("held")
    pool: Any = open_pool(AGENTS)
    brake = put_on(pool, monkeypatch)
    pool._engine.call(lambda: setattr(brake, "_look_at", time.monotonic() + 1000))
    meet(pool, gate)


def test_brake_is_let_go_where_nobody_is_left_to_wake(
    open_pool: Open, start_method: str, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gates("held")
    pool = open_pool(AGENTS, start_method)
    brake = put_on(pool, monkeypatch)
    held = pool.map_async(pass_gate, [gate] * (3 * AGENTS), chunksize=1)
    gate.wait_arrived(AGENTS)
    wait_until(lambda: not pool._engine.words[L.FEW], "the brake let go")
    assert not brake.is_on and not brake.due()
    gate.open()
    assert held.get() == [None] * (3 * AGENTS)


def test_nothing_is_due_once_the_agents_were_told_to_leave(
    open_pool: Open, start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks any more, and what stays due would keep the engine from sleeping."""
    pool = open_pool(AGENTS, start_method)
    brake = put_on(pool, monkeypatch)
    pool._engine.call(lambda: setattr(brake, "_look_at", time.monotonic() + 1000))
    pool.terminate()
    pool.join()
    assert not brake.due()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_agents_that_were_stopped_take_no_one_elses_wake_up(
    open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As parked as the others, for all that is shared; nothing is queued at some, so that `Vitals` never looks."""
    gate = gates("held")
    pool = open_pool(AGENTS)
    put_on(pool, monkeypatch)
    monkeypatch.setattr(pool._engine.vitals, "turn", lambda now: None)
    stopped = [process.pid for process in pool._pool[:3]]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in stopped), "they stopped")
    meet(pool, gate, AGENTS - 3)
