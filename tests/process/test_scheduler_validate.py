"""The check of a scheduler's invariants finds what is broken, and nothing in one that is well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gates import Gates
from scheduler_tasks import check_at_rest, hold, pass_and_pid, wait_taken_in

from mpsteal import Agent, Task, WorkStealingScheduler
from mpsteal._queue import layout as L

Open = Callable[..., WorkStealingScheduler]


def _held_word(d: Any) -> None:
    d.words[d.segment.layout.agent(0) + L.HELD] = 0


def _mask(d: Any) -> None:
    number = d.classes.numbers[False][frozenset(["x"])]
    at, bit = d.segment.layout.class_mask(number, 1)
    d.words[at] |= bit


def _count(d: Any) -> None:
    d.urgent.count += 1


def _limited(d: Any) -> None:
    d.limits.watched.add(object())


def _dated(d: Any) -> None:
    d.deadlines.unfinished -= 1


def _lose(d: Any) -> None:
    next(iter(d.unmatched.values())).popleft()


def _twice(d: Any) -> None:
    waiting = next(iter(d.unmatched.values()))
    waiting.append(waiting[0])


def _link(d: Any) -> None:
    lo, _ = next(iter(d.urgent))
    d.pages.sink_of(lo)._add_dependent(Task("t"))
    d.pages.sink_of(lo)._links.waits = 1


def _level(d: Any) -> None:
    (lo, _), *_ = d.deques.ranges(0)
    d.pages.sink_of(lo)._group += 2 << 32


def _nobody(d: Any) -> None:
    d.classes.nobody.clear()


BREAKS = [
    (_lose, "S1"),
    (_twice, "S1"),
    (_link, "S1|S2"),
    (_level, "S3"),
    (_held_word, "S4"),
    (_mask, "S5"),
    (_count, "S6"),
    (_limited, "S6"),
    (_dated, "S6"),
    (_nobody, "S6"),
]


@pytest.fixture
def full(open_scheduler: Open, gates: Gates) -> tuple[WorkStealingScheduler, Any]:
    """Something is in every place that there is: queued, held, unmatched, waiting for another, running."""
    scheduler = open_scheduler(Agent("a", ["x"]), Agent("b", ["y"]), strategy="push")
    gate = gates("held")
    (running, _) = hold(scheduler, gate, ("x",)) + hold(scheduler, gate, ("y",))
    kinds: list[dict[str, Any]] = [
        {"skill_requirements": ["x"]},
        {"priority": 5},
        {"deadline": 100.0},
        {"skill_requirements": ["nobody"]},
        {"dependencies": [running]},
        {"timeout": 100.0},
    ]
    for kind in kinds:
        scheduler.submit_tasks([Task("t", fn=pass_and_pid, args=(gate,), **kind) for _ in range(2)])
    wait_taken_in(scheduler)
    return scheduler, gate


def test_all_is_well(full: tuple[WorkStealingScheduler, Any]) -> None:
    scheduler, gate = full
    scheduler._engine.validate()
    scheduler.register_agent(Agent("c", ["nobody"]))
    gate.open()
    check_at_rest(scheduler)


@pytest.mark.parametrize(("damage", "which"), BREAKS, ids=[damage.__name__[1:] for damage, _ in BREAKS])
def test_what_is_broken_is_found(
    full: tuple[WorkStealingScheduler, Any], damage: Callable[[Any], None], which: str
) -> None:
    scheduler, _ = full
    engine = scheduler._engine

    def damage_and_validate() -> None:
        damage(scheduler._dispatcher)
        engine.validate()

    engine.validate()
    with pytest.raises(AssertionError, match=rf"^({which}) "):
        engine.call(damage_and_validate)  # in the engine's thread: else the rest of its turn may write HELD anew
