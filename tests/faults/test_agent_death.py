"""D6: a death costs exactly what was running."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from storms import OfPool, seed_of_run, storm, twenty_kills, value_or_death
from waiting import agent_pids, lines, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal._agent import loop as agent_loop
from mpsteal._engine import loop as engine_loop

Open = Callable[..., mpsteal.Pool]

CRASHES = [
    pytest.param(tasks.die_by, (signal.SIGKILL,), -signal.SIGKILL, "SIGKILL", id="SIGKILL"),
    pytest.param(tasks.die_by, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM", id="SIGTERM"),
    pytest.param(tasks.die_at_once, (7,), 7, "code 7", id="exit-7"),
    pytest.param(tasks.die_at_once, (0,), 0, "code 0", id="exit-0"),
    pytest.param(tasks.segfault, (), -signal.SIGSEGV, "SIGSEGV", id="segfault"),
    pytest.param(tasks.overflow_the_stack, (), -signal.SIGSEGV, "SIGSEGV", id="stack-overflow"),
]


@pytest.mark.parametrize(("crash", "arguments", "exitcode", "words"), CRASHES)
def test_crash_costs_the_task_that_ran(
    open_pool: Open,
    start_method: str,
    crash: Callable[..., Any],
    arguments: tuple[Any, ...],
    exitcode: int,
    words: str,
) -> None:
    pool = open_pool(2, start_method)
    wait_idle(pool)
    before = set(agent_pids(pool))
    good = [pool.apply_async(tasks.double, (i,)) for i in range(50)]
    bad = pool.apply_async(crash, arguments)
    good += [pool.apply_async(tasks.double, (i,)) for i in range(50, 100)]
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        bad.get()
    assert [result.get() for result in good] == list(range(0, 200, 2))
    error = caught.value
    assert error.agent in (0, 1)
    assert error.pid in before
    assert error.exitcode == exitcode
    assert crash.__name__ in error.task
    assert words in str(error)
    assert f"pid {error.pid}" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.agent, again.pid, again.exitcode, again.task) == (
        error.agent,
        error.pid,
        error.exitcode,
        error.task,
    )
    wait_idle(pool)
    after = set(agent_pids(pool))
    assert len(after) == 2
    assert error.pid not in after
    assert len(before & after) == 1
    pool._engine.validate()


def test_error_callback_gets_the_death(open_pool: Open) -> None:
    seen: list[BaseException] = []
    pool = open_pool(1)
    result = pool.apply_async(tasks.die_at_once, (3,), error_callback=seen.append)
    with pytest.raises(mpsteal.AgentDiedError):
        result.get()
    assert [type(error) for error in seen] == [mpsteal.AgentDiedError]


def test_results_before_the_death_are_delivered(open_pool: Open, tmp_path: Path) -> None:
    """Each commit is one store, so what one agent finished before it died is never lost."""
    pool = open_pool(1)
    noted = str(tmp_path / "noted")
    results = [pool.apply_async(tasks.die_if, (noted, i, 50)) for i in range(100)]
    for i, result in enumerate(results):
        if i == 50:
            with pytest.raises(mpsteal.AgentDiedError):
                result.get()
        else:
            assert result.get() == i
    assert Counter(lines(noted)) == Counter(map(str, range(100)))


def test_map_raises_when_one_of_its_chunks_dies(open_pool: Open, tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    pool = open_pool(2)
    with pytest.raises(mpsteal.AgentDiedError):
        pool.starmap(tasks.die_if, [(noted, i, 30) for i in range(60)], 1)
    assert Counter(lines(noted)) == Counter(map(str, range(60)))


def test_imap_goes_on_after_a_death(open_pool: Open) -> None:
    pool = open_pool(2)
    results = pool.imap(tasks.die_if_equal_3, range(8))
    got: list[Any] = []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except mpsteal.AgentDiedError:
            got.append("died")
    assert got == [0, 1, 2, "died", 4, 5, 6, 7]


def test_idle_agent_is_replaced(open_pool: Open, start_method: str) -> None:
    pool = open_pool(2, start_method)
    wait_idle(pool)
    victim, other = agent_pids(pool)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in agent_pids(pool), "the dead agent replaced")
    wait_idle(pool)
    assert other in agent_pids(pool)
    assert pool.map(tasks.double, range(20)) == list(range(0, 40, 2))
    pool._engine.validate()


def test_stopped_and_killed_agent_does_not_hold_up_the_others(open_pool: Open, gates: Gates) -> None:
    """SIGSTOP may hit inside a critical section; the kernel releases the locks with the process."""
    pool = open_pool(2)
    wait_idle(pool)
    victim = agent_pids(pool)[0]
    os.kill(victim, signal.SIGSTOP)
    results = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    os.kill(victim, signal.SIGKILL)
    done = [value_or_death(result) for result in results]
    assert [i for i, value in enumerate(done) if value not in (2 * i, "died")] == []
    assert done.count("died") <= 1


def test_all_killed_at_once_while_idle(open_pool: Open, start_method: str) -> None:
    pool = open_pool(4, start_method)
    wait_idle(pool)
    before = agent_pids(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    results = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    # A task may have started in an agent the moment it was killed; no more than one each.
    done = [value_or_death(result) for result in results]
    assert [i for i, value in enumerate(done) if value not in (2 * i, "died")] == []
    assert done.count("died") <= len(before)
    wait_until(lambda: not set(before) & set(agent_pids(pool)), "all deaths settled")
    wait_idle(pool)
    pool._engine.validate()


def test_all_killed_at_once_while_running(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(4)
    gate = gates("held")
    held = [pool.apply_async(pass_gate, (gate, i)) for i in range(4)]
    gate.wait_arrived(4)
    waiting = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    for pid in agent_pids(pool):
        os.kill(pid, signal.SIGKILL)
    assert [result.get() for result in waiting] == list(range(0, 200, 2))
    for result in held:
        with pytest.raises(mpsteal.AgentDiedError):
            result.get()
    wait_idle(pool)
    pool._engine.validate()


def test_death_of_a_busy_agent_frees_what_was_queued_behind_it(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate,))
    gate.wait_arrived()
    behind = [pool.apply_async(tasks.double, (i,)) for i in range(10)]
    pool._engine.validate()
    os.kill(agent_pids(pool)[0], signal.SIGKILL)
    assert [result.get() for result in behind] == list(range(0, 20, 2))
    with pytest.raises(mpsteal.AgentDiedError):
        held.get()


def test_what_a_task_started_dies_with_its_agent(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(1)
    child = pool.apply(tasks.start_sleeper, (str(tmp_path),))
    os.kill(agent_pids(pool)[0], signal.SIGKILL)
    wait_gone([child])


def test_the_parents_log_names_the_death(open_pool: Open, caplog: pytest.LogCaptureFixture) -> None:
    pool = open_pool(1)
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(tasks.die_at_once, (9,))
    wait_idle(pool)
    told = [r for r in caplog.records if r.name == "mpsteal" and "exit code 9" in r.getMessage()]
    assert len(told) == 1


def test_nothing_is_lost_delivered_twice_or_run_twice_in_a_storm(open_pool: Open, tmp_path: Path) -> None:
    storm(OfPool(open_pool(4, "fork"), str(tmp_path / "noted"), 0.002), 5, seed_of_run(), at_once=500)


def test_the_same_where_owners_take_their_locks(
    open_pool: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no `membarrier`."""
    monkeypatch.setattr(engine_loop, "load_barrier", lambda: None)
    storm(OfPool(open_pool(4, "fork"), str(tmp_path / "noted"), 0.002), 2, seed_of_run(), at_once=250)


def test_an_agent_that_cannot_fence_others_is_no_agent(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would steal what its victim is about to start. The pool says why it cannot start, and does not hang."""
    monkeypatch.setattr(engine_loop, "load_barrier", lambda: int)
    monkeypatch.setattr(agent_loop, "load_barrier", lambda: None)
    with pytest.raises(mpsteal.AgentStartError):
        open_pool(2, "fork").apply(tasks.double, (1,))


def test_storm_with_tiny_pages_and_rings(open_pool: Open, tmp_path: Path) -> None:
    """Every edge of the segment is met again and again: pages of 4, deques of 4, a ring of 4 KiB."""
    geometry = {"page_chunks": 4, "page_bytes": 4096, "pages": 8, "entries": 4, "ring_bytes": 4096}
    pool = open_pool(4, "fork", geometry=geometry)
    storm(OfPool(pool, str(tmp_path / "noted"), 0.001), 2, seed_of_run(), at_once=250)


def test_three_hundred_deaths_among_three_hundred_healthy_tasks(open_pool: Open, tmp_path: Path) -> None:
    """Exactly those fail, and each error names its own process, exit code or signal, and task."""
    pool = open_pool(4, "fork")
    noted = str(tmp_path / "noted")
    results: list[Any] = []
    for i in range(0, 600, 2):
        code = 1 + i // 4 % 250 if i % 4 else 0
        results.append(pool.apply_async(tasks.note_pid_and_die, (noted, i, code)))
        results.append(pool.apply_async(tasks.note_pid_and_double, (noted, i + 1)))
    errors = {}
    for i, result in enumerate(results):
        if i % 2:
            assert result.get(60) == 2 * i
        else:
            with pytest.raises(mpsteal.AgentDiedError) as caught:
                result.get(60)
            errors[i] = caught.value
    ran = [line.split() for line in lines(noted)]
    assert sorted(int(number) for number, _ in ran) == list(range(600))
    pid_of = {int(number): int(pid) for number, pid in ran}
    for i, error in errors.items():
        assert error.pid == pid_of[i]
        assert error.exitcode == (1 + i // 4 % 250 if i % 4 else -signal.SIGKILL)
        assert error.task == f"task {i} (note_pid_and_die)"
    wait_idle(pool)
    pool._engine.validate()


def test_twenty_kills_in_five_thousand_tasks(open_pool: Open, tmp_path: Path) -> None:
    twenty_kills(open_pool(4, "fork"), str(tmp_path / "noted"), seed_of_run())
