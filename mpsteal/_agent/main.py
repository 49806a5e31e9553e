"""An agent's first steps in its new process, and its last ones (D12).

In a fork each page of memory that is written for the first time is copied by the system (2 to 3 us), and Python writes
wherever it looks, since it counts references. So a start is the cheaper the less different code and data it touches:
what the parent can make beforehand it makes, and what only the user's code needs waits for that (`surroundings.py`).
"""

from __future__ import annotations

import os
import signal
from importlib import import_module
from typing import Any

from . import here, surroundings
from .launch import AgentSpec, load_prctl
from .loop import Agent

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

_KILL = int(signal.SIGKILL)

try:
    # What `signal` wraps, whose enumerations and exceptions take 0.1 ms here.
    _signal: Any = import_module("_signal")
except ImportError:
    _signal = signal


def agent_main(spec: AgentSpec) -> None:
    """Entry point of an agent's process."""
    # A group of its own: Ctrl-C at the terminal goes to the parent alone, and what a task starts can be ended with it.
    try:
        os.setpgid(0, 0)
    except OSError:
        pass
    # A forked agent inherits the parent's handlers, which are not about it.
    try:
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        # A Ctrl-C that came while it was in the terminal's group has reached the parent, too: to ignore it discards it.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    except ValueError:  # not in the main thread of its interpreter
        pass
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))
    if spec.dies_with_starter:
        prctl = load_prctl()
        if prctl is not None:
            # Until the Manager is there nobody else would end an agent that is inside a task.
            prctl(PR_SET_PDEATHSIG, _KILL, 0, 0, 0)
    surroundings.begin(spec)
    here.enter(spec)
    if spec.go is None:
        Agent(spec).run()
        surroundings.clear_up()
        return
    from .spare import wait_turn

    turn = wait_turn(spec)
    if turn is not None:
        spec, failure = turn
        Agent(spec).run(is_initialized=True, failure=failure)
    surroundings.clear_up()
