"""`WorkStealingScheduler`: agents with capabilities, tasks with skills, priorities, dependencies and deadlines; front
door 3.

    scheduler = WorkStealingScheduler()
    scheduler.start()
    scheduler.register_agent(Agent("worker_1", ["python"]))
    task = scheduler.submit_task(Task("analysis", ["python"], fn=analyse, args=(path,)))
    task.result()
    scheduler.stop()

The same engine as a Pool's stands behind it. Every method may be called from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import resource
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, TypeVar, overload

from ._agent.launch import Balancing
from ._agent.marker import reached
from ._agent.shared import Shared
from ._engine.balance import Rebalancing
from ._engine.classes import CLASSES
from ._engine.collect_tasks import TaskCollector
from ._engine.events import facts
from ._engine.health import interrupts_deferred
from ._engine.loop import Engine
from ._engine.records import AgentLook
from ._engine.recycle import AgentLimits
from ._engine.schedule import LEVELS, LEVELS_PER_PRIORITY, Scheduling
from ._engine.surroundings import AUTO
from ._engine.terms import NO_TERMS
from ._engine.urgent import URGENT
from ._overview import overview
from .agents import Agent
from .config import Config, load_config
from .dependencies import check_circles, find_dependencies
from .errors import DeadlineWarning
from .metrics import Sampler, WorkStealingMetrics
from .tasks import HIGHEST, LOWEST, Task, check_priority, skill_set

_T = TypeVar("_T")

logger = logging.getLogger("mpsteal")

ENTRIES = 64
"""Ranges that an agent holds per level, as in a Pool."""


_schedulers: weakref.WeakSet[WorkStealingScheduler] = weakref.WeakSet()


def _disown() -> None:
    for scheduler in list(_schedulers):
        scheduler._state = "foreign"


os.register_at_fork(after_in_child=_disown)


class WorkStealingScheduler:
    """A load balancer for agents that differ, on one machine.

    Args:
        config: a path to a YAML file, a mapping, a `Config`, or None for the defaults. Single keys by keyword, sections
            joined with two underscores: `WorkStealingScheduler(strategy="pull", balancing__interval_s=5)`.
        initializer, initargs: called in each agent's process as it starts. If it raises, every task raises that.
        finalizer, finalargs: called there as it leaves in order: at `stop`, when it is removed (with `drain`), when it
            is replaced by rule; not where it dies or is ended. What it raises is logged.
        context: a `multiprocessing` context, or the name of a start method; None: the default one.

    Raises:
        ConfigError: the configuration is wrong; it says where and how.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        finalizer: Callable[..., Any] | None = None,
        finalargs: Iterable[Any] = (),
        context: BaseContext | str | None = None,
        geometry: dict[str, int] | None = None,
        **overrides: Any,
    ) -> None:
        self.config: Config = load_config(config, **overrides)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer must be a callable, not {finalizer!r}")
        self._initializer, self._initargs = initializer, tuple(initargs)
        self._finalizer, self._finalargs = finalizer, tuple(finalargs)
        self._ctx: Any = (
            multiprocessing.get_context(context) if context is None or isinstance(context, str) else context
        )
        self._geometry = geometry or {}
        self._state = "new"
        self._lifecycle = threading.RLock()
        """Held while it starts, and while agents are registered before."""
        self._agents: dict[str, Agent] = {}
        self._leaving: list[Agent] = []
        """Agents that were removed and are not gone yet."""
        self._tasks: dict[int, Task[Any]] = {}
        self._places: dict[int, dict[frozenset[str], int]] = {p: {} for p in range(LOWEST, HIGHEST + 1)}
        """What the engine calls the level and class of tasks without a deadline, by priority and skills."""
        self._refuses_unmatched = self.config.matching.on_unmatched == "error"
        self.metrics = WorkStealingMetrics()

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> WorkStealingScheduler:
        """Start the engine; agents start as they are registered. Once only.

        Raises RuntimeError after `stop`, OSError when the system refuses descriptors or memory.
        """
        with self._lifecycle:
            return self._start()

    def _start(self) -> WorkStealingScheduler:
        if self._state == "running":
            return self
        if self._state != "new":
            raise RuntimeError("a scheduler starts once; make a new one")
        rules = self.config
        protected_level = LEVELS_PER_PRIORITY * (rules.order.protected_from - 1)
        balancing = Balancing(
            steals=rules.strategy != "push",
            steal_levels=tuple(range(protected_level)),
            steal_tasks=rules.stealing.max_tasks,
            aging_tasks=rules.order.aging_tasks,
            levels_per_priority=LEVELS_PER_PRIORITY,
            ask_ms=max(1, round(rules.order.ask_s * 1000)),
        )
        self.metrics.started_at = time.time()
        engine: Engine | None = None
        try:
            with interrupts_deferred():  # until it is known how to end what has been started
                self._engine = engine = Engine(
                    min(rules.agents.max_agents, _affordable_slots()),
                    self._ctx.Process,
                    context=self._ctx,
                    initializer=self._initializer,
                    initargs=self._initargs,
                    finalizer=self._finalizer,
                    finalargs=self._finalargs,
                    geometry={"levels": LEVELS, "entries": ENTRIES, "classes": CLASSES, **self._geometry},
                    dispatcher=partial(Scheduling, rules=rules, metrics=self.metrics),
                    collector=TaskCollector,
                    balancing=balancing,
                    what="the scheduler",
                    limits=AgentLimits(
                        rules.agents.max_tasks or None,
                        rules.agents.max_age_s or None,
                        rules.agents.max_rss_bytes or None,
                    ),
                    stuck_after_s=rules.agents.stuck_after_s,
                    inner_threads={0: AUTO, -1: None}.get(rules.agents.inner_threads, rules.agents.inner_threads),
                    logs=rules.agents.logs,
                    agents_expected=len(self._agents),
                )
                assert isinstance(engine.dispatcher, Scheduling)
                self._dispatcher: Scheduling = engine.dispatcher
                self._tasks = self.metrics.unfinished = engine.dispatcher.unfinished
                engine.at_exit = multiprocessing.util.Finalize(
                    None, _stop_at_exit, (engine, engine.dispatcher.unfinished), exitpriority=15
                )
                self._sampler = Sampler(self.metrics, _make_look(self), rules.metrics.sample_s)
                self._when_collected = weakref.finalize(self, _stop_collected, engine, self._sampler)
                self._when_collected.atexit = False
        except BaseException:
            if engine is not None:  # interrupted
                engine.terminate()
                engine.join()
            raise
        self._state = "running"
        _schedulers.add(self)
        for agent in list(self._agents.values()):
            self._start_agent(agent)
        return self

    def stop(self, drain: bool = True) -> None:
        """End the scheduler and its agents. Returns when all is gone.

        Args:
            drain: finish what was submitted first. Tasks that no agent can run get `UnmatchedTaskError`. Without it
                pending tasks get `PoolTerminatedError`, and running ones are ended. Where the wait is interrupted (by
                Ctrl-C, say), work goes on; `stop(drain=False)` ends it, as `with` does then.
        """
        if self._state in ("new", "stopped"):
            self._state = "stopped"
            return
        if self._state == "foreign":
            return
        self._state = "stopping"
        engine = self._engine
        if drain:
            with contextlib.suppress(Exception):
                engine.call(self._drain)
            engine.close()
        else:
            engine.terminate()
        engine.join()
        self._sampler.stop()
        self.metrics.stopped_at = time.time()
        self._when_collected.detach()
        self._state = "stopped"

    def _drain(self) -> None:
        self._dispatcher.is_draining = True

    def __enter__(self) -> WorkStealingScheduler:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.stop(drain=exc_info[0] is None)
        except BaseException as error:  # Ctrl-C, while it waited for the tasks to end
            self.stop(drain=False)
            # A second one says nothing new, and gets no traceback of its own.
            if not (isinstance(error, KeyboardInterrupt) and isinstance(exc_info[1], KeyboardInterrupt)):
                raise

    def __repr__(self) -> str:
        return f"<WorkStealingScheduler {self._state}, {len(self._agents)} agents, {len(self._tasks)} tasks>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("a scheduler cannot be passed between processes or pickled")

    def __del__(self) -> None:
        if getattr(self, "_state", "") == "running":
            warnings.warn(f"unclosed running {self!r}", ResourceWarning, source=self, stacklevel=2)

    def share(self, value: _T) -> Shared[_T]:
        """Put a large object into shared memory once, for tasks to read in place; see `Pool.share`.

        Raises RuntimeError when the scheduler is not running, else what `Pool.share` raises.
        """
        return self._running().share(value)

    def _running(self) -> Engine:
        if self._state != "running":
            hints = {
                "new": "start() it first",
                "stopped": "make a new one",
                "foreign": "it belongs to the process that started it, and a forked child makes its own",
            }
            hint = hints.get(self._state, "it is stopping")
            raise RuntimeError(f"the scheduler is not running; {hint}")
        return self._engine

    # -- agents ---------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The registered agents, by id."""
        return MappingProxyType(dict(self._agents))

    def register_agent(self, agent: Agent) -> Agent:
        """Start a process for an agent, and place the tasks that waited for one like it.

        At any time; before `start` the agent starts with the scheduler.

        Raises:
            ValueError: there is an agent of that id, or no room for another (`agents.max_agents`).
            OSError: the system refuses a process.
        """
        if not isinstance(agent, Agent):
            raise TypeError(f"an Agent is wanted, not {agent!r}")
        agent._claim()
        try:
            with self._lifecycle:
                if self._state == "new":
                    if agent.agent_id in self._agents:
                        raise ValueError(f"there is an agent {agent.agent_id!r} already")
                    self._agents[agent.agent_id] = agent
                    return agent
            self._running().call(partial(self._register, agent))
        except BaseException:
            agent._unclaim()
            raise
        return agent

    def _start_agent(self, agent: Agent) -> None:
        try:
            self._engine.call(partial(self._register, agent))
        except BaseException:
            self.stop(drain=False)
            raise

    def _register(self, agent: Agent) -> None:
        """Engine thread."""
        before = self._agents.setdefault(agent.agent_id, agent)
        if before is not agent:
            hint = "" if self._is_there(before) else ", though it is gone: remove_agent() it first"
            raise ValueError(f"there is an agent {agent.agent_id!r} already{hint}")
        try:
            agent._slot, agent._registration = self._dispatcher.roster.add(agent.agent_id, agent.capabilities)
        except BaseException:
            del self._agents[agent.agent_id]
            raise
        agent._scheduler = self

    def remove_agent(self, agent_id: str | Agent, drain: bool = True) -> None:
        """Let an agent go; others get what is queued there. Returns at once.

        Args:
            drain: it finishes what it runs, and what nobody else can run. Without it its process is ended, and the task
                that it runs gets `AgentDiedError` or another try.

        Raises KeyError when there is no such agent.
        """
        engine = self._running()
        name = agent_id.agent_id if isinstance(agent_id, Agent) else agent_id

        def remove() -> None:
            agent = self._agents.pop(name, None)
            if agent is None:
                # One that leaves in its own time may still be hurried.
                agent = next((left for left in self._all_agents() if left.agent_id == name and not drain), None)
            if agent is None:
                raise KeyError(f"there is no agent {name!r}")
            if self._is_there(agent):
                # A new list, by this thread alone: others read it meanwhile.
                self._leaving = [left for left in self._leaving if left is not agent and self._is_there(left)] + [agent]
                self._dispatcher.roster.remove(agent._slot, drain=drain)

        engine.call(remove)

    def request_work(self, agent_id: str | Agent) -> Rebalancing:
        """Have an agent get up to `balancing.max_tasks` from the busiest that has more, and something for it.

        Raises KeyError when there is no such agent.
        """
        engine = self._running()
        agent_id = agent_id.agent_id if isinstance(agent_id, Agent) else agent_id
        agent, dispatcher = self._agents.get(agent_id), self._dispatcher
        if agent is None:
            raise KeyError(f"there is no agent {agent_id!r}")
        slot = agent._slot

        def feed() -> Rebalancing:
            # The slot of one that died and was not replaced may be another's.
            return dispatcher.balancer.feed(slot if self._is_there(agent) else -1)

        return engine.call(feed)  # type: ignore[no-any-return]

    def rebalance(self) -> Rebalancing:
        """One cycle of rebalancing now, whatever the strategy; tells what it moved."""
        engine = self._running()
        return engine.call(self._dispatcher.balancer.cycle)  # type: ignore[no-any-return]

    # -- tasks ----------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> Mapping[int, Task[Any]]:
        """The tasks that are not over, by id."""
        return MappingProxyType(dict(self._tasks))

    def submit_task(self, task: Task[_T]) -> Task[_T]:
        """Hand a task in; returns it, since it is the future for its result.

        Raises:
            RuntimeError: the scheduler is not running.
            ValueError: the task was submitted before, or depends on an id that nobody knows.
            UnmatchedTaskError: no registered agent can run it, and `matching.on_unmatched` is "error".

        Warns:
            DeadlineWarning: its deadline cannot be met.
        """
        if self._state != "running":
            self._running()
        self._prepare(task, None)
        self._tasks[task.id] = task
        engine = self._engine
        engine.pending.append(task)
        if engine.asleep:
            engine.wake()
        if engine.state:
            engine.late()
        return task

    @overload
    def submit_tasks(self, tasks: Iterable[Task[_T]]) -> list[Task[_T]]: ...

    @overload
    def submit_tasks(self, tasks: Iterable[Task[Any]]) -> list[Task[Any]]: ...

    def submit_tasks(self, tasks: Iterable[Task[Any]]) -> list[Task[Any]]:
        """Hand many tasks in, in any order of their dependencies; returns them as a list. All or none.

        Raises what `submit_task` raises, and ValueError when they depend on each other in a circle.
        """
        engine = self._running()
        if isinstance(tasks, Task):
            raise TypeError("submit_tasks takes a collection of tasks; submit_task takes one")
        tasks = list(tasks)
        for task in tasks:
            if not isinstance(task, Task):
                raise TypeError(f"a Task is wanted, not {task!r}")
        group = {task.id: task for task in tasks}
        if len(group) < len(tasks):
            raise ValueError("the same task is there twice")
        check_circles(group)
        prepared: list[Task[Any]] = []
        try:
            for task in tasks:
                self._prepare(task, group)
                prepared.append(task)
        except BaseException:
            for task in prepared:
                task._home = None
            raise
        self._tasks.update(group)
        engine.pending.extend(tasks)
        if engine.asleep:
            engine.wake()
        if engine.state:
            engine.late()
        return tasks

    def _prepare(self, task: Task[Any], group: Mapping[int, Task[Any]] | None) -> None:
        """Check one task and make it ready for the engine."""
        if not isinstance(task, Task):
            raise TypeError(f"a Task is wanted, not {task!r}; submit_tasks takes many")
        if task._home is not None:
            raise ValueError(f"{task!r} was submitted before; a task runs once")
        task._home = self  # at once: of two threads that submit it one is refused
        try:
            try:
                place = self._places[task.priority][task.skill_requirements]
            except (KeyError, TypeError):
                place = self._find_place(task)
            links, terms = task._links, task._terms
            if links is not None:
                links.waits_for = find_dependencies(task, group or {}, self, self._dispatcher)
            task._function, task._args, task._kwds = task.fn or reached, task.args, task.kwargs
            task._group, task._ready_ns = place, time.monotonic_ns()
            if terms is not NO_TERMS:
                terms.submitted(task._ready_ns)
                if terms.deadline is not None:
                    task._group = place | URGENT
                    self._check_deadline(task)
        except BaseException:  # it is not submitted; a warning may be an error, too
            task._home = None
            raise

    def _find_place(self, task: Task[Any]) -> int:
        """The level and class of a task without a deadline, as the engine's `_group`. Kept for the next of that
        priority and skills."""
        check_priority(task.priority)  # they may have been set since the task was made
        skills = task.skill_requirements = skill_set("skill_requirements", task.skill_requirements)
        place_of = partial(self._dispatcher.place_of, task.priority, skills)
        if self._refuses_unmatched:  # agents come and go: asked each time
            return self._engine.call(partial(place_of, refused=task.name))  # type: ignore[no-any-return]
        known = self._dispatcher.known_place_of(task.priority, skills)
        place: int = self._engine.call(place_of) if known is None else known
        self._places[task.priority][skills] = place
        return place

    def _check_deadline(self, task: Task[Any]) -> None:
        """Tell if the deadline cannot be met: it has passed, or the task alone takes longer."""
        left_s = (task._terms.deadline_ns - task._ready_ns) / 1e9
        if left_s > (task.cost or 0.0):
            return
        why = "has passed" if left_s <= 0 else f"is {left_s:.3g} s away, and the task takes about {task.cost:.3g} s"
        warnings.warn(f"the deadline of task {task.name!r} {why}", DeadlineWarning, stacklevel=4)
        task._terms.at_risk = True

    def cancel(self, task: Task[Any] | int) -> bool:
        """Withdraw a task that has not started; True means that it never runs.

        Raises KeyError for an id that is not that of an unfinished task.
        """
        if isinstance(task, Task):
            return task.cancel()
        if not isinstance(task, int):
            raise TypeError(f"a Task or the id of one is wanted, not {task!r}")
        found = self._tasks.get(task)
        if found is None:
            raise KeyError(f"there is no unfinished task {task}")
        return found.cancel()

    def wait_all(self, timeout: float | None = None) -> bool:
        """Wait until every task that was submitted before this call is over.

        False when `timeout` seconds passed first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # The last first: when it is over, most of the others are, and need no lock to wait at.
        for task in reversed(list(self._tasks.values())):
            with contextlib.suppress(CancelledError):
                try:
                    task.exception(None if deadline is None else max(0.0, deadline - time.monotonic()))
                except FutureTimeoutError:
                    return False
        return True

    # -- looking --------------------------------------------------------------------------------------------------

    def get_metrics(self) -> dict[str, Any]:
        """Everything that is measured, as plain data that `json.dumps` takes.

        The keys: docs/reference/scheduler-metrics.md.
        """
        if not hasattr(self, "_dispatcher"):
            return overview(self.config, self.metrics, [], [], held=0)
        agents = [
            (agent, look, record)
            for agent in self._all_agents()
            if (look := self._look(agent)) is not None
            and (record := self._dispatcher.roster.record_of(agent._slot, agent._registration)) is not None
        ]
        return overview(self.config, self.metrics, self._engine.status(), agents, held=self._dispatcher.urgent.count)

    def _all_agents(self) -> list[Agent]:
        """Those that were removed and may still be there first: a new one may have the id of one of them."""
        return [*(agent for agent in self._leaving if self._is_there(agent)), *list(self._agents.values())]

    def _is_there(self, agent: Agent) -> bool:
        """Whether its slot is its own still."""
        return self._dispatcher.roster.record_of(agent._slot, agent._registration) is not None

    def _look(self, agent: Agent) -> AgentLook | None:
        """One look at an agent; None when it is gone."""
        if self._state in ("new", "stopped") or agent._slot < 0:
            return None
        return self._dispatcher.roster.look(agent._slot, agent._registration)

    def _is_running(self, task: Task[Any]) -> bool:
        """Whether some agent runs this task right now."""
        return any((row := self._look(agent)) is not None and row.current_task is task for agent in self._all_agents())


def _make_look(scheduler: WorkStealingScheduler) -> Callable[[], list[tuple[str, int, int, int]]]:
    """What the sampler looks at; does not keep the scheduler alive."""
    reference = weakref.ref(scheduler)

    def look() -> list[tuple[str, int, int, int]]:
        scheduler = reference()
        if scheduler is None:
            return []
        rows = [(name, scheduler._look(agent)) for name, agent in list(scheduler._agents.items())]
        return [(name, row.pid, row.busy_ns, row.queue_length) for name, row in rows if row is not None and row.pid]

    return look


def _stop_at_exit(engine: Engine, unfinished: dict[int, Task[Any]]) -> None:
    left = sum(task.fn is not None for task in list(unfinished.values()))
    if left and os.getpid() == engine.owner_pid:
        logger.warning(
            "mpsteal: the program ends and %d tasks of a scheduler are not over; stop() and `with` wait for them",
            left,
            extra=facts("exit_with_tasks"),
        )
    engine.stop_at_exit()


def _affordable_slots() -> int:
    """Slots whose descriptors (a doorbell, a lock, a results pipe: five) leave the program half of all it may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(1, soft // 2 // 5)


def _stop_collected(engine: Engine, sampler: Sampler) -> None:
    engine.stop_collected()
    sampler.stop(wait=False)
