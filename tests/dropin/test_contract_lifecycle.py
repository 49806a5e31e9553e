"""How a pool begins, lives and ends: the same assertions against the stock pool and ours.

Each test opens its own pools. What calls give is in `test_contract.py`.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dropin_tasks as tasks
import pytest
from dropin_pools import CLASSES, OURS, START_METHODS, STOCK, close_pool, open_pool
from dropin_tasks import ALARM_S
from gates import Gates, pass_gate
from waiting import wait_until

import mpsteal

Fresh = Callable[..., Any]

every_method = pytest.mark.parametrize("method", START_METHODS)

# -- opening ---------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(pool_class: Any, processes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pool_class(processes)


def test_processes_that_are_no_number_are_refused(pool_class: Any) -> None:
    with pytest.raises(TypeError):
        pool_class("2")


def test_initializer_must_be_callable(pool_class: Any) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pool_class(1, initializer=1)


@pytest.mark.parametrize("limit", [0, -1, 0.5, "12"])
def test_maxtasksperchild_must_be_a_positive_integer(pool_class: Any, limit: Any) -> None:
    with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
        pool_class(1, maxtasksperchild=limit)


def test_arguments_by_position(pool_class: Any) -> None:
    context = multiprocessing.get_context("fork")
    pool = pool_class(1, tasks.remember_pair, ("key", 5), 1, context)
    try:
        assert [pool.apply(tasks.read_state, ("key",)) for _ in range(2)] == [5, 5]
        assert pool.apply(tasks.pid) != pool.apply(tasks.pid)
    finally:
        close_pool(pool)


def test_number_of_processes_by_default(fresh: Fresh) -> None:
    pool = fresh(processes=None)
    assert 1 <= len(pool._pool) <= (os.cpu_count() or 1)


@every_method
def test_pool_of_a_context(method: str) -> None:
    for context in (multiprocessing.get_context(method), mpsteal.get_context(method)):
        with context.Pool(2) as pool:
            assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        pool.join()
    assert mpsteal.get_context(method).get_start_method() == method
    with mpsteal.get_context(method).Pool(processes=1, maxtasksperchild=5) as pool:
        assert type(pool) is OURS
    pool.join()


@every_method
def test_number_of_processes(fresh: Fresh, method: str) -> None:
    """As many agents as asked for, all at work at once, each in a process of its own."""
    barrier = multiprocessing.get_context(method).Barrier(3)
    pool = fresh(method, 3, initializer=tasks.remember_pair, initargs=("barrier", barrier))
    everybody = pool.map(tasks.about_me, range(3), 1)
    assert len({me["pid"] for me in everybody}) == 3
    assert len({me["name"] for me in everybody}) == 3
    # Programs use the first number to place progress bars and pick devices.
    identities = [me["identity"] for me in everybody]
    assert all(identity and isinstance(identity[0], int) for identity in identities)
    assert len(set(identities)) == 3
    children = {child.pid for child in multiprocessing.active_children()}
    assert {me["pid"] for me in everybody} <= children


@every_method
def test_environment_reaches_the_agents(fresh: Fresh, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "forkserver":
        pytest.skip("the server keeps the environment it was started with")
    monkeypatch.setenv("MPSTEAL_TEST_WORD", "seen")
    assert fresh(method).apply(tasks.environment, ("MPSTEAL_TEST_WORD",)) == "seen"


def test_forked_agents_see_the_globals_of_their_birth(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.STATE, "big", lambda: "cannot be pickled, need not be")
    pool = fresh("fork")
    monkeypatch.setitem(tasks.STATE, "late", 1)
    assert pool.apply(tasks.call_state, ("big",)) == "cannot be pickled, need not be"
    assert pool.apply(tasks.read_state, ("late",)) is None


def test_several_pools_at_once(fresh: Fresh) -> None:
    pools = [fresh() for _ in range(3)]
    handles = [pool.map_async(tasks.square, range(50)) for pool in pools]
    assert [handle.get(ALARM_S) for handle in handles] == [[x * x for x in range(50)]] * 3


def test_pool_of_one_thread_used_and_closed_by_another(pool_class: Any) -> None:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(open_pool(pool_class)))
    thread.start()
    thread.join(ALARM_S)
    pool = made[0]
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]
    close_pool(pool)


# -- initializer -----------------------------------------------------------------------


@every_method
def test_initializer_runs_once_in_each_process(fresh: Fresh, method: str, tmp_path: Path) -> None:
    path = tmp_path / "signed"
    pool = fresh(method, 3, initializer=tasks.sign_in, initargs=(str(path),))
    pool.map(tasks.square, range(100), 1)
    pool.close()
    pool.join()
    signed = path.read_text().split()
    assert len(signed) == len(set(signed)) == 3


@every_method
def test_initargs_may_hold_what_only_inheritance_can_pass(fresh: Fresh, method: str) -> None:
    """Locks, queues and shared values cannot be pickled into a task, but may be initargs."""
    context = multiprocessing.get_context(method)
    queue, lock, counter = context.Queue(), context.Lock(), context.Value("i", 0)
    facts = {"queue": queue, "lock": lock, "counter": counter}
    pool = fresh(method, initializer=tasks.remember_all, initargs=(facts,))
    assert pool.map(tasks.use_lock_and_queue, range(10), 2) == list(range(10))
    assert sorted(queue.get(timeout=ALARM_S) for _ in range(10)) == list(range(10))
    pool.map(tasks.count_then_fail_at, [(i, -1) for i in range(20)])
    assert counter.value == 20
    with pytest.raises(RuntimeError, match="inheritance"):
        pool.apply(tasks.identity, (lock,))
    pool.close()
    pool.join()
    queue.close()
    queue.join_thread()


def test_initializer_may_set_signal_handlers(fresh: Fresh) -> None:
    pool = fresh(initializer=tasks.ignore_sigint)
    assert pool.map(tasks.sigint_handler, range(4), 1) == [True] * 4


def test_unpicklable_initializer_is_inherited_by_fork(fresh: Fresh) -> None:
    pool = fresh("fork", 1, initializer=lambda: tasks.STATE.update(made="by a lambda"))
    assert pool.apply(tasks.read_state, ("made",)) == "by a lambda"


@every_method
def test_all_items_run_although_one_fails(fresh: Fresh, method: str) -> None:
    counter = multiprocessing.get_context(method).Value("i", 0)
    pool = fresh(method, initializer=tasks.remember_pair, initargs=("counter", counter))
    with pytest.raises(ValueError, match=r"^0$"):
        pool.map(tasks.count_then_fail_at, [(i, 0) for i in range(30)], 1)
    assert counter.value == 30


# -- maxtasksperchild ------------------------------------------------------------------


@every_method
def test_process_is_replaced_after_its_tasks(fresh: Fresh, method: str) -> None:
    pool = fresh(method, 1, maxtasksperchild=2)
    pids = [pool.apply(tasks.pid) for _ in range(6)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [2, 2, 2]


def test_chunk_counts_as_one_task(fresh: Fresh) -> None:
    pool = fresh(processes=1, maxtasksperchild=1)
    pids = pool.map(tasks.pid, range(12), 4)
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [4, 4, 4]


def test_replacement_is_initialized(fresh: Fresh, tmp_path: Path) -> None:
    path = tmp_path / "signed"
    pool = fresh(processes=1, maxtasksperchild=1, initializer=tasks.sign_in, initargs=(str(path),))
    pids = [str(pool.apply(tasks.pid)) for _ in range(3)]
    assert path.read_text().split()[:3] == pids


def test_close_lets_short_lived_processes_finish_all(fresh: Fresh) -> None:
    pool = fresh(maxtasksperchild=1)
    handles = [pool.apply_async(tasks.square, (i,)) for i in range(10)]
    pool.close()
    pool.join()
    assert [handle.get(0) for handle in handles] == [i * i for i in range(10)]


# -- ending ----------------------------------------------------------------------------

SUBMITS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(tasks.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map": lambda pool: pool.map(tasks.square, [1]),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "starmap": lambda pool: pool.starmap(tasks.add, [(1, 2)]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.add, [(1, 2)]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
    "imap_chunked": lambda pool: pool.imap(tasks.square, [1], 2),
    "empty_map": lambda pool: pool.map(tasks.square, []),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_nothing_is_taken_after_the_end(fresh: Fresh, end: str) -> None:
    pool = fresh()
    getattr(pool, end)()
    for submit in SUBMITS.values():
        with pytest.raises(ValueError, match="Pool not running"):
            submit(pool)
    pool.join()
    for submit in SUBMITS.values():
        with pytest.raises(ValueError, match="Pool not running"):
            submit(pool)


@every_method
def test_close_and_join_finish_everything(fresh: Fresh, method: str) -> None:
    pool = fresh(method)
    handles = [pool.apply_async(tasks.square, (i,)) for i in range(200)]
    mapped = pool.map_async(tasks.square, range(200), 3)
    found = pool.imap_unordered(tasks.square, range(200))
    pool.close()
    pool.join()
    assert [handle.get(0) for handle in handles] == [i * i for i in range(200)]
    assert mapped.get(0) == [i * i for i in range(200)]
    assert sorted(found) == [i * i for i in range(200)]


def test_results_stay_after_the_end(fresh: Fresh) -> None:
    pool = fresh()
    handle = pool.apply_async(tasks.square, (3,))
    failed = pool.apply_async(tasks.fail)
    assert handle.get(ALARM_S) == 9
    failed.wait(ALARM_S)
    pool.terminate()
    pool.join()
    assert handle.get(0) == 9
    with pytest.raises(ValueError, match="boom"):
        failed.get(0)


def test_ending_twice_is_harmless(fresh: Fresh) -> None:
    pool = fresh()
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.close()
    pool.join()


def test_close_after_terminate_changes_nothing(fresh: Fresh) -> None:
    pool = fresh()
    pool.terminate()
    pool.close()
    assert "state=TERMINATE" in repr(pool)
    pool.join()


@every_method
def test_terminate_ends_running_tasks(fresh: Fresh, method: str, gates: Gates) -> None:
    pool = fresh(method)
    gate = gates()
    for i in range(20):
        pool.apply_async(pass_gate, (gate, i))
    gate.wait_arrived(2)
    agents = list(pool._pool)
    pool.terminate()
    pool.join()
    assert not any(agent.is_alive() for agent in agents)
    assert gate.arrived_nowait() == 0


def test_with_block_terminates(fresh: Fresh, gates: Gates) -> None:
    gate = gates()
    opened = fresh()
    with opened as pool:
        assert pool is opened
        assert "state=RUN" in repr(pool)
        pool.apply_async(pass_gate, (gate,))
        gate.wait_arrived()
    assert "state=TERMINATE" in repr(pool)
    pool.join()


def test_with_block_terminates_after_an_error(fresh: Fresh) -> None:
    pool = fresh()
    with pytest.raises(LookupError, match="mine"), pool:
        raise LookupError("mine")
    assert "state=TERMINATE" in repr(pool)
    pool.join()


def test_repr_follows_the_state(fresh: Fresh) -> None:
    pool = fresh()
    pool.close()
    assert "state=CLOSE" in repr(pool)
    pool.join()


def test_forgotten_pool_warns_and_ends(pool_class: Any) -> None:
    pool = open_pool(pool_class)
    agents = list(pool._pool)
    # Not used before: the stock pool's result thread may hold it for a moment longer than `get`.
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        # Some interpreters free the pool at `del`, others at the collection.
        del pool
        gc.collect()
    for agent in agents:
        # Somebody else may be reaping it just now: then `join` returns a little before the exit code is known.
        wait_until(lambda agent=agent: not agent.is_alive(), "the agent ended")


def test_partly_read_iterator_does_not_keep_the_pool_from_ending(fresh: Fresh) -> None:
    pool = fresh()
    found = pool.imap(tasks.square, (i for i in range(5000)))
    assert [next(found) for _ in range(10)] == [i * i for i in range(10)]
    pool.close()
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_callback_may_end_the_pool(fresh: Fresh, end: str) -> None:
    """Programs stop a search from a callback, as soon as one task has found the answer."""
    pool = fresh()
    done = threading.Event()

    def stop(_: Any) -> None:
        getattr(pool, end)()
        done.set()

    pool.apply_async(tasks.square, (3,), callback=stop)
    assert done.wait(ALARM_S)
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (3,))


# -- subclasses ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("way", ["context argument", "subclass with context", "Process method"])
def test_processes_of_a_users_own_class(pool_class: Any, method: str, way: str) -> None:
    """The ways in which programs make workers that may have children."""
    process_class, context_class = tasks.NO_DAEMON[method]

    class WithContext(pool_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwds: Any) -> None:
            kwds["context"] = context_class()
            super().__init__(*args, **kwds)

    class WithProcess(pool_class):  # type: ignore[misc]
        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            return process_class(*args, **kwds)

    if way == "context argument":
        pool = pool_class(2, context=context_class())
    elif way == "subclass with context":
        pool = WithContext(2)
    else:
        pool = WithProcess(2, context=multiprocessing.get_context(method))
    try:
        assert all(isinstance(agent, process_class) for agent in pool._pool)
        expected = [[0, 1, 4], [0, 1, 4]]
        found = pool.starmap(tasks.map_in_nested_pool, [(pool_class, [0, 1, 2])] * 2, 1)
        assert found == expected
    finally:
        pool.close()
        pool.join()


def test_subclass_may_wrap_apply_async(pool_class: Any) -> None:
    seen: list[Any] = []

    class Logging(pool_class):  # type: ignore[misc]
        def apply_async(
            self,
            func: Any,
            args: Any = (),
            kwds: Any = {},  # noqa: B006 - the stock signature
            callback: Any = None,
            error_callback: Any = None,
        ) -> Any:
            seen.append(args)
            return super().apply_async(func, args, kwds, callback, error_callback)

    pool = open_pool(Logging)
    try:
        assert pool.apply_async(tasks.square, (2,)).get(ALARM_S) == 4
        assert pool.apply(tasks.square, (3,)) == 9
    finally:
        close_pool(pool)
    assert seen == [(2,), (3,)]
    assert repr(pool).startswith(f"<{__name__}.")


# -- names a program may rely on -------------------------------------------------------


def test_sigterm_in_the_parent_keeps_its_meaning(fresh: Fresh) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    pool = fresh()
    pool.map(tasks.square, range(10))
    pool.close()
    pool.join()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_all_classes_are_tested() -> None:
    assert CLASSES == {"stock": STOCK, "mpsteal": OURS}
    assert STOCK is not OURS
