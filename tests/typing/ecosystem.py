"""What type checkers infer of the executor, asyncio, shared objects and tasks that submit tasks. Read, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Future
from types import SimpleNamespace

from mpsteal import (
    AsyncPool,
    ChildResult,
    CurrentAgent,
    Executor,
    Pool,
    Shared,
    agent_state,
    current_agent,
    current_pool,
)


def use(*values: object) -> None:
    """Stands for the rest of a program."""


def length(word: str) -> int:
    return len(word)


def executors(executor: Executor) -> None:
    future: Future[int] = executor.submit(length, "a")
    wrong: Future[str] = executor.submit(length, "a")  # type: ignore[arg-type]
    executor.submit(length, 1)  # type: ignore[arg-type]
    urgent: Future[int] = executor.options(priority=5, timeout=1.0).submit(length, "a")
    use(future, wrong, urgent)
    for value in executor.map(length, ["a"]):
        one: int = value
        use(one)


async def awaited(pool: AsyncPool) -> None:
    one: int = await pool.apply(length, ("a",))
    many: list[int] = await pool.map(length, ["a"])
    values: AsyncIterator[int] = pool.imap(length, ["a"])
    use(one, many)
    async for value in values:
        use(value + 1)


def shared(pool: Pool) -> None:
    handle: Shared[list[int]] = pool.share([1])
    use(handle.value[0] + 1)


def inside() -> None:
    state: SimpleNamespace = agent_state()
    agent: CurrentAgent | None = current_agent()
    use(state, agent)


def nested() -> None:
    pool = current_pool()
    one: int = pool.apply(length, ("a",))
    many: list[int] = pool.map(length, ["a"])
    wrong: list[str] = pool.map(length, ["a"])  # type: ignore[arg-type]
    handle: ChildResult[int] = pool.apply_async(length, ("a",))
    use(one, many, wrong, handle.get() + 1)
