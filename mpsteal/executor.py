"""`Executor`: the contract of `concurrent.futures.ProcessPoolExecutor`, front door 2.

    from mpsteal import Executor        # was: from concurrent.futures import ProcessPoolExecutor

    with Executor() as executor:
        future = executor.submit(pow, 2, 10)
        urgent = executor.options(priority=5, timeout=60).submit(pow, 2, 11)

Agents start with the first call. What is better: an agent that dies costs the call that it ran and not the executor,
queued calls can be cancelled to the last, and `options`.

How it ends, and who waits for whom:

    shutdown      nothing new; all that was submitted is run (or cancelled), then the agents leave, then the engine ends
    dropped       the same, and nobody waits
    program ends  the same, waited for (`_finish_at_exit`, before `atexit`), unless Ctrl-C; then agents are ended
    forked child  has none of it: the executor is its parent's
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import multiprocessing.util
import operator
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as StockExecutor
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ._agent.launch import Balancing
from ._agent.shared import Shared
from ._engine.calls import PRIORITY, CallCollector, Calls
from ._engine.classes import CLASSES
from ._engine.cpus import usable_cpus
from ._engine.dispatch import name_of
from ._engine.future import PENDING
from ._engine.health import interrupts_deferred
from ._engine.loop import Engine
from ._engine.recycle import AgentLimits
from ._engine.schedule import LEVELS, LEVELS_PER_PRIORITY
from ._engine.surroundings import AUTO, check_inner_threads
from ._engine.terms import Terms
from ._engine.urgent import URGENT
from ._executor_future import ExecutorFuture
from ._executor_map import map_calls
from ._policy.rules import BalancingRules, MatchingRules, Rules, StealingRules
from .agents import Agent
from .errors import AgentStartError, BrokenProcessPool, DeadlineWarning
from .metrics import WorkStealingMetrics
from .stats import PoolStats, stats_of
from .tasks import check_priority, skill_set

if TYPE_CHECKING:
    import datetime
    from typing import ParamSpec

    from ._engine.records import AgentLook

    P = ParamSpec("P")

T = TypeVar("T")

_new_future = ExecutorFuture.__new__

ENTRIES = 64
"""Ranges that an agent holds per level, as in a Pool."""

RULES = Rules(
    stealing=StealingRules(max_tasks=0),
    balancing=BalancingRules(interval_s=1e6, severe_ratio=1e9),
    matching=MatchingRules(on_unmatched="error"),
)
"""As in a Pool: a steal takes half, and the parent moves nothing by itself. Agents are all there, so what none of them
can run is refused."""

_SHUT = "cannot schedule new futures after shutdown"
_AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_FOREIGN = "the executor belongs to the process that made it, and a forked child makes its own"

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Those that run live at least as long as their threads."""
_executors: weakref.WeakSet[Executor] = weakref.WeakSet()
_is_exiting = False


def _disown() -> None:
    for executor in list(_executors):
        executor._lock = threading.RLock()  # another thread may have held it
        if executor._engine is not None:
            executor._refusal = _FOREIGN


def _finish_at_exit() -> None:
    """The program ends: finish what was submitted, as the stock executor does."""
    global _is_exiting
    _is_exiting = True
    for executor in list(_executors):
        executor._refusal = executor._refusal or _AT_EXIT
    engines = [engine for engine in list(_engines) if engine.owner_pid == os.getpid()]
    for engine in engines:
        engine.close()
    for engine in engines:
        engine.join()


def _stop_at_exit(engine: Engine) -> None:
    """`multiprocessing` finalizes: in its children before anybody has finished, else where that was cut off (by Ctrl-C,
    say)."""
    try:
        if not _is_exiting and engine.owner_pid == os.getpid():
            _finish_at_exit()
    finally:
        engine.stop_at_exit()


os.register_at_fork(after_in_child=_disown)
try:
    # Not `atexit`: user's exit handlers come later, and children of `multiprocessing` run none.
    threading._register_atexit(_finish_at_exit)  # type: ignore[attr-defined]  # where the stock executor registers
except (AttributeError, RuntimeError):  # imported by an exit handler
    atexit.register(_finish_at_exit)


class Executor(StockExecutor):
    """A process pool with the contract of `concurrent.futures.ProcessPoolExecutor` (of Python 3.14, on all).

    Args:
        max_workers: how many agents (worker processes) at most; None: the CPUs this process may use (affinity and
            cgroup quota). Under fork all start with the first call, else one by one as there are calls for them.
        mp_context: a `multiprocessing` context, or the name of a start method; None: the default one, and spawn where
            `max_tasks_per_child` is given.
        initializer, initargs: called in each agent as it starts. If it raises, every pending and later call raises
            `AgentStartError`, which is a `BrokenProcessPool`.
        max_tasks_per_child: calls after which an agent is replaced by a fresh one; None: never.
        agents: in place of `max_workers`: one `Agent` for each process, with the skills that `options` can ask for.
        inner_threads, logs: as of a `Pool`.

    Raises:
        ValueError: `max_workers`, `max_tasks_per_child` or `inner_threads` is not above 0; the second does not go with
            fork.
        TypeError: an argument is of the wrong kind.
    """

    config = RULES
    """The rules that it goes by, as a scheduler's."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        agents: Iterable[Agent] | None = None,
        inner_threads: int | str | None = AUTO,
        logs: bool = True,
    ) -> None:
        self._inner_threads, self._logs = check_inner_threads(inner_threads), logs
        self._refusal = ""
        """Why nothing can be submitted; empty: it can."""
        self._engine: Engine | None = None
        self._lock = threading.RLock()
        """Held while the engine is made, and while it is decided that none will be."""
        self._is_starting = False
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if agents is not None and max_workers is not None:
            raise TypeError("give max_workers or agents, not both: there is one process for each agent")
        self._agents = None if agents is None else _check_agents(agents)
        if self._agents is not None:
            max_workers = len(self._agents)
        self._max_workers = usable_cpus() if max_workers is None else operator.index(max_workers)
        if self._max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if mp_context is None and max_tasks_per_child is not None:
            mp_context = "spawn"
        self._mp_context: Any = (
            multiprocessing.get_context(mp_context) if mp_context is None or isinstance(mp_context, str) else mp_context
        )
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if self._start_method() == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                    "supply a different mp_context."
                )
        self._initializer = None if initializer is None else _Initializer(initializer)
        self._initargs = tuple(initargs)
        self._max_tasks = max_tasks_per_child
        _executors.add(self)

    def _start_method(self) -> str:
        method: str = self._mp_context.get_start_method(allow_none=False)
        return method

    # -- the engine -----------------------------------------------------------------------------------------------

    def _ready(self) -> Engine:
        """The engine, started if need be; raises if nothing can be submitted any more."""
        engine = self._engine
        if engine is None and not self._refusal:
            with self._lock:
                if self._engine is None and not self._refusal:
                    if _is_exiting:
                        raise RuntimeError(_AT_EXIT)
                    if self._is_starting:
                        raise RuntimeError("a signal handler cannot submit while it interrupts the first submit")
                    self._is_starting = True
                    try:
                        self._start()
                    finally:
                        self._is_starting = False
                engine = self._engine
                if self._is_shut() and engine is not None:  # by a signal handler that interrupted the start
                    engine.close()
        if self._refusal:
            if engine is not None and engine.broken is not None and self._refusal != _FOREIGN:
                raise _as_broken(engine.broken) from engine.broken
            raise RuntimeError(self._refusal)
        assert engine is not None
        if engine.broken is not None:
            raise _as_broken(engine.broken) from engine.broken
        return engine

    def share(self, value: T) -> Shared[T]:
        """Put a large object into shared memory once, for calls to read in place; see `Pool.share`.

        Raises RuntimeError after `shutdown`, else what `Pool.share` raises.
        """
        return self._ready().share(value)

    def _is_shut(self) -> bool:
        return bool(self._refusal)

    def _start(self) -> None:
        rules = RULES
        balancing = Balancing(
            steals=True,
            steal_levels=tuple(range(LEVELS_PER_PRIORITY * (rules.order.protected_from - 1))),
            steal_tasks=rules.stealing.max_tasks,
            aging_tasks=rules.order.aging_tasks,
            levels_per_priority=LEVELS_PER_PRIORITY,
            ask_ms=max(1, round(rules.order.ask_s * 1000)),
            for_executor=True,
        )
        engine: Engine | None = None
        try:
            with interrupts_deferred():  # until it is known how to end what has been started
                engine = Engine(
                    self._max_workers,
                    self._mp_context.Process,
                    context=self._mp_context,
                    initializer=self._initializer,
                    initargs=self._initargs,
                    geometry={"levels": LEVELS, "entries": ENTRIES, "classes": CLASSES},
                    dispatcher=partial(Calls, rules=rules, metrics=WorkStealingMetrics()),
                    collector=CallCollector,
                    balancing=balancing,
                    what="the executor",
                    limits=AgentLimits(self._max_tasks, None, None),
                    inner_threads=self._inner_threads,
                    logs=self._logs,
                    agents_expected=self._max_workers,
                )
                calls = engine.dispatcher
                assert isinstance(calls, Calls)
                if self._agents is None:
                    calls.recruits.extend((slot, frozenset()) for slot in range(self._max_workers))
                else:
                    calls.recruits.extend((agent.agent_id, agent.capabilities) for agent in self._agents)
                # A fork copies whatever other threads do meanwhile: rather now, as the stock executor does.
                together = self._agents is not None or self._start_method() == "fork"
                hired = engine.call(partial(calls.hire, self._max_workers if together else 1))
                engine.at_exit = multiprocessing.util.Finalize(None, _stop_at_exit, (engine,), exitpriority=15)
                finalizer = weakref.finalize(self, _finish_collected, engine)
                finalizer.atexit = False
                _engines.add(engine)
                self._engine = engine
                self._initializer, self._initargs = None, ()  # the engine has them, until it ends
                for agent, place in zip(self._agents or (), hired, strict=False):
                    agent._slot, agent._registration = place
                    agent._scheduler = self
        except BaseException:
            if engine is not None:
                engine.terminate()
                engine.join()
                self._engine = None
            raise

    def _look(self, agent: Agent) -> AgentLook | None:
        """One look at one of `agents`; None when it is gone."""
        engine = self._engine
        if engine is None or engine.ended.is_set():
            return None
        assert isinstance(engine.dispatcher, Calls)
        return engine.dispatcher.roster.look(agent._slot, agent._registration)

    def stats(self) -> PoolStats:
        """What each agent has done so far, and what has gone wrong, as `Pool.stats`."""
        return PoolStats(()) if self._engine is None else stats_of(self._engine)

    # -- what users see of the stock executor's inside --------------------------------------------------------------

    @property
    def _processes(self) -> dict[int, Any] | None:
        """The agents' process objects, by pid."""
        engine = self._engine
        if engine is None:
            return {} if not self._refusal else None
        if engine.owner_pid == os.getpid() and isinstance(engine.dispatcher, Calls):
            with contextlib.suppress(BrokenProcessPool):
                engine.call(lambda: None)  # what was submitted before is looked at after it, at the latest
                engine.call(engine.dispatcher.hire_wanted)
        return {process.pid: process for process in engine.crew.processes}

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        """The engine's thread, until `shutdown`."""
        return None if self._engine is None or self._refusal else self._engine.thread

    @property
    def _broken(self) -> str | bool:
        """Why it is broken; False: it is not."""
        engine = self._engine
        return False if engine is None or engine.broken is None else str(_as_broken(engine.broken))

    def __reduce__(self) -> Any:
        raise TypeError("an executor cannot be passed between processes or pickled")

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn(*args, **kwargs)` in an agent; returns its future at once.

        The future's `result()` raises what the call raised, or:
            AgentDiedError: the agent died while it ran this call (a `BrokenProcessPool`).
            TransferError: its arguments, or its result, could not be unpickled (a `BrokenProcessPool`).
            CancelledError: it was cancelled before it was started.

        Raises:
            RuntimeError: after `shutdown`, at the end of the program, in a forked child of the process that made it.
            AgentStartError: agents cannot start, or their initializer raised (a `BrokenProcessPool`).
            OSError: the system refuses a process, a descriptor or memory, at the first call.
        """
        engine = self._engine
        if engine is None or self._refusal or engine.broken is not None:
            engine = self._ready()
        # Field by field, not by a constructor: this is paid for every call.
        future = _new_future(ExecutorFuture)
        future._function = fn
        future._args = args
        future._kwds = kwargs
        future._home = engine.dispatcher
        future._state = PENDING
        future._result = future._exception = future._watch = None
        engine.pending.append(future)
        if engine.asleep:
            engine.wake()
        if engine.state:
            engine.late()
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """`map(fn, *iterables)` over the agents, in order.

        Args:
            fn: takes as many arguments as there are iterables.
            iterables: read whole at once, unless there is a `buffersize`.
            timeout: seconds from now until the last result; then the iterator raises `TimeoutError`.
            chunksize: items that travel and run together.
            buffersize: chunks that are submitted and not yet fetched, at most; the rest of the input is read as results
                are fetched, so that it may have any length. None: no limit.

        An iterator that ends early, by an error or by `close()`, cancels what has not started.

        Raises ValueError or TypeError for a `chunksize` or `buffersize` that is no whole number above 0, and what
        `submit` raises.
        """
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def options(
        self,
        *,
        priority: int = PRIORITY,
        skills: Iterable[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        deadline: float | datetime.datetime | None = None,
    ) -> ExecutorView:
        """The same executor for calls that ask for more, with `submit` and `map` of its own.

        Args:
            priority: 1 (lowest) to 5. From 4 on calls are protected: not stolen, and only for agents that have every
                skill by name. Calls of an executor without options have 3.
            skills: that an agent must have to run them; see `agents` of the executor.
            timeout: seconds that each call may run, from its start on; then it is ended together with its agent's
                process, and its future raises `TaskTimeoutError`. Of a `map` with a `chunksize`: each chunk.
            retries: how often it may run again when its agent dies. An exception that it raises is its outcome.
            deadline: seconds from the submission on, or a `datetime`; earlier ones come first within their priority.

        Raises TypeError or ValueError for arguments of the wrong kind, or out of their range.
        """
        return ExecutorView(self, priority, skills, timeout, retries, deadline)

    # -- the end --------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; agents leave when all is done.

        Args:
            wait: return when all futures are done and all agents have left.
            cancel_futures: cancel all calls that no agent has started, nor is free to start.
        """
        with self._lock:
            self._refusal = self._refusal or _SHUT
        engine = self._engine
        if engine is None or engine.owner_pid != os.getpid():
            return
        if cancel_futures:
            with contextlib.suppress(BrokenProcessPool):  # it has ended
                engine.call(engine.dispatcher.cancel_rest)  # type: ignore[attr-defined]
        engine.close()
        if wait:
            engine.join()

    def terminate_workers(self) -> None:
        """End the agents with SIGTERM (after 0.2 s SIGKILL), cancel what they have not started, and take nothing more.

        Running calls raise `AgentDiedError`. Returns at once.
        """
        self._end("terminate_workers", signal.SIGTERM)

    def kill_workers(self) -> None:
        """The same with SIGKILL."""
        self._end("kill_workers", signal.SIGKILL)

    def _end(self, how: str, number: int) -> None:
        with self._lock:
            self._refusal = self._refusal or _SHUT
        engine = self._engine
        if engine is None or engine.owner_pid != os.getpid():
            return
        with contextlib.suppress(BrokenProcessPool):  # it has ended
            engine.call(partial(engine.dispatcher.end_all, how, number))  # type: ignore[attr-defined]
        engine.terminate()


class ExecutorView(StockExecutor):
    """An executor for calls with options; made by `Executor.options`. It shares the executor's agents.

    It owns nothing: `shutdown`, and the end of a `with`, leave the executor as it is.
    """

    def __init__(
        self,
        executor: Executor,
        priority: int,
        skills: Iterable[str],
        timeout: float | None,
        retries: int,
        deadline: float | datetime.datetime | None,
    ) -> None:
        check_priority(priority)
        self._executor = executor
        self._priority, self._skills = priority, skill_set("skills", skills)
        self._deadline, self._timeout, self._retries = deadline, timeout, retries
        terms = Terms(deadline, timeout, retries)  # here: what is wrong is told at once
        self._has_terms = bool(timeout is not None or retries or deadline is not None)
        self._shared_terms = terms if timeout is not None and not retries and deadline is None else None
        """Those of all its calls, where nothing of them changes."""
        self._place: tuple[Engine, int] | None = None
        """The executor's engine, and what it calls this priority and these skills."""

    @property
    def _max_workers(self) -> int:
        return self._executor._max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """`Executor.submit`, with the options.

        Raises also `UnmatchedTaskError`: no agent of the executor has the skills.
        """
        executor = self._executor
        engine = executor._engine
        if engine is None or executor._refusal or engine.broken is not None:
            engine = executor._ready()
        if self._place is None or self._place[0] is not engine:
            self._place = engine, self._find_place(engine, name_of(fn))
        future = _new_future(ExecutorFuture)
        future._function, future._args, future._kwds = fn, args, kwargs
        future._home = engine.dispatcher
        future._begin()
        future._group = self._place[1]
        future._ready_ns = time.monotonic_ns()
        if self._has_terms:
            future.name, future.id = name_of(fn), next(_numbers)
            future._terms = self._shared_terms or self._new_terms(future)
            if self._deadline is not None:
                future._group |= URGENT
        engine.submit(future)
        return future

    def _find_place(self, engine: Engine, name: str) -> int:
        calls = engine.dispatcher
        assert isinstance(calls, Calls)

        def find() -> int:
            calls.is_mixed = True
            return calls.place_of(self._priority, self._skills, refused=name)

        place: int = engine.call(find)
        return place

    def _new_terms(self, future: ExecutorFuture) -> Terms:
        terms = Terms(self._deadline, self._timeout, self._retries)
        terms.submitted(future._ready_ns)
        if terms.deadline_ns and terms.deadline_ns <= future._ready_ns:
            terms.at_risk = True
            warnings.warn(f"the deadline of a call of {future.name} has passed", DeadlineWarning, stacklevel=3)
        return terms

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """`Executor.map`, with the options; `timeout` is that of the iterator here, too."""
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing: the agents are the executor's."""


_numbers = itertools.count(1)


class _Initializer:
    """Tells of an initializer that raised where the stock executor does: in the agent's log, `concurrent.futures`."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        try:
            self._function(*args)
        except BaseException:
            import logging

            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            raise


def _check_agents(agents: Iterable[Agent]) -> list[Agent]:
    found = list(agents)
    for agent in found:
        if not isinstance(agent, Agent):
            raise TypeError(f"agents must be a collection of Agent, not {agent!r}")
    if not found:
        raise ValueError("agents must not be empty")
    if len({agent.agent_id for agent in found}) < len(found):
        raise ValueError("two agents have the same id")
    for agent in found:
        agent._claim()
    return found


def _as_broken(error: BaseException) -> BaseException:
    """What a call gets that comes when nothing can be saved."""
    return AgentStartError(str(error)) if isinstance(error, BrokenProcessPool) else BrokenProcessPool(repr(error))


def _finish_collected(engine: Engine) -> None:
    """The executor was dropped: finish what was submitted. In any thread, the engine's included: do not wait."""
    if os.getpid() == engine.owner_pid:
        engine.close()
