"""asyncio's own ways to a process pool: `run_in_executor` and `wrap_future` over an `Executor`."""

from __future__ import annotations

import asyncio

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate

import mpsteal

ALARM_S = 60.0


def test_run_in_executor(gates: Gates) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with mpsteal.Executor(2) as executor:
            calls = [loop.run_in_executor(executor, tasks.double, i) for i in range(100)]
            assert await asyncio.gather(*calls) == list(range(0, 200, 2))
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(executor, divmod, 1, 0)
            with pytest.raises(mpsteal.AgentDiedError):
                await loop.run_in_executor(executor, tasks.die_at_once, 3)

    asyncio.run(asyncio.wait_for(main(), ALARM_S), debug=True)


def test_wrapped_future_that_is_cancelled_in_the_queue_never_runs(gates: Gates) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate, never = gates("held"), gates("never")
        with mpsteal.Executor(1) as executor:
            held = asyncio.wrap_future(executor.submit(pass_gate, gate, "held"))
            await loop.run_in_executor(None, gate.wait_arrived)
            future = executor.submit(never.arrive)
            queued = asyncio.wrap_future(future)
            urgent = asyncio.wrap_future(executor.options(priority=5).submit(tasks.double, 4))
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            await asyncio.sleep(0)  # asyncio passes it on in the next round of the loop
            assert future.cancelled()
            gate.open()
            assert await asyncio.gather(held, urgent) == ["held", 8]
        assert never.arrived_nowait() == 0

    asyncio.run(asyncio.wait_for(main(), ALARM_S), debug=True)
