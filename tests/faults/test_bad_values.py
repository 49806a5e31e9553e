"""Arguments, functions, results and exceptions that do not travel: one clear error for that task.

Each test ends with an ordinary task in the same agents and with `validate`: nothing else was
disturbed.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import ALARM_S, agent_pids, manager_pid, wait_idle, wait_until

import mpsteal
from mpsteal._engine.dispatch import explain_pickling

REFUSALS = (TypeError, AttributeError, pickle.PicklingError)


@pytest.fixture(scope="module", params=multiprocessing.get_all_start_methods())
def shared_pool(request: pytest.FixtureRequest) -> Iterator[mpsteal.Pool]:
    """Two agents for all tests of a start method: what one of them spoils, the next one meets."""
    context = multiprocessing.get_context(request.param)
    with mpsteal.Pool(2, context=context) as pool:
        # The Manager comes a little later, which must not count against the test that sees it come.
        manager_pid(pool)
        yield pool


@pytest.fixture
def pool(shared_pool: mpsteal.Pool) -> Iterator[mpsteal.Pool]:
    """The agents must live through the test and be as good as new."""
    wait_idle(shared_pool)
    before = agent_pids(shared_pool)
    yield shared_pool
    assert shared_pool.map(tasks.double, range(20)) == list(range(0, 40, 2))
    wait_idle(shared_pool)
    assert agent_pids(shared_pool) == before
    shared_pool._engine.validate()


def here() -> str:
    """Place of the caller, as an error names it."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return f"{__file__}:{frame.f_back.f_lineno}"


# -- what cannot be sent ------------------------------------------------------------------


def refused() -> Any:
    """A lambda that cannot be copied either."""
    lock = threading.Lock()
    return lambda *_: lock


def test_function_that_is_no_modules_own_gets_advice(pool: mpsteal.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as if it were not installed

    async def inner() -> None: ...

    for function in (lambda: 1, inner):
        with pytest.raises(REFUSALS) as caught:
            pool.apply(function)
        hint = "wraps it in asyncio.run()" if function is inner else "define it with `def` at the top level of a module"
        assert hint in str(caught.value)
    with pytest.raises(REFUSALS, match=r"not sent to an agent$"):
        pool.apply(tasks.identity, (tasks.NotForTravel(),))


def test_error_names_a_scheduler_task() -> None:
    told = explain_pickling(TypeError("no"), tasks.identity, None, "resize")
    assert type(told) is TypeError
    words = "no -- task 'resize': the call of identity cannot be pickled, so it was not sent to an agent"
    assert str(told) == words


class ExitsWhenRead:
    """Stands in an error's arguments and ends whoever reads it."""

    def __str__(self) -> str:
        raise SystemExit("read")

    __repr__ = __str__


class RefusesUnreadably:
    def __reduce__(self) -> Any:
        raise TypeError(ExitsWhenRead())


@pytest.mark.parametrize("submit", ["apply_async", "map_async", "imap"])
def test_refusal_that_cannot_be_read_costs_one_call(pool: mpsteal.Pool, submit: str) -> None:
    good = [pool.apply_async(tasks.double, (i,)) for i in range(5)]
    bad: Callable[[], Any]
    if submit == "apply_async":
        bad = pool.apply_async(tasks.identity, (RefusesUnreadably(),)).get
    elif submit == "map_async":
        bad = pool.map_async(tasks.identity, [RefusesUnreadably()]).get
    else:
        bad = pool.imap(tasks.identity, [RefusesUnreadably()]).next
    good += [pool.apply_async(tasks.double, (i,)) for i in range(5, 10)]
    with pytest.raises(TypeError):
        bad()
    assert [r.get() for r in good] == list(range(0, 20, 2))


class RefusesWithValueError:
    def __reduce__(self) -> Any:
        raise ValueError("of mine")


def test_refusal_of_another_type_has_the_place_as_its_cause(pool: mpsteal.Pool) -> None:
    place, bad = here(), pool.apply_async(tasks.identity, (RefusesWithValueError(),))
    with pytest.raises(ValueError, match="of mine") as caught:
        bad.get()
    assert place in str(caught.value.__cause__)
    assert "identity" in str(caught.value.__cause__)


class LosesTheBuffer:
    """What a pickler meets when the memory is short: `io.BytesIO` cannot grow, and then it is closed."""

    def __init__(self, pool: mpsteal.Pool) -> None:
        self.pool = pool

    def __reduce__(self) -> Any:
        self.pool._engine.dispatcher.encoder.buffer.close()
        raise MemoryError("short")


class PicklesTwice:
    """And not a third time."""

    def __init__(self) -> None:
        self.times = 0

    def __reduce__(self) -> Any:
        self.times += 1
        if self.times > 2:
            raise ValueError("once more than it can")
        return int, ()


class NeverPickles:
    def __reduce__(self) -> Any:
        raise KeyError("never")


@pytest.mark.parametrize("on_error", ["collect", "cancel"])
def test_what_is_lost_while_items_are_told_apart_costs_its_chunk(pool: mpsteal.Pool, on_error: Any) -> None:
    chunks: list[tuple[type[BaseException], list[Any]]] = [
        (MemoryError, [1.5, LosesTheBuffer(pool)]),
        (KeyError, [PicklesTwice(), NeverPickles()]),
    ]
    for kind, items in chunks:
        if on_error == "collect":
            failures = pool.map_async(tasks.identity, items, 2, on_error="collect").get(ALARM_S)
            assert [type(failure.error) for failure in failures] == [kind, kind]
        else:
            with pytest.raises(kind):
                pool.map_async(tasks.identity, items, 2, on_error="cancel").get(ALARM_S)
    assert pool.map(tasks.double, [1.5, 2.5]) == [3, 5]


@pytest.mark.parametrize("by_map", [False, True], ids=["apply_async", "map_async"])
def test_no_memory_to_pickle_costs_only_that_batch(pool: mpsteal.Pool, by_map: bool) -> None:
    results: list[Any] = [pool.apply_async(tasks.double, (i / 2,)) for i in range(5)]
    bad: Any
    if by_map:
        bad = pool.map_async(tasks.identity, [LosesTheBuffer(pool)])
    else:
        bad = pool.apply_async(tasks.identity, (LosesTheBuffer(pool),))
    results += [pool.apply_async(tasks.double, (i / 2,)) for i in range(5)]
    with pytest.raises(MemoryError, match="short"):
        bad.get()
    for i, result in enumerate(results):
        try:
            assert result.get() == i % 5
        except MemoryError as error:
            assert "submitted together" in str(error)


def test_no_memory_to_pickle_leaves_no_job_behind() -> None:
    """A map that ended in the batch that is lost, too, is over: the pool closes."""
    submitted = threading.Event()

    class WaitsForTheOthers:
        def __reduce__(self) -> Any:
            assert submitted.wait(ALARM_S)
            return int, ()

    with mpsteal.Pool(1) as pool:
        wait_idle(pool)
        lost = [
            pool.apply_async(tasks.identity, (WaitsForTheOthers(),)),
            pool.map_async(tasks.double, [0.5, 1.5], 1),
            pool.apply_async(tasks.identity, (LosesTheBuffer(pool),)),
        ]
        submitted.set()
        for result in lost:
            with pytest.raises(MemoryError):
                result.get()
        pool.close()
        pool.join()


def test_no_memory_for_a_batch_costs_only_that_batch(pool: mpsteal.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in it are nowhere else by then."""
    pages: Any = pool._engine.dispatcher.pages
    append = pages.append

    def refuse_once(*args: Any) -> int:
        monkeypatch.setattr(pages, "append", append)
        raise MemoryError

    for submit in (
        lambda: pool.apply_async(tasks.double, (1,)),
        lambda: pool.map_async(tasks.double, range(3)),
    ):
        monkeypatch.setattr(pages, "append", refuse_once)
        with pytest.raises(MemoryError):
            submit().get(ALARM_S)
    assert pool.apply(tasks.double, (2,)) == 4


class SlowToPickle:
    def __reduce__(self) -> Any:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass
        return int, ()


def test_slow_pickling_does_not_hold_results_up(pool: mpsteal.Pool) -> None:
    """In one turn of the engine no more is pickled than takes a moment."""
    slow = [pool.apply_async(tasks.identity, (SlowToPickle(),)) for _ in range(300)]
    assert slow[0].get(ALARM_S) == 0
    assert slow[-1]._function is not None, "everything was pickled before the first result was looked at"
    assert [handle.get(ALARM_S) for handle in slow] == [0] * 300


class WaitsForAnEvent:
    """When it is pickled."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event
        self.came: bool | None = None

    def __reduce__(self) -> Any:
        self.came = self.event.wait(ALARM_S / 4)
        return int, ()


def test_result_that_is_there_reaches_its_waiter_before_more_is_pickled(pool: mpsteal.Pool) -> None:
    """The two come in one turn of the engine; what is pickled waits for whom the result lets go on."""
    engine: Any = pool._engine
    collect, went_on = engine.collector.collect, threading.Event()
    waits = WaitsForAnEvent(went_on)
    handles: list[Any] = []

    def collect_and_submit(*slots: int) -> int:
        found: int = collect(*slots)
        if found and not handles:
            handles.append(pool.apply_async(tasks.identity, (waits,)))
        return found

    engine.collector.collect = collect_and_submit
    try:
        assert pool.apply(tasks.double, (1,)) == 2
        went_on.set()
        wait_until(lambda: handles, "submitted")  # a caller looks for itself, too, and may be first
        assert handles[0].get(ALARM_S) == 0
    finally:
        del engine.collector.collect
    assert waits.came


def test_every_refusal_names_the_line_of_its_submit(pool: mpsteal.Pool) -> None:
    for _ in range(300):
        with pytest.raises((AttributeError, pickle.PicklingError), match=r"submitted at .*test_bad_values\.py:"):
            pool.apply(refused())


class WaitsInTheEngine:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __reduce__(self) -> Any:
        return tasks.identity, (self.result.get(),)


def test_waiting_where_nobody_could_deliver_is_an_error(pool: mpsteal.Pool, gates: Gates) -> None:
    """`__reduce__` of an argument runs in the pool's own thread."""
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    with pytest.raises(RuntimeError, match="pool's own thread"):
        pool.apply(tasks.identity, (WaitsInTheEngine(held),))
    gate.open()
    assert held.get() == 1


def test_fault_of_the_engine_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in the batch that it was making are in no other place."""
    with mpsteal.Pool(1) as pool:
        wait_idle(pool)
        taken = pool._engine.dispatcher._take_pending

        def fail(batch: Any) -> None:
            taken(batch)
            if batch.sinks:
                raise MemoryError("of the engine")

        monkeypatch.setattr(pool._engine.dispatcher, "_take_pending", fail)
        results = [pool.apply_async(tasks.double, (i,)) for i in range(10)]
        for result in results:
            with pytest.raises(MemoryError):
                result.get()


def test_unpicklable_argument_is_told_with_the_place(pool: mpsteal.Pool) -> None:
    good = [pool.apply_async(tasks.double, (i,)) for i in range(10)]
    place, bad = here(), pool.apply_async(tasks.identity, (tasks.NotForTravel(),))
    good += [pool.apply_async(tasks.double, (i,)) for i in range(10, 20)]
    with pytest.raises(TypeError, match="NotForTravel stays at home") as caught:
        bad.get()
    assert "identity" in str(caught.value)
    assert place in str(caught.value)
    assert [result.get() for result in good] == list(range(0, 40, 2))


def test_unpicklable_keyword_argument(pool: mpsteal.Pool) -> None:
    with pytest.raises(TypeError, match="NotForTravel stays at home"):
        pool.apply(tasks.identity, (), {"value": tasks.NotForTravel()})


def test_unpicklable_function_is_told_with_the_place(pool: mpsteal.Pool) -> None:
    place, bad = here(), pool.apply_async(refused())
    with pytest.raises(REFUSALS, match="lambda") as caught:
        bad.get()
    assert place in str(caught.value)


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_unpicklable_function_of_a_map(pool: mpsteal.Pool, chunksize: int | None) -> None:
    place, bad = here(), pool.map_async(refused(), range(30), chunksize)
    with pytest.raises(REFUSALS, match="lambda") as caught:
        bad.get()
    assert place in str(caught.value)


def test_unpicklable_item_of_a_map(pool: mpsteal.Pool) -> None:
    items = [1, 2, tasks.NotForTravel(), 4]
    place, bad = here(), pool.map_async(tasks.identity, items, 1)
    with pytest.raises(TypeError, match="NotForTravel stays at home") as caught:
        bad.get()
    assert place in str(caught.value)


def test_unpicklable_item_of_imap_fails_alone(pool: mpsteal.Pool) -> None:
    items = [1, tasks.NotForTravel(), 3]
    results = pool.imap(tasks.identity, items)
    assert next(results) == 1
    with pytest.raises(TypeError, match="NotForTravel stays at home"):
        next(results)
    assert next(results) == 3
    with pytest.raises(StopIteration):
        next(results)


def test_unpicklable_function_of_imap(pool: mpsteal.Pool) -> None:
    results = pool.imap_unordered(refused(), range(3))
    for _ in range(3):
        with pytest.raises(REFUSALS, match="lambda"):
            next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_pickling_that_exits(pool: mpsteal.Pool) -> None:
    with pytest.raises(SystemExit, match="in __reduce__"):
        pool.apply(tasks.identity, (tasks.ExitsWhenPickled(),))


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_argument_that_fails_to_load(pool: mpsteal.Pool, kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="cannot be rebuilt"):
        pool.apply(tasks.identity, (tasks.FailsToLoad(kind),))


def test_function_that_fails_to_load_fails_each_time(pool: mpsteal.Pool) -> None:
    results = pool.imap(tasks.FailsToLoad(ValueError), range(5))  # type: ignore[arg-type]
    for _ in range(5):
        with pytest.raises(ValueError, match="cannot be rebuilt"):
            next(results)


def test_input_that_raises_ends_imap_with_its_error(pool: mpsteal.Pool) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the input broke")

    results = pool.imap(tasks.double, numbers())
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(OSError, match="the input broke"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


# -- what cannot be sent back ---------------------------------------------------------------


def test_unpicklable_result(pool: mpsteal.Pool) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        pool.apply(tasks.make_not_for_travel)
    assert "NotForTravel" in str(caught.value)
    assert "stays at home" in str(caught.value)


def test_unpicklable_result_without_repr(pool: mpsteal.Pool) -> None:
    with pytest.raises(MaybeEncodingError, match="NoReprNorPickle"):
        pool.apply(tasks.make_no_repr)


def test_result_whose_pickling_exits(pool: mpsteal.Pool) -> None:
    with pytest.raises(MaybeEncodingError, match="in __reduce__"):
        pool.apply(tasks.make_exits_when_pickled)


def test_unpicklable_results_of_a_map(pool: mpsteal.Pool) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        pool.map(tasks.odd_is_not_for_travel, range(10), 1)
    # As the stock pool tells it: the list that did not travel, and nothing of ours.
    assert caught.value.value.startswith("[")


def test_unpicklable_result_of_imap_fails_alone(pool: mpsteal.Pool) -> None:
    results = pool.imap(tasks.odd_is_not_for_travel, range(3))
    assert next(results) == 0
    with pytest.raises(MaybeEncodingError):
        next(results)
    assert next(results) == 2


@pytest.mark.parametrize("call", ["apply", "map"])
def test_coroutine_function_is_told_from_other_results(
    pool: mpsteal.Pool, capfd: pytest.CaptureFixture[str], call: str
) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        pool.apply(tasks.double_later, (1,)) if call == "apply" else pool.map(tasks.double_later, range(3))
    assert "double_later is a coroutine function" in str(caught.value)
    assert "asyncio.run(double_later(...))" in str(caught.value)
    assert "never awaited" not in capfd.readouterr().err


def test_coroutine_that_has_begun(pool: mpsteal.Pool) -> None:
    with pytest.raises(MaybeEncodingError, match="_pause is a coroutine function"):
        pool.apply(tasks.begin_a_coroutine)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
def test_result_that_fails_to_load_here(pool: mpsteal.Pool, kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="cannot be rebuilt"):
        pool.apply(tasks.make_fails_to_load, (kind,))


LIES = {
    "arguments that do not fit": TypeError,
    "state that nobody takes": AttributeError,
    "a function that fails": ZeroDivisionError,
    "items for what is no list": AttributeError,
    "what only the agent has": AttributeError,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("call", ["apply", "map", "imap"])
def test_result_whose_reduce_lies(pool: mpsteal.Pool, lie: str, call: str) -> None:
    good = [pool.apply_async(tasks.double, (i,)) for i in range(20)]
    with pytest.raises(LIES[lie]):
        if call == "apply":
            pool.apply(tasks.make_liar, (lie,))
        elif call == "map":
            pool.map(tasks.make_liar, [lie])
        else:
            list(pool.imap(tasks.make_liar, [lie]))
    assert [r.get() for r in good] == list(range(0, 40, 2))


def test_result_that_unpickles_to_something_else_is_that(pool: mpsteal.Pool) -> None:
    assert pool.apply(tasks.make_liar, ("another type",)) == 7


# -- exceptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        (tasks.raise_odd_init, "fault_tasks.OddInitError", "3 and 4"),
        (tasks.raise_locked, "fault_tasks.LockedError", "behind bars"),
        (tasks.raise_exiting_pickle, "fault_tasks.ExitingPickleError", "will not go"),
        (tasks.raise_fails_to_load, "fault_tasks.FailsToLoadError", "will not come back"),
        (tasks.raise_loads_as_text, "fault_tasks.LoadsAsTextError", "turns into text"),
        (tasks.raise_local, "raise_local.<locals>.LocalError", "known to this function only"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exception_that_cannot_be_rebuilt(pool: mpsteal.Pool, task: Callable[[], Any], name: str, message: str) -> None:
    with pytest.raises(mpsteal.RemoteError) as caught:
        pool.apply(task)
    error = caught.value
    assert error.type_name.endswith(name)
    assert error.message == message
    assert f"in {task.__name__}" in error.traceback_text
    assert message in str(error)
    assert isinstance(error, MaybeEncodingError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.type_name, again.message, again.traceback_text, again.reason) == (
        error.type_name,
        error.message,
        error.traceback_text,
        error.reason,
    )


@pytest.mark.parametrize("task", [tasks.raise_broken_str, tasks.raise_exiting_str])
def test_exception_without_words(pool: mpsteal.Pool, task: Callable[[], Any]) -> None:
    with pytest.raises((tasks.BrokenStrError, tasks.ExitingStrError)) as caught:
        pool.apply(task)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert f"in {task.__name__}" in str(caught.value.__cause__)


def test_exceptions_that_name_each_other(pool: mpsteal.Pool) -> None:
    with pytest.raises(ValueError, match=r"^a$"):
        pool.apply(tasks.raise_cycle)


def test_exception_larger_than_the_ring(pool: mpsteal.Pool) -> None:
    with pytest.raises(tasks.HugeError) as caught:
        pool.apply(tasks.raise_huge, (3,))
    assert len(caught.value.args[0]) == 3 << 20


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SystemExit, (3,)),
        (KeyboardInterrupt, ("now",)),
        (GeneratorExit, ("gone",)),
        (BaseException, ("base",)),
        (MemoryError, ("full",)),
        (RecursionError, ("deep",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_base_exceptions_are_the_tasks_own(
    pool: mpsteal.Pool, kind: type[BaseException], arguments: tuple[Any, ...]
) -> None:
    for call in (
        lambda: pool.apply(tasks.raise_this, (kind, *arguments)),
        lambda: pool.starmap(tasks.raise_this, [(kind, *arguments)] * 3),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.args == arguments


def test_stop_iteration_of_a_call_loses_no_results(pool: mpsteal.Pool) -> None:
    with pytest.raises(StopIteration):
        pool.apply(tasks.raise_this, (StopIteration, 7))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        pool.map(tasks.raise_if_odd_stop, range(9), 3)


@pytest.mark.parametrize("code", [None, 0, 3, "with words"])
def test_sys_exit_is_delivered_and_the_agent_lives(pool: mpsteal.Pool, code: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        pool.apply(tasks.exit_with, (code,))
    assert caught.value.code == code
    assert pool.apply(tasks.my_pid) in agent_pids(pool) and os.getpid() not in agent_pids(pool)


# -- wrong arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"processes": 0}, ValueError, "at least 1"),
        ({"processes": -3}, ValueError, "at least 1"),
        ({"processes": 2.5}, TypeError, "processes"),
        ({"processes": "2"}, TypeError, "processes"),
        ({"initializer": 5}, TypeError, "callable"),
        ({"initargs": 5}, TypeError, "initargs|iterable"),
        ({"maxtasksperchild": 0}, ValueError, "positive int or None"),
        ({"maxtasksperchild": -1}, ValueError, "positive int or None"),
        ({"maxtasksperchild": 1.5}, ValueError, "positive int or None"),
    ],
    ids=str,
)
def test_wrong_arguments_of_the_pool(arguments: dict[str, Any], kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        mpsteal.Pool(**{"processes": 1, **arguments})


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda p: p.map(tasks.double, [1], -1), ValueError, "chunksize"),
        (lambda p: p.map(tasks.double, [1], 1.5), (TypeError, ValueError), "chunksize"),
        (lambda p: p.map(tasks.double, [1], "2"), (TypeError, ValueError), "chunksize"),
        (lambda p: p.imap(tasks.double, [1], 0), ValueError, "(?i)chunksize"),
        (lambda p: p.imap(tasks.double, [1], -1), ValueError, "(?i)chunksize"),
        (lambda p: p.imap(tasks.double, [1], buffersize=0), ValueError, "buffersize"),
        (lambda p: p.imap(tasks.double, 5), TypeError, "iterable"),
        (lambda p: p.map(tasks.double, 5), TypeError, "iterable"),
        (lambda p: p.apply(5), TypeError, "callable"),
        (lambda p: p.map(5, [1]), TypeError, "callable"),
        (lambda p: next(p.imap(5, [1])), TypeError, "callable"),
        (lambda p: p.apply(tasks.double, 5), TypeError, "."),
        (lambda p: p.apply(tasks.double, (1, 2)), TypeError, "double"),
        (lambda p: p.starmap(tasks.add, [5]), TypeError, "."),
    ],
    ids=range(14),
)
def test_wrong_arguments_of_a_call(pool: mpsteal.Pool, call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call(pool)
