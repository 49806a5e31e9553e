"""What a task may ask about where it runs.

    def score(path):
        model = mpsteal.agent_state().model      # the initializer has put it there
        print(mpsteal.current_agent().name)

Outside of an agent the same functions work, so that what is made for agents can be run and tested without any.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ._agent import here
from ._queue import layout as L

if TYPE_CHECKING:
    from ._agent.task_pool import TaskPool


@dataclass(frozen=True)
class CurrentAgent:
    """The agent that this process is.

    Attributes:
        slot: its number; the process that replaces it has the same.
        name: a scheduler's: its id; a Pool's or an Executor's: "mpsteal-0" and so on.
        capabilities: the skills that it was registered with; a Pool's has none.
        pid: its process.
        task: number of the call, or of the chunk of a map, that it runs, as errors and the log of a Pool have it. None
            in the initializer, in the finalizer, and in agents of a scheduler or an Executor, which do not know it.
    """

    slot: int
    name: str
    capabilities: frozenset[str]
    pid: int
    task: int | None


def current_agent() -> CurrentAgent | None:
    """The agent that this code runs in; None in any other process, one that a task has started included."""
    spec, agent = here.spec, here.running
    if spec is None:
        return None
    task = None
    if agent is not None and agent.rules is None and not agent.has_left:
        claim = agent.words[agent.base + L.CLAIM]
        task = None if claim == L.NONE else claim
    name: Any = spec.identity[0]  # of an executor's agents that have none of their own: a number
    if not isinstance(name, str):
        name = f"mpsteal-{name}"
    return CurrentAgent(spec.slot, name, spec.identity[1], os.getpid(), task)


def agent_state() -> SimpleNamespace:
    """A namespace that lasts as long as the agent's process: what the initializer, or a task, keeps there is there for
    the next one.

    Each agent has its own, and one that replaces it begins with an empty one, which its initializer fills. In any other
    process it is a namespace of that process: code that uses it can be run and tested without agents.
    """
    return here.state


def current_pool() -> TaskPool:
    """The pool that runs this task, to submit further tasks to it and to wait for them.

    Raises RuntimeError outside of a task: in the process that made the pool, in a fork that a task has made, and in an
    initializer.
    """
    agent = here.running
    if agent is None:
        raise RuntimeError("current_pool() is for tasks, and no agent runs this code: use the pool itself here")
    if agent.words[agent.base + L.STATE] != L.READY:
        raise RuntimeError("current_pool() is for tasks: while an agent starts or ends it cannot submit any")
    agent.nest.check_here()
    return agent.nest.pool
