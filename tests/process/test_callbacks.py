"""Callbacks run in a thread of their own: what they do or fail to do, the pool goes on."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import wait_idle, wait_until

import mpsteal
from mpsteal._engine import loop as engine_loop

Open = Callable[..., mpsteal.Pool]

ALARM_S = 30.0


@pytest.mark.parametrize("kind", ["apply", "map", "starmap"])
@pytest.mark.parametrize("which", ["callback", "error_callback"])
def test_callback_that_raises_is_logged_once(
    open_pool: Open, caplog: pytest.LogCaptureFixture, kind: str, which: str
) -> None:
    def complain(_: Any) -> NoReturn:
        raise RuntimeError("the callback is broken")

    pool = open_pool(1)
    after: list[int] = []
    work: Any = tasks.identity if which == "callback" else tasks.raise_this
    argument: Any = 1 if which == "callback" else ValueError
    options = {which: complain}
    bad: Any
    if kind == "apply":
        bad = pool.apply_async(work, (argument,), **options)
    elif kind == "map":
        bad = pool.map_async(work, [argument], **options)
    else:
        bad = pool.starmap_async(work, [(argument,)], **options)
    good = pool.apply_async(tasks.double, (2,), callback=after.append)
    if which == "callback":
        assert bad.get() in (1, [1])
    else:
        with pytest.raises(ValueError):
            bad.get()
    assert good.get() == 4
    assert after == [4]
    told = [r for r in caplog.records if r.name == "mpsteal"]
    assert len(told) == 1
    assert told[0].exc_info is not None
    assert "the callback is broken" in str(told[0].exc_info[1])
    trace = "".join(traceback.format_exception(*told[0].exc_info))
    assert "in complain" in trace


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_callback_that_exits_ends_nothing(
    open_pool: Open, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    def leave(_: Any) -> NoReturn:
        raise kind

    pool = open_pool(1)
    assert pool.apply_async(tasks.double, (1,), callback=leave).get() == 2
    seen: list[Any] = []
    with pytest.raises(ValueError):
        pool.apply_async(tasks.raise_this, (ValueError,), error_callback=lambda e: (seen.append(e), leave(e))).get()
    assert len(seen) == 1
    assert pool.apply(tasks.double, (3,)) == 6
    assert len([r for r in caplog.records if r.name == "mpsteal"]) == 2


@pytest.mark.parametrize("which", ["callback", "error_callback"])
def test_callback_that_blocks_holds_up_only_callbacks(open_pool: Open, which: str) -> None:
    pool = open_pool(2)
    entered, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def block(_: Any) -> None:
        entered.set()
        assert leave.wait(ALARM_S)
        order.append("first")

    if which == "callback":
        first = pool.apply_async(tasks.double, (1,), callback=block)
    else:
        first = pool.apply_async(tasks.raise_this, (ValueError,), error_callback=block)
    assert entered.wait(ALARM_S)
    second = pool.apply_async(tasks.double, (2,), callback=lambda _: order.append("second"))
    # The loop is free: tasks without callbacks, deaths and new agents are dealt with.
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(tasks.die_at_once, (1,))
    assert not first.ready()
    assert not second.ready()
    leave.set()
    first.wait()
    assert first.successful() == (which == "callback")
    assert second.get() == 4
    assert order == ["first", "second"]


def test_callback_submits_again(open_pool: Open) -> None:
    pool = open_pool(2)
    done = threading.Event()
    seen: list[int] = []

    def again(value: int) -> None:
        seen.append(value)
        if value < 1 << 10:
            pool.apply_async(tasks.double, (value,), callback=again)
        else:
            done.set()

    pool.apply_async(tasks.double, (1,), callback=again)
    assert done.wait(ALARM_S)
    assert seen == [1 << i for i in range(1, 11)]


def test_error_callback_submits_again(open_pool: Open) -> None:
    pool = open_pool(2)
    done = threading.Event()
    seen: list[BaseException] = []

    def again(error: BaseException) -> None:
        seen.append(error)
        if len(seen) < 10:
            pool.apply_async(tasks.raise_this, (ValueError,), error_callback=again)
        else:
            done.set()

    pool.apply_async(tasks.raise_this, (ValueError,), error_callback=again)
    assert done.wait(ALARM_S)
    assert [type(error) for error in seen] == [ValueError] * 10


def test_callback_waits_for_another_task(open_pool: Open) -> None:
    pool = open_pool(1)
    seen: list[int] = []
    result = pool.apply_async(tasks.double, (1,), callback=lambda v: seen.append(pool.apply(tasks.double, (v,))))
    assert result.get(ALARM_S) == 2
    assert seen == [4]


@pytest.mark.parametrize("way", ["close", "terminate", "close+join", "terminate+join"])
def test_callback_ends_the_pool(open_pool: Open, way: str) -> None:
    pool = open_pool(2)
    ended = threading.Event()

    def end(_: Any) -> None:
        for step in way.split("+"):
            getattr(pool, step)()
        ended.set()

    result = pool.apply_async(tasks.double, (1,), callback=end)
    assert result.get(ALARM_S) == 2
    assert ended.is_set()
    pool.join()
    with pytest.raises(ValueError):
        pool.apply(tasks.double, (1,))


@pytest.mark.parametrize("way", ["terminate", "close+join"])
def test_error_callback_of_a_terminated_task_ends_the_pool_again(open_pool: Open, gates: Gates, way: str) -> None:
    pool = open_pool(1)
    gate = gates("running")
    seen: list[type] = []

    def end(error: BaseException) -> None:
        seen.append(type(error))
        for step in way.split("+"):
            getattr(pool, step)()

    results = [pool.apply_async(tasks.arrive_and_sleep, (gate,), error_callback=end) for _ in range(3)]
    gate.wait_arrived()
    pool.terminate()
    pool.join()
    assert seen == [mpsteal.PoolTerminatedError] * 3
    assert all(r.ready() and not r.successful() for r in results)


def test_callbacks_come_exactly_once_in_a_crowd(open_pool: Open) -> None:
    pool = open_pool(2)
    seen: list[int] = []
    errors: list[BaseException] = []
    results = [
        pool.apply_async(
            tasks.raise_this if i % 7 == 0 else tasks.identity,
            (ValueError,) if i % 7 == 0 else (i,),
            callback=seen.append,
            error_callback=errors.append,
        )
        for i in range(700)
    ]
    for result in results:
        result.wait()
    assert sorted(seen) == [i for i in range(700) if i % 7]
    assert len(errors) == 100


def test_map_callbacks(open_pool: Open) -> None:
    pool = open_pool(2)
    seen: list[Any] = []
    errors: list[BaseException] = []
    good = pool.map_async(tasks.double, range(50), callback=seen.append, error_callback=errors.append)
    assert good.get() == list(range(0, 100, 2))
    assert seen == [good.get()]
    bad = pool.map_async(tasks.raise_if_odd_stop, range(50), callback=seen.append, error_callback=errors.append)
    with pytest.raises((RuntimeError, StopIteration)):
        bad.get()
    assert len(seen) == 1
    assert len(errors) == 1


def test_close_waits_for_the_callbacks(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    gate = gates("running")
    seen: list[Any] = []
    pool.apply_async(pass_gate, (gate, 5), callback=seen.append)
    pool.close()
    gate.open()
    pool.join()
    assert seen == [5]


def test_callback_thread_starts_with_the_first_callback(open_pool: Open) -> None:
    pool = open_pool(1)
    wait_idle(pool)
    before = threading.active_count()
    pool.apply(tasks.double, (1,))
    assert threading.active_count() == before
    pool.apply_async(tasks.double, (1,), callback=lambda _: None).get()
    assert threading.active_count() == before + 1
    pool.close()
    pool.join()
    wait_until(lambda: threading.active_count() == before - 1, "both threads gone")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_no_room_for_the_thread_costs_the_callback_only(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    """As under `ulimit -v`, where a thread's stack finds no place."""
    pool = open_pool(1)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "mpsteal-callbacks":
            raise error("no room")
        start(thread)

    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert pool.apply_async(tasks.double, (1,), callback=seen.append).get(ALARM_S) == 2
    assert not seen
    assert len([r for r in caplog.records if "no thread for a callback" in r.getMessage()]) == 1
    assert pool.apply_async(tasks.double, (2,), callback=seen.append).get(ALARM_S) == 4
    assert seen == [4]


def test_end_that_fails_half_way_is_an_end(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for the pool, or hands something in late, gets an answer (I3)."""
    pool = open_pool(1)
    assert pool.apply(tasks.double, (1,)) == 2
    fail = pool._engine._fail_everything
    failures = [MemoryError("no room")]

    def fail_once(error: BaseException) -> None:
        if pool._engine.state == engine_loop.ENDED and failures:
            raise failures.pop()
        fail(error)

    monkeypatch.setattr(pool._engine, "_fail_everything", fail_once)
    pool.close()
    pool.join()
    assert not failures
    assert pool._engine.ended.is_set()
    assert len([r for r in caplog.records if "the end of the engine failed" in r.getMessage()]) == 1
