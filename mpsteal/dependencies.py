"""What a task names that it depends on: checked, and found, when it is submitted. Any thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._engine.future import FINISHED
from ._policy.graph import find_cycle
from .errors import DependencyError
from .tasks import Task


def check_circles(group: Mapping[int, Task[Any]]) -> None:
    """Raise ValueError if tasks that are submitted together, by id, depend on each other in a circle."""
    edges = {i: [_id_of(named) for named in _named(task)] for i, task in group.items() if task._links is not None}
    if not edges:
        return
    cycle = find_cycle({i: [j for j in wanted if j in group] for i, wanted in edges.items()})
    if cycle is not None:
        path = " -> ".join(f"{i} ({group[i].name!r})" for i in cycle)
        raise ValueError(f"these tasks depend on each other in a circle: {path}")


def find_dependencies(
    task: Task[Any], group: Mapping[int, Task[Any]], home: Any, dispatcher: Any
) -> tuple[Task[Any], ...]:
    """The tasks to wait for, and those that failed already.

    Args:
        group: what is submitted together with it, by id.
        home: the scheduler; `dispatcher` its dispatcher.

    Raises:
        TypeError: a dependency is neither a task nor an id.
        ValueError: it is the task itself, or no task of this scheduler.
    """
    return tuple(_find(task, group, home, dispatcher))


def _find(task: Task[Any], group: Mapping[int, Task[Any]], home: Any, dispatcher: Any) -> Iterator[Task[Any]]:
    for named in _named(task):
        if isinstance(named, int):
            found = group.get(named) or dispatcher.unfinished.get(named)
            if found is not None:
                yield found
            elif (failure := dispatcher.ended.failure_of(named)) is not None:
                yield _failed(named, failure)
            elif not dispatcher.ended.has_succeeded(named):
                raise ValueError(
                    f"task {task.name!r} depends on {named}, which is no task of this scheduler (or was over so long "
                    "ago that it was forgotten: metrics.keep_finished)"
                )
        else:
            if named is task:
                raise ValueError(f"task {task.name!r} depends on itself")
            if named._home not in (home, dispatcher) and named.id not in group:
                raise ValueError(f"task {task.name!r} depends on {named!r}, which was not submitted here")
            yield named


def _named(task: Task[Any]) -> list[Any]:
    """What a task depends on, as it was named: dependencies, then tasks among its arguments."""
    named = [*task.dependencies, *(v for v in (*task.args, *task.kwargs.values()) if isinstance(v, Task))]
    for value in named:
        if not isinstance(value, (int, Task)):
            raise TypeError(f"a dependency is a task or the id of one, not {value!r}")
    return named


def _id_of(named: Any) -> int:
    return named if isinstance(named, int) else int(named.id)


def _failed(number: int, failure: tuple[str, int, str]) -> Task[Any]:
    """Stands for a task that is forgotten but for how it ended: the root of its failure, that one's id, the reason."""
    task = Task(failure[0])
    task.id, task._state, task._exception = number, FINISHED, DependencyError(failure[0], number, *failure)
    return task
