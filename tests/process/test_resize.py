"""`Pool.resize`: agents come and go, and nothing that is queued or running notices."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gate, Gates, arrive_and_pid, pass_gate, pass_gate_and_pid
from storms import Killer, seed_of_run
from waiting import agent_pids, is_gone, lines, manager_pid, wait_gone, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]


def states(pool: Any) -> list[str]:
    return [agent.state for agent in pool.stats().agents]


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/dev/fd"))


def wait_settled(pool: Any) -> None:
    """Wait until nobody leaves or starts any more, and all agents are parked."""
    engine = pool._engine

    def is_settled() -> bool:
        rows = [row for row in engine.status() if row["pid"]]
        return len(rows) == pool._processes and all(row["parked"] for row in rows)

    wait_until(is_settled, "as many agents as wanted, all parked")


def hold(pool: Any, gate: Gate, count: int) -> list[Any]:
    """So many tasks that wait at a gate, each in an agent."""
    held = [pool.apply_async(pass_gate_and_pid, (gate,)) for _ in range(count)]
    gate.wait_arrived(count)
    return held


# -- larger -------------------------------------------------------------------------------------


def test_new_agents_take_over_what_is_queued(open_pool: Open, start_method: str, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(1, start_method)
    held = hold(pool, gate, 1)
    held += [pool.apply_async(pass_gate_and_pid, (gate,)) for _ in range(3)]
    pool.resize(4)
    gate.wait_arrived(3)
    gate.open()
    assert len({result.get() for result in held}) == 4
    wait_settled(pool)
    pool._engine.validate()


def test_old_and_new_agents_wake_one_another(open_pool: Open, gates: Gates) -> None:
    """Each task of a round waits for all of them, so every agent has to be woken; the old ones cannot ring the new."""
    pool = open_pool(1)
    for size in (2, 4, 3, 6):
        pool.resize(size)
        for i in range(10):
            gate = gates(f"round {size} {i}")
            held = hold(pool, gate, size)
            gate.open()
            assert len({result.get() for result in held}) == size


def test_room_is_for_64_agents_and_takes_nothing(open_pool: Open) -> None:
    before = descriptors()
    pool = open_pool(2, max_processes=2)
    manager_pid(pool)
    without = descriptors() - before
    pool.terminate()
    pool = open_pool(2)
    manager_pid(pool)
    assert descriptors() - before <= without, "no descriptor for agents that are not there"
    assert pool._engine.capacity >= 64


def test_as_many_as_max_processes_and_no_more(open_pool: Open) -> None:
    pool = open_pool(1, max_processes=3)
    pool.resize(3)
    with pytest.raises(ValueError, match=r"4 processes are more than this pool can have, 3; see .*max_processes"):
        pool.resize(4)
    assert pool._processes == 3
    with pytest.raises(ValueError, match="max_processes"):
        mpsteal.Pool(2, max_processes=1)


@pytest.mark.parametrize("size", [0, -1, 2.5, "two", None])
def test_size_is_a_whole_number_from_1_on(open_pool: Open, size: Any) -> None:
    pool = open_pool(1)
    with pytest.raises(ValueError, match="processes must be a positive int"):
        pool.resize(size)
    assert pool.apply(tasks.double, (2,)) == 4


def test_numbers_follow(open_pool: Open, gates: Gates) -> None:
    pool: Any = open_pool(2)
    for size in (5, 1, 3):
        pool.resize(size)
        assert pool._processes == size
        assert f"pool_size={size}" in repr(pool)
        wait_settled(pool)
        assert len(pool._pool) == size
        assert sum(state == "ready" for state in states(pool)) == size
    gate = gates("held")
    pool.resize(1)
    result = pool.map_async(pass_gate, [gate] * 40)
    gate.wait_arrived()
    assert result._cutter.agents == 1
    pool.resize(4)
    gate.open()
    result.get()
    assert result._cutter.agents == 4


def test_what_could_be_started_stays(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = open_pool(1)
    start = pool._engine.crew.add
    tries: list[int] = []

    def refuse_the_third(slot: int) -> None:
        tries.append(slot)
        if len(tries) == 3:
            raise BlockingIOError("no more processes")
        start(slot)

    monkeypatch.setattr(pool._engine.crew, "add", refuse_the_third)
    with pytest.raises(BlockingIOError, match="no more processes"):
        pool.resize(6)
    assert pool._processes == 3
    wait_settled(pool)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    pool.resize(4)
    wait_settled(pool)
    pool._engine.validate()


# -- smaller ------------------------------------------------------------------------------------


def test_leaving_agent_ends_what_it_runs_and_others_get_its_queue(open_pool: Open, gates: Gates) -> None:
    gate, free = gates("held"), gates("free")
    pool = open_pool(3)
    held = hold(pool, gate, 3)
    queued = [pool.apply_async(arrive_and_pid, (free,)) for _ in range(30)]
    pool.resize(1)
    assert Counter(states(pool)) == {"ready": 1, "leaving": 2}
    (stays,) = [agent.pid for agent in pool.stats().agents if agent.state == "ready"]
    gate.open()
    assert {result.get() for result in queued} == {stays}
    assert len({result.get() for result in held}) == 3
    wait_settled(pool)
    assert Counter(states(pool)) == {"ready": 1, "empty": 2}
    pool._engine.validate()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_leaving_agents_go(open_pool: Open, method: str) -> None:
    pool = open_pool(2, method)
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_settled(pool)
    pids = agent_pids(pool)
    pool.resize(1)
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_settled(pool)
    (left,) = set(pids) - set(agent_pids(pool))
    wait_gone([left])


def test_who_has_nothing_to_do_leaves_first(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(4)
    wait_settled(pool)
    held = hold(pool, gate, 1)
    pool.resize(1)
    wait_until(lambda: len(agent_pids(pool)) == 1, "three have left")
    gate.open()
    assert [held[0].get()] == agent_pids(pool)


def test_who_does_not_get_on_leaves_first(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool: Any = open_pool(2)
    held = hold(pool, gate, 2)
    pids, frozen = agent_pids(pool), pool._engine.dispatcher.frozen
    pool._engine.call(lambda: (frozen.update({0: "stuck"}), pool.resize(1)))
    gate.open()
    assert {result.get() for result in held} == set(pids)
    wait_settled(pool)
    assert agent_pids(pool) == pids[1:]


def test_larger_again_keeps_who_has_not_left(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(3, max_processes=3)
    held = hold(pool, gate, 3)
    pids = agent_pids(pool)
    for size in (1, 3, 2, 3):
        pool.resize(size)
    assert states(pool) == ["ready"] * 3
    gate.open()
    assert {result.get() for result in held} == set(pids)
    wait_settled(pool)
    assert agent_pids(pool) == pids
    pool._engine.validate()


def test_larger_again_replaces_who_had_seen_it(open_pool: Open) -> None:
    """Slots that are full of agents on their way out count, and there is no other: each has a successor."""
    pool = open_pool(3, max_processes=3)
    for _ in range(20):
        pool.resize(1)
        pool.resize(3)
        assert pool._processes == 3
    wait_settled(pool)
    assert sorted(pool.map(tasks.double, range(20), 1)) == list(range(0, 40, 2))
    pool._engine.validate()


def test_slot_is_used_again_and_nothing_piles_up(open_pool: Open) -> None:
    pool: Any = open_pool(1)

    def up_and_down() -> list[int]:
        pool.resize(4)
        wait_settled(pool)
        pids = agent_pids(pool)
        pool.resize(1)
        wait_settled(pool)
        return pids

    up_and_down()
    manager_pid(pool)
    wait_until(lambda: not pool._engine.crew._lingering, "nobody lingers")
    before = descriptors()
    for _ in range(5):
        pids = up_and_down()
    wait_gone(pids[1:])
    wait_until(lambda: descriptors() <= before, "no more descriptors than after the first time")
    assert len(pool.stats().agents) == 4


def test_queued_call_of_a_leaving_agent_can_be_cancelled(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    gate, noted = gates("held"), str(tmp_path / "noted")
    pool = open_pool(2)
    held = hold(pool, gate, 2)
    queued = [pool.apply_async(tasks.note, (noted, i)) for i in range(10)]
    pool.resize(1)
    assert [result.cancel() for result in queued[::2]] == [True] * 5
    gate.open()
    assert [result.get() for result in queued[1::2]] == [1, 3, 5, 7, 9]
    for result in held:
        result.get()
    assert sorted(map(int, lines(noted))) == [1, 3, 5, 7, 9]


def test_queue_of_a_leaving_agent_does_not_fall_behind(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    """What is submitted later comes later."""
    gate, noted = gates("held"), str(tmp_path / "noted")
    pool = open_pool(2)
    held = hold(pool, gate, 2)
    before = [pool.apply_async(tasks.note, (noted, 1)) for _ in range(20)]
    wait_until(lambda: not pool._engine.pending, "they are queued at both")
    pool.resize(1)
    after = [pool.apply_async(tasks.note, (noted, 2)) for _ in range(20)]
    gate.open()
    for result in held + before + after:
        result.get()
    assert list(map(int, lines(noted))) == [1] * 20 + [2] * 20


def test_what_it_stole_at_the_last_moment_is_found(open_pool: Open, gates: Gates) -> None:
    """It may have looked just before it was told to leave. What it leaves behind is queued at others then."""
    stays, leaves = gates("stays"), gates("leaves")
    pool: Any = open_pool(2)
    held = hold(pool, stays, 1)
    slot = next(agent.slot for agent in pool.stats().agents if agent.running_s)
    held += hold(pool, leaves, 1)
    queued = [pool.apply_async(tasks.double, (i,)) for i in range(4)]
    wait_until(lambda: not pool._engine.pending, "they are queued")

    def leave_and_steal() -> None:
        pool._engine.dispatcher.frozen[1 - slot] = "stuck"  # so this one leaves
        pool.resize(1)
        deques = pool._engine.deques
        for level, lo, hi in deques.take_back(slot, 1 << 62, deques.levels):
            assert deques.push(1 - slot, level, lo, hi)

    pool._engine.call(leave_and_steal)
    leaves.open()
    wait_until(lambda: states(pool)[1 - slot] == "empty", "it has left")
    assert queued[0].cancel()
    stays.open()
    assert [result.get() for result in queued[1:]] == [2, 4, 6]
    wait_settled(pool)
    pool._engine.validate()


def test_time_limit_holds_in_a_leaving_agent(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(2)
    late = [pool.apply_async(pass_gate, (gate,), timeout=2) for _ in range(2)]
    gate.wait_arrived(2)
    pool.resize(1)
    for result in late:
        with pytest.raises(mpsteal.TaskTimeoutError):
            result.get()
    wait_settled(pool)
    pool._engine.validate()


# -- when something goes wrong ------------------------------------------------------------------


def test_death_of_a_leaving_agent_costs_what_it_ran(
    open_pool: Open, gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gates("held")
    pool: Any = open_pool(2)
    held = [pool.apply_async(pass_gate_and_pid, (gate,), retries=i) for i in range(2)]
    gate.wait_arrived(2)
    pool.resize(1)
    (leaves,) = [agent.pid for agent in pool.stats().agents if agent.state == "leaving"]
    with caplog.at_level(logging.WARNING, "mpsteal"):
        os.kill(leaves, signal.SIGKILL)
        wait_until(lambda: len(agent_pids(pool)) == 1, "it is settled")
    gate.open()
    outcomes = []
    for result in held:
        try:
            outcomes.append(result.get())
        except mpsteal.AgentDiedError as error:
            assert error.pid == leaves
            outcomes.append("died")
    assert outcomes in (["died", agent_pids(pool)[0]], agent_pids(pool) * 2), "the second may run again"
    (told,) = [record for record in caplog.records if record.event == "agent_lost"]  # type: ignore[attr-defined]
    assert f"(pid {leaves})" in told.message
    assert "is not replaced" in told.message
    assert pool.stats().agents_replaced == 0
    wait_settled(pool)
    pool._engine.validate()


def test_agent_that_is_being_replaced_leaves_at_once(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no process: the system refuses one, say."""
    pool: Any = open_pool(2)
    wait_settled(pool)
    crew = pool._engine.crew
    start = crew._start
    refused = threading.Event()

    def refuse(slot: int) -> None:
        refused.set()
        raise BlockingIOError("no process")

    monkeypatch.setattr(crew, "_start", refuse)
    pid = agent_pids(pool)[1]
    os.kill(pid, signal.SIGKILL)
    assert refused.wait(60)
    pool.resize(1)
    monkeypatch.setattr(crew, "_start", start)
    assert states(pool) == ["ready", "empty"]
    assert pool.map(tasks.double, range(10), 1) == list(range(0, 20, 2))
    pool.resize(2)
    wait_settled(pool)
    pool._engine.validate()


def test_closed_pool_has_no_other_size(open_pool: Open) -> None:
    pool = open_pool(2)
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.resize(3)
    pool.join()
    pool = open_pool(2)
    pool.terminate()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.resize(3)


def test_pool_whose_initializer_failed_says_so(open_pool: Open) -> None:
    pool = open_pool(1, initializer=tasks.raise_this, initargs=(KeyError, "no model"))
    with pytest.raises(KeyError, match="no model"):
        pool.apply(tasks.double, (1,))
    with pytest.raises(KeyError, match="no model"):
        pool.resize(2)


def test_close_and_join_wait_for_who_leaves(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(2)
    held = hold(pool, gate, 2)
    pids = agent_pids(pool)
    pool.resize(1)
    pool.close()
    gate.open()
    pool.join()
    assert {result.get() for result in held} == set(pids)
    assert all(map(is_gone, pids))


def test_terminate_ends_who_leaves(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool = open_pool(2)
    held = hold(pool, gate, 2)
    pids = agent_pids(pool)
    pool.resize(1)
    pool.terminate()
    for result in held:
        with pytest.raises(mpsteal.PoolTerminatedError):
            result.get()
    assert all(map(is_gone, pids))


def test_successor_of_a_leaving_agent_is_dropped(open_pool: Open, gates: Gates) -> None:
    gate = gates("held")
    pool: Any = open_pool(2, maxtasksperchild=3)
    spares = pool._engine.crew.spares
    wait_until(lambda: pool.map(tasks.double, range(2), 1) and spares.processes, "a successor gets ready")
    held = hold(pool, gate, 2)
    pool.resize(1)
    gate.open()
    for result in held:
        result.get()
    assert pool.map(tasks.double, range(20), 1) == list(range(0, 40, 2))
    wait_settled(pool)
    assert pool._engine.call(lambda: set(spares._waiting) <= set(pool._engine.slots))
    pool._engine.validate()


# -- all at once --------------------------------------------------------------------------------


def test_threads_resize_at_once(open_pool: Open) -> None:
    pool = open_pool(2)

    def many(number: int) -> None:
        chance = random.Random(number)
        for _ in range(15):
            pool.resize(chance.randint(1, 5))

    threads = [threading.Thread(target=many, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert pool.map(tasks.double, range(500), 1) == list(range(0, 1000, 2))
    for thread in threads:
        thread.join()
    assert pool._processes == pool._engine.size
    wait_settled(pool)
    pool._engine.validate()


def resize_at_random(pool: Any, noted: str, seed: int, rounds: int, most: int) -> None:
    """Calls, maps and an `imap` while the size changes; every call runs once, and every result is there."""
    chance = random.Random(seed)
    number = 0
    expected: list[int] = []
    results: list[Any] = []
    for _ in range(rounds):
        for _ in range(chance.randint(0, 60)):
            expected.append(number)
            results.append(pool.apply_async(tasks.note_and_spin, (noted, number, chance.choice([0, 0, 0.001, 0.005]))))
            number += 1
        kind = chance.randrange(4)
        numbers = list(range(number, number + chance.randint(1, 200)))
        if kind:
            number += len(numbers)
            items = [(noted, n, 0) for n in numbers]
            size = chance.choice([None, 1, 7])
            expected += numbers
            results.append((numbers, pool.starmap_async(tasks.note_and_spin, items, size)))
        pool.resize(chance.randint(1, most))
    for result in results:
        if type(result) is tuple:
            assert result[1].get() == result[0]
        else:
            result.get()
    assert sorted(map(int, lines(noted))) == expected, "each ran once"
    wait_settled(pool)
    pool._engine.validate()
    pool.resize(1)
    wait_settled(pool)
    assert len(agent_pids(pool)) == 1


def test_nothing_is_lost_or_run_twice_across_random_sizes(open_pool: Open, tmp_path: Path) -> None:
    resize_at_random(open_pool(2), str(tmp_path / "noted"), seed_of_run(), rounds=25, most=6)


def test_nothing_is_lost_with_few_places_and_agents_of_few_tasks(open_pool: Open, tmp_path: Path) -> None:
    geometry = {"page_chunks": 4, "page_bytes": 4096, "pages": 16, "entries": 4, "ring_bytes": 4096}
    pool = open_pool(2, maxtasksperchild=20, max_processes=4, geometry=geometry)
    resize_at_random(pool, str(tmp_path / "noted"), seed_of_run(), rounds=12, most=4)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_random_sizes_at_length(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    for i in range(20 if start_method == "fork" else 2):
        resize_at_random(open_pool(2, start_method), str(tmp_path / f"noted {i}"), seed_of_run(), rounds=50, most=8)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_random_sizes_in_a_storm(open_pool: Open, tmp_path: Path) -> None:
    """Agents are killed meanwhile: what they ran fails, once, and nothing else does."""
    seed = seed_of_run()
    chance = random.Random(seed)
    noted, pool = str(tmp_path / "noted"), open_pool(4)
    died = number = 0
    with Killer(pool._engine, seed) as killer:
        for _ in range(300):
            results = [pool.apply_async(tasks.note_and_spin, (noted, number + i, 0.001)) for i in range(50)]
            pool.resize(chance.randint(2, 8))
            for i, result in enumerate(results):
                try:
                    assert result.get(60) == number + i
                except mpsteal.AgentDiedError:
                    died += 1
            number += len(results)
    ran = Counter(map(int, lines(noted)))
    assert max(ran.values()) == 1
    assert number - len(ran) <= died <= len(killer.pids)
    wait_settled(pool)
    pool._engine.validate()
