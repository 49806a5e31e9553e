"""The parent forks while its pool runs: the pool does not notice, and the child cannot use it."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, wait_idle

import mpsteal

Open = Callable[..., mpsteal.Pool]


def forked(inside: Callable[[], Any], end: Callable[[], Any] = lambda: os._exit(0)) -> int:
    """Run `inside` in a forked child; its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs must not outlive the test
        try:
            inside()
            end()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave_normally() -> None:
    """What the interpreter does at exit, as far as pools are concerned."""
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    threading._shutdown()  # type: ignore[attr-defined]
    os._exit(0)


def run_collector() -> None:
    gc.collect()


def leave_by(number: signal.Signals) -> Callable[[], None]:
    return lambda: (faulthandler.disable(), os.kill(os.getpid(), number))[1]


ENDS = {
    "_exit": lambda: os._exit(0),
    "normal": leave_normally,
    **{number.name: leave_by(number) for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL)},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("inside", [lambda: None, run_collector], ids=["", "gc"])
def test_child_comes_and_goes(open_pool: Open, gates: Gates, inside: Callable[[], Any], end: str) -> None:
    pool = open_pool(2)
    wait_idle(pool)
    before = agent_pids(pool)
    gate = gates("held")
    held = [pool.apply_async(pass_gate, (gate, i)) for i in range(2)]
    gate.wait_arrived(2)
    waiting = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    for _ in range(3):
        assert forked(inside, ENDS[end]) == (-signal.Signals[end] if end.startswith("SIG") else 0)
    gate.open()
    assert [r.get() for r in held] == [0, 1]
    assert [r.get() for r in waiting] == list(range(0, 200, 2))
    assert agent_pids(pool) == before
    pool._engine.validate()


def test_child_that_drops_the_pool(open_pool: Open) -> None:
    """A finaliser acts only in the process that made the object."""
    pools = [open_pool(2)]
    wait_idle(pools[0])
    before = agent_pids(pools[0])

    def drop() -> None:
        pool = pools.pop()
        gc.collect()
        pool.__del__()
        pool.terminate()
        del pool
        gc.collect()

    assert forked(drop) == 0
    assert pools[0].map(tasks.double, range(10)) == list(range(0, 20, 2))
    assert agent_pids(pools[0]) == before


USES = {
    "apply_async": lambda pool: pool.apply_async(tasks.double, (1,)),
    "apply": lambda pool: pool.apply(tasks.double, (1,)),
    "map": lambda pool: pool.map(tasks.double, [1]),
    "map_async": lambda pool: pool.map_async(tasks.double, [1]),
    "imap": lambda pool: pool.imap(tasks.double, [1]),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_child_is_told_the_rule(open_pool: Open, use: str) -> None:
    pool = open_pool(1)

    def inside() -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="a forked child makes its own"):
                USES[use](pool)

    assert forked(inside) == 0
    assert pool.apply(tasks.double, (2,)) == 4


def test_child_cannot_wait_for_the_parents_results(open_pool: Open, gates: Gates) -> None:
    """Nobody would ever tell it: an error instead of a hang (I3)."""
    pool = open_pool(1)
    gate = gates("held")
    result = pool.apply_async(pass_gate, (gate, 5))
    results = pool.imap(pass_gate, [gate])
    gate.wait_arrived()

    def inside() -> None:
        with pytest.raises(ValueError, match="a forked child makes its own"):
            result.get()
        with pytest.raises(ValueError, match="a forked child makes its own"):
            result.get(5)
        with pytest.raises(ValueError, match="a forked child makes its own"):
            next(results)

    assert forked(inside) == 0
    gate.open()
    assert result.get() == 5
    assert next(results) is None


def test_child_may_end_its_copy_of_the_pool(open_pool: Open) -> None:
    pool = open_pool(1)

    def inside() -> None:
        pool.close()
        pool.terminate()
        with pytest.raises(ValueError, match="a forked child makes its own"):
            pool.join()

    assert forked(inside) == 0
    assert pool.apply(tasks.double, (2,)) == 4


def test_child_makes_its_own(open_pool: Open) -> None:
    pool = open_pool(1)

    def inside() -> None:
        with mpsteal.Pool(1, context=multiprocessing.get_context("fork")) as own:
            assert own.map(tasks.double, range(5)) == [0, 2, 4, 6, 8]

    for _ in range(3):
        assert forked(inside) == 0
    assert pool.apply(tasks.double, (2,)) == 4


def test_fork_while_other_threads_use_pools(open_pool: Open) -> None:
    """Whatever lock a thread holds at the fork, the child can still make and use a pool."""
    pool = open_pool(2)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for result in [pool.apply_async(tasks.double, (i,)) for i in range(20)]:
                result.get()

    def inside() -> None:
        with mpsteal.Pool(1, context=multiprocessing.get_context("fork")) as own:
            assert own.apply(tasks.double, (5,)) == 10

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [forked(inside) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_subprocess_with_preexec_while_threads_use_the_pool(open_pool: Open) -> None:
    """`preexec_fn` runs Python code in the fork, and exec ends what it was a copy of."""
    pool = open_pool(2)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            assert pool.map(tasks.double, range(20)) == list(range(0, 40, 2))

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            code = subprocess.run(["true"], preexec_fn=gc.collect, check=False).returncode
            assert code == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wait_idle(pool)
    pool._engine.validate()


@pytest.mark.parametrize("order", ["stock first", "stock later"])
def test_stock_pool_beside_ours(order: str) -> None:
    """Each forks workers that hold copies of everything the other has; each ends without the other."""
    context = multiprocessing.get_context("fork")
    made: list[Any] = [context.Pool, lambda count: mpsteal.Pool(count, context=context)]
    if order == "stock later":
        made.reverse()
    one, two = (make(2) for make in made)
    with two:
        with one:
            results = [pool.apply_async(tasks.double, (i,)) for i in range(100) for pool in (one, two)]
            assert [r.get() for r in results] == [2 * i for i in range(100) for _ in "ab"]
            ours = one if isinstance(one, mpsteal.Pool) else two
            with pytest.raises(mpsteal.AgentDiedError):
                ours.apply(tasks.die_at_once, (1,))
            assert one.map(tasks.double, range(10)) == two.map(tasks.double, range(10)) == list(range(0, 20, 2))
        one.join()
        assert two.map(tasks.double, range(10)) == list(range(0, 20, 2))
    two.join()


def test_agents_are_never_a_childs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is forked: as they start, while they run, once they are dead and not yet joined."""
    counts: list[int] = []

    def fork_and_count() -> None:
        counts.append(forked(lambda: os._exit(len(multiprocessing.process._children))))  # type: ignore[attr-defined]

    class Watched(multiprocessing.context.ForkProcess):
        def start(self) -> None:
            super().start()
            fork_and_count()

        def join(self, timeout: float | None = None) -> None:
            fork_and_count()
            super().join(timeout)

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(type(context), "Process", Watched)
    assert not multiprocessing.active_children()
    with mpsteal.Pool(2, context=context, maxtasksperchild=3) as pool:
        with pytest.raises(mpsteal.AgentDiedError):
            pool.apply(tasks.die_at_once, (1,))
        assert pool.map(tasks.double, range(10), 1) == list(range(0, 20, 2))
    assert len(counts) >= 6
    assert not any(counts)


def test_task_of_a_forked_agent_cannot_use_the_pool(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = open_pool(1, "fork")
    monkeypatch.setattr(tasks, "shared_pool", pool)
    # Agents forked before do not know it; a new one does.
    os.kill(agent_pids_after_hello(pool)[0], 9)
    assert "makes its own" in pool.apply(tasks.use_shared_pool)


def agent_pids_after_hello(pool: mpsteal.Pool) -> list[int]:
    wait_idle(pool)
    return agent_pids(pool)


if sys.platform == "darwin":  # pragma: no cover
    pytestmark = pytest.mark.skip("forking a threaded process is not supported there")
