"""A task is its own future: what it refuses, and how engine and waiters meet without a lock of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures as futures
import datetime
import gc
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mpsteal import Agent, Task
from mpsteal._engine.future import SETTLING, LazyFuture, _watches, settle
from mpsteal.errors import TaskCancelledError


def double(x: int) -> int:
    return 2 * x


async def coroutine() -> None:
    """Nobody awaits it."""


class FakeScheduler:
    """As much of a scheduler as a task looks at when it is over."""

    def __init__(self) -> None:
        self.finished: list[Task] = []
        self._state = "running"
        self._dispatcher = SimpleNamespace(
            finished=lambda task, ok, value: self.finished.append(task), unfinished={}, ended={}
        )
        self._engine = SimpleNamespace(thread=None, callbacks=SimpleNamespace(put=lambda call, task, then: call(task)))
        self._dispatcher._engine = self._engine


def submitted(scheduler: Any, n: int) -> list[Task]:
    tasks = [Task(f"t{i}", fn=double, args=(i,)) for i in range(n)]
    for task in tasks:
        task._home = scheduler
    return tasks


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        pytest.param(ValueError, lambda: Task("t", priority=0), id="priority too low"),
        pytest.param(ValueError, lambda: Task("t", priority=6), id="priority too high"),
        pytest.param(ValueError, lambda: Task("t", priority=True), id="priority a bool"),
        pytest.param(ValueError, lambda: Task("t", priority="3"), id="priority a word"),  # type: ignore[arg-type]
        pytest.param(TypeError, lambda: Task("t", "python"), id="skills one string"),
        pytest.param(TypeError, lambda: Task("t", [1]), id="skills not words"),  # type: ignore[list-item]
        pytest.param(TypeError, lambda: Task("t", [""]), id="skills empty words"),
        pytest.param(TypeError, lambda: Task("t", fn=3), id="fn not callable"),  # type: ignore[arg-type]
        pytest.param(ValueError, lambda: Task("t", args=(1,)), id="a marker with arguments"),
        pytest.param(TypeError, lambda: Task("t", fn=coroutine), id="a coroutine function"),
        pytest.param(TypeError, lambda: Task("t", fn=double, kwargs=[1]), id="kwargs no mapping"),  # type: ignore[arg-type]
        pytest.param(ValueError, lambda: Task("t", timeout=0), id="timeout zero"),
        pytest.param(ValueError, lambda: Task("t", timeout=float("nan")), id="timeout not a number"),
        pytest.param(TypeError, lambda: Task("t", timeout="1"), id="timeout a word"),  # type: ignore[arg-type]
        pytest.param(ValueError, lambda: Task("t", cost=-1), id="cost negative"),
        pytest.param(ValueError, lambda: Task("t", retries=-1), id="retries negative"),
        pytest.param(ValueError, lambda: Task("t", retries=1.5), id="retries a fraction"),  # type: ignore[arg-type]
        pytest.param(TypeError, lambda: Task("t", deadline="noon"), id="deadline a word"),  # type: ignore[arg-type]
        pytest.param(TypeError, lambda: Agent("", []), id="agent without a name"),
        pytest.param(TypeError, lambda: Agent("a", "python"), id="capabilities one string"),
    ],
)
def test_wrong_arguments_are_refused(kind: type[Exception], make: Callable[[], object]) -> None:
    with pytest.raises(kind):
        make()


def test_deadline_may_be_a_point_in_time() -> None:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    relative, absolute = Task("a", deadline=60), Task("b", deadline=at)
    for task in (relative, absolute):
        task._terms.submitted(time.monotonic_ns())
    assert abs(relative._terms.deadline_ns - absolute._terms.deadline_ns) < 5e9


def test_the_shortest_limit_is_one() -> None:
    assert Task("t", timeout=1e-10)._terms.timeout_ns == 1


def test_task_that_was_not_submitted_is_not_waited_for() -> None:
    task = Task("t")
    assert (task.state, task.done(), task.running(), task.cancel()) == ("created", False, False, False)
    for wait in (task.result, task.exception):
        with pytest.raises(RuntimeError, match="not submitted"):
            wait()


def test_nobody_else_sets_its_result() -> None:
    task = Task("t")
    with pytest.raises(RuntimeError, match="from the agent that runs it"):
        task.set_result(1)
    with pytest.raises(RuntimeError, match="from the agent that runs it"):
        task.set_exception(ValueError())
    assert task.state == "created"


def test_task_does_not_travel() -> None:
    with pytest.raises(TypeError, match="stands for its result"):
        pickle.dumps(Task("t"))


@pytest.mark.parametrize("looked_at_before", [False, True])
@pytest.mark.parametrize(
    ("ok", "value", "state"),
    [(True, 42, "done"), (False, ValueError("no"), "failed"), (False, TaskCancelledError("no"), "cancelled")],
    ids=["value", "error", "cancelled"],
)
def test_outcome(looked_at_before: bool, ok: bool, value: Any, state: str) -> None:
    scheduler = FakeScheduler()
    (task,) = submitted(scheduler, 1)
    called: list[Any] = []
    if looked_at_before:
        task.add_done_callback(called.append)
    task._resolve(ok, value)
    task._resolve(False, KeyError("too late"))
    assert (task.state, task.done(), task.cancelled()) == (state, True, state == "cancelled")
    assert scheduler.finished == [task]
    task.add_done_callback(called.append)
    assert called == [task] * (1 + looked_at_before)
    if state == "done":
        assert (task.result(), task.exception()) == (42, None)
    elif state == "failed":
        assert task.exception() is value
        with pytest.raises(ValueError, match="no"):
            task.result()
    else:
        with pytest.raises(futures.CancelledError):
            task.result()


Wait = Callable[[list[Task]], None]


def _wait_all(tasks: list[Task]) -> None:
    assert futures.wait(tasks) == (set(tasks), set())


def _wait_each(tasks: list[Task]) -> None:
    left = set(tasks)
    while left:
        done, left = futures.wait(left, return_when=futures.FIRST_COMPLETED)
        assert done


def _as_completed(tasks: list[Task]) -> None:
    assert set(futures.as_completed(tasks)) == set(tasks)


def _results(tasks: list[Task]) -> None:
    assert [task.result() for task in tasks] == list(range(len(tasks)))


def _callbacks(tasks: list[Task]) -> None:
    came = threading.Semaphore(0)
    for task in tasks:
        task.add_done_callback(lambda _: came.release())
    for _ in tasks:
        assert came.acquire(timeout=60)


def _asyncio(tasks: list[Task]) -> None:
    async def gather() -> list[int]:
        return await asyncio.gather(*map(asyncio.wrap_future, tasks))

    assert asyncio.run(gather()) == list(range(len(tasks)))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("wait", [_wait_all, _wait_each, _as_completed, _results, _callbacks, _asyncio])
@pytest.mark.parametrize("at_once", [1, 7], ids=["one by one", "seven at once"])
def test_waiters_and_engine_do_not_miss_each_other(wait: Wait, at_once: int) -> None:
    """Two threads wait while a third resolves; a lost wake-up, or a lock taken twice, would hang."""
    for _ in range(25):
        tasks = submitted(FakeScheduler(), 40)
        failed: list[BaseException] = []

        def run(tasks: list[Task] = tasks, failed: list[BaseException] = failed) -> None:
            try:
                wait(tasks)
            except BaseException as error:
                failed.append(error)

        def resolve(tasks: list[Task] = tasks, failed: list[BaseException] = failed) -> None:
            try:
                for i in range(0, len(tasks), at_once):
                    some = tasks[i : i + at_once]
                    if at_once == 1:
                        some[0]._resolve(True, i)
                        continue
                    for task in some:
                        task._result = task.args[0]
                    settle(some)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=target) for target in (run, resolve, run)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def test_a_lock_that_was_acquired_is_the_one_that_is_released() -> None:
    """`concurrent.futures.wait` asks for it twice; the engine may come in between, and has to wait."""
    (task,) = submitted(FakeScheduler(), 1)
    task._condition.acquire()
    engine = threading.Thread(target=task._resolve, args=(True, 1))
    engine.start()
    while task._state != SETTLING:
        pass
    task._condition.release()
    engine.join()
    assert task.result() == 1


class SettledMeanwhile(LazyFuture):
    """The engine settles it just after somebody's first look at its fields."""

    def __init__(self) -> None:
        self.is_armed = False
        self._begin()

    def _looked(self) -> None:
        if self.is_armed:
            self.is_armed = False
            engine = threading.Thread(target=self._resolve, args=(True, 1))
            engine.start()
            engine.join()

    @property
    def _state(self) -> str:  # type: ignore[override]
        value = LazyFuture._state.__get__(self)  # type: ignore[attr-defined]
        self._looked()
        return str(value)

    @_state.setter
    def _state(self, value: str) -> None:
        LazyFuture._state.__set__(self, value)  # type: ignore[attr-defined]

    @property
    def _watch(self) -> Any:  # type: ignore[override]
        value = LazyFuture._watch.__get__(self)  # type: ignore[attr-defined]
        self._looked()
        return value

    @_watch.setter
    def _watch(self, value: Any) -> None:
        LazyFuture._watch.__set__(self, value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("looked_at_before", [False, True])
def test_engine_settles_it_between_two_looks_of_who_waits(looked_at_before: bool) -> None:
    """The lock that is acquired is the one that is released, else another future's stays held."""
    first, second = SettledMeanwhile(), SettledMeanwhile()
    if looked_at_before:
        assert not futures.wait([first, second], timeout=0).done
    first.is_armed = True
    assert first not in futures.wait([first, second], timeout=0).not_done
    second._resolve(True, 2)
    assert (first.result(), second.result()) == (1, 2)


def test_engine_does_not_wait_for_a_lock_that_a_thread_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One was interrupted in the middle of `concurrent.futures.wait`, or a signal handler runs there."""
    from mpsteal._engine import future

    monkeypatch.setattr(future, "_patience_s", [0.01])
    kept, other = submitted(FakeScheduler(), 2)
    called: list[Any] = []
    kept.add_done_callback(called.append)
    kept._condition.acquire()
    engine = threading.Thread(target=lambda: [task._resolve(True, i) for i, task in enumerate((kept, other))])
    engine.start()
    engine.join()
    assert other.result() == 1 and not kept.done()
    kept._condition.release()
    assert kept.result(60) == 0
    while not called:
        pass
    assert called == [kept]


def test_nothing_is_kept_of_tasks_that_are_over() -> None:
    before = len(_watches)
    tasks = submitted(FakeScheduler(), 10)
    assert futures.wait(tasks, timeout=0).not_done == set(tasks)
    assert len(_watches) == before + 10
    for i, task in enumerate(tasks):
        task._resolve(True, i)
    assert len(_watches) == before


def test_nothing_is_kept_of_tasks_that_nobody_submits() -> None:
    before = len(_watches)
    task = Task("t")
    task.add_done_callback(print)
    assert len(_watches) == before + 1
    del task
    gc.collect()
    assert len(_watches) == before
