"""The pools that are compared, each opened and used as its documentation says, behind one face.

    serial                              a plain loop in the parent, for what any pool costs and gains
    stock                               multiprocessing.Pool
    ppe                                 concurrent.futures.ProcessPoolExecutor
    loky joblib mpire pebble            pools of other projects
    multiprocess billiard ray dask
    mpsteal                             mpsteal.Pool
    mpsteal-executor mpsteal-scheduler  its two other doors

`target+best` is a target with the setting that its documentation recommends to somebody who knows the items: the number
that is sent together (`chunksize`, `chunk_size`, `batch_size`), which the row says. mpsteal has no such variant: not
having to choose is what it is for.

A `Session` is an open pool. Its methods are the pool's own where they have the same arguments, so that no wrapper is
measured; what a pool does not have is not imitated, but for one thing: who has no unordered iterator gives an
ordered one.
A target that is missing is not an error: `Target.missing` says why, and what would bring it.

``MPSTEAL_BENCH_SELF=stock`` puts the stock pool (executor) in the place of mpsteal's. That is the control:
every ratio should come out near 1, and how far from 1 it lies is what the machine and the method
add by themselves.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import multiprocessing.pool
import operator
import os
import platform
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench._tasks import noop

STOCK = "stock"
OURS = "mpsteal"
INSTALL = "pip install 'mpsteal[bench]'"
POOLS = (STOCK, OURS)  # also the order inside a round
EXECUTORS = ("ppe", "mpsteal-executor")

SUBMIT, MAP, IMAP, METHOD, KILL = "submit", "map", "imap", "method", "kill"
"""What a row may need: calls one by one; a map; a lazy map; a start method to choose; worker processes to kill."""
_ALL = frozenset({SUBMIT, MAP, IMAP, METHOD, KILL})


def is_ours(name: str) -> bool:
    """Whether the target, with or without its `+best`, is a door of mpsteal."""
    target = TARGETS.get(name.partition("+")[0])
    return target is not None and target.package == OURS


def is_control() -> bool:
    chosen = os.environ.get("MPSTEAL_BENCH_SELF", "")
    if chosen not in ("", "stock"):
        raise SystemExit(f"MPSTEAL_BENCH_SELF={chosen!r}: the only value is 'stock'")
    return chosen == "stock"


class Session:
    """An open pool. Subclasses set the attributes, as far as possible to the pool's own bound methods.

    Attributes:
        apply_async: ``(fn, args) -> handle``.
        get: ``handle -> value``; waits.
        map: ``(fn, items) -> list``.
        imap, imap_unordered: ``(fn, iterable) -> iterator``.
        share: ``value -> handle``, which sends it once for all tasks; None where the pool has no such thing.
    """

    apply_async: Callable[..., Any]
    get: Callable[[Any], Any] = operator.methodcaller("get")
    map: Callable[..., Any]
    imap: Callable[..., Any]
    imap_unordered: Callable[..., Any]
    share: Callable[[Any], Any] | None = None

    def gather(self, handles: list[Any]) -> list[Any]:
        """The values of all handles, in their order."""
        get = self.get
        return [get(handle) for handle in handles]

    def apply(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return self.get(self.apply_async(fn, args))

    def prefer(self, fn: Callable[..., Any], args: tuple[Any, ...], priority: int) -> Any:
        """`apply_async` with a priority of 1 to 5, 5 first; without one where the pool knows none."""
        del priority
        return self.apply_async(fn, args)

    def run_graph(self, fn: Callable[..., Any], count: int, needs: Sequence[Sequence[int]]) -> list[Any]:
        """Call ``fn(i, values of needs[i])`` for each i, after those that it needs; the values, in order.

        Where a pool knows no dependencies, this is what its users write: the parent submits what has become free as it
        hears of results.
        """
        waits = [len(before) for before in needs]
        after: list[list[int]] = [[] for _ in range(count)]
        for i, before in enumerate(needs):
            for j in before:
                after[j].append(i)
        values: list[Any] = [None] * count
        done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

        def start(i: int) -> None:
            self.call_then(fn, (i, [values[j] for j in needs[i]]), lambda value: done.put((i, value)))

        for i in range(count):
            if not waits[i]:
                start(i)
        for _ in range(count):
            i, values_i = done.get()
            if isinstance(values_i, BaseException):
                raise values_i
            values[i] = values_i
            for j in after[i]:
                waits[j] -= 1
                if not waits[j]:
                    start(j)
        return values

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        """Call `then` with the value, or with the exception, as soon as it is there."""
        raise NotImplementedError

    def close(self) -> None:
        """End the pool when nothing is left to do, and wait until its processes have ended."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Leave the pool as its context manager does."""
        self.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()


class SerialSession(Session):
    def __init__(self) -> None:
        self.apply_async = lambda fn, args=(): fn(*args)
        self.get = lambda value: value
        self.map = lambda fn, items, **_: [fn(item) for item in items]
        self.imap = self.imap_unordered = lambda fn, items, **_: map(fn, items)

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        then(fn(*args))

    def close(self) -> None:
        pass


class PoolSession(Session):
    """Whatever has the contract of `multiprocessing.Pool`."""

    def __init__(self, pool: Any, chunk: int | None = None) -> None:
        self.pool = pool
        self.apply_async, self.map, self.imap = pool.apply_async, pool.map, pool.imap
        self.imap_unordered = pool.imap_unordered
        if chunk is not None:
            self.map = lambda fn, items, chunksize=chunk: pool.map(fn, items, chunksize)
            self.imap = lambda fn, items, chunksize=chunk: pool.imap(fn, items, chunksize)
            self.imap_unordered = lambda fn, items, chunksize=chunk: pool.imap_unordered(fn, items, chunksize)

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        self.pool.apply_async(fn, args, callback=then, error_callback=then)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def abandon(self) -> None:
        self.pool.terminate()
        self.pool.join()


class ExecutorSession(Session):
    """Whatever has the contract of `concurrent.futures.Executor`."""

    def __init__(self, executor: Any, chunk: int | None = None) -> None:
        self.executor = executor
        submit, map_ = executor.submit, executor.map
        self.apply_async = lambda fn, args=(): submit(fn, *args)
        self.get = operator.methodcaller("result")
        more = {} if chunk is None else {"chunksize": chunk}
        self.map = lambda fn, items, chunksize=chunk or 1: list(map_(fn, items, chunksize=chunksize))
        self.imap = self.imap_unordered = lambda fn, items: map_(fn, items, **more)

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        def tell(future: Any) -> None:
            then(future.exception() or future.result())

        self.executor.submit(fn, *args).add_done_callback(tell)

    def close(self) -> None:
        self.executor.shutdown()


class MpstealPoolSession(PoolSession):
    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self.share = pool.share


class MpstealExecutorSession(ExecutorSession):
    def __init__(self, executor: Any) -> None:
        super().__init__(executor)
        self.share = executor.share

    def prefer(self, fn: Callable[..., Any], args: tuple[Any, ...], priority: int) -> Any:
        return self.executor.options(priority=priority).submit(fn, *args)


class SchedulerSession(Session):
    """mpsteal's third door: tasks that name a skill, here one that all agents have."""

    def __init__(self, agents: int, method: str | None) -> None:
        from mpsteal import Agent, Task, WorkStealingScheduler

        options = {} if method is None else {"context": multiprocessing.get_context(method)}
        self.scheduler = WorkStealingScheduler(**options)
        self.scheduler.__enter__()
        for i in range(agents):
            self.scheduler.register_agent(Agent(f"agent_{i}", ["python"]))
        submit, submit_many, skills = self.scheduler.submit_task, self.scheduler.submit_tasks, ["python"]
        self.task = Task
        self.apply_async = lambda fn, args=(): submit(Task("bench", skills, fn=fn, args=args))
        self.get = operator.methodcaller("result")

        def map_(fn: Callable[[Any], Any], items: Iterable[Any], **_: object) -> list[Any]:
            tasks = submit_many([Task("bench", skills, fn=fn, args=(item,)) for item in items])
            return [task.result() for task in tasks]

        self.map = map_

    def prefer(self, fn: Callable[..., Any], args: tuple[Any, ...], priority: int) -> Any:
        return self.scheduler.submit_task(self.task("bench", ["python"], priority, fn=fn, args=args))

    def run_graph(self, fn: Callable[..., Any], count: int, needs: Sequence[Sequence[int]]) -> list[Any]:
        tasks: list[Any] = []
        for i in range(count):
            before = [tasks[j] for j in needs[i]]
            tasks.append(self.task("bench", ["python"], fn=_spread, args=(fn, i, *before)))
        return [task.result() for task in self.scheduler.submit_tasks(tasks)]

    def close(self) -> None:
        self.scheduler.stop()


def _spread(fn: Callable[..., Any], i: int, *values: Any) -> Any:
    """What a native dependency passes as arguments of its own, as the list that the others give."""
    return fn(i, list(values))


class JoblibSession(Session):
    """`Parallel` in a with-block, which keeps its workers; it has no single calls."""

    def __init__(self, agents: int, chunk: int | None) -> None:
        import joblib

        more: dict[str, Any] = {} if chunk is None else {"batch_size": chunk}
        self.parallel = joblib.Parallel(n_jobs=agents, pre_dispatch="2 * n_jobs" if chunk is None else "all", **more)
        lazy = joblib.Parallel(n_jobs=agents, return_as="generator", **more)
        unordered = joblib.Parallel(n_jobs=agents, return_as="generator_unordered", **more)
        self.parallel.__enter__()
        delayed = joblib.delayed
        self.map = lambda fn, items, **_: self.parallel(delayed(fn)(item) for item in items)
        self.imap = lambda fn, items: lazy(delayed(fn)(item) for item in items)
        self.imap_unordered = lambda fn, items: unordered(delayed(fn)(item) for item in items)

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)


class MpireSession(Session):
    """mpire spreads tuples over arguments and cuts arrays: each item goes as a tuple of one, as its manual says."""

    def __init__(self, agents: int, method: str | None, chunk: int | None) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=agents, keep_alive=True, **({} if method is None else {"start_method": method}))
        pool, more = self.pool, {} if chunk is None else {"chunk_size": chunk}
        self.apply_async = lambda fn, args=(): pool.apply_async(fn, args)

        def map_(fn: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None) -> list[Any]:
            wrapped = [(item,) for item in items]
            return pool.map(fn, wrapped, **(more if chunksize is None else {"chunk_size": chunksize}))

        def lazy(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
                size = {"iterable_len": len(items)} if hasattr(items, "__len__") else {"chunk_size": 1}  # type: ignore[arg-type]
                return call(fn, ((item,) for item in items), **{**size, **more})

            return run

        self.map, self.imap, self.imap_unordered = map_, lazy(pool.imap), lazy(pool.imap_unordered)

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        self.pool.apply_async(fn, args, callback=then, error_callback=then)

    def close(self) -> None:
        self.pool.stop_and_join()

    def abandon(self) -> None:
        self.pool.terminate()


class PebbleSession(Session):
    def __init__(self, agents: int, method: str | None, chunk: int | None) -> None:
        from pebble import ProcessPool

        more = {} if method is None else {"context": multiprocessing.get_context(method)}
        self.pool = pool = ProcessPool(max_workers=agents, **more)
        self.apply_async = lambda fn, args=(): pool.schedule(fn, args=list(args))
        self.get = operator.methodcaller("result")
        size = {} if chunk is None else {"chunksize": chunk}

        def map_(fn: Callable[[Any], Any], items: Iterable[Any], chunksize: int | None = None) -> list[Any]:
            chosen = size if chunksize is None else {"chunksize": chunksize}
            return list(pool.map(fn, items, **chosen).result())

        self.map = map_
        self.imap = self.imap_unordered = lambda fn, items: pool.map(fn, items, **size).result()

    def call_then(self, fn: Callable[..., Any], args: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        future = self.pool.schedule(fn, args=list(args))
        future.add_done_callback(lambda done: then(done.exception() or done.result()))

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def abandon(self) -> None:
        self.pool.stop()
        self.pool.join()


class RaySession(Session):
    """Remote functions, and `ray.util.multiprocessing.Pool` where a chunk size is chosen or a lazy map is needed."""

    def __init__(self, agents: int, chunk: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import logging

        import ray
        from ray.util.multiprocessing import Pool

        ray.init(
            num_cpus=agents,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=1 << 30,
            _node_ip_address="127.0.0.1",
        )
        self.ray = ray
        self.remotes: dict[Any, Any] = {}
        self.get = ray.get
        self.pool: Any = None
        self.apply_async = lambda fn, args=(): self.remote(fn).remote(*args)

        def map_(fn: Callable[[Any], Any], items: Iterable[Any], **_: object) -> list[Any]:
            remote = self.remote(fn)
            return ray.get([remote.remote(item) for item in items])

        def pool() -> Any:
            if self.pool is None:
                self.pool = Pool(agents)
            return self.pool

        self.map = map_
        if chunk is not None:
            self.map = lambda fn, items, chunksize=chunk: pool().map(fn, items, chunksize)
        size = 1 if chunk is None else chunk
        self.imap = lambda fn, items: pool().imap(fn, items, size)
        self.imap_unordered = lambda fn, items: pool().imap_unordered(fn, items, size)

    def remote(self, fn: Callable[..., Any]) -> Any:
        if fn not in self.remotes:
            self.remotes[fn] = self.ray.remote(fn)
        return self.remotes[fn]

    def gather(self, handles: list[Any]) -> list[Any]:
        return list(self.ray.get(handles))

    def run_graph(self, fn: Callable[..., Any], count: int, needs: Sequence[Sequence[int]]) -> list[Any]:
        remote, handles = self.remote(_spread), []
        for i in range(count):
            handles.append(remote.remote(fn, i, *[handles[j] for j in needs[i]]))
        return self.gather(handles)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.terminate()
        self.ray.shutdown()


class DaskSession(Session):
    """`distributed.Client` on a local cluster of processes with one thread each."""

    def __init__(self, agents: int, chunk: int | None) -> None:
        import distributed

        self.cluster = distributed.LocalCluster(
            n_workers=agents, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        )
        self.client = client = distributed.Client(self.cluster)
        self.apply_async = lambda fn, args=(): client.submit(fn, *args, pure=False)
        self.get = operator.methodcaller("result")
        more = {} if chunk is None else {"batch_size": chunk}
        self.map = lambda fn, items, **_: client.gather(client.map(fn, list(items), pure=False, **more))

        def unordered(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            futures = client.map(fn, list(items), pure=False, **more)
            return (value for _, value in distributed.as_completed(futures, with_results=True))

        # It takes no lazy input, and has no iterator in order: what its manual has for that is `gather`, whose one
        # question for all costs less than one `result()` for each. The first value then comes with the last.
        self.imap, self.imap_unordered = lambda fn, items: iter(self.map(fn, items)), unordered

    def gather(self, handles: list[Any]) -> list[Any]:
        return list(self.client.gather(handles))

    def prefer(self, fn: Callable[..., Any], args: tuple[Any, ...], priority: int) -> Any:
        return self.client.submit(fn, *args, pure=False, priority=priority)

    def run_graph(self, fn: Callable[..., Any], count: int, needs: Sequence[Sequence[int]]) -> list[Any]:
        handles: list[Any] = []
        for i in range(count):
            handles.append(self.client.submit(_spread, fn, i, *[handles[j] for j in needs[i]], pure=False))
        return self.gather(handles)

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


Opener = Callable[[int, "str | None", "int | None"], Session]


@dataclass(frozen=True)
class Target:
    """One pool under test.

    Attributes:
        name, label: how it is called, and in tables.
        opener: ``(agents, start method or None, chunk or None) -> Session``.
        has: what it has, of what rows may need.
        package, distribution: import name and name on the package index; empty: part of Python.
        chunk_word: how its documentation calls the number of items sent together; empty: it has no such setting.
        weight: what a small task costs it, roughly, in those of the stock pool: the suite gives it so many times fewer.
        pool_class: what really runs, so that a control cannot pass for ours.
        starts_slowly: its start takes seconds, so the suite gives it one row of each family, unless rows are named.
        has_buffersize: its `imap_unordered` takes that argument.
    """

    name: str
    label: str
    opener: Opener
    has: frozenset[str]
    package: str = ""
    distribution: str = ""
    chunk_word: str = ""
    weight: float = 1
    pool_class: Any = None
    starts_slowly: bool = False
    has_buffersize: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed ({INSTALL})"
        if self.package and self.package != OURS:
            try:
                importlib.metadata.version(self.distribution or self.package)
            except importlib.metadata.PackageNotFoundError:
                return f"what is called {self.package} here is not installed, but a folder or file on the path"
        return ""

    @property
    def version(self) -> str:
        if not self.package:
            return platform.python_version()
        if self.package == OURS:
            return str(importlib.import_module(OURS).__version__)
        return importlib.metadata.version(self.distribution or self.package)

    def open(self, agents: int, method: str | None = None, chunk: int | None = None) -> Session:
        return self.opener(agents, method, chunk)

    def describe(self) -> str:
        return f"{self.pool_class.__module__}.{self.pool_class.__qualname__}" if self.pool_class else self.label


def _stock(agents: int, method: str | None, chunk: int | None) -> Session:
    if method is None:
        return PoolSession(multiprocessing.Pool(agents), chunk)
    return PoolSession(multiprocessing.pool.Pool(agents, context=multiprocessing.get_context(method)), chunk)


def _ppe(agents: int, method: str | None, chunk: int | None) -> Session:
    context = None if method is None else multiprocessing.get_context(method)
    return ExecutorSession(concurrent.futures.ProcessPoolExecutor(agents, mp_context=context), chunk)


def _loky(agents: int, method: str | None, chunk: int | None) -> Session:
    import loky

    return ExecutorSession(loky.get_reusable_executor(max_workers=agents, context=method), chunk)


def _like_stock(package: str) -> Opener:
    def open_pool(agents: int, method: str | None, chunk: int | None) -> Session:
        module = importlib.import_module(package)
        context = module if method is None else module.get_context(method)
        return PoolSession(context.Pool(agents), chunk)

    return open_pool


def _mpsteal(agents: int, method: str | None, chunk: int | None) -> Session:
    del chunk
    import mpsteal

    options = {} if method is None else {"context": multiprocessing.get_context(method)}
    return MpstealPoolSession(mpsteal.Pool(agents, **options))


def _mpsteal_executor(agents: int, method: str | None, chunk: int | None) -> Session:
    del chunk
    import mpsteal

    options = {} if method is None else {"mp_context": multiprocessing.get_context(method)}
    return MpstealExecutorSession(mpsteal.Executor(agents, **options))


_SERIAL = frozenset({SUBMIT, MAP, IMAP})
_STOCK_POOL, _STOCK_EXECUTOR = multiprocessing.pool.Pool, concurrent.futures.ProcessPoolExecutor

_JOBS_ONLY = frozenset({MAP, IMAP})
_OWN_START = frozenset({SUBMIT, MAP, IMAP, KILL})
_NO_LAZY_MAP = frozenset({SUBMIT, MAP, METHOD, KILL})

_ROWS = (
    Target("serial", "serial loop", lambda *_: SerialSession(), _SERIAL, weight=0.25),
    Target(STOCK, "multiprocessing.Pool", _stock, _ALL, chunk_word="chunksize", pool_class=_STOCK_POOL),
    Target("ppe", "ProcessPoolExecutor", _ppe, _ALL, chunk_word="chunksize", weight=3, pool_class=_STOCK_EXECUTOR),
    Target("loky", "loky", _loky, _ALL, "loky", chunk_word="chunksize", weight=5),
    Target("joblib", "joblib", lambda n, _, c: JoblibSession(n, c), _JOBS_ONLY, "joblib", chunk_word="batch_size"),
    Target("mpire", "mpire", MpireSession, _ALL, "mpire", chunk_word="chunk_size", weight=2),
    Target("pebble", "pebble", PebbleSession, _ALL, "pebble", "Pebble", "chunksize", weight=4),
    Target("multiprocess", "multiprocess", _like_stock("multiprocess"), _ALL, "multiprocess", chunk_word="chunksize"),
    Target("billiard", "billiard", _like_stock("billiard"), _ALL, "billiard", chunk_word="chunksize"),
    Target(
        "ray",
        "ray",
        lambda n, _, c: RaySession(n, c),
        _OWN_START,
        "ray",
        chunk_word="chunksize",
        weight=20,
        starts_slowly=True,
    ),
    Target(
        "dask",
        "dask.distributed",
        lambda n, _, c: DaskSession(n, c),
        _OWN_START,
        "distributed",
        chunk_word="batch_size",
        weight=20,
        starts_slowly=True,
    ),
    Target(OURS, "mpsteal.Pool", _mpsteal, _ALL, OURS, weight=0.25, has_buffersize=True),
    Target(
        "mpsteal-executor",
        "mpsteal.Executor",
        _mpsteal_executor,
        _ALL,
        OURS,
        weight=0.25,
    ),
    Target(
        "mpsteal-scheduler",
        "mpsteal scheduler",
        lambda n, m, _: SchedulerSession(n, m),
        _NO_LAZY_MAP,
        OURS,
        weight=0.5,
    ),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ROWS}
"""All that can be measured, in the order of a round."""


def load(name: str) -> Target:
    """Import the target called ``name`` now, so that no measurement pays for the parent's import."""
    if name not in TARGETS:
        raise SystemExit(f"no target called {name!r}; choose from {', '.join(TARGETS)}")
    target = TARGETS[name]
    if target.missing:
        raise SystemExit(f"{name}: {target.missing}")
    if is_control() and target.package == OURS:
        twin = TARGETS["ppe" if name == "mpsteal-executor" else STOCK]
        return Target(name, target.label, twin.opener, twin.has, pool_class=twin.pool_class)
    if target.package == OURS:
        import mpsteal

        kinds = {OURS: mpsteal.Pool, "mpsteal-executor": mpsteal.Executor}
        pool_class = kinds.get(name, mpsteal.WorkStealingScheduler)
        return Target(**{**vars(target), "pool_class": pool_class})
    if target.package:
        importlib.import_module(target.package)
    return target


def warm(pool: Session, agents: int, *, lazy: bool = False) -> None:
    """Have all agents up and imports done before the clock starts; the same calls for all. `lazy`: for rows that use
    `imap`, for which some (ray) start workers of their own."""
    for _ in range(3):
        pool.map(noop, range(agents * 32), chunksize=1)
    if lazy:
        for _ in pool.imap(noop, range(agents * 32)):
            pass
