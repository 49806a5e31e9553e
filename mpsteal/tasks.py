"""`Task`, as the scheduler takes it.

A task is one object from its making to its end: what to run and on whom, then the future for its result, and what the
engine carries around. A handle beside it would double what a pending task costs, in time and in memory. What few tasks
have (terms, links to others) is apart, since the garbage collector looks at every slot of every pending task again and
again: objects with 44 slots cost it 0.93 us each, with 22 slots 0.56 us (100,000 at once, Python 3.11).
"""

from __future__ import annotations

import datetime
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from inspect import CO_COROUTINE
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar, overload

from ._engine.dispatch import explain_pickling
from ._engine.future import CANCELLED, FINISHED, PENDING, LazyFuture
from ._engine.terms import NO_TERMS, Links, Terms
from .errors import TaskCancelledError

_T = TypeVar("_T")

LOWEST, HIGHEST = 1, 5

_next_id = itertools.count(1).__next__
_now = time.monotonic_ns


_WALL_NS = time.time_ns() - _now()


def _epoch(monotonic_ns: int) -> float | None:
    """Seconds since the epoch, of a point on the monotonic clock; None for 0.

    By one offset for all, which does not follow a clock that is set: the times of tasks stay in order.
    """
    return (monotonic_ns + _WALL_NS) / 1e9 if monotonic_ns else None


SKILL_SETS_KEPT = 10_000

_skill_sets: dict[tuple[str, ...], frozenset[str]] = {}
"""One object for each spelling of a set of skills: most tasks ask for the same few, and a set of its own takes a task
216 bytes, and the garbage collector half a microsecond. At most `SKILL_SETS_KEPT`."""


def skill_set(what: str, skills: Iterable[str]) -> frozenset[str]:
    """The set of these words; `what` they are for goes into the error (TypeError)."""
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


class Task(LazyFuture[_T]):
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
        retries: how often it may run again when its agent dies. What it had done by then stays done. An exception that
            it raises is its outcome, and not tried again.
        cost: about how many seconds it takes, if you know; used to tell whether a deadline can be met.

    Attributes:
        id: a number that no other task of this process has.

    `result()` raises what the call raised, what it says itself, or:
        DependencyError, TaskTimeoutError, UnmatchedTaskError: it did not run, or not to its end.
        AgentDiedError: its agent died while it ran, and no try was left.
        PoolTerminatedError: the scheduler was stopped first.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, or out of its range.
    """

    __slots__ = (
        "_agent",
        "_args",
        "_assigned_ns",
        "_completed_ns",
        "_created_ns",
        "_function",
        "_group",
        "_home",
        "_kwds",
        "_links",
        "_ready_ns",
        "_seq",
        "_started_ns",
        "_terms",
        "args",
        "fn",
        "id",
        "kwargs",
        "name",
        "priority",
        "skill_requirements",
    )

    fn: Callable[..., _T] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    _function: Any
    _args: Any
    _kwds: Any
    _group: int
    _ready_ns: int
    """Set when it is submitted."""

    @overload
    def __init__(
        self: Task[None],
        name: str,
        skill_requirements: Iterable[str] = ...,
        priority: int = ...,
        dependencies: Iterable[Any] = ...,
        *,
        fn: None = ...,
        args: Iterable[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        deadline: float | datetime.datetime | None = ...,
        timeout: float | None = ...,
        retries: int = ...,
        cost: float | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        skill_requirements: Iterable[str] = ...,
        priority: int = ...,
        dependencies: Iterable[Any] = ...,
        *,
        fn: Callable[..., _T],
        args: Iterable[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        deadline: float | datetime.datetime | None = ...,
        timeout: float | None = ...,
        retries: int = ...,
        cost: float | None = ...,
    ) -> None: ...

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
            check_priority(priority)
        if fn is not None:
            if not callable(fn):
                raise TypeError(f"fn must be a callable or None, not {fn!r}")
            if type(fn) is FunctionType and fn.__code__.co_flags & CO_COROUTINE:
                raise TypeError(
                    f"fn must not be a coroutine function ({fn!r}); give one that wraps it: asyncio.run(...)"
                )
        if type(name) is not str:
            raise TypeError(f"name must be a word, not {name!r}; the function goes to fn=")
        if type(args) is not tuple:
            args = _tuple("args", args)
        links = Links(_tuple("dependencies", dependencies)) if dependencies else None
        for value in args:
            if isinstance(value, Task):
                links = links or Links()
        if kwargs:
            kwargs = _mapping("kwargs", kwargs)
            if any(isinstance(value, Task) for value in kwargs.values()):
                links = links or Links()
        else:
            kwargs = _NO_KWARGS
        if fn is None and (args or kwargs):
            raise ValueError("a task without fn is a marker and takes no arguments")
        self.id = _next_id()
        self.name = name
        self.skill_requirements = skill_set("skill_requirements", skill_requirements) if skill_requirements else _NONE
        self.priority = priority
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self._links = links
        if retries or timeout is not None or deadline is not None or cost is not None:
            self._terms = Terms(deadline, timeout, retries, cost)
        else:
            self._terms = NO_TERMS
        self._created_ns = _now()
        self._home: Any = None
        """Its scheduler; when it is over, that one's dispatcher."""
        self._state = PENDING  # `_begin`, spelled out
        self._result = self._exception = self._watch = self._agent = None
        self._assigned_ns = self._started_ns = self._completed_ns = 0
        self._seq = 0  # the engine's, for the order of submission; 0 until it has looked

    # -- for users --------------------------------------------------------------------------------------------------

    @property
    def dependencies(self) -> tuple[Any, ...]:
        """Tasks and ids of tasks, as given; may be set until the task is submitted."""
        return () if self._links is None else self._links.named

    @dependencies.setter
    def dependencies(self, named: Iterable[Any]) -> None:
        if self._home is not None:
            raise AttributeError(f"{self!r} was submitted, and what it waits for is settled")
        self._links = self._links or Links()
        self._links.named = _tuple("dependencies", named)

    @property
    def deadline(self) -> float | datetime.datetime | None:
        """As given."""
        return self._terms.deadline

    @property
    def timeout(self) -> float | None:
        """Seconds that it may run."""
        return self._terms.timeout

    @property
    def retries(self) -> int:
        """How often it may run again when its agent dies."""
        return self._terms.retries

    @property
    def cost(self) -> float | None:
        """About how many seconds it takes, as given."""
        return self._terms.cost

    @property
    def deadline_missed(self) -> bool:
        """Whether its deadline has passed before it was over."""
        return self._terms.missed

    @property
    def state(self) -> str:
        """ "created", "waiting" (for other tasks, or for an agent), "queued", "running", "done", "failed" or
        "cancelled"."""
        home = self._home  # first: it changes when the task is over
        if self._is_finished:
            if self._exception is None:
                return "done"
            if self._state == FINISHED:
                return "failed"
            return "cancelled" if isinstance(self._exception, TaskCancelledError) else "failed"
        if home is None:
            return "created"
        if not self._assigned_ns:
            return "waiting"
        return "running" if home._is_running(self) else "queued"

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
        """When it ended; where it did not run to its end, when that was known."""
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
        home = self._home
        if home is not None and not self._is_finished:
            self._check_waitable()
            home._engine.cancel(self)
        return self._state == CANCELLED

    def running(self) -> bool:
        """Whether an agent runs it right now."""
        return self.state == "running"

    # -- `LazyFuture` -----------------------------------------------------------------------------------------------

    def _check_waitable(self) -> None:
        """Refuse to wait for what cannot come."""
        home = self._home
        if self._is_finished:
            return
        if home is None:
            raise RuntimeError(f"{self!r} was not submitted")
        if threading.current_thread() is home._engine.thread:
            raise RuntimeError(
                f"{self!r} cannot be waited for in the scheduler's own thread, which would have to end it"
            )
        if home._state == "foreign":
            raise RuntimeError(f"{self!r} belongs to the process that submitted it, and ends there")

    def _ended(self, ok: bool, value: Any) -> None:
        self._home._dispatcher.finished(self, ok, value)

    def _settled(self) -> None:
        dispatcher = self._home._dispatcher
        self._home = dispatcher  # what is over keeps no scheduler alive
        dispatcher.unfinished.pop(self.id, None)
        links = self._links
        if links is not None and links.dependents:
            dispatcher.dependents.release(self)

    def _call_back(self) -> None:
        self._home._engine.callbacks.put(_call_back, self, _nothing)

    # -- for the engine ---------------------------------------------------------------------------------------------

    def _fill_in(self) -> None:
        """Put results where the arguments name tasks."""
        links = self._links
        if links is not None and links.waits_for:
            self._args = tuple(map(_result_of, self._args))
            self._kwds = {name: _result_of(value) for name, value in self._kwds.items()}
            links.waits_for = ()

    def _add_dependent(self, other: Task[Any]) -> None:
        links = self._links = self._links or Links()
        links.dependents.append(other)

    def _refuse(self, error: BaseException, function: Any) -> None:
        """The call could not be pickled."""
        self._resolve(False, explain_pickling(error, function, None, self.name))

    def _forget_call(self) -> None:
        """It is on its way, or never will be."""
        self._function = self._args = self._kwds = None


_NONE: frozenset[str] = frozenset()
_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})  # shared: nobody may write to it


def _mapping(what: str, values: Any) -> dict[str, Any]:
    try:
        return dict(values)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a mapping of names to values, not {values!r}") from None


def check_priority(priority: object) -> None:
    """Raise ValueError for what is no priority."""
    if type(priority) is not int or not LOWEST <= priority <= HIGHEST:
        raise ValueError(f"priority must be a whole number from {LOWEST} to {HIGHEST}, not {priority!r}")


def _tuple(what: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes, Task)):
        raise TypeError(f"{what} must be a collection, not {values!r}; write [{values!r}]")
    try:
        return tuple(values)
    except TypeError:
        raise TypeError(f"{what} must be a collection, not {values!r}") from None


def _result_of(value: Any) -> Any:
    return value._result if isinstance(value, Task) else value


def _call_back(task: Task[Any]) -> None:
    task._invoke_callbacks()  # type: ignore[attr-defined]  # not in typeshed


def _nothing() -> None:
    pass
