"""Initializers, finalizers and tasks that ask where they run, importable by agents under every start method."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any, NoReturn

from fault_tasks import note
from gates import Gate

import mpsteal


def fill_state(value: Any) -> None:
    """An initializer."""
    mpsteal.agent_state().value = value
    mpsteal.agent_state().initialized_as = mpsteal.current_agent()


def read_state(_: Any = None) -> tuple[int, Any]:
    return os.getpid(), mpsteal.agent_state().value


def count_calls(_: Any = None) -> tuple[int, int]:
    """How often this agent has run it."""
    state = mpsteal.agent_state()
    state.calls = getattr(state, "calls", 0) + 1
    return os.getpid(), state.calls


def state_names(_: Any = None) -> list[str]:
    return sorted(vars(mpsteal.agent_state()))


def who(_: Any = None) -> Any:
    return mpsteal.current_agent()


def who_was_initialized(_: Any = None) -> tuple[Any, Any]:
    return mpsteal.agent_state().initialized_as, mpsteal.current_agent()


def who_in_a_child(_: Any = None) -> tuple[Any, Any]:
    """Seen from a fork that a task makes, and from the task afterwards."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(mpsteal.current_agent()))
    child.start()
    seen = mine.recv()
    child.join()
    return seen, mpsteal.current_agent()


def note_end(path: str) -> None:
    """A finalizer: who, with what state, at which task."""
    agent = mpsteal.current_agent()
    assert agent is not None
    note(path, f"{agent.pid} {agent.name} {agent.task} {getattr(mpsteal.agent_state(), 'value', None)}")


def note_pid(path: str) -> None:
    note(path, os.getpid())


def wait_and_note_end(gate: Gate, path: str) -> None:
    gate.wait()
    note_end(path)


def sleep_for_ever(gate: Gate) -> None:
    gate.arrive()
    time.sleep(3600)


def raise_at_the_end() -> NoReturn:
    raise LookupError("nothing to close")


def exit_at_the_end() -> NoReturn:
    raise SystemExit(3)


def register_at_exit(path: str) -> None:
    """An initializer: what `multiprocessing` calls as the process exits."""
    multiprocessing.util.Finalize(None, note, (path, f"exit {os.getpid()}"), exitpriority=1)
