"""`Task` and `Agent`, as the scheduler takes them.

A task is one object from its making to its end: what to run and on whom, then the future for its result, and what the
engine carries around. A handle beside it would double what a pending task costs, in time and in memory.
"""

from __future__ import annotations

import datetime
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import _base as futures
from typing import TYPE_CHECKING, Any

from ._agent.marker import reached
from ._engine.dispatch import explain_pickling
from .errors import TaskCancelledError

if TYPE_CHECKING:
    from .scheduler import WorkStealingScheduler

LOWEST, HIGHEST = 1, 5

_ids = itertools.count(1)
_WALL_NS = time.time_ns() - time.monotonic_ns()


def _epoch(monotonic_ns: int) -> float | None:
    """Seconds since the epoch, of a point on the monotonic clock; None for 0."""
    return (monotonic_ns + _WALL_NS) / 1e9 if monotonic_ns else None


EPOCH_S = 1e9
"""A deadline of more seconds is taken for a point in time that was given by mistake (30 years)."""

SKILL_SETS_KEPT = 10_000

_skill_sets: dict[tuple[str, ...], frozenset[str]] = {}
"""One object for each spelling of a set of skills: most tasks ask for the same few, and a set of its own takes a task
216 bytes, and the garbage collector half a microsecond. At most `SKILL_SETS_KEPT`."""


def _skills(what: str, skills: Iterable[str]) -> frozenset[str]:
    if isinstance(skills, str):
        raise TypeError(f"{what} must be a collection of words, not one string; write [{skills!r}]")
    try:
        key = tuple(skills)
    except TypeError:
        raise TypeError(f"{what} must be a collection of words, not {skills!r}") from None
    found = _skill_sets.get(key)
    if found is not None:
        return found
    found = frozenset(key)
    if not all(type(skill) is str and skill for skill in found):
        raise TypeError(f"{what} must be words that are not empty, not {skills!r}")
    if len(_skill_sets) < SKILL_SETS_KEPT:
        _skill_sets[key] = found
    return found


class Task(Future):  # type: ignore[type-arg]  # its result can be anything
    """One call with what it asks for, and, once submitted, the `concurrent.futures.Future` for its result.

    So `wait`, `as_completed` and asyncio's `wrap_future` take it, and `cancel` withdraws it if it has not started.

    Args:
        name: for people; need not be unique.
        skill_requirements: skills that an agent must have to run it (words).
        priority: 1 (lowest) to 5. From 4 on (`order.protected_from`) it is protected: not stolen, and only for agents
            that have every skill by name.
        dependencies: tasks, or ids of tasks, that must have succeeded before.
        fn, args, kwargs: the call. Without `fn` the task is a marker, which ends when an agent reaches it. Where an
            argument is itself a task, the call gets that one's result, and it is a dependency.
        deadline: seconds from the submission on, or a `datetime` (without a time zone: local time).
        timeout: seconds that it may run, from its start on; then it is ended together with its agent's process.
        retries: how often it may run again when its agent dies. What it had done by then stays done.
        cost: about how many seconds it takes, if you know; used to tell whether a deadline can be met.

    Attributes:
        id: a number that no other task of this process has.
        deadline_missed: whether the deadline has passed before the task was over.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, or out of its range.

    A `Future` makes its lock at once (3 us, as much as all the rest of a task). Here that is done when somebody first
    looks. Engine and waiter meet at steps that the interpreter does not divide:

        engine: 1 _settling := True   2 takes the lock out of `_conditions`   3 none there: stores, else under it
        waiter: 1 puts a lock there   2 looks at _settling                    3 True: waits for the state to follow

    If the waiter sees False, the engine's step 2 is still to come, and finds the lock. What it found it shows in
    `_seen_condition` before it waits for it: whoever holds the lock asks for it again, to give it back.
    """

    __slots__ = (
        "_agent",
        "_args",
        "_assigned_ns",
        "_callback_list",
        "_completed_ns",
        "_created_ns",
        "_deadline_ns",
        "_dependents",
        "_exception",
        "_function",
        "_group",
        "_is_finished",
        "_kwds",
        "_linked",
        "_ready_ns",
        "_result",
        "_retries",
        "_scheduler",
        "_seen_condition",
        "_seq",
        "_settling",
        "_started_ns",
        "_state",
        "_timeout_ns",
        "_waiter_list",
        "_waits",
        "_waits_for",
        "args",
        "cost",
        "deadline",
        "deadline_missed",
        "dependencies",
        "fn",
        "id",
        "kwargs",
        "name",
        "priority",
        "retries",
        "skill_requirements",
        "timeout",
    )

    _done = False
    _callbacks = ()
    """What the collector looks at in a Pool's results: here it always goes by `_resolve`."""

    def __init__(
        self,
        name: str,
        skill_requirements: Iterable[str] = (),
        priority: int = 3,
        dependencies: Iterable[Any] = (),
        *,
        fn: Callable[..., Any] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        deadline: float | datetime.datetime | None = None,
        timeout: float | None = None,
        retries: int = 0,
        cost: float | None = None,
    ) -> None:
        if type(priority) is not int or not LOWEST <= priority <= HIGHEST:
            raise ValueError(f"priority must be a whole number from {LOWEST} to {HIGHEST}, not {priority!r}")
        if fn is not None and not callable(fn):
            raise TypeError(f"fn must be a callable or None, not {fn!r}")
        if type(name) is not str:
            raise TypeError(f"name must be a word, not {name!r}; the function goes to fn=")
        if type(args) is not tuple:
            args = _tuple("args", args)
        if dependencies:
            dependencies = _tuple("dependencies", dependencies)
        self.id = next(_ids)
        self.name = name
        self.skill_requirements = _skills("skill_requirements", skill_requirements) if skill_requirements else _NONE
        self.priority = priority
        self.dependencies: tuple[Any, ...] = dependencies or ()  # type: ignore[assignment]  # a tuple by now
        self.fn, self.args, self.kwargs = fn, args, dict(kwargs) if kwargs else _NO_KWARGS
        if fn is None and (self.args or self.kwargs):
            raise ValueError("a task without fn is a marker and takes no arguments")
        self.deadline, self.timeout, self.retries, self.cost = deadline, timeout, retries, cost
        if timeout is not None:
            _check_seconds("timeout", timeout)
        if cost is not None:
            _check_seconds("cost", cost)
        if retries and (type(retries) is not int or retries < 0):
            raise ValueError(f"retries must be a whole number from 0 on, not {retries!r}")
        if deadline is not None and not isinstance(deadline, datetime.datetime):
            _check_seconds("deadline", deadline, may_be_past=True)
            if deadline > EPOCH_S:
                raise ValueError(
                    f"deadline counts seconds from the submission on, and {deadline!r} are {deadline / 31_557_600:.0f} "
                    "years; a point in time is a datetime"
                )
        self._created_ns = time.monotonic_ns()
        self._scheduler: WorkStealingScheduler | None = None
        self._state = futures.PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._seen_condition: Any = None
        self._waiter_list: list[Any] | None = None
        self._callback_list: list[Any] | None = None
        self._agent: str | None = None
        self._function: Any = None
        self._args: Any = None
        self._kwds: Any = None
        self._is_finished = self._linked = self._settling = self.deadline_missed = False
        self._assigned_ns = self._started_ns = self._completed_ns = self._waits = 0
        self._dependents: list[Task] | tuple[()] = ()

    # -- for users --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """ "created", "waiting" (for other tasks, or for an agent), "queued", "running", "done", "failed" or
        "cancelled"."""
        if self._is_finished:
            if self._exception is None:
                return "done"
            return "cancelled" if isinstance(self._exception, TaskCancelledError) else "failed"
        if self._scheduler is None:
            return "created"
        if not self._assigned_ns:
            return "waiting"
        return "running" if self._scheduler._is_running(self) else "queued"

    @property
    def agent_id(self) -> str | None:
        """The agent that it was assigned to, and in the end the one that ran it."""
        return self._agent

    @property
    def created_at(self) -> float | None:
        """When the task was made (seconds since the epoch)."""
        return _epoch(self._created_ns)

    @property
    def assigned_at(self) -> float | None:
        """When it was given to an agent, the last time."""
        return _epoch(self._assigned_ns)

    @property
    def started_at(self) -> float | None:
        """When it began to run; known once it is over."""
        return _epoch(self._started_ns)

    @property
    def completed_at(self) -> float | None:
        """When its end was known."""
        return _epoch(self._completed_ns)

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.name!r} priority={self.priority} {self.state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled; as an argument of another task it stands for its result, but not inside of "
            "another object"
        )

    def cancel(self) -> bool:
        """Withdraw the task if it has not started: True means that it never runs."""
        scheduler = self._scheduler
        if scheduler is not None and not self._is_finished:
            self._check_waitable()
            scheduler._engine.cancel(self)
        return self._state == futures.CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Whether an agent runs it right now."""
        return self.state == "running"

    def done(self) -> bool:
        """Whether it is over, however it ended."""
        return self._state in _ENDED

    def result(self, timeout: float | None = None) -> Any:
        """What the call gave; raises what it raised.

        Raises:
            TimeoutError: it was not over within `timeout` seconds; ask again.
            CancelledError: it was cancelled before it started.
            DependencyError, TaskTimeoutError, UnmatchedTaskError: it did not run, or not to its end.
            AgentDiedError: its agent died while it ran, and no try was left.
            PoolTerminatedError: the scheduler was stopped first.
            RuntimeError: it was not submitted, so waiting would not help.
        """
        if self._state == futures.FINISHED:  # the usual case, without a lock
            if self._exception is None:
                return self._result
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # as a `Future` does: no cycle through the traceback
        self._check_waitable()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised; None if it succeeded. Waits, and raises, as `result` does."""
        if self._state == futures.FINISHED:
            return self._exception
        self._check_waitable()
        return super().exception(timeout)

    def _check_waitable(self) -> None:
        """Refuse to wait for what cannot come."""
        if self._scheduler is not None and self._scheduler._state == "foreign" and not self.done():
            raise RuntimeError(f"{self!r} belongs to the process that submitted it, and ends there")
        if self._scheduler is None and not self._is_finished:
            raise RuntimeError(f"{self!r} was not submitted")

    # -- what `concurrent.futures` looks at ---------------------------------------------------------------------------

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        # Once given out while the task was unfinished, it stays the same: who has acquired it asks again to release it.
        if (seen := self._seen_condition) is not None:
            return seen
        if self._state in _ENDED:
            return _NOTHING_TO_GUARD
        number = self.id
        condition = _conditions.get(number) or _conditions.setdefault(number, threading.Condition())
        if not self._settling:
            return condition
        while (seen := self._seen_condition) is None and self._state not in _ENDED:
            time.sleep(0)  # the engine is between two lines of `_resolve`, and waits for nobody there
        _conditions.pop(number, None)
        return _NOTHING_TO_GUARD if seen is None else seen

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        if self._waiter_list is None:
            self._waiter_list = []
        return self._waiter_list

    @property
    def _done_callbacks(self) -> list[Any]:
        if self._callback_list is None:
            self._callback_list = []
        return self._callback_list

    # -- for the engine ---------------------------------------------------------------------------------------------

    def _prepare(self, scheduler: WorkStealingScheduler, group: int, waits_for: tuple[Task, ...]) -> None:
        """Submitting: everything that the engine looks at."""
        self._scheduler = scheduler
        self._function = self.fn if self.fn is not None else reached
        self._args, self._kwds = self.args, self.kwargs
        self._group, self._waits_for = group, waits_for
        self._ready_ns = time.monotonic_ns()
        self._retries = self.retries
        self._timeout_ns = int(self.timeout * 1e9) if self.timeout is not None else 0
        self._deadline_ns = 0 if self.deadline is None else self._due_ns(self.deadline)

    def _due_ns(self, deadline: float | datetime.datetime) -> int:
        if isinstance(deadline, datetime.datetime):
            return int(deadline.timestamp() * 1e9) - _WALL_NS
        return self._ready_ns + int(deadline * 1e9)

    def _fill_in(self) -> None:
        """Put results where the arguments name tasks."""
        if self._waits_for:
            self._args = tuple(map(_result_of, self._args))
            self._kwds = {name: _result_of(value) for name, value in self._kwds.items()}
            self._waits_for = ()

    def _add_dependent(self, other: Task) -> None:
        if type(self._dependents) is list:
            self._dependents.append(other)
        else:
            self._dependents = [other]

    def _resolve(self, ok: bool, value: Any) -> None:
        """The task is over: store the outcome, and wake who waits for it. Once: who comes second changes nothing."""
        if self._is_finished:
            return
        state = futures.FINISHED
        if ok:
            self._result = value
        else:
            self._exception = value
            if isinstance(value, TaskCancelledError):
                state = futures.CANCELLED_AND_NOTIFIED
        self._is_finished = True  # after the outcome, which `state` looks at then
        scheduler = self._scheduler
        assert scheduler is not None
        dispatcher = scheduler._dispatcher
        try:
            dispatcher.finished(self, ok, value)
        finally:  # only now: who is woken finds times and counts as they are in the end
            self._settling = True
            condition = _conditions.pop(self.id, None)
            if condition is None:
                self._state = state
            else:
                self._settle_seen(condition, state)
        dispatcher.unfinished.pop(self.id, None)
        if self._dependents:
            dispatcher.release_dependents(self)

    def _settle_seen(self, condition: threading.Condition, state: str) -> None:
        """The middle of `_resolve` for a task that somebody has looked at, as a `Future` does it."""
        self._seen_condition = condition
        with condition:
            self._state = state
            for waiter in self._waiters:
                if state != futures.FINISHED:
                    waiter.add_cancelled(self)
                elif self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            condition.notify_all()
        if self._callback_list:
            # Users' code: in the thread for it, which a callback that blocks holds up, and not the loop.
            assert self._scheduler is not None
            self._scheduler._engine.callbacks.put(_call_back, self, _nothing)

    def _refuse(self, error: BaseException, function: Any) -> None:
        """The call could not be pickled."""
        self._resolve(False, explain_pickling(error, function, None))

    def _forget_call(self) -> None:
        """It is on its way, or never will be."""
        self._function = self._args = self._kwds = None


_NONE: frozenset[str] = frozenset()
_NO_KWARGS: dict[str, Any] = {}
_ENDED = (futures.FINISHED, futures.CANCELLED_AND_NOTIFIED)


class _NoLock:
    """The lock of a task that was over before anybody looked: nothing changes any more."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


_NOTHING_TO_GUARD = _NoLock()

_conditions: dict[int, threading.Condition] = {}
"""Locks of unfinished tasks that somebody has looked at, by id; see `Task`."""


def _tuple(what: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes, Task)):
        raise TypeError(f"{what} must be a collection, not {values!r}; write [{values!r}]")
    try:
        return tuple(values)
    except TypeError:
        raise TypeError(f"{what} must be a collection, not {values!r}") from None


def _check_seconds(name: str, value: float, *, may_be_past: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        or_a_time = " or a datetime" if may_be_past else ""
        raise TypeError(f"{name} must be a number of seconds{or_a_time}, not {value!r}")
    if not math.isfinite(value) or (value <= 0 and not may_be_past):
        least = "" if may_be_past else " above 0"
        raise ValueError(f"{name} must be a finite number of seconds{least}, not {value!r}; None means none")


def _result_of(value: Any) -> Any:
    return value._result if type(value) is Task else value


def _call_back(task: Task) -> None:
    task._invoke_callbacks()  # type: ignore[attr-defined]  # not in typeshed


def _nothing() -> None:
    pass


class Agent:
    """A worker process with capabilities, once it is registered with a scheduler.

    Args:
        agent_id: its name, unique in its scheduler.
        capabilities: the skills that it has (words); "*" (`matching.wildcard`) stands for any.
    """

    def __init__(self, agent_id: str, capabilities: Iterable[str] = ()) -> None:
        if type(agent_id) is not str or not agent_id:
            raise TypeError(f"agent_id must be a word, not {agent_id!r}")
        self.agent_id = agent_id
        self.capabilities = _skills("capabilities", capabilities or ())
        self._scheduler: WorkStealingScheduler | None = None
        self._slot = self._registration = -1

    def _row(self) -> Any:
        scheduler = self._scheduler
        return None if scheduler is None else scheduler._agent_row(self)

    @property
    def queue_length(self) -> int:
        """Tasks assigned to it that it has not started."""
        row = self._row()
        return 0 if row is None else row.queue_length

    @property
    def is_busy(self) -> bool:
        """Whether more tasks than `agents.busy_above` are queued."""
        scheduler = self._scheduler
        return scheduler is not None and self.queue_length > scheduler.config.agents.busy_above

    @property
    def is_idle(self) -> bool:
        """Whether fewer tasks than `agents.idle_below` are queued."""
        scheduler = self._scheduler
        return scheduler is None or self.queue_length < scheduler.config.agents.idle_below

    @property
    def success_rate(self) -> float:
        """Share of its tasks that ended well (0 to 1); 1 before the first."""
        row = self._row()
        return 1.0 if row is None else row.success_rate

    @property
    def pid(self) -> int | None:
        """Its process now; None when it has none."""
        row = self._row()
        return None if row is None else row.pid or None

    @property
    def state(self) -> str:
        """ "new", "starting", "idle", "running", "leaving" or "gone"."""
        row = self._row()
        if row is None:
            return "new" if self._scheduler is None else "gone"
        return row.state  # type: ignore[no-any-return]

    @property
    def current_task(self) -> Task | None:
        """What it is running right now."""
        row = self._row()
        return None if row is None else row.current_task

    def __repr__(self) -> str:
        return f"<Agent {self.agent_id!r} [{', '.join(sorted(self.capabilities))}] {self.state}>"
