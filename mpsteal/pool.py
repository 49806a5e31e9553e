"""`Pool`: the contract of `multiprocessing.Pool`, front door 1.

    from mpsteal import Pool        # was: from multiprocessing import Pool

Nothing else changes. What is better: no `chunksize` to pick, a dead worker costs what it ran, and `stats()`.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.util
import operator
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from ._agent import here
from ._agent.shared import Shared
from ._engine.cpus import usable_cpus
from ._engine.health import interrupts_deferred
from ._engine.loop import RUN as _ENGINE_RUN
from ._engine.loop import Engine
from ._engine.recycle import AgentLimits
from ._engine.surroundings import AUTO, check_inner_threads
from ._engine.terms import Terms
from ._engine.vitals import STUCK_AFTER_S
from ._policy.amounts import check_seconds
from .errors import PoolTerminatedError
from .maps import MapCalls, check_count
from .results import AsyncResult, LimitedResult
from .stats import PoolStats, stats_of

_Self = TypeVar("_Self", bound="Pool")
_T = TypeVar("_T")

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
FOREIGN = "FOREIGN"  # in a forked child of the process that made the pool

ROOM_FACTOR, ROOM_LEAST = 2, 64
"""What a pool may grow to, unless told otherwise: so many times its first size, and the machine's CPUs, and never less
than the second. Less: `resize` refuses what somebody may want; more: each takes 1 MiB of addresses (not memory)."""


_new_result = AsyncResult.__new__

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _disown_pools() -> None:
    for pool in list(_pools):
        pool._state = FOREIGN


os.register_at_fork(after_in_child=_disown_pools)


class Pool(MapCalls):
    """A pool of agents (worker processes) that balances itself by work stealing.

    Args:
        processes: how many agents; None: the CPUs this process may use (affinity and cgroup quota).
        initializer, initargs: called in each agent as it starts. If it raises, every pending and later call raises
            that exception.
        maxtasksperchild: chunks after which an agent is replaced by a fresh one; None: never.
        context: a `multiprocessing` context, or the name of a start method; None: the default one.
        max_age: seconds after which an agent is replaced, between two chunks; None: never.
        max_rss: bytes of resident memory above which an agent is replaced, between two chunks; None: any.
        stuck_after: seconds without a result and without CPU time after which an agent is seen as stuck, in `stats()`
            and in the log; nothing is ended for it. None: never.
        finalizer, finalargs: called in each agent as it leaves in order: after `close`, when it is replaced by rule,
            when `resize` has it leave, and at `terminate`, so at the end of `with`, if it runs nothing then. Not in an
            agent that dies or is ended. What it raises is logged, and nothing else comes of it. The end of the pool
            waits for it for 30 s, or 5 s at `terminate`.
        max_processes: what `resize` may go up to; None: twice `processes` or twice the machine's CPUs, at least 64.
            What is not used costs addresses (1 MiB each), no memory, process or descriptor.
        inner_threads: how many threads numpy and others may use within one agent; "auto": the CPUs divided by the
            agents, where the environment does not say otherwise; None: as many as they like.
        logs: whether what agents log goes to this program's `logging`; False: `logging` in agents is left alone.
        geometry: sizes of the shared segment, see `_queue.layout.Geometry`; for tests and experts.

    Raises:
        ValueError: `processes`, `maxtasksperchild`, `max_rss` or `inner_threads` is not a positive whole number,
            `max_age` or `stuck_after` no positive number, `max_processes` fewer than `processes`.
        TypeError: `initializer` or `finalizer` is not callable.
        OSError: the system refused a process, a descriptor or memory.
    """

    _engine: Engine

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Makes an agent's process object; subclasses replace it."""
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        max_age: float | None = None,
        max_rss: int | None = None,
        stuck_after: float | None = STUCK_AFTER_S,
        finalizer: Callable[..., Any] | None = None,
        finalargs: Iterable[Any] = (),
        max_processes: int | None = None,
        inner_threads: int | str | None = AUTO,
        logs: bool = True,
        geometry: dict[str, int] | None = None,
    ) -> None:
        self._state = "INIT"
        self._ctx: Any = (
            multiprocessing.get_context(context) if context is None or isinstance(context, str) else context
        )
        if processes is None:
            processes = usable_cpus()
        try:
            processes = operator.index(processes)
        except TypeError:
            raise TypeError(f"processes must be an int or None, not {processes!r}; None means one per CPU") from None
        if processes < 1:
            raise ValueError(f"Number of processes must be at least 1, not {processes!r}; None means one per CPU")
        if maxtasksperchild is not None:
            check_count("maxtasksperchild", maxtasksperchild, 1, "None means no limit")
        if max_rss is not None:
            check_count("max_rss", max_rss, 1, "it is a number of bytes, such as 1 << 30; None means no limit")
        if max_age is not None:
            check_seconds("max_age", max_age)
        if stuck_after is not None:
            check_seconds("stuck_after", stuck_after)
        inner_threads = check_inner_threads(inner_threads)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer must be a callable, not {finalizer!r}")
        if max_processes is None:
            max_processes = max(ROOM_LEAST, ROOM_FACTOR * processes, ROOM_FACTOR * (os.cpu_count() or 1))
        else:
            check_count("max_processes", max_processes, processes, f"the pool starts with {processes}; None: see help")
        self._processes = processes
        engine: Engine | None = None
        try:
            with interrupts_deferred():  # until it is known how to end what has been started
                self._engine = engine = Engine(
                    processes,
                    self._make_process,
                    context=self._ctx,
                    initializer=initializer,
                    initargs=tuple(initargs),
                    limits=AgentLimits(maxtasksperchild, max_age, max_rss),
                    stuck_after_s=math.inf if stuck_after is None else stuck_after,
                    capacity=max_processes,
                    finalizer=finalizer,
                    finalargs=tuple(finalargs),
                    inner_threads=inner_threads,
                    logs=logs,
                    geometry=geometry,
                )
                self._state = RUN
                _pools.add(self)
                # At exit multiprocessing runs its finalizers, the highest priority first, before it joins children.
                engine.at_exit = multiprocessing.util.Finalize(None, engine.stop_at_exit, exitpriority=15)
                self._when_collected = weakref.finalize(self, engine.stop_collected)
                self._when_collected.atexit = False
        except BaseException:
            if engine is not None:  # interrupted, and the caller never gets this pool
                self._state = TERMINATE
                engine.terminate()
                engine.join()
            raise

    @property
    def _make_process(self) -> Callable[..., Any]:
        make, ctx = type(self).Process, self._ctx

        def make_process(**kwds: Any) -> Any:
            return make(ctx, **kwds)

        return make_process

    # -- what users see of the stock pool's inside ------------------------------------------------------------------

    @property
    def _pool(self) -> list[Any]:
        """The agents' process objects, as the stock pool has them."""
        return self._engine.crew.processes

    def _repopulate_pool(self) -> None:
        """The stock pool's worker-replacing step; agents are replaced by the engine as they leave."""

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __del__(self, _warn: Any = warnings.warn, _run: str = RUN) -> None:
        if getattr(self, "_state", None) == _run:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __enter__(self: _Self) -> _Self:  # noqa: PYI019  Self needs typing_extensions before 3.11
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.terminate()
        except KeyboardInterrupt:
            if not isinstance(exc_info[1], KeyboardInterrupt):
                raise
            # A second Ctrl-C, while the first one ends the pool, says nothing new: it gets no traceback of its own.
            self._engine.stop_at_exit()

    def _is_ours(self) -> bool:
        """Whether this is the process that made the pool."""
        return self._state != FOREIGN

    def _check_owner(self) -> None:
        if not self._is_ours():
            raise ValueError(
                "Pool not running: it belongs to the process that made it, a forked child makes its own"
                + ("; a task submits to its own pool by mpsteal.current_pool()" if here.running is not None else "")
            )

    def _check_running(self) -> None:
        self._check_owner()
        if self._state != RUN:
            raise ValueError("Pool not running")

    # -- submitting -------------------------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},  # the stock signature
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> _T:
        """Call `func(*args, **kwds)` in an agent and wait for its value."""
        if timeout is not None or retries:  # else as the stock pool calls it: a subclass's may take no more
            return self.apply_async(func, args, kwds, timeout=timeout, retries=retries).get()
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},  # the stock signature
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> AsyncResult[_T]:
        """Call `func(*args, **kwds)` in an agent; returns a handle at once.

        Args:
            func, args, kwds: what is called.
            callback, error_callback: run in a thread of the pool, before the handle is ready.
            timeout: seconds that the call may take, counted from its start in an agent; then the agent's process is
                ended, and the handle raises `TaskTimeoutError`. None: any time.
            retries: how often the call may run again if its agent dies of it; an exception is an answer, and so is the
                end of its time.

        Raises ValueError or TypeError when `timeout` is no positive number, or `retries` no whole number from 0 on.
        """
        if self._state != RUN:
            self._check_running()
        if timeout is not None or retries != 0:
            return self._apply_limited(func, args, kwds, callback, error_callback, Terms(None, timeout, retries))
        # Field by field, not by a constructor: one Python call less in the hottest path of the parent (0.2 us). The
        # call travels in its handle: each further object per task has the garbage collector come sooner (two tuples
        # more took 0.6 us).
        result: AsyncResult[_T] = _new_result(AsyncResult)
        result._pool = self
        result._callbacks = (callback, error_callback) if callback or error_callback else None
        frame: Any = sys._getframe(1)
        if frame.f_code is _APPLY_CODE:
            frame = frame.f_back
        result._code = frame.f_code
        result._instruction = frame.f_lasti
        result._function = func
        result._args = args
        result._kwds = kwds
        result._done = False
        result._waited = False
        engine = self._engine
        engine.pending.append(result)
        if engine.asleep:
            engine.wake()
        if engine.state != _ENGINE_RUN:
            engine.late()
        return result

    def _apply_limited(
        self, func: Any, args: Any, kwds: Any, callback: Any, error_callback: Any, terms: Terms
    ) -> AsyncResult[Any]:
        """`apply_async` of a call with terms."""
        result: LimitedResult[Any] = LimitedResult()
        result._pool = self
        result._callbacks = (callback, error_callback)
        frame: Any = sys._getframe(2)
        if frame.f_code is _APPLY_CODE:
            frame = frame.f_back
        result._code, result._instruction = frame.f_code, frame.f_lasti
        result._function, result._args, result._kwds = func, args, kwds
        result._done = result._waited = False
        result._terms = terms
        limits = self._engine.dispatcher.limits
        result._watched = limits.watched
        if terms.timeout_ns:
            limits.watch(result)
        self._engine.submit(result)
        return result

    # -- its size ---------------------------------------------------------------------------------------------------

    def resize(self, processes: int) -> None:
        """Go on with so many agents. Returns when those that are missing have been started, and those that are too many
        have been told to leave; it waits for neither.

        New agents take over what is queued at others as soon as they have run their initializer. Who leaves ends what
        it runs first, and others get its queue at once. Those leave first that do not get on or have nothing to do. Any
        thread.

        Raises:
            ValueError: `processes` is not a whole number from 1 to `max_processes`, or the pool is closed.
            OSError: the system refused a process, a descriptor or memory. Those started before stay.
        """
        self._check_running()
        most = self._engine.capacity
        check_count("processes", processes, 1, "an int")
        processes = operator.index(processes)
        if processes > most:
            raise ValueError(
                f"{processes} processes are more than this pool can have, {most}; see Pool(max_processes=)"
            )

        def resize() -> None:
            try:
                self._engine.resize(processes)
            finally:
                self._processes = self._engine.size  # here: of several threads the last one that was served decides

        try:
            self._engine.call(resize)
        except PoolTerminatedError:
            if self._engine.broken is not None:
                raise self._engine.broken from None
            raise

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work; agents leave when all is done."""
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End the agents now; pending handles raise `PoolTerminatedError`. Returns when all is gone."""
        if not self._is_ours():
            return
        self._state = TERMINATE
        self._engine.terminate()
        self._engine.join()
        self._when_collected.detach()

    def join(self) -> None:
        """Wait for the agents to leave. Raises ValueError unless `close` or `terminate` was called before."""
        self._check_owner()
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._engine.lift_limits()
        self._engine.join()
        self._when_collected.detach()

    def share(self, value: _T) -> Shared[_T]:
        """Put a large object into shared memory once, for tasks to read in place.

        Args:
            value: anything that can be pickled; its large buffers (numpy and Arrow arrays, pandas frames) are what
                is read in place, read-only. It is copied now; what becomes of it afterwards is not seen by tasks.

        Returns:
            A handle to send in its place, as an argument, inside others, or in a `functools.partial`. In a task its
            `value` is the object. The memory is freed with its last handle.

        Raises:
            ValueError: the pool has been closed or terminated.
            MemoryError: there is no shared memory for it.
            Whatever pickling it raises.
        """
        self._check_running()
        return self._engine.share(value)

    def stats(self) -> PoolStats:
        """What each agent has done so far, and what has gone wrong."""
        return stats_of(self._engine)


_APPLY_CODE = Pool.apply.__code__
"""`apply` goes by `apply_async`, which subclasses replace, and is not the place of the submit."""
