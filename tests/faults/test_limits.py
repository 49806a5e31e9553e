"""Time limits and further tries of a Pool's calls: what ends is one task, and nothing else with it."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, lines, signal_own, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]

NEVER_S = 600.0
"""What a task that never returns takes."""

FORMS = [
    "apply",
    "apply_async",
    "map",
    "map by ones",
    "map_async",
    "starmap",
    "starmap_async",
    "imap",
    "imap_unordered",
]


def end_one(pool: mpsteal.Pool, form: str, gate: Any, timeout: float) -> Any:
    """Run one endless task among others by one of the pool's methods, with a time limit for each."""
    items = [(gate, i, 4) for i in range(8)]
    if form == "apply":
        return pool.apply(tasks.arrive_and_sleep_if, items[4], timeout=timeout)
    if form == "apply_async":
        return pool.apply_async(tasks.arrive_and_sleep_if, items[4], timeout=timeout).get()
    if form == "map":
        return pool.map(tasks.arrive_and_sleep_if_packed, items, timeout=timeout)
    if form == "map by ones":
        return pool.map(tasks.arrive_and_sleep_if_packed, items, 1, timeout=timeout)
    if form == "map_async":
        return pool.map_async(tasks.arrive_and_sleep_if_packed, items, 3, timeout=timeout).get()
    if form == "starmap":
        return pool.starmap(tasks.arrive_and_sleep_if, items, 8, timeout=timeout)
    if form == "starmap_async":
        return pool.starmap_async(tasks.arrive_and_sleep_if, items, timeout=timeout).get()
    return list(getattr(pool, form)(tasks.arrive_and_sleep_if_packed, items, timeout=timeout))


@pytest.mark.parametrize("form", FORMS)
def test_task_that_never_returns_is_ended(open_pool: Open, gates: Gates, form: str) -> None:
    pool = open_pool(2)
    wait_idle(pool)
    before = set(agent_pids(pool))
    others = [pool.apply_async(tasks.double, (i,)) for i in range(20)]
    with pytest.raises(mpsteal.TaskTimeoutError) as caught:
        end_one(pool, form, gates("begun"), 0.5)
    assert gates("begun").arrived_nowait() == 1
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.timeout_s == 0.5
    if form.startswith("apply"):
        assert caught.value.items is None
    else:
        assert 4 in caught.value.items and str(caught.value.items[0]) in str(caught.value)
    assert "arrive_and_sleep_if" in caught.value.task
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.task, again.timeout_s, str(again)) == (caught.value.task, 0.5, str(caught.value))
    others += [pool.apply_async(tasks.double, (i,)) for i in range(20, 40)]
    assert [result.get() for result in others] == list(range(0, 80, 2))
    wait_idle(pool)
    assert len(set(agent_pids(pool)) - before) == 1, "one agent was replaced"
    assert pool.stats().timeouts == 1 and pool.stats().agent_deaths == 0
    pool._engine.validate()
    assert not pool._engine.dispatcher.limits.watched


def test_limit_counts_from_the_start_of_each_item(open_pool: Open, gates: Gates) -> None:
    """A chunk of many items takes longer than the limit of one, and none of them does."""
    pool = open_pool(2)
    limit = 1.0
    spins = [limit / 20] * 24
    chunks = pool.map_async(tasks.spin_for, spins, 24, timeout=limit)
    assert pool.starmap(tasks.spin_for, [(s,) for s in spins], 24, timeout=limit) == spins
    assert chunks.get() == spins
    # Nor does the time in the queue count.
    gate = gates("held")
    held = [pool.apply_async(pass_gate, (gate,)) for _ in range(2)]
    gate.wait_arrived(2)
    behind = pool.apply_async(tasks.double, (4,), timeout=0.5)
    behind.wait(0.7)
    gate.release(2)
    assert behind.get() == 8
    for one in held:
        one.get()
    assert pool.stats().timeouts == 0


def test_only_what_ran_too_long_is_ended(open_pool: Open, tmp_path: Path) -> None:
    """Limits run out while short tasks flow before and behind: each of those runs exactly once."""
    noted = str(tmp_path / "noted")
    pool = open_pool(2)
    results: list[tuple[int, Any]] = []
    for i in range(300):
        if i % 100 == 50:
            results.append((i, pool.apply_async(tasks.note_and_sleep, (noted, i, NEVER_S), timeout=0.5)))
        else:
            results.append((i, pool.apply_async(tasks.note, (noted, i), timeout=60)))
    for i, result in results:
        if i % 100 == 50:
            with pytest.raises(mpsteal.TaskTimeoutError):
                result.get()
        else:
            assert result.get() == i
    assert Counter(lines(noted)) == Counter(map(str, range(300)))
    wait_idle(pool)
    pool._engine.validate()


def test_imap_goes_on_after_a_limit(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2)
    items = [(gates("begun"), i, 4) for i in range(8)]
    results = pool.imap(tasks.arrive_and_sleep_if_packed, items, timeout=0.5)
    got: list[Any] = []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except mpsteal.TaskTimeoutError:
            got.append("ended")
    assert got == [0, 1, 2, 3, "ended", 5, 6, 7]


def test_frozen_agent_is_ended(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(2)
    gate = gates("held")
    result = pool.apply_async(pass_gate, (gate, 1), timeout=1.5)
    gate.wait_arrived()
    (frozen,) = [a.pid for a in pool.stats().agents if a.running_s]
    os.kill(frozen, signal.SIGSTOP)
    gate.release()
    with pytest.raises(mpsteal.TaskTimeoutError):
        result.get()
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_idle(pool)
    assert frozen not in agent_pids(pool)


def test_limit_holds_though_a_thief_was_stopped_with_the_lock(open_pool: Open, gates: Gates) -> None:
    """The victim's lock does not come: it is stopped, looked at, and ended without it. The thief ends as well."""
    pool = open_pool(2)
    wait_idle(pool)
    gate = gates("held")
    result = pool.apply_async(pass_gate, (gate, 1), timeout=1.0)
    gate.wait_arrived()
    (busy,) = [a.slot for a in pool.stats().agents if a.running_s]
    thief = pool.apply_async(tasks.lock_and_stop, (busy,))
    with pytest.raises(mpsteal.TaskTimeoutError):
        result.get()
    with pytest.raises(mpsteal.AgentDiedError):
        thief.get()
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_idle(pool)
    pool._engine.validate()


@pytest.mark.parametrize("form", ["apply_async", "map_async", "imap"])
def test_retries_run_a_task_again_whose_agent_died(open_pool: Open, tmp_path: Path, form: str) -> None:
    noted, pool = str(tmp_path / "noted"), open_pool(2)
    args = [(noted, i, 3, 2) for i in range(8)]  # item 3 dies twice
    if form == "apply_async":
        handles = [pool.apply_async(tasks.die_times, a, retries=2) for a in args]
        values = [handle.get() for handle in handles]
    elif form == "map_async":
        values = pool.starmap_async(tasks.die_times, args, 1, retries=2).get()
    else:
        values = list(pool.imap(tasks.die_times_packed, args, retries=2))
    assert values == list(range(8))
    assert Counter(lines(noted)) == Counter({str(i): 3 if i == 3 else 1 for i in range(8)})
    stats = pool.stats()
    assert (stats.agent_deaths, stats.retried) == (2, 2)
    wait_idle(pool)
    pool._engine.validate()


@pytest.mark.parametrize("form", ["apply_async", "map_async", "imap"])
def test_poison_is_given_up_after_its_tries_and_says_what_it_cost(open_pool: Open, tmp_path: Path, form: str) -> None:
    noted, pool = str(tmp_path / "noted"), open_pool(2)
    poison = (noted, 0, 0, 99)
    good = [pool.apply_async(tasks.double, (i,)) for i in range(50)]
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        if form == "apply_async":
            pool.apply_async(tasks.die_times, poison, retries=2).get()
        elif form == "map_async":
            pool.starmap(tasks.die_times, [poison], retries=2)
        else:
            list(pool.imap(tasks.die_times_packed, [poison], retries=2))
    assert lines(noted) == ["0"] * 3, "the first time and two more"
    assert caught.value.agents_lost == 3
    assert "cost 3 agents" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).agents_lost == 3
    assert [result.get() for result in good] == list(range(0, 100, 2))
    wait_idle(pool)
    pool._engine.validate()


def test_payload_of_a_task_with_tries_is_kept(open_pool: Open, tmp_path: Path) -> None:
    """Pages are given back early under long tasks; not of those that may have to be read again."""
    geometry = {"page_chunks": 4, "page_bytes": 4096, "pages": 8, "entries": 4, "ring_bytes": 4096}
    noted, pool = str(tmp_path / "noted"), open_pool(2, geometry=geometry)
    handles = [
        pool.apply_async(tasks.die_times, (noted, i, i if i % 20 == 7 else -1, 1), retries=1) for i in range(200)
    ]
    assert [handle.get() for handle in handles] == list(range(200))
    assert Counter(lines(noted)) == Counter({str(i): 2 if i % 20 == 7 else 1 for i in range(200)})
    wait_idle(pool)
    pool._engine.validate()


def test_time_that_is_over_is_not_tried_again(open_pool: Open, tmp_path: Path) -> None:
    noted, pool = str(tmp_path / "noted"), open_pool(1)
    with pytest.raises(mpsteal.TaskTimeoutError):
        pool.apply(tasks.note_and_sleep, (noted, 1, NEVER_S), timeout=0.5, retries=5)
    assert lines(noted) == ["1"]


def test_exception_is_an_answer_and_not_tried_again(open_pool: Open, tmp_path: Path) -> None:
    noted, pool = str(tmp_path / "noted"), open_pool(1)
    with pytest.raises(ZeroDivisionError):
        pool.apply(tasks.note_and_divide, (noted, 1), retries=5)
    assert lines(noted) == ["1"]


@pytest.mark.parametrize(
    ("terms", "kind", "words"),
    [
        ({"timeout": 0}, ValueError, "timeout must be a finite number of seconds above 0"),
        ({"timeout": -1.0}, ValueError, "above 0"),
        ({"timeout": float("nan")}, ValueError, "finite"),
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
        ({"retries": -1}, ValueError, "retries must be a whole number"),
        ({"retries": 1.5}, ValueError, "retries must be a whole number"),
        ({"retries": True}, ValueError, "retries must be a whole number"),
    ],
)
def test_wrong_terms_are_refused(open_pool: Open, terms: dict[str, Any], kind: Any, words: str) -> None:
    pool = open_pool(1)
    for call in (
        lambda: pool.apply(tasks.double, (1,), **terms),
        lambda: pool.apply_async(tasks.double, (1,), **terms),
        lambda: pool.map(tasks.double, [1], **terms),
        lambda: pool.imap(tasks.double, [1], **terms),
    ):
        with pytest.raises(kind, match=words):
            call()


def test_callbacks_of_calls_with_terms(open_pool: Open) -> None:
    pool, seen, failed = open_pool(1), [], []
    pool.apply_async(tasks.double, (2,), callback=seen.append, error_callback=failed.append, timeout=60).get()
    with pytest.raises(mpsteal.TaskTimeoutError):
        pool.apply_async(time.sleep, (NEVER_S,), callback=seen.append, error_callback=failed.append, timeout=0.05).get()
    assert seen == [4]
    assert [type(error) for error in failed] == [mpsteal.TaskTimeoutError]


def test_withdrawn_call_is_watched_no_more(open_pool: Open, gates: Gates) -> None:
    pool, gate = open_pool(1), gates("held")
    held = pool.apply_async(pass_gate, (gate, 1), timeout=60)
    gate.wait_arrived()
    queued = pool.apply_async(tasks.double, (1,), timeout=60)
    assert queued.cancel()
    watched = pool._engine.dispatcher.limits.watched
    assert watched == {held}
    gate.release()
    held.get()
    wait_until(lambda: not watched, "nothing is watched")


def test_unpicklable_call_with_terms_is_watched_no_more(open_pool: Open) -> None:
    pool = open_pool(1)
    with pytest.raises(TypeError, match="stays at home"):
        pool.apply(tasks.double, (tasks.NotForTravel(),), timeout=60)
    with pytest.raises(TypeError, match="stays at home"):
        pool.map(tasks.double, [tasks.NotForTravel()], timeout=60)
    watched = pool._engine.dispatcher.limits.watched
    wait_until(lambda: not watched, "nothing is watched")  # callers go on before the engine has looked


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("form", ["map", "imap", "imap_unordered"])
def test_death_in_a_map_says_which_items_were_lost(open_pool: Open, form: str, chunksize: int | None) -> None:
    pool, bad = open_pool(2), 33
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        if form == "map":
            pool.map(tasks.die_if_33, range(100), chunksize)
        else:
            list(getattr(pool, form)(tasks.die_if_33, range(100), chunksize or 1))
    items = caught.value.items
    assert items is not None and bad in items
    assert len(items) == chunksize or chunksize is None or form != "map"
    assert ("items" if len(items) > 1 else "item 33") in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).items == items


def test_map_that_fails_before_it_is_sent_is_watched_no_more(open_pool: Open) -> None:
    """No page can be had for it: the engine has not yet looked at it."""
    pool = open_pool(1)
    dispatcher = pool._engine.dispatcher

    def submit_and_fail() -> Any:
        result = pool.map_async(tasks.double, range(3), timeout=60)
        dispatcher.fail_unsent(MemoryError("full"))
        return result

    with pytest.raises(MemoryError, match="full"):
        pool._engine.call(submit_and_fail).get()
    assert not dispatcher.limits.watched


def test_call_that_waits_for_another_try_has_run_and_cannot_be_withdrawn(open_pool: Open, gates: Gates) -> None:
    """True would mean that it never ran."""
    pool = open_pool(1)
    first = pool.apply_async(pass_gate, (gates("first"), 1), retries=1)
    gates("first").wait_arrived()
    second = pool.apply_async(pass_gate, (gates("second"), 2))  # its successor takes this first or the other
    assert signal_own(agent_pids(pool)[0], signal.SIGKILL)
    wait_until(lambda: gates("first").arrived_nowait() or gates("second").arrived_nowait(), "one of them runs")
    assert not first.cancel()
    gates("first").open()
    gates("second").open()
    assert [first.get(), second.get()] == [1, 2]
