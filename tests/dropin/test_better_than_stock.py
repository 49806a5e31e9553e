"""Where the stock pool hangs, loses a task or never stops, and what ours does instead.

These run on ours alone: on the stock pool most of them would wait for ever.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any

import dropin_tasks as tasks
import pytest
from dropin_pools import OURS, START_METHODS, close_pool, open_pool
from dropin_tasks import ALARM_S
from gates import Gates, pass_gate

import mpsteal
import mpsteal.errors


@pytest.fixture(scope="module", params=START_METHODS)
def ours(request: pytest.FixtureRequest) -> Iterator[Any]:
    shared = open_pool(OURS, request.param)
    shared.map_async(tasks.square, range(10), callback=tasks.noop).get(ALARM_S)
    yield shared
    close_pool(shared)


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (tasks.exit_with, (3,), SystemExit),
        (tasks.exit_with, (None,), SystemExit),
        (tasks.fail_with, (KeyboardInterrupt(),), KeyboardInterrupt),
        (tasks.fail_with, (GeneratorExit(),), GeneratorExit),
        (tasks.fail_with, (tasks.OddBase("odd"),), tasks.OddBase),
    ],
    ids=["exit 3", "exit", "KeyboardInterrupt", "GeneratorExit", "own BaseException"],
)
def test_base_exception_is_the_tasks_error_and_the_agent_lives(ours: Any, func: Any, args: Any, expected: Any) -> None:
    agents = {agent.pid for agent in ours._pool}
    with pytest.raises(expected) as caught:
        ours.apply_async(func, args).get(ALARM_S)
    if args and func is tasks.exit_with:
        assert caught.value.code == args[0]
    with pytest.raises(expected):
        ours.map_async(tasks.call_with, [(func, args)] * 3).get(ALARM_S)
    assert ours.apply(tasks.square, (3,)) == 9
    assert {agent.pid for agent in ours._pool} == agents


def test_error_that_cannot_be_rebuilt_is_told_in_words(ours: Any) -> None:
    with pytest.raises(mpsteal.errors.RemoteError) as caught:
        ours.apply_async(tasks.fail_fussily).get(ALARM_S)
    text = str(caught.value)
    assert "FussyError" in text
    assert "half whole" in text
    assert "in fail_fussily" in text
    assert ours.apply(tasks.square, (3,)) == 9


def test_error_that_cannot_be_pickled_is_told_in_words(ours: Any) -> None:
    with pytest.raises(mpsteal.errors.RemoteError) as caught:
        ours.apply_async(tasks.fail_untravelled).get(ALARM_S)
    text = str(caught.value)
    assert "Untravelled" in text
    assert "stays here" in text
    assert "in fail_untravelled" in text


@pytest.mark.parametrize("call", ["apply_async", "map_async"])
def test_argument_that_breaks_on_arrival_fails_its_task(ours: Any, call: str) -> None:
    if call == "apply_async":
        handle = ours.apply_async(tasks.identity, (tasks.BreaksOnArrival(),))
    else:
        handle = ours.map_async(tasks.identity, [tasks.BreaksOnArrival()])
    with pytest.raises(ArithmeticError, match="broken on arrival"):
        handle.get(ALARM_S)
    assert ours.apply(tasks.square, (3,)) == 9


def test_result_that_breaks_on_arrival_fails_its_task(ours: Any) -> None:
    with pytest.raises((ArithmeticError, mpsteal.errors.MpstealError), match="broken on arrival"):
        ours.apply_async(tasks.give_breaking).get(ALARM_S)
    assert ours.apply(tasks.square, (3,)) == 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callback_that_raises_disturbs_nobody(
    ours: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def raising(_: Any) -> None:
        raise LookupError("in a callback")

    handle = ours.apply_async(tasks.square, (3,), callback=raising)
    assert handle.get(ALARM_S) == 9
    mapped = ours.map_async(tasks.square, range(3), callback=raising)
    assert mapped.get(ALARM_S) == [0, 1, 4]
    failed = ours.apply_async(tasks.fail, error_callback=raising)
    with pytest.raises(ValueError, match="boom"):
        failed.get(ALARM_S)
    assert ours.apply_async(tasks.square, (4,)).get(ALARM_S) == 16


@pytest.mark.parametrize("method", START_METHODS)
def test_killed_agent_costs_the_task_that_ran(method: str) -> None:
    pool = open_pool(OURS, method)
    try:
        before = [pool.apply_async(tasks.square, (i,)) for i in range(50)]
        killed = pool.apply_async(tasks.kill_myself)
        after = [pool.apply_async(tasks.square, (i,)) for i in range(50)]
        with pytest.raises(mpsteal.errors.AgentDiedError) as caught:
            killed.get(ALARM_S)
        assert caught.value.exitcode == -9
        assert [h.get(ALARM_S) for h in before + after] == [i * i for i in range(50)] * 2
        pool.close()
        pool.join()
    finally:
        close_pool(pool)


@pytest.mark.parametrize("method", START_METHODS)
def test_initializer_that_raises_is_told_once(method: str) -> None:
    pool = open_pool(OURS, method, initializer=tasks.fail_to_start)
    try:
        handle = pool.apply_async(tasks.square, (3,))
        with pytest.raises(LookupError, match="no such model file"):
            handle.get(ALARM_S)
    finally:
        close_pool(pool)


def test_terminate_wakes_who_waits_for_a_result(gates: Gates) -> None:
    pool = open_pool(OURS)
    gate = gates()
    running = pool.apply_async(pass_gate, (gate,))
    waiting = [pool.apply_async(pass_gate, (gate,)) for _ in range(20)]
    mapped = pool.map_async(pass_gate, [gate] * 20)
    found = pool.imap(pass_gate, [gate] * 20)
    gate.wait_arrived()
    pool.terminate()
    pool.join()
    for handle in [running, *waiting, mapped]:
        with pytest.raises(mpsteal.errors.MpstealError):
            handle.get(ALARM_S)
    with pytest.raises(mpsteal.errors.MpstealError):
        found.next(ALARM_S)


def test_endless_generator_ends_with_the_pool() -> None:
    pool = open_pool(OURS)
    found = pool.imap(tasks.square, itertools.count())
    assert [found.next(ALARM_S) for _ in range(1000)] == [i * i for i in range(1000)]
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("method", START_METHODS)
def test_pool_inside_a_task_needs_no_tricks(method: str) -> None:
    pool = open_pool(OURS, method)
    try:
        nested = pool.apply_async(tasks.map_in_nested_pool, (OURS, [1, 2, 3]))
        assert nested.get(ALARM_S) == [1, 4, 9]
    finally:
        close_pool(pool)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_default_number_of_processes_heeds_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        pool = OURS(context=multiprocessing.get_context("fork"))
        size = len(pool._pool)
        close_pool(pool)
    finally:
        os.sched_setaffinity(0, allowed)
    assert size == 1
