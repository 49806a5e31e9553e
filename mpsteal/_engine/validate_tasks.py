"""The invariants of a scheduler, re-checked on a living one, beside those of every engine (`validate.py`). For tests.

S1  an unfinished task is in exactly one of: pending, waiting for others, unmatched, numbered (then I1 holds for it)
S2  a numbered task waits for no other; an unmatched one has no number, and no agent
S3  a range is of one level and one class, which are those of its tasks, and lies within one page
S4  HELD of an agent is 1 + the highest level that is held and that it can get; 0: none
S5  the mask of a class in shared memory has exactly the agents that can run it
S6  counts agree with what they count: held chunks, tasks with a limit and with a deadline, classes without an agent
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from .._queue import layout as L
from .urgent import GROUP_SHIFT

if TYPE_CHECKING:
    from .schedule import Scheduling


def validate_tasks(scheduling: Scheduling) -> None:
    """Check everything; raises AssertionError with the facts. While nobody moves, see `validate`."""
    _check_places(scheduling)
    _check_counts(scheduling)
    validate_calls(scheduling)


def validate_calls(scheduling: Scheduling) -> None:
    """The same without what only tasks have: S3 to S5."""
    _check_ranges(scheduling)
    _check_words(scheduling)


def _numbered(scheduling: Scheduling) -> list[Any]:
    pages = scheduling.pages
    in_pages = chain.from_iterable(page.sinks for page in pages.table if page is not None)
    return [task for task in chain(in_pages, pages.adrift.values()) if task is not None]


def _check_places(scheduling: Scheduling) -> None:
    unmatched = list(chain.from_iterable(scheduling.unmatched.values()))
    waiting = [t for t in scheduling.unfinished.values() if t._links is not None and t._links.waits and t._seq]
    numbered = _numbered(scheduling)
    carried = [] if scheduling._carry is None else [scheduling._carry[3]]
    places = [id(task) for task in chain(scheduling.pending, unmatched, waiting, numbered, carried)]
    known = set(places)
    assert len(places) == len(known), "S1 a task is in two places"
    lost = [t for t in scheduling.unfinished.values() if id(t) not in known]
    assert not lost, f"S1 tasks are in no place: {lost[:5]}"
    for task in numbered:
        assert task._links is None or not task._links.waits, f"S2 {task!r} waits for others, and has a number"
    for number, tasks in scheduling.unmatched.items():
        has_agents = tasks and scheduling.classes.has_agents(number)
        assert not has_agents, f"S2 class {number} has agents, and tasks that wait for one"
        assert not any(task._assigned_ns or task._agent for task in tasks), f"S2 unmatched, and with an agent: {number}"


def _check_ranges(scheduling: Scheduling) -> None:
    page_chunks = scheduling.pages.page_chunks
    held = [(lo, hi, None) for lo, hi in scheduling.urgent]
    queued = [
        (lo, hi, level)
        for slot in scheduling.slots
        for level in scheduling.deques.levels
        for lo, hi in scheduling.deques.ranges(slot, level)
    ]
    for lo, hi, level in chain(held, queued):
        if lo >= hi:
            continue
        assert lo // page_chunks == (hi - 1) // page_chunks, f"S3 [{lo}, {hi}) is not within one page"
        groups = {scheduling.pages.sink_of(chunk)._group for chunk in range(lo, hi)}
        assert len(groups) == 1, f"S3 [{lo}, {hi}) is of several groups: {groups}"
        (group,) = groups
        assert level in (None, group >> GROUP_SHIFT), f"S3 [{lo}, {hi}) of group {group:x} is at level {level}"


def _check_words(scheduling: Scheduling) -> None:
    words, layout, classes = scheduling.words, scheduling.segment.layout, scheduling.classes
    held = {(scheduling.pages.sink_of(lo)._group >> GROUP_SHIFT, classes.class_of(lo)) for lo, _ in scheduling.urgent}
    for slot in scheduling.slots:
        found = words[layout.agent(slot) + L.HELD]
        true = 1 + max((level for level, number in held if classes.can_get(number, slot)), default=-1)
        assert found == true, f"S4 HELD of agent {slot} is {found}, not {true}"
    for number in range(len(classes.skills)):
        able = set(classes.placement.agents_of(number))
        for slot in range(layout.geometry.slots):
            at, bit = layout.class_mask(number, slot)
            assert bool(words[at] & bit) == (slot in able), f"S5 mask of class {number}, agent {slot}"


def _check_counts(scheduling: Scheduling) -> None:
    urgent, deadlines, classes = scheduling.urgent, scheduling.deadlines, scheduling.classes
    held = sum(hi - lo for lo, hi in urgent)
    assert urgent.count == held, f"S6 {urgent.count} chunks counted as held, {held} are"
    seen = [task for task in scheduling.unfinished.values() if task._seq]
    limited, watched = {task for task in seen if task._terms.timeout_ns}, scheduling.limits.watched
    assert watched == limited, f"S6 {len(watched)} tasks watched for their limit, {len(limited)} have one"
    dated = sum(task._terms.deadline_ns > 0 for task in seen)
    assert deadlines.unfinished == dated, f"S6 {deadlines.unfinished} tasks counted with a deadline, {dated} are"
    nobody = {number for number in range(len(classes.skills)) if not classes.has_agents(number)}
    assert classes.nobody == nobody, f"S6 classes without an agent: {classes.nobody}, not {nobody}"
