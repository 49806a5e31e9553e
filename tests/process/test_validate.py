"""`Engine.validate` passes on a living pool, and fails on every kind of damage it is there to find."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import wait_idle

import mpsteal
from mpsteal._queue import layout as L

Open = Callable[..., mpsteal.Pool]

SMALL = {"page_chunks": 8, "page_bytes": 4096, "pages": 64, "entries": 4}
"""So that chunks are in every kind of place: backlog, several ranges, claims."""


@pytest.fixture
def held(open_pool: Open, gates: Gates) -> Any:
    """Two agents held inside a task, 100 chunks behind them."""
    pool = open_pool(2, geometry=SMALL)
    gate = gates("held")
    running = [pool.apply_async(pass_gate, (gate, i)) for i in range(2)]
    gate.wait_arrived(2)
    waiting = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    pool._engine.validate()
    yield pool
    pool.terminate()
    assert len(running) + len(waiting) == 102


def validate_now(pool: mpsteal.Pool) -> None:
    pool._engine.validate()


def validate_damaged(pool: mpsteal.Pool, damage: Callable[[mpsteal.Pool], object]) -> None:
    """In the engine's thread: else its turn may hand out or mend what is damaged before the look. After a
    `validate_now`: what is queued for that thread meanwhile has to wait."""
    engine = pool._engine

    def damage_and_validate() -> None:
        damage(pool)
        engine.validate()

    engine.call(damage_and_validate)


def test_passes_when_idle(open_pool: Open, start_method: str) -> None:
    pool = open_pool(3, start_method)
    for count in (1, 10, 1000):
        pool.map(tasks.double, range(count))
        [r.get() for r in [pool.apply_async(tasks.double, (i,)) for i in range(count)]]
        list(pool.imap_unordered(tasks.double, range(count)))
        wait_idle(pool)
        validate_now(pool)


def test_passes_while_held_with_a_backlog(held: mpsteal.Pool) -> None:
    assert held._engine.dispatcher.backlog
    assert held._engine.dispatcher.inflight == 102
    validate_now(held)


def test_metrics_agree_with_what_was_done(open_pool: Open) -> None:
    """I6: after N single calls the agents have done N tasks, none is queued, deaths included."""
    pool = open_pool(2)
    [r.get() for r in [pool.apply_async(tasks.double, (i,)) for i in range(500)]]
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(tasks.die_at_once, (1,))
    [r.get() for r in [pool.apply_async(tasks.double, (i,)) for i in range(500)]]
    wait_idle(pool)
    validate_now(pool)
    assert pool.stats().tasks_done == 1000


def test_refuses_while_tasks_begin_and_end(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be said of a pool that moves, so it says that instead."""
    monkeypatch.setattr("mpsteal._engine.validate.SETTLE_S", 0.2)
    pool = open_pool(1, initializer=_sleep_long)
    with pytest.raises(AssertionError, match="not quiescent"):
        validate_now(pool)


def _sleep_long() -> None:
    import time

    time.sleep(600)


def _first_page(pool: mpsteal.Pool) -> Any:
    return next(p for p in pool._engine.dispatcher.pages.table if p is not None and p.left)


def _some_range(pool: mpsteal.Pool) -> int:
    """Word of a range that is not empty."""
    deques, words = pool._engine.deques, pool._engine.words
    for slot in range(2):
        for at in deques._range_words(slot):
            if words[at] < words[at + 1]:
                return int(at)
    raise AssertionError("no range")


def lose_from_a_range(pool: mpsteal.Pool) -> None:
    pool._engine.words[_some_range(pool)] += 1


def double_in_a_range(pool: mpsteal.Pool) -> None:
    """The chunk under way is queued once more."""
    words, layout = pool._engine.words, pool._engine.segment.layout
    claim = words[layout.agent(0) + L.CLAIM]
    pool._engine.dispatcher.backlog.append((claim, claim + 1))


def overlap_of_ranges(pool: mpsteal.Pool) -> None:
    words, layout = pool._engine.words, pool._engine.segment.layout
    at = _some_range(pool)
    base = layout.agent(0)
    words[base + L.LOOT_LO], words[base + L.LOOT_HI] = words[at], words[at] + 1


def lose_from_the_backlog(pool: mpsteal.Pool) -> None:
    pool._engine.dispatcher.backlog.pop()


def lose_a_claim(pool: mpsteal.Pool) -> None:
    pool._engine.words[pool._engine.segment.layout.agent(1) + L.CLAIM] = L.NONE


def wrong_inflight(pool: mpsteal.Pool) -> None:
    pool._engine.dispatcher.inflight += 1


def wrong_page_count(pool: mpsteal.Pool) -> None:
    _first_page(pool).left -= 1


def sink_dropped(pool: mpsteal.Pool) -> None:
    page = _first_page(pool)
    i = next(i for i, sink in enumerate(page.sinks) if sink is not None)
    page.sinks[i] = None
    page.left -= 1
    pool._engine.dispatcher.inflight -= 1


def handle_in_two_places(pool: mpsteal.Pool) -> None:
    page = _first_page(pool)
    a, b = [i for i, sink in enumerate(page.sinks) if sink is not None][:2]
    page.sinks[b] = page.sinks[a]


def handle_resolved_early(pool: mpsteal.Pool) -> None:
    next(sink for sink in _first_page(pool).sinks if sink is not None)._done = True


def mark_left(pool: mpsteal.Pool) -> None:
    pool._engine.words[pool._engine.segment.layout.agent(0) + L.MARK] = 2


def journal_left(pool: mpsteal.Pool) -> None:
    pool._engine.words[pool._engine.segment.layout.agent(1) + L.J_VICTIM] = 1


DAMAGE = [
    (lose_from_a_range, "I1"),
    (double_in_a_range, "I1"),
    (overlap_of_ranges, "D-2|I1"),
    (lose_from_the_backlog, "I1"),
    (lose_a_claim, "I1|not quiescent"),
    (wrong_inflight, "I6"),
    (wrong_page_count, "I2"),
    (sink_dropped, "I1|not quiescent"),
    (handle_in_two_places, "I2"),
    (handle_resolved_early, "I2"),
    (mark_left, "D-3"),
    (journal_left, "D-3"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
def test_finds_damage(
    held: mpsteal.Pool,
    damage: Callable[[mpsteal.Pool], None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpsteal._engine.validate.SETTLE_S", 0.5)
    with pytest.raises(AssertionError, match=words):
        validate_damaged(held, damage)


def test_finds_a_lost_chunk_anywhere(held: mpsteal.Pool) -> None:
    """A chunk taken out of a seeded place, wherever it is."""
    chance = random.Random(5)
    words, deques = held._engine.words, held._engine.deques
    places = [at for s in range(2) for at in deques._range_words(s) if words[at] < words[at + 1]]
    assert len(places) >= 3
    for at in chance.sample(places, 3):

        def lose_and_validate(last: int = at + 1) -> None:
            words[last] -= 1
            try:
                validate_now(held)
            finally:
                words[last] += 1

        with pytest.raises(AssertionError, match="I1 chunk"):
            held._engine.call(lose_and_validate)
        validate_now(held)


def test_finds_wrong_metrics(open_pool: Open) -> None:
    pool = open_pool(1)
    pool.map(tasks.double, range(10))
    wait_idle(pool)
    validate_now(pool)
    with pytest.raises(AssertionError, match="I6"):
        validate_damaged(pool, one_done_more)


def one_done_more(pool: mpsteal.Pool) -> None:
    pool._engine.words[pool._engine.segment.layout.agent(0) + L.DONE] += 1


def test_finds_a_forgotten_chunk_in_an_idle_pool(open_pool: Open) -> None:
    """Queued, and nobody waits for it."""
    pool = open_pool(1)
    pool.map(tasks.double, range(10))
    wait_idle(pool)
    validate_now(pool)
    backlog = pool._engine.dispatcher.backlog

    def forget_and_validate() -> None:
        backlog.append((999_999, 1_000_000))
        try:
            validate_now(pool)
        finally:
            backlog.clear()  # before an agent is given what was never written

    with pytest.raises(AssertionError, match="I1"):
        pool._engine.call(forget_and_validate)
