"""What the rows of ``python -m bench scheduler`` share: a scheduler with agents, tasks as users write them, and agents
that are held inside a task.

mpsteal is imported inside the functions: the other tables' processes read this file, too, and one of them is measured
against a program that has never heard of it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench._tasks import hold, noop

SKILLS = (("python",), ("python", "io"), ("python", "gpu"))
"""What tasks ask for, in turn: two of three kinds run on both of `TWO_AGENTS`, one on the first alone."""

TWO_AGENTS = {"both_1": ("python", "io", "gpu"), "most_2": ("python", "io")}


@contextlib.contextmanager
def running(agents: Mapping[str, Sequence[str]], **rules: Any) -> Iterator[Any]:
    """A scheduler whose agents are up; each also has its own name as a skill, so that a task can be meant for it."""
    from mpsteal import Agent, Task, WorkStealingScheduler

    with WorkStealingScheduler(**rules) as scheduler:
        for name, skills in agents.items():
            scheduler.register_agent(Agent(name, [*skills, name]))
        for task in scheduler.submit_tasks(Task("hello", [name], fn=noop, args=(0,)) for name in agents):
            task.result()
        yield scheduler


@contextlib.contextmanager
def held(scheduler: Any) -> Iterator[Any]:
    """All agents are inside a task, each in one of its own, until the function that this gives is called (once), or the
    block is left."""
    from mpsteal import Task

    names = list(scheduler.agents)
    with tempfile.TemporaryDirectory() as folder:
        arrived, gate = str(Path(folder, "arrived")), str(Path(folder, "gate"))
        os.mkfifo(arrived)
        os.mkfifo(gate)
        # Opened after the agents began, read-write: opening never blocks, and when the parent dies the agents read
        # end-of-file and go on.
        arrived_fd, gate_fd = os.open(arrived, os.O_RDWR), os.open(gate, os.O_RDWR)
        # Protected: for none but the agent that it names.
        tasks = scheduler.submit_tasks(
            Task("hold", [name], priority=5, fn=hold, args=(arrived, gate)) for name in names
        )
        here = 0
        while here < len(names):
            here += len(os.read(arrived_fd, len(names)))
        left = [len(names)]

        def let_go() -> None:
            os.write(gate_fd, b"." * left[0])
            left[0] = 0

        try:
            yield let_go
        finally:
            let_go()
            for task in tasks:
                task.result()
            os.close(arrived_fd)
            os.close(gate_fd)


def task_maker(mixed: bool = True) -> Callable[[int], Any]:
    """Makes no-ops with skills and a priority: 1 to 5 in turn, or always 3."""
    from mpsteal import Task

    def make_task(i: int) -> Task:
        return Task("noop", SKILLS[i % 3], 1 + i % 5 if mixed else 3, fn=noop, args=(i,))

    return make_task
