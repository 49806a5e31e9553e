"""Shared objects: one copy for all agents, right or refused whatever comes, and freed with its last reference."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from gates import Gates
from waiting import ALARM_S, wait_idle, wait_until

import mpsteal
from mpsteal._queue.arena import Segment

np = pytest.importorskip("numpy")
import buffer_tasks as tasks  # noqa: E402  it needs numpy

Open = Callable[..., mpsteal.Pool]

MIB = 1 << 20


def blocks_of(pool: mpsteal.Pool) -> Any:
    return pool._engine.dispatcher.blocks


def taken_bytes(pool: mpsteal.Pool) -> int:
    return os.fstat(pool._engine.segment.fd).st_blocks * 512


def wait_freed(pool: mpsteal.Pool) -> None:
    gc.collect()
    wait_until(lambda: not blocks_of(pool).live_bytes and not blocks_of(pool).lent, "the memory free")


def refuse(handle: Any) -> None:
    with pytest.raises(mpsteal.SharedObjectError, match="not there any more"):
        _ = handle.value


def test_agents_read_it_in_place_and_cannot_write_it(open_pool: Open) -> None:
    pool = open_pool(2, "fork")
    array = tasks.array_of(8 * MIB, 1)
    wait_idle(pool)
    before = taken_bytes(pool)
    handle = pool.share(array)
    assert 8 * MIB <= handle.nbytes < 8 * MIB + 4096
    seen = pool.map(tasks.look_at_shared, [{"here": handle}] * 40, chunksize=1)
    assert len({(pid, at) for pid, at, _ in seen}) == len({pid for pid, _, _ in seen}), "mapped once in each agent"
    assert not any(writeable for *_, writeable in seen)
    assert pool.apply(tasks.digest_of_shared, (handle,)) == tasks.digest(array)
    assert tasks.digest(handle.value) == tasks.digest(array), "the parent has a copy"
    if sys.platform == "linux":
        assert taken_bytes(pool) < before + 9 * MIB, "it is there once"
    del handle
    wait_freed(pool)
    if sys.platform == "linux":
        wait_until(lambda: taken_bytes(pool) < before + MIB, "the memory given back", 10)


def test_it_is_unpickled_once_in_each_agent(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    handle = pool.share(tasks.Counted())
    assert pool.map(tasks.count_loads, [handle] * 10, chunksize=1) == [1] * 10
    assert list(pool.imap(tasks.count_loads, [handle] * 10)) == [1] * 10


def test_handle_is_one_object(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    handle = pool.share([1, 2, 3])
    assert pool.apply(tasks.echo, (handle,)) is handle
    assert copy.deepcopy(handle) is copy.copy(handle) is pickle.loads(pickle.dumps(handle)) is handle
    assert handle.value == [1, 2, 3]
    outer = pool.share({"inner": handle})
    del handle
    gc.collect()
    assert outer.value["inner"].value == [1, 2, 3], "a handle within a shared object lives as long as that"
    del outer
    wait_freed(pool)


def test_task_in_flight_keeps_it(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1, "fork")
    gate = gates("held")
    held = pool.apply_async(gate.wait)
    gate.wait_arrived()
    array = tasks.array_of(MIB, 3)
    call = pool.apply_async(tasks.digest_of_shared, (pool.share(array),))
    many = pool.imap(tasks.digest_of_shared, [pool.share(array)] * 3)
    wait_until(lambda: pool._engine.asleep and not pool._engine.pending, "all is handed out")
    gc.collect()
    assert blocks_of(pool).live_bytes >= 2 * MIB
    gate.open()
    held.get(ALARM_S)
    assert call.get(ALARM_S) == tasks.digest(array)
    assert list(many) == [tasks.digest(array)] * 3
    del call, many
    wait_freed(pool)


def flood(pool: mpsteal.Pool, size: int) -> None:
    """Other things are put where a freed object of that size may have been."""
    for number in range(3):
        array = tasks.array_of(size, 77 + number)
        assert pool.apply(tasks.digest, (array,)) == tasks.digest(array)
        assert pool.share(array).nbytes >= size


def test_value_that_a_task_keeps_does_not_change(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    for keep in (tasks.keep_value, tasks.keep_shared):
        array = tasks.array_of(MIB, 5)
        handle = pool.share(array)
        pool.apply(keep, (handle,))
        del handle
        gc.collect()
        wait_until(lambda: blocks_of(pool).lent, "it is free but for the task that keeps it")
        flood(pool, MIB)
        assert pool.apply(tasks.try_kept) == tasks.digest(array)
        pool.apply(tasks.drop_all)
        wait_freed(pool)


def test_it_is_freed_when_the_agent_that_keeps_it_dies(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    handle = pool.share(tasks.array_of(MIB, 5))
    pool.apply(tasks.keep_value, (handle,))
    pid = pool.stats().agents[0].pid
    del handle
    wait_until(lambda: blocks_of(pool).lent, "only the agent has it")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_freed(pool)


def test_bytes_of_a_handle_that_is_gone_are_refused(open_pool: Open) -> None:
    """Nothing told the pool that somebody would come back with them."""
    pool = open_pool(1, "fork")
    stored = pickle.dumps(pool.share(tasks.array_of(MIB, 1)))
    wait_freed(pool)
    flood(pool, MIB)
    refuse(pickle.loads(stored))
    with pytest.raises(mpsteal.SharedObjectError, match="freed"):
        pool.apply(tasks.digest_of_shared, (pickle.loads(stored),))


def test_after_the_pool_it_is_refused_or_what_it_was(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    array = tasks.array_of(MIB, 1)
    read, unread = pool.share(array), pool.share(array)
    value = read.value
    pool.terminate()
    with pytest.raises(ValueError, match="not running"):
        pool.share(array)
    other = open_pool(1, "fork")  # it may have the same descriptor
    refuse(unread)
    assert read.value is value
    assert tasks.digest(value) == tasks.digest(array)
    with pytest.raises(mpsteal.SharedObjectError):
        other.apply(tasks.digest_of_shared, (unread,))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is refused")
def test_agents_of_another_pool_read_a_copy(open_pool: Open) -> None:
    pool, other = open_pool(1, "fork"), open_pool(1, "spawn")  # no descriptor is inherited
    array = tasks.array_of(MIB, 1)
    handle = pool.share(array)
    assert other.apply(tasks.digest_of_shared, (handle,)) == tasks.digest(array)
    assert not blocks_of(pool).is_lent(handle._place.offset)


def test_pool_in_a_task_reads_it(open_pool: Open) -> None:
    pool = open_pool(1, "fork")
    array = tasks.array_of(MIB, 1)
    handle = pool.share(array)
    assert pool.apply(tasks.in_a_pool_of_its_own, (handle,)) == [tasks.digest(array)] * 4


def test_forked_child_of_the_parent_reads_it_and_frees_nothing(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(1, "fork")
    array = tasks.array_of(MIB, 1)
    handle = pool.share(array)
    answer = tmp_path / "answer"

    def child() -> None:
        answer.write_text(str(tasks.digest(handle.value)[0]))

    process = get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert int(answer.read_text()) == tasks.digest(array)[0]
    assert pool.apply(tasks.digest_of_shared, (handle,)) == tasks.digest(array)


def test_child_that_a_task_forked_keeps_the_array(open_pool: Open, gates: Gates, tmp_path: Path) -> None:
    pool = open_pool(1, "fork")
    gate, answer, array = gates("read"), tmp_path / "answer", tasks.array_of(MIB, 9)
    handle = pool.share(array)
    pool.apply(tasks.in_a_fork, (handle, gate, str(answer)))
    gate.wait_arrived()
    del handle
    wait_until(lambda: blocks_of(pool).lent, "dropped")
    flood(pool, MIB)
    gate.release()
    wait_until(lambda: answer.exists() and answer.read_text(), "the child's answer")
    assert int(answer.read_text()) == tasks.digest(array)[0]


def test_more_shared_objects_than_leases(open_pool: Open) -> None:
    pool = open_pool(1, "fork", geometry={"leases": 2})
    arrays = [tasks.array_of(MIB, i) for i in range(5)]
    handles = [pool.share(array) for array in arrays]
    assert pool.map(tasks.digest_of_shared, handles, chunksize=1) == [tasks.digest(array) for array in arrays]
    del handles
    wait_freed(pool)


def test_no_memory_for_it(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import mpsteal._engine.share as share_module

    def full(fd: int, offset: int, data: Any) -> None:
        os.pwrite(fd, memoryview(data).cast("B")[: MIB // 2], offset)
        raise OSError(28, "No space left on device")

    pool = open_pool(1, "fork")
    wait_idle(pool)
    before = taken_bytes(pool)
    with monkeypatch.context() as patch:
        patch.setattr(share_module, "_write", full)
        with pytest.raises(MemoryError, match="an object of 1048"):
            pool.share(tasks.array_of(MIB, 1))
    assert not blocks_of(pool).live_bytes
    if sys.platform == "linux":
        assert taken_bytes(pool) <= before
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        pool.share(threading.Lock())
    assert pool.share(tasks.array_of(MIB, 1)).value.nbytes == MIB


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods(open_pool: Open, method: str) -> None:
    """Arguments, results and shared objects."""
    pool = open_pool(1, method)
    array = tasks.array_of(MIB, 1)
    assert tasks.digest(pool.apply(tasks.echo, (array,))) == tasks.digest(array)
    pool.apply(tasks.keep, ("a", array))
    flood(pool, MIB)
    assert pool.apply(tasks.kept_digests)[1] == {"a": tasks.digest(array)[0]}
    pool.apply(tasks.drop_all)
    handle = pool.share(array)
    pid, _, writeable = pool.apply(tasks.look_at_shared, ({"here": handle},))
    assert not writeable
    assert blocks_of(pool).is_lent(handle._place.offset), f"{pid} reads it in place"
    assert pool.map(partial(tasks.digest_of_shared), [handle] * 3) == [tasks.digest(array)] * 3
    del handle
    wait_freed(pool)


def test_job_that_is_over_holds_nothing(open_pool: Open) -> None:
    """Agents keep the functions of the last jobs, and with them what they hold."""
    pool = open_pool(2, "fork")
    array = tasks.array_of(MIB, 1)
    assert pool.map(partial(tasks.digest_of_shared, pool.share(array)), []) == []
    with_handle = partial(_digest_and, pool.share(array))
    assert pool.map(with_handle, range(50)) == [tasks.digest(array) + [i] for i in range(50)]
    del with_handle
    wait_freed(pool)


def _digest_and(handle: Any, number: int) -> list[int]:
    return [*tasks.digest_of_shared(handle), number]


def test_scheduler_shares(open_scheduler: Any) -> None:
    scheduler = open_scheduler(mpsteal.Agent("a", ["*"]), method="fork")
    array = tasks.array_of(MIB, 1)
    handle = scheduler.share(array)
    task = scheduler.submit_task(mpsteal.Task("digest", fn=tasks.digest_of_shared, args=(handle,)))
    assert task.result(ALARM_S) == tasks.digest(array)
    del handle, task
    blocks = scheduler._engine.dispatcher.blocks
    gc.collect()
    wait_until(lambda: not blocks.live_bytes and not blocks.lent, "the memory free")
    scheduler.stop()
    with pytest.raises(RuntimeError, match="not running"):
        scheduler.share(array)


def test_executor_and_async_pool_share() -> None:
    array = tasks.array_of(MIB, 1)
    with mpsteal.Executor(1, mp_context=get_context("fork")) as executor:
        handle = executor.share(array)
        assert executor.submit(tasks.digest_of_shared, handle).result(ALARM_S) == tasks.digest(array)
        assert tasks.digest(executor.submit(tasks.echo, array).result(ALARM_S)) == tasks.digest(array)
        del handle
        assert executor._engine is not None
        blocks: Any = executor._engine.dispatcher.blocks
        gc.collect()
        wait_until(lambda: not blocks.live_bytes and not blocks.lent, "the memory free")
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.share(array)

    async def ask() -> Any:
        async with mpsteal.AsyncPool(1, context=get_context("fork")) as pool:
            handle = await pool.share(array)
            return await pool.apply(tasks.digest_of_shared, (handle,)), handle.value

    found, value = asyncio.run(ask())
    assert found == tasks.digest(array) == tasks.digest(value)


def test_id_goes_before_the_memory_does(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who maps a block while it is freed sees that in its first word, or is seen."""
    pool = open_pool(1, "fork")
    handle = pool.share(tasks.array_of(MIB, 1))
    place = handle._place
    seen = []
    is_lent = blocks_of(pool).is_lent

    def look(offset: int) -> bool:
        seen.append(bytes(Segment.read_block(pool._engine.segment, offset, 8)))
        return bool(is_lent(offset))

    monkeypatch.setattr(blocks_of(pool), "is_lent", look)
    del handle
    gc.collect()
    wait_until(lambda: seen, "freed")
    assert seen == [bytes(8)]
    assert place.id


def test_what_only_a_copy_could_carry_is_refused_by_the_name_of_the_extra(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises((pickle.PicklingError, AttributeError), match=r"lambda.*mpsteal\[cloudpickle\]"):
        open_pool(1).share([lambda: 3])
