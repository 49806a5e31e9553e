"""Classes of tasks: those that ask for the same skills, for `Scheduling`. Engine thread only, but where it says so.

skills (plain | protected) --> number --> placement: which agents, in what order
                                     \'-> mask in shared memory: thieves look whether they may
"""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any

from .._policy.matching import EXACT, TIERS, Placement
from .._queue import layout as L
from ..errors import UnmatchedTaskError, why_unmatched
from .events import facts

if TYPE_CHECKING:
    from .schedule import Scheduling

logger = logging.getLogger("mpsteal")

CLASSES = 4096
"""Different sets of skills of one scheduler, at most (8 bytes of shared memory each for 62 agents). Tasks with further
ones are refused: fewer refuse programs that make up skills, more cost memory, and time as agents come and go (20 us
each with 64 slots)."""


class Classes:
    """Which agents can run what."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._scheduling = scheduling
        rules = scheduling.rules.matching
        self.placement = Placement(rules.queue_weight, rules.success_weight, rules.wildcard)
        self._tiers = [tuple(TIERS[name] for name in names) for names in (rules.normal, rules.protected)]
        self.numbers: tuple[dict[frozenset[str], int], dict[frozenset[str], int]] = ({}, {})
        """Number of each set of skills, for plain and for protected tasks. Callers look here, the engine adds."""
        self.skills: list[frozenset[str]] = []
        """The skills of each class."""
        self.nobody: set[int] = set()
        """Classes that had no agent when somebody looked last."""
        self._told: set[int] = set()

    def number_of(self, skills: frozenset[str], *, protected: bool) -> int:
        """The class of a set of skills; a new one when it is not known yet. ValueError: there are too many."""
        known = self.numbers[protected]
        number = known.get(skills)
        if number is None:
            if len(self.skills) >= CLASSES:
                raise ValueError(f"more than {CLASSES} different sets of skills in one scheduler")
            number = len(self.skills)
            self.skills.append(skills)
            # Every agent has all of none, whatever ways to match there are.
            self.placement.add_class(number, skills, self._tiers[protected] if skills else (EXACT,))
            self._write_mask(number)
            known[skills] = number
            if not self.has_agents(number):
                self.nobody.add(number)
            if not skills:
                # One class serves both, and agents need not look at its mask.
                self.numbers[not protected][skills] = number
        return number

    def class_of(self, chunk: int) -> int:
        """The class of a chunk that is in a page."""
        scheduling = self._scheduling
        return scheduling.words[scheduling.segment.layout.chunk(chunk) + L.SLOT_FLAGS] >> L.CLASS_SHIFT

    def has_agents(self, number: int) -> bool:
        """Whether any agent can run a class."""
        return self.placement.has_agents(number)

    def can_get(self, number: int, slot: int) -> bool:
        """Whether a class may be given to an agent: it has the skills, and is not on its way out."""
        return slot not in self._scheduling.crew.leaving and self.placement.can_run(number, slot)

    def agents_changed(self, *, is_new: bool) -> None:
        """An agent has come (`is_new`) or goes."""
        everything = range(len(self.skills))
        for number in everything:
            self._write_mask(number)
        self.nobody = {number for number in everything if not self.has_agents(number)}
        if is_new:
            self._told.clear()

    def _write_mask(self, number: int) -> None:
        """Tell thieves which agents can run a class."""
        scheduling = self._scheduling
        layout = scheduling.segment.layout
        masks = {layout.class_mask(number, slot)[0]: 0 for slot in range(layout.geometry.slots)}
        for slot in self.placement.agents_of(number):
            at, bit = layout.class_mask(number, slot)
            masks[at] |= bit
        for at, mask in masks.items():
            scheduling.words[at] = mask

    # -- what nobody can run ----------------------------------------------------------------------------------------

    def missing(self, number: int) -> frozenset[str]:
        """Skills of a class that the nearest agent lacks; none when there is no agent at all."""
        scheduling = self._scheduling
        is_anyone = any(slot not in scheduling.crew.leaving for slot in scheduling.roster.records)
        return self.placement.missing(number) if is_anyone else frozenset()

    def needs_names(self, number: int) -> bool:
        """Whether agents with the wildcard are there and do not help: a protected class may want skills by name."""
        scheduling = self._scheduling
        wildcard = scheduling.rules.matching.wildcard
        has_one = any(wildcard in record.capabilities for record in scheduling.roster.records.values())
        return has_one and number in self.numbers[True].values() and number not in self.numbers[False].values()

    def check_matched(self, number: int, name: str) -> None:
        """Raise UnmatchedTaskError if no agent can run tasks of this class; `name` is the task's."""
        if not self.has_agents(number):
            raise self.unmatched(number, name)

    def tell_unmatched(self, number: int, task: Any) -> None:
        """Once per class, until an agent comes: nobody can run this."""
        if number in self._told:
            return
        self._told.add(number)
        error = self.unmatched(number, task.name)
        why = why_unmatched(error.missing, error.needs_names, error.meant)
        logger.warning(
            "mpsteal: no agent can run task %d (%r), so it waits; %s",
            task.id,
            task.name,
            why,
            extra=facts("task_unmatched", task=task.id),
        )

    def unmatched(self, number: int, name: str) -> UnmatchedTaskError:
        """What a task of this class gets when no agent can run it, and none will come."""
        missing = self.missing(number)
        known = {skill for record in self._scheduling.roster.records.values() for skill in record.capabilities}
        near = (difflib.get_close_matches(skill, known - missing, 1) for skill in sorted(missing))
        meant = tuple(word for words in near for word in words)
        return UnmatchedTaskError(name, missing, self.needs_names(number), meant)
