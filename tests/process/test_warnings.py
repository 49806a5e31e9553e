"""What a pool does beside the main thread leaves the program's own handling of warnings alone."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fault_tasks as tasks
import pytest
from waiting import ALARM_S, agent_pids, manager_pid, wait_idle, wait_until

import mpsteal

Open = Callable[..., mpsteal.Pool]


class HeldForks(NamedTuple):
    """The engine's forks wait: `reached` when one is due, until `go` is set."""

    reached: threading.Event
    go: threading.Event


@pytest.fixture
def held_forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldForks]:
    held = HeldForks(threading.Event(), threading.Event())
    fork = os.fork

    def held_fork() -> int:
        if threading.current_thread().name == "mpsteal-engine":
            held.reached.set()
            assert held.go.wait(ALARM_S)
        return fork()

    monkeypatch.setattr(os, "fork", held_fork)
    yield held
    held.go.set()


def handling() -> tuple[Any, ...]:
    return warnings.filters, warnings.showwarning, warnings._showwarnmsg_impl  # type: ignore[attr-defined]


def test_new_manager_leaves_warnings_alone(open_pool: Open, held_forks: HeldForks) -> None:
    """The program enters and leaves `catch_warnings` while the engine forks."""
    before = handling()
    with warnings.catch_warnings(record=True):
        pool = open_pool(1, "fork")
        assert held_forks.reached.wait(ALARM_S)
    held_forks.go.set()
    manager_pid(pool)
    assert handling() == before


def test_new_agent_leaves_warnings_alone(open_pool: Open, held_forks: HeldForks) -> None:
    held_forks.go.set()
    pool = open_pool(1, "fork")
    wait_idle(pool)
    manager_pid(pool)
    held_forks.go.clear()
    held_forks.reached.clear()
    before = handling()
    with warnings.catch_warnings(record=True):
        os.kill(agent_pids(pool)[0], signal.SIGKILL)
        assert held_forks.reached.wait(ALARM_S)
    held_forks.go.set()
    assert pool.apply(tasks.double, (4,)) == 8
    assert handling() == before


def test_program_that_refuses_warnings_is_served(open_pool: Open) -> None:
    """`-W error`: whatever CPython says of the forks, nothing of it is raised inside the pool."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = open_pool(1, "fork")
        wait_idle(pool)
        manager_pid(pool)
        os.kill(agent_pids(pool)[0], signal.SIGKILL)
        wait_until(lambda: len(agent_pids(pool)) == 1, "a new agent")
        assert pool.apply(tasks.double, (4,)) == 8
