"""Fixtures for tests with real agents."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpsteal import Agent, WorkStealingScheduler

OpenScheduler = Callable[..., WorkStealingScheduler]


@pytest.fixture
def open_scheduler() -> Iterator[OpenScheduler]:
    """Makes and starts schedulers with the agents given, and stops them at the end if the test has not.

    A test that holds tasks at gates must not depend on how fast the parent answers an agent, so an agent waits for it
    as long as it takes (`order.ask_s`); and nobody samples metrics meanwhile.
    """
    made: list[WorkStealingScheduler] = []

    def open_one(*agents: Agent, method: str | None = None, **options: Any) -> WorkStealingScheduler:
        options = {"order__ask_s": 100.0, "metrics__sample_s": 3600.0, **options}
        scheduler = WorkStealingScheduler(context=multiprocessing.get_context(method), **options)
        made.append(scheduler)
        scheduler.start()
        for agent in agents:
            scheduler.register_agent(agent)
        return scheduler

    yield open_one
    for scheduler in made:
        scheduler.stop(drain=False)
