"""Tasks that wait for others, for `Scheduling`. Engine thread only.

link: what is not over yet counts --> each that succeeds counts down --> none left: results into the arguments, go
                                 '--> one that fails fails it, and what waits for it, naming the root
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .._agent.serialize import describe
from ..errors import DependencyError
from .records import Failure

if TYPE_CHECKING:
    from .schedule import Scheduling


class Dependents:
    """Who waits for whom; the counts and lists are in the tasks' `_links`."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._pending = scheduling.pending
        self._failing: deque[tuple[Any, Any]] = deque()
        self._is_failing = False

    def link(self, task: Any) -> bool:
        """First look at a task that names others; whether it need not wait for them."""
        waits, links = 0, task._links
        for other in links.waits_for:
            if not other._is_finished:
                other._add_dependent(task)
                waits += 1
            elif other._exception is not None:
                _fail(task, other)
                return False
        links.waits = waits
        return not waits and _fill_in(task)

    def release(self, task: Any) -> None:
        """See to those that wait for a task that is over."""
        waiting, task._links.dependents = task._links.dependents, []
        for other in waiting:
            if other._is_finished:
                continue
            if task._exception is not None:
                self._failing.append((other, task))
                continue
            other._links.waits -= 1
            if not other._links.waits:
                other._ready_ns = task._completed_ns
                if _fill_in(other):
                    self._pending.append(other)
        # A loop, not recursion: a chain of 10,000 that fails at its head is as deep as it is long.
        if not self._is_failing:
            self._is_failing = True
            while self._failing:
                _fail(*self._failing.popleft())
            self._is_failing = False


def note_failure(task: Any, error: BaseException) -> Failure:
    """What dependents that come later are told. Not the error: it holds frames."""
    if isinstance(error, DependencyError):
        return error.root, error.root_id, error.reason
    return task.name, task.id, describe(error)


def _fill_in(task: Any) -> bool:
    """Put the results of dependencies where the arguments name them."""
    try:
        task._fill_in()
    except BaseException as error:  # an argument's own code
        task._refuse(error, task._function)
        return False
    return True


def _fail(task: Any, other: Any) -> None:
    cause = other._exception
    error = DependencyError(task.name, task.id, *note_failure(other, cause))
    error.__cause__ = cause.__cause__ if isinstance(cause, DependencyError) else cause
    task._resolve(False, error)
