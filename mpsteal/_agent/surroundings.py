"""What an agent's process is given beside its work: environment, standard streams, the way its log records go."""

from __future__ import annotations

import multiprocessing.context
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from . import inner_threads, lines, logs

if TYPE_CHECKING:
    from .launch import AgentSpec, Descriptor


class Surroundings(NamedTuple):
    """Told by the parent.

    Attributes:
        environment: variables to set.
        inner_threads: how many threads libraries that are loaded already may use; None: that is their own affair.
        logs: write end of the pipe for log records; None: logging is left alone.
        levels: see `logs.install`.
    """

    environment: dict[str, str]
    inner_threads: int | None
    logs: Descriptor | None
    levels: tuple[dict[str, int], int] | None


due: AgentSpec | None = None
"""Not None: `set_up` has to be called before anything of the user's runs."""


def begin(spec: AgentSpec) -> None:
    """First thing in an agent's process. In a fork nothing of the user's has run there yet, and an agent that gets
    nothing to run saves 0.8 ms, page faults most of it."""
    global due
    if spec.surroundings is not None:
        due = spec
        if spec.inherited is None:
            set_up()


def set_up() -> None:
    """Set up what is due. A process in which that fails is no agent: it ends, as one does that fails to start."""
    global due
    spec, due = due, None
    if spec is None or spec.surroundings is None:
        return
    try:
        _set_up(spec, spec.surroundings)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def _set_up(spec: AgentSpec, given: Surroundings) -> None:
    inner_threads.set_environment(given.environment)
    if given.inner_threads is not None:
        inner_threads.limit(given.inner_threads)
    # A byte that `Locks` and `ParentLife` do not use.
    lines.take_over((spec.locks[-1].fd, spec.geometry.slots + 2))
    if given.logs is not None:
        logs.install(given.logs.fd, spec.slot, given.levels)


def clear_up() -> None:
    """Last thing in it."""
    lines.finish(everything=True)
    logs.finish()


class Name(str):
    """An agent's name. On the way to its process the environment travels in it.

    `multiprocessing` unpickles the name before it imports the main module, and with that whatever reads these variables
    once. In the parent they are never set, not even for a moment. What is called is Python's own, since nothing of ours
    can be found before the name's neighbours have set `sys.path`.
    """

    __slots__ = ("environment",)

    environment: dict[str, str]

    def __new__(cls, name: str, environment: dict[str, str]) -> Name:
        """Both."""
        self = super().__new__(cls, name)
        self.environment = dict(environment)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if multiprocessing.context.get_spawning_popen() is None:
            return str, (str(self),)
        return eval, (f"__import__('os').environ.update({self.environment!r}) or {str(self)!r}",)
