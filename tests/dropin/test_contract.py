"""What a call gives: the same assertions against the stock pool and ours, per start method.

Every test here holds for both pools, and leaves its pool running. How pools begin and end is in
`test_contract_lifecycle.py`; where the stock pool hangs, `test_better_than_stock.py` says what
ours does instead.
"""

from __future__ import annotations

import array
import collections
import functools
import itertools
import math
import multiprocessing
import multiprocessing.pool
import operator
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import dropin_tasks as tasks
import pytest
from dropin_tasks import ALARM_S
from gates import Gates, pass_gate

CANNOT_PICKLE = (pickle.PicklingError, AttributeError, TypeError)

# -- results ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwds", "expected"),
    [
        ((1,), {}, 11),
        ((1, 2), {}, 3),
        ((1,), {"y": 5}, 6),
        ((), {"x": 1, "y": 2, "z": 3}, 6),
        ([1, 2], {"z": 4}, 7),
        (range(2), {}, 1),
    ],
    ids=str,
)
def test_apply_passes_arguments_on(pool: Any, args: Any, kwds: Any, expected: int) -> None:
    assert pool.apply(tasks.add, args, kwds) == expected
    assert pool.apply_async(tasks.add, args, kwds).get(ALARM_S) == expected


def test_apply_takes_arguments_by_keyword(pool: Any) -> None:
    assert pool.apply(func=tasks.add, args=(1,), kwds={"z": 1}) == 12
    handle = pool.apply_async(func=tasks.noop, args=(1,), kwds={}, callback=None)
    assert handle.get(timeout=ALARM_S) is None


def test_apply_without_arguments(pool: Any) -> None:
    assert pool.apply(tasks.echo) == ((), {})


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7, 100, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 100])
def test_map_keeps_order_for_any_chunksize(pool: Any, n: int, chunksize: int | None) -> None:
    expected = [x * x for x in range(n)]
    assert pool.map(tasks.square, range(n), chunksize) == expected
    handle = pool.map_async(tasks.square, list(range(n)), chunksize=chunksize)
    assert handle.get(ALARM_S) == expected


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_starmap_unpacks_each_item(pool: Any, chunksize: int | None) -> None:
    pairs = [(x, 2 * x) for x in range(20)]
    expected = [3 * x for x in range(20)]
    assert pool.starmap(tasks.add, pairs, chunksize) == expected
    assert pool.starmap_async(tasks.add, iter(pairs), chunksize).get(ALARM_S) == expected
    assert pool.starmap(tasks.echo, ["ab", [], (1,)]) == [(("a", "b"), {}), ((), {}), ((1,), {})]


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_imap_keeps_order_for_any_chunksize(pool: Any, n: int, chunksize: int) -> None:
    expected = [x * x for x in range(n)]
    assert list(pool.imap(tasks.square, range(n), chunksize)) == expected
    found = pool.imap_unordered(tasks.square, range(n), chunksize=chunksize)
    assert sorted(found) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: (x for x in range(9)),
        lambda: iter([3, 1, 2]),
        lambda: {5: "five", 6: "six"},
        lambda: {"k": 1}.items(),
        lambda: frozenset([8]),
        lambda: "text",
        lambda: collections.deque([1, 2, 3]),
        lambda: array.array("i", [4, 5]),
        lambda: map(str, range(3)),
        lambda: b"bytes",
        lambda: tasks.ArrayLike(3, 4, 5),
    ],
    ids=[
        "generator", "iterator", "dict", "items", "set", "text", "deque", "array", "map", "bytes",
        "arraylike",
    ],
)  # fmt: skip
def test_any_iterable_will_do(pool: Any, make: Any) -> None:
    expected = list(make())
    assert pool.map(tasks.identity, make()) == expected
    assert list(pool.imap(tasks.identity, make())) == expected
    assert collections.Counter(pool.imap_unordered(tasks.identity, make())) == (collections.Counter(expected))


def test_numpy_arrays_travel(pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    rows = numpy.arange(12).reshape(4, 3)
    for found, row in zip(pool.map(tasks.negate, rows), rows, strict=True):
        assert (found == -row).all()
    assert (pool.apply(tasks.negate, (rows,)) == -rows).all()
    assert pool.apply(tasks.add, numpy.array([1, 2])) == 3
    assert pool.map(tasks.square, numpy.arange(3)) == [0, 1, 4]


def test_length_that_raises_is_the_callers_error(pool: Any) -> None:
    class Lengthless:
        def __len__(self) -> int:
            raise OverflowError("longer than anybody knows")

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(OverflowError, match="longer"):
        pool.map(tasks.square, Lengthless())
    with pytest.raises(OverflowError, match="longer"):
        pool.map_async(tasks.square, Lengthless())
    assert list(pool.imap(tasks.square, Lengthless())) == [0, 1, 4]


def test_what_is_not_iterable_is_refused(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.map(tasks.square, 5)
    with pytest.raises(TypeError):
        next(pool.imap(tasks.square, 5))
    with pytest.raises(TypeError):
        next(pool.imap_unordered(tasks.square, 5, 2))


def test_iterable_that_fails_halfway(pool: Any) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more") as caught:
        pool.map(tasks.square, source())
    assert caught.value.__cause__ is None
    found = pool.imap(tasks.square, source())
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(LookupError, match="no more"):
        next(found)
    with pytest.raises(StopIteration):
        next(found)


def test_many_items(pool: Any) -> None:
    n = 100_000
    assert sum(pool.map(tasks.square, range(n))) == sum(x * x for x in range(n))
    assert sum(pool.imap_unordered(tasks.square, range(n), 1000)) == sum(x * x for x in range(n))


def test_many_small_submits(pool: Any) -> None:
    handles = [pool.apply_async(tasks.square, (i,)) for i in range(2000)]
    assert [handle.get(ALARM_S) for handle in handles] == [i * i for i in range(2000)]


def test_large_arguments_and_results(pool: Any) -> None:
    block = bytes(range(256)) * 20_000
    assert pool.apply(tasks.identity, (block,)) == block
    assert pool.map(len, [block, block]) == [len(block)] * 2
    assert pool.apply(tasks.identity, (bytearray(block),)) == block


def test_nested_and_recursive_data(pool: Any) -> None:
    data = {"a": [1, (2, {3, 4})], "b": {"c": None, "d": [[], {}]}, 5: 1.5 + 2j}
    assert pool.apply(tasks.identity, (data,)) == data
    loop: list[Any] = [1]
    loop.append(loop)
    found = pool.apply(tasks.identity, (loop,))
    assert found[0] == 1
    assert found[1] is found


def test_arguments_of_one_task_keep_their_identity(pool: Any) -> None:
    item = [1]
    assert pool.apply(tasks.are_same, (item, item)) is True
    assert pool.apply(tasks.are_same, (item, [1])) is False


def test_tasks_do_not_share_arguments(pool: Any) -> None:
    items: list[int] = []
    handles = [pool.apply_async(tasks.append_and_return, (items, i)) for i in range(50)]
    assert [handle.get(ALARM_S) for handle in handles] == [[i] for i in range(50)]
    assert items == []


@pytest.mark.parametrize(
    ("func", "argument", "expected"),
    [
        (abs, -3, 3),
        (int, "12", 12),
        (str.upper, "a", "A"),
        (math.sqrt, 9, 3.0),
        (operator.itemgetter(1), "xyz", "y"),
        (functools.partial(tasks.add, y=1, z=1), 1, 3),
        ("abc".count, "b", 1),
        (tasks.Adder(5), 1, 6),
        (tasks.Adder(5).method, 2, 7),
        (tasks.Adder.of_class, 3, "Adder 3"),
        (tasks.Adder.of_nobody, 4, 5),
        (tasks.folder_of, "/a/b", tasks.folder_of("/a/b")),
    ],
    ids=[
        "builtin", "type", "descriptor", "c-function", "itemgetter", "partial", "builtin-method",
        "callable-object", "bound-method", "classmethod", "staticmethod", "path-result",
    ],
)  # fmt: skip
def test_any_callable_will_do(pool: Any, func: Any, argument: Any, expected: Any) -> None:
    assert pool.apply(func, (argument,)) == expected
    assert pool.map(func, [argument] * 3) == [expected] * 3
    assert list(pool.imap(func, [argument] * 3)) == [expected] * 3


def test_state_of_a_callable_is_the_state_at_submission(pool: Any) -> None:
    adder = tasks.Adder(1)
    assert pool.apply(adder, (0,)) == 1
    adder.n = 2
    assert pool.apply(adder, (0,)) == 2
    assert pool.apply(adder.method, (0,)) == 2
    adder.n = 3
    assert pool.apply(adder.method, (0,)) == 3
    assert pool.map(adder, range(2)) == [3, 4]
    adder.n = 4
    assert pool.map(adder.method, range(2)) == [4, 5]


def test_exception_returned_is_a_result(pool: Any) -> None:
    found = pool.apply(tasks.identity, (ValueError("a value"),))
    assert type(found) is ValueError
    assert found.args == ("a value",)


def test_same_object_from_every_get(pool: Any) -> None:
    handle = pool.apply_async(tasks.identity, ([1],))
    assert handle.get(ALARM_S) is handle.get(ALARM_S)
    failed = pool.apply_async(tasks.fail)
    caught = []
    for _ in range(2):
        with pytest.raises(ValueError, match="boom") as info:
            failed.get(ALARM_S)
        caught.append(info.value)
    assert caught[0] is caught[1]


def test_maps_from_several_threads(pool: Any) -> None:
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        found[k] = [pool.map(functools.partial(tasks.add, z=k), range(20)) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ALARM_S)
    assert found == {k: [[x + 10 + k for x in range(20)]] * 5 for k in range(4)}


# -- what tasks see --------------------------------------------------------------------


def test_task_runs_in_a_child_and_in_its_main_thread(pool: Any) -> None:
    me = pool.apply(tasks.about_me)
    assert me["parent"] == multiprocessing.current_process().pid
    assert me["pid"] != me["parent"]
    assert me["main_thread"]
    assert me["pid"] in [child.pid for child in multiprocessing.active_children()]


def test_task_may_run_programs_and_threads(pool: Any) -> None:
    assert pool.apply(tasks.run_program, ("out of a task",)) == "out of a task"
    assert pool.apply(tasks.run_threads, (5,)) == [0, 1, 2, 3, 4]


def test_task_may_interrupt_itself_by_an_alarm(pool: Any) -> None:
    assert pool.apply(tasks.limit_itself) == "interrupted"
    assert pool.map(tasks.limit_itself_for, range(4)) == ["interrupted"] * 4


# -- errors ----------------------------------------------------------------------------


def test_error_comes_with_its_remote_traceback(pool: Any) -> None:
    with pytest.raises(tasks.RichError) as caught:
        pool.apply(tasks.fail_richly, (7,))
    error = caught.value
    assert error.args == ("rich", 7)
    assert error.code == 7
    cause = error.__cause__
    assert type(cause) is multiprocessing.pool.RemoteTraceback
    assert cause.tb == str(cause)
    assert cause.tb.startswith('\n"""\nTraceback (most recent call last):\n')
    assert cause.tb.endswith('"""')
    assert "in fail_richly" in cause.tb
    assert "a comment to be found in the traceback" in cause.tb
    assert "a comment to be found" in "".join(traceback.format_exception(error))


def test_remote_traceback_shows_the_whole_chain(pool: Any) -> None:
    with pytest.raises(KeyError) as caught:
        pool.apply(tasks.fail_in_chain)
    text = str(caught.value.__cause__)
    assert "ValueError: the first" in text
    assert "direct cause" in text
    assert "KeyError: 'the second'" in text


@pytest.mark.parametrize("call", ["map", "starmap", "imap", "imap_unordered"])
def test_bulk_calls_raise_with_the_remote_traceback(pool: Any, call: str) -> None:
    items = [("a",)] if call == "starmap" else ["a"]
    with pytest.raises(ValueError, match=r"^a$") as caught:
        list(getattr(pool, call)(tasks.fail, items))
    assert type(caught.value.__cause__) is multiprocessing.pool.RemoteTraceback


@pytest.mark.parametrize(
    "error",
    [
        StopIteration("stop"),
        OSError(2, "No such file", "here"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        RecursionError("deep"),
        MemoryError("full"),
        TimeoutError("late"),
        multiprocessing.TimeoutError("late too"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_standard_library_travel(pool: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        pool.apply(tasks.fail_with, (error,))
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with 3.11")
def test_notes_travel(pool: Any) -> None:
    error = ValueError("noted")
    error.add_note("a note")
    with pytest.raises(ValueError, match="noted") as caught:
        pool.apply(tasks.fail_with, (error,))
    assert caught.value.__notes__ == ["a note"]


def test_endless_recursion_is_an_error(pool: Any) -> None:
    with pytest.raises(RecursionError):
        pool.apply(tasks.recurse, (0,))
    assert pool.apply(tasks.square, (3,)) == 9


def test_calling_what_is_not_callable_is_the_tasks_error(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.apply_async(5, (1,)).get(ALARM_S)
    with pytest.raises(TypeError):
        pool.map(5, [1])
    with pytest.raises(TypeError):
        pool.apply(tasks.add, (1, 2, 3, 4))
    with pytest.raises(TypeError):
        pool.apply(tasks.add, (), {"unheard_of": 1})


_LOCK = threading.Lock()
"""Who uses it cannot be sent as a copy either, which lambdas are where cloudpickle is installed."""


def _local_function() -> Any:
    def local(_: int) -> Any:
        return _LOCK

    return local


@pytest.mark.parametrize("func", [lambda _: _LOCK, _local_function()], ids=["lambda", "local function"])
def test_function_that_cannot_be_pickled(pool: Any, func: Any) -> None:
    with pytest.raises(CANNOT_PICKLE):
        pool.apply_async(func, (1,)).get(ALARM_S)
    with pytest.raises(CANNOT_PICKLE):
        pool.map(func, range(3))
    with pytest.raises(CANNOT_PICKLE):
        list(pool.imap(func, range(3)))
    assert pool.apply(tasks.square, (3,)) == 9


def test_argument_that_cannot_be_pickled(pool: Any) -> None:
    handles = [pool.apply_async(tasks.square, (i,)) for i in range(5)]
    lock = pool.apply_async(tasks.identity, (threading.Lock(),))
    refusing = pool.apply_async(tasks.identity, (), {"x": tasks.RefusesToTravel()})
    later = [pool.apply_async(tasks.square, (i,)) for i in range(5)]
    with pytest.raises(TypeError):
        lock.get(ALARM_S)
    with pytest.raises(RuntimeError, match="refuses to travel"):
        refusing.get(ALARM_S)
    assert [h.get(ALARM_S) for h in handles + later] == [i * i for i in range(5)] * 2
    with pytest.raises(RuntimeError, match="refuses to travel"):
        pool.map(tasks.identity, [1, tasks.RefusesToTravel(), 3])
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_argument_that_cannot_be_pickled_fails_alone_in_imap(pool: Any) -> None:
    found = pool.imap(tasks.identity, [1, tasks.RefusesToTravel(), 3])
    assert next(found) == 1
    with pytest.raises(RuntimeError, match="refuses to travel"):
        next(found)
    assert next(found) == 3
    with pytest.raises(StopIteration):
        next(found)


def test_result_that_cannot_be_pickled(pool: Any) -> None:
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
        pool.apply(tasks.give_lambda)
    error = caught.value
    assert isinstance(error.exc, str)
    assert isinstance(error.value, str)
    assert "pickle" in error.exc or "local object" in error.exc  # the second from 3.13 on
    assert "<lambda>" in error.value
    assert "Error sending result" in str(error)
    with pytest.raises(multiprocessing.pool.MaybeEncodingError):
        pool.map(tasks.Adder.lambda_of, range(3))
    assert pool.apply(tasks.square, (3,)) == 9


def test_error_that_cannot_be_pickled(pool: Any) -> None:
    # Ours is a subclass that also carries the original's type, message and traceback.
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
        pool.apply(tasks.fail_untravelled)
    assert isinstance(caught.value.exc, str)
    assert pool.apply(tasks.square, (3,)) == 9


# -- handles ---------------------------------------------------------------------------


def test_handle_of_a_task_that_runs(pool: Any, gates: Gates) -> None:
    gate = gates()
    handle = pool.apply_async(pass_gate, (gate, "x"))
    gate.wait_arrived()
    assert handle.ready() is False
    with pytest.raises(ValueError, match=r"not ready$"):
        handle.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        handle.get(timeout=0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        handle.get(0)
    assert handle.wait(0.01) is None
    gate.release()
    assert handle.wait() is None
    assert handle.ready() is True
    assert handle.successful() is True
    assert handle.get(0) == "x"


def test_every_attribute_of_a_handle_can_be_read_at_any_time(pool: Any, gates: Gates) -> None:
    """A manager reads all of them to make a proxy, whether the task has ended or not."""
    gate = gates()
    handle = pool.apply_async(pass_gate, (gate, "x"))
    mapped = pool.map_async(tasks.hold_or_square, [(gate, 2)])
    gate.wait_arrived(2)
    for result in (handle, mapped):
        assert {name for name in dir(result) if callable(getattr(result, name))} >= {"get", "wait"}
    gate.release(2)
    assert handle.get(ALARM_S) == "x"
    assert mapped.get(ALARM_S) == [4]


def test_handle_of_a_task_that_failed(pool: Any) -> None:
    handle = pool.apply_async(tasks.fail)
    assert handle.wait(ALARM_S) is None
    assert handle.ready() is True
    assert handle.successful() is False
    with pytest.raises(ValueError, match="boom"):
        handle.get(0)


def test_handle_of_a_map(pool: Any, gates: Gates) -> None:
    gate = gates()
    handle = pool.map_async(tasks.hold_or_square, [(None, 1), (gate, 2), (None, 3)], 1)
    gate.wait_arrived()
    assert handle.ready() is False
    with pytest.raises(ValueError, match=r"not ready$"):
        handle.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        handle.get(0.01)
    gate.release()
    assert handle.get(ALARM_S) == [1, 4, 9]
    assert handle.successful() is True


def test_handle_of_an_empty_map_is_ready_at_once(pool: Any) -> None:
    handle = pool.map_async(tasks.square, [])
    assert handle.ready() is True
    assert handle.successful() is True
    assert handle.get(0) == []
    assert pool.starmap(tasks.add, []) == []


def test_map_is_ready_when_all_is_done_not_at_the_first_error(pool: Any, gates: Gates) -> None:
    gate = gates()
    calls: list[Any] = []
    items = [(None, "not a number"), (gate, 2)]
    handle = pool.map_async(tasks.hold_or_square, items, 1, callback=calls.append, error_callback=calls.append)
    gate.wait_arrived()
    # The failing item goes through the other agent; a task behind it shows that it has.
    assert pool.apply_async(tasks.square, (2,)).get(ALARM_S) == 4
    assert handle.ready() is False
    gate.release()
    with pytest.raises(TypeError) as caught:
        handle.get(ALARM_S)
    assert handle.successful() is False
    assert calls == [caught.value]


def test_map_raises_one_error_of_several(pool: Any) -> None:
    with pytest.raises(ValueError, match=r"^[13579]$"):
        pool.map(tasks.fail_if_odd, range(10), 1)
    with pytest.raises(ValueError, match=r"^1$"):
        pool.map(tasks.fail_if_odd, range(10), 10)


# -- callbacks -------------------------------------------------------------------------


def test_callback_is_called_once_before_get_returns(pool: Any) -> None:
    for i in range(20):
        calls: list[Any] = []
        errors: list[Any] = []
        handle = pool.apply_async(tasks.square, (i,), {}, calls.append, errors.append)
        assert handle.get(ALARM_S) == i * i
        assert (calls, errors) == ([i * i], [])


def test_error_callback_gets_the_error_that_get_raises(pool: Any) -> None:
    calls: list[Any] = []
    errors: list[Any] = []
    handle = pool.apply_async(tasks.fail, callback=calls.append, error_callback=errors.append)
    with pytest.raises(ValueError, match="boom") as caught:
        handle.get(ALARM_S)
    assert calls == []
    assert errors == [caught.value]


@pytest.mark.parametrize("call", ["map_async", "starmap_async"])
def test_callback_of_a_map_gets_the_whole_list(pool: Any, call: str) -> None:
    calls: list[Any] = []
    items = [(i,) for i in range(9)]
    handle = getattr(pool, call)(tasks.echo, items, 2, callback=calls.append)
    found = handle.get(ALARM_S)
    assert type(found) is list
    assert calls == [found]


def test_callback_of_an_empty_map_is_never_called(pool: Any) -> None:
    calls: list[Any] = []
    handle = pool.map_async(tasks.square, [], callback=calls.append, error_callback=calls.append)
    assert handle.get(ALARM_S) == []
    assert pool.apply(tasks.square, (2,)) == 4
    assert calls == []


def test_error_callback_for_what_cannot_be_pickled(pool: Any) -> None:
    errors: list[Any] = []
    handle = pool.apply_async(tasks.identity, (tasks.RefusesToTravel(),), error_callback=errors.append)
    with pytest.raises(RuntimeError, match="refuses"):
        handle.get(ALARM_S)
    assert len(errors) == 1


def test_callback_may_submit(pool: Any) -> None:
    done = threading.Event()
    found: list[int] = []

    def first(value: int) -> None:
        pool.apply_async(tasks.square, (value,), callback=second)

    def second(value: int) -> None:
        found.append(value)
        done.set()

    pool.apply_async(tasks.square, (3,), callback=first)
    assert done.wait(ALARM_S)
    assert found == [81]


# -- iterators -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterator_is_its_own_and_stays_at_its_end(pool: Any, call: str) -> None:
    found = getattr(pool, call)(tasks.square, [3])
    assert iter(found) is found
    assert next(found) == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(found)
    with pytest.raises(StopIteration):
        found.next(timeout=0)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_next_with_a_timeout(pool: Any, gates: Gates, call: str) -> None:
    gate = gates()
    found = getattr(pool, call)(tasks.hold_or_square, [(gate, 5)])
    gate.wait_arrived()
    with pytest.raises(multiprocessing.TimeoutError):
        found.next(timeout=0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        found.next(0)
    gate.release()
    assert found.next(timeout=ALARM_S) == 25
    with pytest.raises(StopIteration):
        found.next(timeout=ALARM_S)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterator_goes_on_after_an_error(pool: Any, call: str) -> None:
    found = getattr(pool, call)(tasks.fail_if_odd, range(6))
    values, errors = [], []
    while True:
        try:
            values.append(next(found))
        except ValueError as error:
            errors.append(error.args[0])
        except StopIteration:
            break
    if call == "imap_unordered":
        values, errors = sorted(values), sorted(errors)
    assert (values, errors) == ([0, 2, 4], [1, 3, 5])


def test_imap_waits_for_the_first_though_the_second_is_done(pool: Any, gates: Gates) -> None:
    gate = gates()
    found = pool.imap(tasks.hold_or_square, [(gate, 1), (None, 2), (None, 3)])
    gate.wait_arrived()
    assert pool.apply(tasks.square, (2,)) == 4
    with pytest.raises(multiprocessing.TimeoutError):
        found.next(0.01)
    gate.release()
    assert list(found) == [1, 4, 9]


def test_imap_unordered_gives_what_is_done(pool: Any, gates: Gates) -> None:
    gate = gates()
    found = pool.imap_unordered(tasks.hold_or_square, [(gate, 1), (None, 2), (None, 3)])
    gate.wait_arrived()
    assert {found.next(ALARM_S), found.next(ALARM_S)} == {4, 9}
    gate.release()
    assert list(found) == [1]


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [0, -1])
def test_imap_refuses_a_chunksize_below_one(pool: Any, call: str, chunksize: int) -> None:
    with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not"):
        getattr(pool, call)(tasks.square, [1, 2], chunksize)


def test_iterators_can_be_read_in_turn(pool: Any) -> None:
    one = pool.imap(tasks.square, range(50))
    two = pool.imap(functools.partial(tasks.add, y=0), range(50))
    assert list(zip(one, two, strict=True)) == [(x * x, x) for x in range(50)]


def test_iterator_may_be_dropped_half_read(pool: Any) -> None:
    found = pool.imap(tasks.square, range(1000))
    assert list(itertools.islice(found, 3)) == [0, 1, 4]
    del found
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


# -- the pool itself, while it runs ----------------------------------------------------


def test_repr_shows_state_and_size(pool: Any) -> None:
    assert repr(pool).startswith("<")
    assert repr(pool).endswith("Pool state=RUN pool_size=2>")


def test_pool_cannot_be_pickled(pool: Any) -> None:
    text = "pool objects cannot be passed between processes or pickled"
    with pytest.raises(NotImplementedError, match=text):
        pickle.dumps(pool)
    with pytest.raises(NotImplementedError, match=text):
        pool.apply(tasks.identity, (pool,))


def test_join_before_close_is_refused(pool: Any) -> None:
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    assert pool.apply(tasks.square, (3,)) == 9
