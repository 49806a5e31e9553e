"""Agents killed at random for minutes: nothing is lost, nothing is delivered twice, nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from storms import OfPool, OfScheduler, seed_of_run, storm, twenty_kills

import mpsteal

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]

TINY = {"page_chunks": 4, "page_bytes": 4096, "pages": 8, "entries": 4, "ring_bytes": 4096}

AT_ONCE = 20_000


def test_a_minute_of_kills(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    storm(OfPool(open_pool(4, start_method), str(tmp_path / "noted"), 0.002), 60, seed_of_run(), AT_ONCE)


def test_a_minute_of_kills_with_tiny_pages(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(4, "fork", geometry=TINY)
    storm(OfPool(pool, str(tmp_path / "noted"), 0.001), 60, seed_of_run(), AT_ONCE)


def test_a_minute_of_kills_in_a_scheduler(open_scheduler: OpenScheduler, tmp_path: Path) -> None:
    """All priorities, skills, urgent tasks; those with retries run again once per death, and no more."""
    scheduler = open_scheduler(method="fork", order__ask_s=0.05)
    told = storm(OfScheduler(scheduler, str(tmp_path / "noted"), 0.002), 60, seed_of_run(), AT_ONCE)
    assert told.run_again > 0


@pytest.mark.parametrize("_", range(50))
def test_twenty_kills_in_five_thousand_tasks(open_pool: Open, tmp_path: Path, _: int) -> None:
    twenty_kills(open_pool(4, "fork"), str(tmp_path / "noted"), seed_of_run())
