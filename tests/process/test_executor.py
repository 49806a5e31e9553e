"""`Executor`: futures, cancelling, deaths, options, `map`. That it keeps the stock contract is told by the
interpreter's own tests (`tests/dropin/test_cpython_executor.py`); here is what goes beyond, and what they leave out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import lines, wait_until

import mpsteal
import mpsteal.executor
from mpsteal import Agent, AgentDiedError, Executor, TaskTimeoutError, TransferError, UnmatchedTaskError

OpenExecutor = Callable[..., Executor]


@pytest.fixture
def open_executor() -> Iterator[OpenExecutor]:
    """Makes executors, and ends them if the test has not."""
    made: list[Executor] = []

    def open_one(max_workers: int | None = 2, method: str = "fork", **options: Any) -> Executor:
        executor = Executor(max_workers, multiprocessing.get_context(method), **options)
        made.append(executor)
        return executor

    yield open_one
    for executor in made:
        executor.kill_workers()
        executor.shutdown()


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_until(path: str, times: int) -> int:
    """Kills its process unless it has run so often before."""
    tasks.note(path, os.getpid())
    if len(lines(path)) <= times:
        die()
    return len(lines(path))


def fail(message: str = "no") -> None:
    raise ValueError(message)


class OddError(Exception):
    """One that weak references can be made to."""


def fail_oddly(_: Any) -> None:
    raise OddError


class FailsToLoad:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return fail, ("not here",)


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise KeyError("not there")


def make(kind: Callable[[], Any]) -> Any:
    return kind()


# -- every start method ---------------------------------------------------------------------------------------------


def test_every_start_method_serves_and_one_death_costs_one_call(open_executor: OpenExecutor, start_method: str) -> None:
    executor = open_executor(2, start_method)
    dead, alive = executor.submit(die), [executor.submit(tasks.double, i) for i in range(20)]
    assert [future.result() for future in alive] == [2 * i for i in range(20)]
    with pytest.raises(AgentDiedError) as caught:
        dead.result()
    assert isinstance(caught.value, BrokenProcessPool)  # what callers of the stock executor catch
    assert caught.value.exitcode == -signal.SIGKILL
    assert executor._broken is False
    assert executor.submit(tasks.double, 4).result() == 8
    wait_until(lambda: executor.stats().agents_replaced == 1, "the dead agent replaced")
    assert executor.stats().agent_deaths == 1
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(tasks.double, 1)


def test_agents_start_as_there_are_calls_for_them(open_executor: OpenExecutor, gates: Gates) -> None:
    """Not under fork, which copies whatever threads do meanwhile."""
    executor = open_executor(3, "forkserver")
    assert executor._processes == {}
    for i in range(3):
        assert executor.submit(tasks.double, i).result() == 2 * i
    assert executor._processes is not None
    assert len(executor._processes) == 1
    gate = gates()
    held = [executor.submit(pass_gate, gate) for _ in range(3)]
    gate.wait_arrived(3)
    assert len(executor._processes) == 3
    gate.open()
    wait(held)


# -- futures --------------------------------------------------------------------------------------------------------


def test_future_is_one_of_concurrent_futures(open_executor: OpenExecutor, gates: Gates) -> None:
    executor, gate = open_executor(1), gates()
    held = executor.submit(pass_gate, gate, 1)
    gate.wait_arrived()
    queued = executor.submit(tasks.double, 2)
    assert isinstance(held, concurrent.futures.Future)
    assert (held.running(), queued.running()) == (True, False)
    assert "state=running" in repr(held)
    assert "state=pending" in repr(queued)
    assert wait([held, queued], timeout=0).not_done == {held, queued}
    with pytest.raises(RuntimeError, match="run by an agent"):
        queued.set_running_or_notify_cancel()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(queued)
    called: list[Any] = []
    queued.add_done_callback(called.append)
    gate.open()
    assert {future.result() for future in as_completed([held, queued])} == {1, 4}
    assert (held.running(), held.done()) == (False, True)
    assert repr(held).endswith("state=finished returned int>")
    wait_until(lambda: called == [queued], "the callback")
    held.add_done_callback(called.append)
    assert called == [queued, held]  # at once, of one that is over


def test_asyncio_awaits_it_and_cancels_it(open_executor: OpenExecutor, gates: Gates, tmp_path: Path) -> None:
    executor, gate, noted = open_executor(1), gates(), str(tmp_path / "noted")

    async def run() -> int:
        loop = asyncio.get_running_loop()
        held = loop.run_in_executor(executor, pass_gate, gate, 5)
        queued = asyncio.ensure_future(loop.run_in_executor(executor, tasks.note, noted, "ran"))
        await loop.run_in_executor(None, gate.wait_arrived)
        queued.cancel()
        await asyncio.sleep(0)  # asyncio passes it on in its next round
        with pytest.raises(asyncio.CancelledError):
            await queued
        gate.open()
        return int(await held)

    assert asyncio.run(run()) == 5
    assert executor.submit(tasks.double, 1).result() == 2  # whatever was queued has run by now
    assert lines(noted) == []


def test_cancelled_while_queued_never_runs_and_running_is_not_cancelled(
    open_executor: OpenExecutor, gates: Gates, tmp_path: Path
) -> None:
    executor, gate, noted = open_executor(1), gates(), str(tmp_path / "noted")
    held = executor.submit(pass_gate, gate, 1)
    gate.wait_arrived()
    queued = [executor.submit(tasks.note, noted, i) for i in range(10)]
    cancelled = queued[::2]
    assert all(future.cancel() for future in cancelled)
    assert all(future.cancel() for future in cancelled)  # and stays so
    assert not held.cancel()
    assert wait(cancelled).done == set(cancelled)
    with pytest.raises(CancelledError):
        cancelled[0].result()
    assert cancelled[0].set_running_or_notify_cancel() is False
    gate.open()
    wait(queued)
    assert lines(noted) == ["1", "3", "5", "7", "9"]
    assert held.result() == 1


def test_shutdown_with_cancel_futures_leaves_what_runs(
    open_executor: OpenExecutor, gates: Gates, tmp_path: Path
) -> None:
    executor, gate, noted = open_executor(2), gates(), str(tmp_path / "noted")
    plain, urgent = executor, executor.options(priority=5)
    held = [executor.submit(pass_gate, gate, i) for i in range(2)]
    gate.wait_arrived(2)
    queued = [door.submit(tasks.note, noted, i) for i in range(5000) for door in (plain, urgent)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    gate.open()
    executor.shutdown()
    assert [future.result() for future in held] == [0, 1]
    assert lines(noted) == []


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_are_ended_and_everybody_is_answered(open_executor: OpenExecutor, gates: Gates, how: str) -> None:
    executor, gate = open_executor(2), gates()
    held = [executor.submit(pass_gate, gate) for _ in range(2)]
    gate.wait_arrived(2)
    queued = [executor.submit(tasks.double, i) for i in range(100)]
    getattr(executor, how)()
    for future in held:
        with pytest.raises(BrokenProcessPool, match=rf"was ended .*{how}\(\) was called"):
            future.result()
    assert all(future.cancelled() for future in queued)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.double, 1)
    executor.shutdown()


def test_nobody_waits_for_an_executor_that_was_never_used() -> None:
    executor = Executor(2)
    executor.kill_workers()
    executor.shutdown()
    assert executor.stats().agents == ()
    with pytest.raises(RuntimeError):
        executor.submit(tasks.double, 1)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_what_cannot_travel_costs_one_call_and_says_where(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    with pytest.raises(TransferError, match="the arguments in the agent raised ValueError: not here") as arguments:
        executor.submit(tasks.identity, FailsToLoad()).result()
    with pytest.raises(TransferError, match="the result in this process raised ValueError: not here") as result:
        executor.submit(make, FailsToLoad).result()
    assert isinstance(arguments.value, BrokenProcessPool)
    assert "ValueError: not here" in str(arguments.value.__cause__)  # the agent's traceback
    assert isinstance(result.value.__cause__, ValueError)
    for call in ((tasks.identity, FailsToPickle()), (make, FailsToPickle)):
        with pytest.raises(KeyError, match="not there"):
            executor.submit(*call).result()
    pids = {executor.submit(os.getpid).result() for _ in range(3)}
    assert len(pids) == 1
    assert executor.stats().agents_replaced == 0


def test_failing_initializer_breaks_it_once_for_all(open_executor: OpenExecutor) -> None:
    executor = open_executor(2, initializer=fail)
    with pytest.raises(BrokenProcessPool, match="initializer of an agent raised ValueError: no") as caught:
        executor.submit(tasks.double, 1).result()  # whichever of the two finds out
    assert isinstance(caught.value.__cause__, (ValueError, BrokenProcessPool))
    with pytest.raises(BrokenProcessPool, match="initializer of an agent raised ValueError: no"):
        executor.submit(tasks.double, 2)
    assert executor._broken
    executor.shutdown()


def test_agent_tells_of_a_failing_initializer_where_the_stock_one_does(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="no"):
        mpsteal.executor._Initializer(fail)()
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (
        "concurrent.futures",
        "CRITICAL",
        "Exception in initializer:",
    )
    assert record.exc_info


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "str"),
        ({"initializer": 1}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "must be >= 1"),
        ({"max_tasks_per_child": 1.5}, TypeError, "must be an integer"),
        ({"max_tasks_per_child": 1, "mp_context": "fork"}, ValueError, "incompatible with the 'fork'"),
        ({"agents": []}, ValueError, "agents must not be empty"),
        ({"agents": ["a"]}, TypeError, "a collection of Agent"),
        ({"agents": [Agent("a"), Agent("a")]}, ValueError, "the same id"),
        ({"agents": [Agent("a")], "max_workers": 1}, TypeError, "not both"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Executor(**arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": 6}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"skills": "gpu"}, TypeError),
        ({"deadline": float("nan")}, ValueError),
    ],
)
def test_wrong_options_are_refused_before_anything_is_submitted(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Executor(1).options(**options)


def test_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be passed between processes"):
        pickle.dumps(Executor(1))


# -- options --------------------------------------------------------------------------------------------------------


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_options_do_not_mix_with_the_functions_own(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    own = {"priority": 1, "skills": 2, "timeout": 3, "retries": 4, "deadline": 5, "fn": 6, "self": 7}
    for door in (executor, executor.options(priority=5, timeout=100, retries=1, deadline=100)):
        assert door.submit(capture, 0, **own).result() == ((0,), own)


def test_more_urgent_calls_come_first(
    open_executor: OpenExecutor, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = mpsteal.executor.RULES  # an agent asks, and waits however slow the parent is
    monkeypatch.setattr(mpsteal.executor, "RULES", replace(rules, order=replace(rules.order, ask_s=100.0)))
    executor, gate, noted = open_executor(1), gates(), str(tmp_path / "noted")
    executor.submit(pass_gate, gate)
    gate.wait_arrived()
    futures = []
    for name, options in {
        "low": {"priority": 1},
        "plain": {},
        "later": {"deadline": 200.0},
        "sooner": {"deadline": 100.0},
        "high": {"priority": 4},
        "highest": {"priority": 5},
    }.items():
        door: Any = executor.options(**options) if options else executor
        futures.append(door.submit(tasks.note, noted, name))
    assert executor._engine is not None
    executor._engine.validate()  # once all are taken in
    gate.open()
    wait(futures)
    assert lines(noted) == ["highest", "high", "sooner", "later", "plain", "low"]


def test_skills_choose_the_agent_and_unknown_ones_are_refused(open_executor: OpenExecutor) -> None:
    agents = [Agent("plain"), Agent("strong", ["gpu"])]
    executor = open_executor(None, agents=agents)
    strong = executor.options(skills=["gpu"])
    pids = set(strong.map(tasks.my_pid, range(20)))
    assert pids == {agents[1].pid}
    assert executor._max_workers == strong._max_workers == 2
    with pytest.raises(UnmatchedTaskError, match="lacks: gpus"):
        executor.options(skills=["gpus"]).submit(tasks.double, 1)
    with pytest.raises(AgentDiedError, match="agent 'strong'"):
        strong.submit(die).result()
    assert strong.submit(tasks.double, 2).result() == 4  # by its successor
    with pytest.raises(ValueError, match="registered already"):
        Executor(agents=agents)
    executor.shutdown()
    assert agents[0].state == "gone"


def test_timeout_ends_the_call_and_its_process(open_executor: OpenExecutor, gates: Gates) -> None:
    executor, gate = open_executor(2), gates()
    late = executor.options(timeout=0.05).submit(pass_gate, gate)
    other = executor.submit(tasks.double, 3)
    with pytest.raises(TaskTimeoutError, match=r"'pass_gate' ran for longer than its 0.05 s"):
        late.result()
    assert other.result() == 6
    assert executor.stats().timeouts == 1
    assert executor.submit(tasks.double, 1).result() == 2


def test_call_with_retries_runs_again_when_its_agent_dies(open_executor: OpenExecutor, tmp_path: Path) -> None:
    executor = open_executor(2)
    assert executor.options(retries=2).submit(die_until, str(tmp_path / "enough"), 2).result() == 3
    with pytest.raises(AgentDiedError) as caught:
        executor.options(retries=1).submit(die_until, str(tmp_path / "too few"), 2).result()
    assert caught.value.agents_lost == 2
    with pytest.raises(ValueError, match="no"):  # an exception is an answer
        executor.options(retries=5).submit(fail).result()
    assert executor.stats().retried == 3


def test_missed_deadline_is_told_and_ends_nothing(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    late = executor.options(deadline=-1.0)
    with pytest.warns(mpsteal.DeadlineWarning, match="the deadline of a call of double has passed"):
        future: Any = late.submit(tasks.double, 1)
    assert future.result() == 2
    assert future.deadline_missed
    kept: Any = executor.options(deadline=1000).submit(tasks.double, 1)
    assert kept.result() == 2
    assert not kept.deadline_missed


def test_view_owns_nothing(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    with executor.options(priority=4) as view:
        assert list(view.map(tasks.double, range(3))) == [0, 2, 4]
    view.shutdown()
    assert view.submit(tasks.double, 1).result() == 2
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        view.submit(tasks.double, 1)


# -- map ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 4, 1000])
def test_map_gives_what_map_gives(open_executor: OpenExecutor, chunksize: int, buffersize: int | None) -> None:
    executor = open_executor(2)
    found = executor.map(tasks.add, range(50), iter(range(47)), chunksize=chunksize, buffersize=buffersize)
    assert list(found) == [2 * i for i in range(47)]
    assert list(executor.map(tasks.double, [], buffersize=buffersize)) == []


def test_map_refuses_wrong_sizes(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    for arguments, error in (
        ({"chunksize": 0}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": 1.5}, TypeError),
    ):
        with pytest.raises(error):
            executor.map(tasks.double, [1], **arguments)
    assert executor._processes == {}


def test_map_with_buffersize_reads_no_further_than_that(open_executor: OpenExecutor) -> None:
    executor, read = open_executor(2), 0

    def count() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = executor.map(tasks.double, count(), buffersize=5)
    assert read == 5
    for i in range(1, 3001):
        assert next(results) == 2 * i
        assert read == i + 5
    results.close()  # type: ignore[attr-defined]


def test_failing_map_cancels_what_has_not_started(open_executor: OpenExecutor, gates: Gates, tmp_path: Path) -> None:
    executor, gate, noted = open_executor(1), gates(), str(tmp_path / "noted")
    failing = executor.map(fail, ["first"])
    held = executor.submit(pass_gate, gate)
    gate.wait_arrived()
    slow = executor.map(tasks.note, [noted] * 5000, range(5000), timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(slow)
    other = executor.submit(tasks.double, 1)
    with pytest.raises(ValueError, match="first"):
        next(failing)
    gate.open()
    assert other.result() == 2
    assert held.done()
    executor.shutdown()
    assert lines(noted) == []


def test_errors_of_map_leave_no_cycles(open_executor: OpenExecutor) -> None:
    executor = open_executor(1)
    gc.collect()
    gc.disable()
    try:
        results = executor.map(fail_oddly, ["a"])
        try:
            next(results)
        except OddError as error:
            gone = weakref.ref(error)
        del results
        wait_until(lambda: gone() is None, "the error gone without the garbage collector", 5.0)
    finally:
        gc.enable()


# -- its end --------------------------------------------------------------------------------------------------------


def test_dropped_executor_finishes_what_was_submitted(open_executor: OpenExecutor, gates: Gates) -> None:
    gate = gates()
    executor = Executor(1, multiprocessing.get_context("fork"))
    held, queued = executor.submit(pass_gate, gate, 1), executor.submit(tasks.double, 2)
    results = executor.map(tasks.double, range(10))  # reads nothing more, so it does not keep it alive
    gate.wait_arrived()
    gone = weakref.ref(executor)
    assert executor._engine is not None
    thread = executor._engine.thread
    del executor
    gc.collect()
    assert gone() is None
    gate.open()
    assert (held.result(), queued.result(), list(results)) == (1, 4, [2 * i for i in range(10)])
    thread.join()


def test_map_with_buffersize_goes_on_when_the_executor_was_dropped() -> None:
    results = Executor(1, multiprocessing.get_context("fork")).map(tasks.double, range(10), buffersize=2)
    gc.collect()
    assert list(results) == [2 * i for i in range(10)]


def test_shutdown_from_a_callback_does_not_wait_for_itself(open_executor: OpenExecutor, gates: Gates) -> None:
    executor, gate, ended = open_executor(1), gates(), threading.Event()
    future = executor.submit(pass_gate, gate)
    future.add_done_callback(lambda _: (executor.shutdown(), ended.set()))
    gate.open()
    assert ended.wait(60)


def test_forked_child_has_none_of_it(open_executor: OpenExecutor, gates: Gates) -> None:
    executor, gate = open_executor(1), gates()
    held = executor.submit(pass_gate, gate, 1)
    gate.wait_arrived()
    results = executor.map(tasks.double, range(3))
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        found = []
        for call in (lambda: executor.submit(tasks.double, 1), held.result, lambda: next(results)):
            try:
                call()
            except RuntimeError as error:
                found.append(str(error))
        found.append(str(held.cancel()))
        executor.shutdown()
        executor.kill_workers()
        with Executor(1) as own:
            found.append(str(own.submit(tasks.double, 21).result()))
        os.write(write, "\n".join(found).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read().splitlines()
    os.waitpid(pid, 0)
    assert [line.rpartition(": ")[2] if "Future" in line else line for line in said[-2:]] == ["False", "42"]
    assert "forked child makes its own" in said[0]
    assert "belongs to the process that submitted it" in said[1]
    assert len(said) == 5
    gate.open()
    assert held.result() == 1
    assert list(results) == [0, 2, 4]


def test_invariants_hold_while_calls_of_all_kinds_are_held(open_executor: OpenExecutor, gates: Gates) -> None:
    executor, gate = open_executor(2), gates()
    held = [executor.submit(pass_gate, gate) for _ in range(2)]
    gate.wait_arrived(2)
    futures = [executor.submit(tasks.double, i) for i in range(500)]
    for options in ({"priority": 5}, {"priority": 1}, {"deadline": 100}, {"timeout": 100}):
        futures += [executor.options(**options).submit(tasks.double, i) for i in range(50)]  # type: ignore[arg-type]
    assert futures[3].cancel()
    assert futures[510].cancel()
    assert executor._engine is not None
    executor._engine.validate()
    gate.open()
    wait([*held, *futures])
    executor._engine.validate()
