"""Where this process is an agent: which one, for whoever asks from inside a task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import Agent

running: Agent | None = None
"""The agent that this process is; None anywhere else, a fork that a task has made included."""


def begin(agent: Agent) -> None:
    """This process is that agent from now on."""
    global running
    running = agent
    os.register_at_fork(after_in_child=_end)


def _end() -> None:
    global running
    running = None
