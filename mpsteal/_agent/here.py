"""Where this process is an agent: which one, for whoever asks from inside a task."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .launch import AgentSpec
    from .loop import Agent

running: Agent | None = None
"""The agent that this process is; None anywhere else, a fork that a task has made and a spare included."""

spec: AgentSpec | None = None
"""What it was told, from before its initializer on, also while it is a spare; None anywhere else."""

state = SimpleNamespace()
"""What tasks keep here, see `mpsteal.agent_state`. A process that becomes an agent begins with a new one."""


def enter(told: AgentSpec) -> None:
    """This process is to be an agent."""
    global spec, state
    spec, state = told, SimpleNamespace()
    os.register_at_fork(after_in_child=_end)


def begin(agent: Agent) -> None:
    """It is that one from now on."""
    global running
    running = agent


def _end() -> None:
    global running, spec
    running = spec = None


def facts(event: str) -> dict[str, Any]:
    """As `_engine.events.facts`, for what an agent has to tell the log itself."""
    assert spec is not None
    agent = spec.slot if spec.balancing is None else spec.identity[0]
    return {"event": event, "agent": agent, "agent_pid": os.getpid(), "task": None, "exitcode": None}
