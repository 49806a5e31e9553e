"""D8: large buffers are read in place, and no block is used again while anybody reads it."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from gates import Gates
from storms import seed_of_run
from waiting import ALARM_S, agent_pids, signal_own, wait_idle, wait_until

import mpsteal
from mpsteal._queue import leases as leases_module
from mpsteal._queue.arena import Segment

np = pytest.importorskip("numpy")
import buffer_tasks as tasks  # noqa: E402  it needs numpy

Open = Callable[..., mpsteal.Pool]

MIB = 1 << 20


def taken_bytes(pool: mpsteal.Pool) -> int:
    """Memory that the segment takes at the moment, from the system's books."""
    return os.fstat(pool._engine.segment.fd).st_blocks * 512


def blocks_of(pool: mpsteal.Pool) -> Any:
    return pool._engine.dispatcher.blocks


def flood(pool: mpsteal.Pool, size: int, rounds: int = 12) -> None:
    """Arguments that would use the memory of any free block of that size, and change what was there."""
    for number in range(rounds):
        array = tasks.array_of(size, 1_000_000 + number)
        assert pool.apply(tasks.digest, (array,)) == tasks.digest(array)


def test_kept_argument_does_not_change(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    arrays = [tasks.array_of(MIB, i) for i in range(5)]
    for i, array in enumerate(arrays):
        pool.apply(tasks.keep, (i, array))
        flood(pool, MIB)
    _, kept = pool.apply(tasks.kept_digests)
    assert kept == {i: tasks.digest(array)[0] for i, array in enumerate(arrays)}
    wait_until(lambda: len(blocks_of(pool).lent) == 5, "a lease for each")
    pool.apply(tasks.drop_all)
    wait_until(lambda: not blocks_of(pool).lent and not blocks_of(pool).live_bytes, "all blocks free")


def test_lease_that_a_thread_ends_while_the_agent_sleeps_is_seen(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1, "fork")
    gate = gates("drop")
    pool.apply(tasks.keep, ("a", tasks.array_of(MIB, 1)))
    pool.apply(tasks.drop_in_thread, (gate,))
    gate.wait_arrived()
    wait_idle(pool)
    assert blocks_of(pool).lent
    gate.release()
    wait_until(lambda: not blocks_of(pool).lent, "the lease ended")


def test_leases_end_with_their_agent(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    victim = pool.apply(tasks.keep, ("a", tasks.array_of(MIB, 1)))
    wait_idle(pool)
    assert blocks_of(pool).lent
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not blocks_of(pool).lent and not blocks_of(pool).live_bytes, "all blocks free")
    flood(pool, MIB)


def test_agent_that_leaves_with_threads_keeps_its_leases(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    """Its slot, and its table of leases, belong to the next one while a thread of the old one still reads."""
    pool = open_pool(1, "fork", maxtasksperchild=1)
    gate, answer, array = gates("read"), tmp_path / "answer", tasks.array_of(MIB, 7)
    pool.apply(tasks.read_in_thread, (array, gate, str(answer)))
    gate.wait_arrived()
    flood(pool, MIB, 6)
    assert blocks_of(pool).lent
    gate.release()
    wait_until(lambda: answer.exists() and answer.read_text(), "the thread's answer")
    assert int(answer.read_text()) == tasks.digest(array)[0]
    wait_until(lambda: not blocks_of(pool).lent, "its lease ended with the process")


def test_second_try_finds_its_argument_as_it_was(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(2, "fork")
    array = tasks.array_of(4 * MIB, 3)
    found = pool.apply(tasks.change_and_die_once, (array, str(tmp_path / "marker")), retries=1)
    assert found == tasks.digest(array)
    wait_until(lambda: not blocks_of(pool).live_bytes, "all blocks free")


@pytest.mark.parametrize("populates", [True, False], ids=["populate", "an old kernel"])
def test_child_that_a_task_forked_keeps_the_array(
    open_pool: Open, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, populates: bool
) -> None:
    if not populates:
        monkeypatch.setattr(leases_module, "MADV_POPULATE_WRITE", 255)
    pool = open_pool(1, "fork")
    gate, answer, array = gates("read"), tmp_path / "answer", tasks.array_of(MIB, 9)
    pool.apply(tasks.fork_a_reader, (array, gate, str(answer)))
    gate.wait_arrived()
    wait_idle(pool)
    assert not blocks_of(pool).lent, "what was read in place is the agent's own now"
    flood(pool, MIB)
    gate.release()
    wait_until(lambda: answer.exists() and answer.read_text(), "the child's answer")
    assert int(answer.read_text()) == tasks.digest(array)[0]


def test_task_writes_its_own(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    array = tasks.array_of(MIB, 1)
    before = tasks.digest(array)
    assert pool.map(tasks.change, [array] * 8, chunksize=2) == [tasks.digest(array + 1), tasks.digest(array + 2)] * 4
    assert tasks.digest(array) == before


def test_more_leases_than_entries(open_pool: Open) -> None:
    """What finds no entry is copied."""
    pool = open_pool(1, "fork", geometry={"leases": 2})
    arrays = [tasks.array_of(MIB, i) for i in range(6)]
    for i, array in enumerate(arrays):
        pool.apply(tasks.keep, (i, array))
    flood(pool, MIB)
    _, kept = pool.apply(tasks.kept_digests)
    assert kept == {i: tasks.digest(array)[0] for i, array in enumerate(arrays)}
    wait_until(lambda: len(blocks_of(pool).lent) == 2, "as many leases as entries")


def refuse_large(write: Any, limit: int, segment: Segment, offset: int, data: Any) -> None:
    if memoryview(data).nbytes > limit:
        write(segment, offset, memoryview(data).cast("B")[:limit])
        raise OSError(errno.ENOSPC, "No space left on device")
    write(segment, offset, data)


def test_full_device_fails_that_call_alone(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segment, "write_block", _method(partial(refuse_large, Segment.write_block, MIB)))
    pool = open_pool(2, "fork")
    wait_idle(pool)
    small, large = tasks.array_of(MIB, 1), tasks.array_of(2 * MIB, 2)
    before = taken_bytes(pool)
    calls = [pool.apply_async(tasks.digest, (small, large if i % 2 else small)) for i in range(10)]
    for i, call in enumerate(calls):
        if i % 2:
            with pytest.raises(MemoryError, match=r"an argument of 3145\d\d\d bytes"):
                call.get(ALARM_S)
        else:
            assert call.get(ALARM_S) == tasks.digest(small, small)
    with pytest.raises(MemoryError, match=r"a result of 2097\d\d\d bytes"):
        pool.apply(tasks.make, (2 * MIB, 1))
    assert pool.apply(tasks.make, (MIB, 1)).tobytes() == tasks.array_of(MIB, 1).tobytes()
    wait_idle(pool)
    assert not blocks_of(pool).live_bytes
    if sys.platform == "linux":
        wait_until(lambda: taken_bytes(pool) < before + MIB, "the memory given back")
    pool._engine.validate()


def _method(function: Any) -> Any:
    return lambda self, offset, data: function(self, offset, data)


def test_results_outlive_the_pool(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    results = pool.starmap(tasks.make, [(3 * MIB, i) for i in range(6)], chunksize=1)
    more = pool.apply(tasks.make_many, ([100_000, 10, 3 * MIB], 50))
    for pid in agent_pids(pool):
        os.kill(pid, signal.SIGKILL)
    pool.terminate()
    pool.join()
    for i, array in enumerate(results):
        assert tasks.digest(array) == tasks.digest(tasks.array_of(3 * MIB, i))
        array[:] = 7
    assert tasks.digest(*more) == tasks.digest(*tasks.make_many([100_000, 10, 3 * MIB], 50))


@pytest.mark.parametrize("kind", ["partial", "bound method"])
def test_function_with_a_large_buffer_is_sent_once(open_pool: Open, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pool = open_pool(2, "fork")
    blocks, package = blocks_of(pool), tasks.Package(tasks.array_of(4 * MIB, 1))
    put = []
    keep = blocks.put

    def note(data: Any) -> int:
        put.append(memoryview(data).nbytes)
        return int(keep(data))

    monkeypatch.setattr(blocks, "put", note)
    function = partial(tasks.first_and, package.content) if kind == "partial" else package.first_and
    for results in (pool.imap(function, range(100)), pool.map(function, range(100), chunksize=1)):
        assert list(results) == [(1, i) for i in range(100)]
    assert put == [4 * MIB] * 2, "once for each job"
    assert pool.starmap(function, [(i,) for i in range(9)]) == [(1, i) for i in range(9)]
    wait_until(lambda: not blocks.live_bytes and not blocks.lent, "all blocks free")


def test_semantics_of_what_travels(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    array = tasks.array_of(MIB, 1)
    assert pool.apply(tasks.are_one, ([array, array],)), "one object twice in a call stays one"
    back = pool.apply(tasks.echo, ([array, array],))
    assert back[0] is back[1]
    assert back[0].flags.writeable
    assert not pool.apply(tasks.make_readonly, (MIB, 1)).flags.writeable
    assert not pool.apply(tasks.echo, (tasks.make_readonly(MIB, 1),)).flags.writeable
    assert pool.apply(tasks.echo, (array[::2],)).tobytes() == array[::2].tobytes(), "not contiguous"
    fortran = np.asfortranarray(array.reshape(1024, -1))
    assert pool.apply(tasks.echo, (fortran,)).flags.f_contiguous
    empty = np.empty((0, 5))
    assert pool.apply(tasks.echo, (empty,)).shape == (0, 5)


@pytest.mark.parametrize("size", [10, 100_000, MIB])
def test_object_with_its_own_reduce(open_pool: Open, size: int) -> None:
    pool = open_pool(1, "fork")
    for content in (bytes(size), bytearray(size)):
        back = pool.apply(tasks.echo, (tasks.Package(content, "note"),))
        assert type(back) is tasks.Package
        assert back.note == "note"
        # What the parent gets is what it would get from the pickle.
        assert type(back.content) is type(content)
        assert back.content == content


def test_registered_reducer_wins(open_pool: Open) -> None:
    ForkingPickler.register(tasks.Rewritten, tasks.rewrite)
    try:
        pool = open_pool(1, "fork")
        assert pool.apply(tasks.echo, (tasks.Rewritten(tasks.array_of(MIB, 1)),)) == f"rewritten {MIB}"
    finally:
        del ForkingPickler._extra_reducers[tasks.Rewritten]


def test_buffers_of_a_scheduler(open_scheduler: Any) -> None:
    scheduler = open_scheduler(mpsteal.Agent("a", ["*"]), method="fork")
    array = tasks.array_of(2 * MIB, 1)
    task = scheduler.submit_task(mpsteal.Task("echo", fn=tasks.echo, args=(array,)))
    assert tasks.digest(task.result(ALARM_S)) == tasks.digest(array)


def test_idle_pool_holds_no_memory(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    pool.map(tasks.digest, range(4))
    wait_idle(pool)
    before = taken_bytes(pool)
    arrays = [tasks.array_of(MIB, i) for i in range(40)]
    back = pool.map(tasks.echo, arrays)
    assert [tasks.digest(array) for array in back] == [tasks.digest(array) for array in arrays]
    if sys.platform == "linux":
        wait_until(lambda: taken_bytes(pool) < before + MIB, "the memory given back", 10)


def test_input_is_read_as_memory_is_freed(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1, "fork")
    gate = gates("held")
    held = pool.apply_async(gate.wait)
    gate.wait_arrived()
    results = pool.imap(tasks.digest, (tasks.array_of(MIB, i) for i in range(40)))
    wait_until(lambda: blocks_of(pool).live_bytes >= 4 * MIB and pool._engine.asleep, "as much read as may be")
    assert blocks_of(pool).live_bytes < 8 * MIB
    gate.open()
    held.get(ALARM_S)
    assert [found for (found,) in results] == [tasks.digest(tasks.array_of(MIB, i))[0] for i in range(40)]


EDGE = 1 << 16


def random_arrays(chance: random.Random, number: int) -> list[Any]:
    """Of sizes around those at which ways part, some of them twice."""
    sizes = [0, 1, EDGE - 1, EDGE, EDGE + 1, 4 * EDGE - 1, 4 * EDGE, 4 * EDGE + 1, MIB, chance.randrange(2 * MIB)]
    arrays = [tasks.array_of(chance.choice(sizes), 10 * number + i) for i in range(chance.randrange(1, 4))]
    return arrays + [chance.choice(arrays)]


@pytest.mark.parametrize(
    ("calls", "kills"),
    [pytest.param(150, 4, id="short"), pytest.param(4000, 120, id="long", marks=pytest.mark.stress)],
)
def test_every_array_arrives_whole_whoever_dies(open_pool: Open, calls: int, kills: int) -> None:
    chance = random.Random(seed_of_run())
    pool = open_pool(3, "fork", geometry={"leases": 4})
    wait_idle(pool)
    kill_at = set(chance.sample(range(calls), kills))
    lost = 0
    kept_digests = {}
    for batch in range(0, calls, 25):
        sent = []
        for number in range(batch, min(calls, batch + 25)):
            arrays = random_arrays(chance, number)
            if chance.random() < 0.1:
                kept_digests[number] = tasks.digest(arrays[0])[0]
                sent.append(([], pool.apply_async(tasks.keep, (number, arrays[0]))))
            else:
                sent.append((arrays, pool.apply_async(tasks.echo, (arrays,))))
            if number in kill_at:
                pids = agent_pids(pool)
                if pids:
                    signal_own(chance.choice(pids), signal.SIGKILL)
        for arrays, call in sent:
            try:
                back = call.get(ALARM_S)
            except mpsteal.AgentDiedError:
                lost += 1
                continue
            if arrays:
                assert [a.tobytes() for a in back] == [a.tobytes() for a in arrays]
                assert sum(back[-1] is one for one in back[:-1]) == 1
    assert lost <= kills
    wait_until(lambda: len(agent_pids(pool)) == 3, "all agents there")
    wait_idle(pool)
    for _ in range(12):
        _, kept = pool.apply(tasks.kept_digests)
        for number, found in kept.items():
            assert found == kept_digests[number]
    pool._engine.validate()
    for pid in agent_pids(pool):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not blocks_of(pool).live_bytes and not blocks_of(pool).lent, "all blocks free")
    gc.collect()
