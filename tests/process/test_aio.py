"""`AsyncPool`: what tasks of an event loop await, cancel and leave behind. The loop itself never waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gate, Gates, pass_gate
from waiting import agent_pids, lines, wait_until

import mpsteal
from mpsteal.aio import FEEDER_DEPTH

ALARM_S = 60.0


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test in a loop of its own; debug mode tells of what is used in the wrong thread."""
    return asyncio.run(asyncio.wait_for(main(), ALARM_S), debug=True)


async def arrived(gate: Gate, count: int = 1) -> None:
    """Wait for tasks at a gate, beside the loop."""
    await asyncio.get_running_loop().run_in_executor(None, gate.wait_arrived, count)


async def until(condition: Callable[[], Any], what: str) -> None:
    await asyncio.get_running_loop().run_in_executor(None, wait_until, condition, what)


@contextlib.asynccontextmanager
async def held(pool: mpsteal.AsyncPool, gate: Gate, agents: int = 2) -> AsyncIterator[None]:
    """All agents held at a gate; opened in the end, and what held them awaited."""
    holding = [asyncio.create_task(pool.apply(pass_gate, (gate,))) for _ in range(agents)]
    await arrived(gate, agents)
    yield
    gate.open()
    await asyncio.gather(*holding)


async def numbers(count: int, read: list[int] | None = None) -> AsyncIterator[int]:
    for i in range(count):
        if read is not None:
            read.append(i)
        yield i


def generated(count: int, read: list[int]) -> Iterator[int]:
    for i in range(count):
        read.append(i)
        yield i


# -- calls ----------------------------------------------------------------------------------------------------------


def test_every_form_gives_what_the_pool_gives(start_method: str) -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(2, context=multiprocessing.get_context(start_method)) as pool:
            assert await pool.apply(tasks.add, (1,), {"b": 2}) == 3
            assert await pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
            assert await pool.map(tasks.double, numbers(5), 2) == [0, 2, 4, 6, 8]
            assert await pool.starmap(tasks.add, ((i, i) for i in range(5))) == [0, 2, 4, 6, 8]
            assert await pool.map(tasks.double, []) == []
            calls = [pool.apply(tasks.double, (i,)) for i in range(200)]
            assert await asyncio.gather(*calls) == list(range(0, 400, 2))
            for chunksize in (1, 3):
                for items in (range(10), (i for i in range(10)), numbers(10)):
                    assert [v async for v in pool.imap(tasks.double, items, chunksize)] == list(range(0, 20, 2))
                got = [v async for v in pool.imap_unordered(tasks.double, numbers(10), chunksize)]
                assert sorted(got) == list(range(0, 20, 2))
            assert pool.stats().tasks_done >= 250
            pids = agent_pids(pool)
        assert not {process.pid for process in multiprocessing.active_children()}.intersection(pids)

    run(main)


def test_errors_come_to_who_awaits(gates: Gates) -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(2) as pool:
            with pytest.raises(ZeroDivisionError) as caught:
                await pool.apply(divmod, (1, 0))
            assert "divmod" in str(caught.value.__cause__) or caught.value.__cause__ is not None
            with pytest.raises(mpsteal.AgentDiedError):
                await pool.apply(tasks.die_at_once, (3,))
            with pytest.raises(mpsteal.TaskTimeoutError):
                await pool.apply(tasks.arrive_and_sleep, (gates("late"),), timeout=0.05)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await pool.apply(tasks.raise_this, (StopIteration, 1))
            with pytest.raises(TypeError, match="cannot be pickled") as refused:
                await pool.apply(tasks.identity, (tasks.NotForTravel(),))
            assert "test_aio.py" in str(refused.value)
            with pytest.raises(ValueError, match="timeout"):
                pool.apply(tasks.double, (1,), timeout=-1)
            with pytest.raises(TypeError):
                await pool.map(tasks.double, 5)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                pool.imap(tasks.double, 5)  # type: ignore[arg-type]
            results = pool.imap(tasks.die_if_equal_3, range(5))
            got: list[Any] = []
            while True:
                try:
                    got.append(await anext(results))
                except StopAsyncIteration:
                    break
                except mpsteal.AgentDiedError as error:
                    got.append(error.items)
            assert got == [0, 1, 2, range(3, 4), 4]
            with pytest.raises(RuntimeError, match="StopAsyncIteration"):
                await anext(pool.imap(tasks.raise_this, [StopAsyncIteration]))

    run(main)


def test_results_that_come_together_ring_the_loop_once(gates: Gates) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mpsteal.AsyncPool(2) as pool:
            gate = gates("held")
            async with held(pool, gate):
                waiting = [asyncio.ensure_future(pool.apply(tasks.double, (i,))) for i in range(500)]
                await asyncio.sleep(0)
                rings: list[Any] = []
                ring = loop.call_soon_threadsafe
                loop.call_soon_threadsafe = lambda *args: (rings.append(args), ring(*args))[1]  # type: ignore[assignment]
                gate.open()
                # Here the loop does stand still: so long that all results are there before it looks.
                mailbox = pool._mailbox()
                wait_until(lambda: rings and len(mailbox._news) == 502, "all results, those that were held with them")
                assert len(rings) == 1
                assert await asyncio.gather(*waiting) == list(range(0, 1000, 2))

    run(main)


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_call_that_is_cancelled_in_the_queue_never_runs(gates: Gates, tmp_path: Path) -> None:
    async def main() -> None:
        noted, gate = str(tmp_path / "noted"), gates("held")
        async with mpsteal.AsyncPool(2) as pool:
            async with held(pool, gate):
                queued = [asyncio.create_task(pool.apply(tasks.note, (noted, i))) for i in range(10)]
                await asyncio.sleep(0)
                for one in queued[::2]:
                    one.cancel()
                done = await asyncio.gather(*queued[::2], return_exceptions=True)
                assert [type(error) for error in done] == [asyncio.CancelledError] * 5
            assert await asyncio.gather(*queued[1::2]) == [1, 3, 5, 7, 9]
            pool._pool._engine.validate()
        assert sorted(lines(noted)) == ["1", "3", "5", "7", "9"]

    run(main)


def test_running_call_runs_on_and_its_result_is_dropped(gates: Gates, tmp_path: Path) -> None:
    async def main() -> None:
        gate = gates("held")
        async with mpsteal.AsyncPool(1) as pool:
            pid = await pool.apply(tasks.my_pid)
            running = asyncio.create_task(pool.apply(pass_gate, (gate,)))
            await arrived(gate)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            gate.open()
            assert await pool.apply(tasks.my_pid) == pid
            assert pool.stats().agents_replaced == 0

    run(main)


def test_running_call_is_ended_where_that_is_asked(gates: Gates) -> None:
    """By its own time limit in the loop; the other agent's task and the queue are not touched."""

    async def main() -> None:
        gate, endless = gates("held"), gates("endless")
        async with mpsteal.AsyncPool(2) as pool:
            other = asyncio.create_task(pool.apply(pass_gate, (gate, "unharmed")))
            await arrived(gate)
            running = asyncio.create_task(pool.apply(tasks.arrive_and_sleep, (endless,), end_running=True, retries=3))
            await arrived(endless)
            behind = [asyncio.create_task(pool.apply(tasks.double, (i,))) for i in range(20)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(running, 0.01)
            assert await asyncio.gather(*behind) == list(range(0, 40, 2))
            gate.open()
            assert await other == "unharmed"
            stats = pool.stats()
            assert (stats.agents_replaced, stats.agent_deaths, stats.timeouts, stats.retried) == (1, 0, 0, 0)
            assert endless.arrived_nowait() == 0
            await until(lambda: not pool._pool._engine.dispatcher.cancels.open, "nothing left to cancel")
            pool._pool._engine.validate()

    run(main)


@pytest.mark.parametrize("end_running", [False, True])
def test_cancelled_map_leaves_the_queue(gates: Gates, tmp_path: Path, end_running: bool) -> None:
    async def main() -> None:
        noted, gate = str(tmp_path / "noted"), gates("held")
        async with mpsteal.AsyncPool(2) as pool:
            mapped = asyncio.create_task(
                pool.map(pass_gate_packed, [(gate, noted, i) for i in range(40)], 1, end_running=end_running)
            )
            await arrived(gate, 2)
            behind = [asyncio.create_task(pool.apply(tasks.double, (i,))) for i in range(20)]
            await asyncio.sleep(0)
            mapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mapped
            if not end_running:
                gate.open()
            assert await asyncio.gather(*behind) == list(range(0, 40, 2))
            await until(lambda: pool.stats().agents_replaced == (2 if end_running else 0), "as many as were ended")
            assert gate.arrived_nowait() == 0, "nothing else of the map has begun"
            await until(lambda: all(a.pid and a.parked for a in pool.stats().agents), "those of the map have ended")
            pool._pool._engine.validate()
        assert len(lines(noted)) == (0 if end_running else 2)

    run(main)


def pass_gate_packed(packed: tuple[Gate, str, int]) -> int:
    gate, path, number = packed
    gate.wait()
    tasks.note(path, number)
    return number


def test_map_that_was_not_sent_yet_is_cancelled(gates: Gates) -> None:
    """Its job is taken out of what waits for the engine, which is busy with a user's `__reduce__`."""

    async def main() -> None:
        begun, going = threading.Event(), threading.Event()

        class Slow:
            def __reduce__(self) -> Any:
                begun.set()
                assert going.wait(ALARM_S)
                return (int, ())

        async with mpsteal.AsyncPool(2) as pool:
            slow = asyncio.create_task(pool.apply(tasks.identity, (Slow(),)))
            await asyncio.get_running_loop().run_in_executor(None, begun.wait)
            mapped = asyncio.create_task(pool.map(tasks.double, range(10)))
            results = pool.imap(tasks.double, range(10))
            await asyncio.sleep(0)
            mapped.cancel()
            closing = asyncio.create_task(results.aclose())
            await asyncio.sleep(0)
            going.set()
            with pytest.raises(asyncio.CancelledError):
                await mapped
            await closing
            assert await slow == 0
            await until(lambda: not pool._pool._engine.dispatcher.jobs, "what was cancelled is forgotten")
            pool._pool._engine.validate()

    run(main)


# -- imap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "generator"])
@pytest.mark.parametrize("chunksize", [1, 5])
def test_imap_reads_no_more_than_is_fetched(kind: str, chunksize: int) -> None:
    async def main() -> None:
        read: list[int] = []
        ahead = FEEDER_DEPTH * chunksize
        async with mpsteal.AsyncPool(2) as pool:
            items: Any = numbers(10**9, read) if kind == "async" else generated(10**9, read)
            results = pool.imap(tasks.double, items, chunksize, buffersize=4)
            got = [await anext(results) for _ in range(100)]
            assert got == list(range(0, 200, 2))
            at_most = 100 + 2 * chunksize * 4 + (2 * chunksize * 4 if kind == "async" else ahead + chunksize)
            await asyncio.sleep(0)
            assert len(read) <= at_most
            await results.aclose()
            assert [v async for v in results] == []

    run(main)


def test_generator_that_blocks_does_not_hold_up_the_loop() -> None:
    async def main() -> None:
        go = threading.Semaphore(0)

        def items() -> Iterator[int]:
            for i in range(3):
                assert go.acquire(timeout=ALARM_S)
                yield i

        async with mpsteal.AsyncPool(2) as pool:
            results = pool.imap(tasks.double, items())
            mapped = asyncio.create_task(pool.map(tasks.double, items()))
            for _ in range(6):
                assert await pool.apply(tasks.double, (1,)) == 2  # the loop and the pool go on
                go.release()
            assert [value async for value in results] == await mapped == [0, 2, 4]

    run(main)


def test_loop_left_early_withdraws_the_rest(gates: Gates) -> None:
    """By the end of the last reference alone; the input's own end is run."""

    async def main() -> None:
        ended = asyncio.Event()

        async def items() -> AsyncIterator[int]:
            try:
                async for i in numbers(10**9):
                    yield i
            finally:
                ended.set()

        async with mpsteal.AsyncPool(2) as pool:
            async for value in pool.imap(tasks.double, items()):
                if value == 20:
                    break
            gc.collect()
            await ended.wait()
            await until(lambda: not pool._pool._engine.dispatcher.jobs, "the job is gone")
            assert await pool.apply(tasks.double, (2,)) == 4
            pool._pool._engine.validate()

    run(main)


def test_imap_that_is_left_ends_what_runs_where_asked(gates: Gates) -> None:
    async def main() -> None:
        endless = gates("endless")
        async with mpsteal.AsyncPool(2) as pool:
            results = pool.imap(tasks.arrive_and_sleep, [endless] * 20, end_running=True)
            other = asyncio.create_task(anext(results))
            await arrived(endless, 2)
            async with contextlib.aclosing(results):
                pass
            with pytest.raises(StopAsyncIteration):
                await other
            assert endless.arrived_nowait() == 0
            assert await pool.apply(tasks.double, (2,)) == 4
            await until(lambda: pool.stats().agents_replaced == 2, "both replaced")

    run(main)


def test_input_that_raises_ends_the_results_with_its_error() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    async def main() -> None:
        async with mpsteal.AsyncPool(2) as pool:
            for chunksize in (1, 3):
                results = pool.imap(tasks.double, items(), chunksize)
                assert [await anext(results), await anext(results)] == [2, 4]
                with pytest.raises(LookupError, match="no more"):
                    await anext(results)
            with pytest.raises(LookupError):
                await pool.map(tasks.double, items())

    run(main)


@pytest.mark.parametrize("how", ["cancelled inside", "cannot be iterated"])
def test_input_that_ends_in_any_other_way_ends_the_results_too(how: str) -> None:
    async def cancelled() -> AsyncIterator[int]:
        yield 1
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.cancel("from within")
        await gone

    class NoIterable:
        def __aiter__(self) -> AsyncIterator[int]:
            raise LookupError("no items")

    items, wanted = (cancelled(), [2]) if how == "cancelled inside" else (NoIterable(), [])

    async def main() -> None:
        async with mpsteal.AsyncPool(1) as pool:
            results = pool.imap(tasks.double, items)
            assert [await anext(results) for _ in wanted] == wanted
            with pytest.raises(asyncio.CancelledError if wanted else LookupError, match=r"from within|no items"):
                await anext(results)

    run(main)


def test_several_tasks_read_one_iterator() -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(2) as pool:
            results = pool.imap(tasks.double, numbers(300), 7)

            async def read() -> list[int]:
                return [value async for value in results]

            parts = await asyncio.gather(*(read() for _ in range(4)))
            assert sorted(itertools.chain(*parts)) == list(range(0, 600, 2))

    run(main)


# -- beginning and end ----------------------------------------------------------------------------------------------


def test_way_out_waits_for_what_others_await(gates: Gates) -> None:
    async def main() -> None:
        gate = gates("held")
        async with mpsteal.AsyncPool(1) as pool:
            calls = [asyncio.create_task(pool.apply(pass_gate, (gate, i))) for i in range(3)]
            await arrived(gate)
            asyncio.get_running_loop().call_soon(gate.open)
        assert [await call for call in calls] == [0, 1, 2]
        with pytest.raises(ValueError, match="not running"):
            await pool.apply(tasks.double, (1,))
        with pytest.raises(RuntimeError, match="once"):
            async with pool:
                pass

    run(main)


@pytest.mark.parametrize("how", ["raises", "cancelled inside", "cancelled on the way out"])
def test_body_that_fails_ends_what_runs(gates: Gates, how: str) -> None:
    async def main() -> None:
        endless = gates("endless")
        calls: list[asyncio.Task[Any]] = []
        inside = asyncio.Event()

        async def body() -> None:
            async with mpsteal.AsyncPool(1) as pool:
                calls.extend(asyncio.create_task(pool.apply(tasks.arrive_and_sleep, (endless,))) for _ in range(2))
                await arrived(endless)
                inside.set()
                if how == "raises":
                    raise LookupError
                if how == "cancelled inside":
                    await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await inside.wait()
        if how != "raises":
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(LookupError if how == "raises" else asyncio.CancelledError):
            await task
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [mpsteal.PoolTerminatedError] * 2

    run(main)


def test_way_out_cuts_iterators_short() -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(2) as pool:
            endless = pool.imap(tasks.double, numbers(10**9))
            assert await anext(endless) == 0
            unread = pool.imap(tasks.double, generated(10**9, []))
        for results in (endless, unread):
            with pytest.raises(mpsteal.PoolTerminatedError, match="before the input was read to its end"):
                async for _ in results:
                    pass

    run(main)


def test_results_can_be_read_while_the_pool_is_joined(gates: Gates) -> None:
    async def main() -> None:
        gate = gates("held")
        async with mpsteal.AsyncPool(2) as pool:
            results = pool.imap(pass_gate_if, [(None, i) for i in range(8)] + [(gate, 8)], buffersize=9)
            await arrived(gate)

            async def read() -> list[int]:
                try:
                    await until(lambda: results._job.buffersize is None, "the limits are lifted")
                    got = [await anext(results) for _ in range(8)]
                finally:
                    gate.open()
                return got + [value async for value in results]

            reading = asyncio.create_task(read())
        assert await reading == list(range(9))

    run(main)


def pass_gate_if(packed: tuple[Gate | None, int]) -> int:
    gate, number = packed
    if gate is not None:
        gate.wait()
    return number


def test_start_that_is_cancelled_leaves_nothing() -> None:
    async def main() -> None:
        async def body() -> None:
            async with mpsteal.AsyncPool(1, context="spawn"):
                raise AssertionError("never")

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_pool_that_cannot_start_says_why() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="at least 1"):
            async with mpsteal.AsyncPool(0):
                pass
        with pytest.raises(RuntimeError, match="async with"):
            await mpsteal.AsyncPool(1).apply(tasks.double, (1,))

    run(main)


# -- loops ----------------------------------------------------------------------------------------------------------


def test_loops_of_two_threads_share_a_pool(gates: Gates) -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(2) as pool:

            async def other() -> list[int]:
                return list(await asyncio.gather(*(pool.apply(tasks.double, (i,)) for i in range(200))))

            theirs = asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(other()))
            assert await other() == await theirs == list(range(0, 400, 2))

    run(main)


def test_loop_that_is_closed_meanwhile_costs_nothing(gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        gate = gates("held")
        async with mpsteal.AsyncPool(1) as pool:

            def abandon() -> None:
                """A loop that is closed while its task awaits a call: no loop hears of the cancellation either."""
                loop = asyncio.new_event_loop()
                task = loop.create_task(pool.apply(pass_gate, (gate,)))
                task.add_done_callback(lambda _: None)
                loop.run_until_complete(asyncio.sleep(0))
                loop.close()
                task._log_destroy_pending = False  # type: ignore[attr-defined]

            await asyncio.get_running_loop().run_in_executor(None, abandon)
            await arrived(gate)
            gate.open()
            assert await pool.apply(tasks.double, (1,)) == 2
            assert len(pool._mailboxes) <= 2

    run(main)
    assert not [record for record in caplog.records if record.name == "mpsteal"]


def test_without_asyncio_the_error_says_so() -> None:
    async def main() -> None:
        async with mpsteal.AsyncPool(1):
            pass

    coroutine = main()
    with pytest.raises(RuntimeError, match="asyncio"):
        coroutine.send(None)


def test_works_in_anyio_on_asyncio(gates: Gates) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        gate, endless = gates("held"), gates("endless")
        got = {}

        async def call(pool: mpsteal.AsyncPool, i: int) -> None:
            got[i] = await pool.apply(tasks.double, (i,))

        async with mpsteal.AsyncPool(2) as pool:
            async with anyio.create_task_group() as group:
                for i in range(20):
                    group.start_soon(call, pool, i)
            assert got == {i: 2 * i for i in range(20)}
            with anyio.move_on_after(0.01) as scope:
                await pool.apply(tasks.arrive_and_sleep, (endless,), end_running=True)
            assert scope.cancelled_caught
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(call, pool, 1)
                    group.start_soon(pool.apply, pass_gate, (gate,))
                    await anyio.to_thread.run_sync(gate.wait_arrived)
                    scope.cancel()
            gate.open()
            assert await pool.map(tasks.double, numbers(5)) == [0, 2, 4, 6, 8]
            await until(lambda: not pool._pool._engine.dispatcher.cancels.open, "all is cancelled")

    anyio.run(main, backend="asyncio")


def test_on_trio_the_error_says_what_to_do() -> None:
    pytest.importorskip("trio")
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        async with mpsteal.AsyncPool(1):
            pass

    with pytest.raises(RuntimeError, match="trio"):
        anyio.run(main, backend="trio")
