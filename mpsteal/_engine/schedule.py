"""The dispatcher of a scheduler: skills, priorities, dependencies, agents that come and go.

    pending --> waits for its dependencies --> pickled, numbered --.
                                                                   |-- plain -----> a deque, by score; agents steal
                                                                   |-- urgent ----> held (urgent.py) until one is free
                                                                   '-- no agent --> unmatched, until one registers

It stands where a Pool has its `Dispatcher`, under the same engine: one queue, one process model. Engine thread only.
What it decides comes from `_policy`; here is what has to be done for it. Beside it: `urgent.py`, `limits.py` (time),
`balance.py` (moves between agents).

Urgent are the protected (from `order.protected_from` on) and tasks with a deadline. A priority p has two levels:
2(p - 1) for plain tasks, one more for urgent ones.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

from .._agent.serialize import describe
from .._policy.matching import TIERS, Placement
from .._policy.order import Aging
from .._policy.rules import Rules
from .._queue import layout as L
from .._queue.manager import agent_status
from ..errors import (
    AgentDiedError,
    DependencyError,
    TaskCancelledError,
    TaskTimeoutError,
    UnmatchedTaskError,
    why_unmatched,
)
from .balance import Balancer
from .collect_tasks import NOT_NOTED
from .dispatch import Batch, Dispatcher
from .future import PENDING, settle
from .limits import Limits
from .records import AgentRecord, Ended
from .terms import NO_TERMS
from .urgent import GROUP_SHIFT, Urgent

logger = logging.getLogger("mpsteal")

LEVELS_PER_PRIORITY = 2
LEVELS = 5 * LEVELS_PER_PRIORITY

_CLASS_MASK = (1 << GROUP_SHIFT) - 1

CLASSES = 4096
"""Different sets of skills of one scheduler, at most (8 bytes of shared memory each for 62 agents). Tasks with further
ones are refused: fewer refuse programs that make up skills, more cost memory."""

KEEP_ORDER = 32
"""Tasks taken in at once up to which those of one level keep their order whatever skills they ask for; of more at once
those with equal skills come together. More fill deques with ranges of one task, fewer reorder what people notice."""

LENGTHS_STALE = 10
"""Queue lengths are read again when so many times the time of the last reading has passed: a smaller factor spends more
than a tenth of the parent on reading, a larger one places by older lengths."""

RUN_MEMORY = 0.75
"""Weight of what was known of an agent's run times before, when a task is over: less follows single tasks, more lags
behind a change."""

MOVE_RETRY_S = 0.001
"""Next try to take back what a dead or leaving agent has queued, when its lock was busy."""


class Scheduling(Dispatcher):
    """Dispatches tasks to agents that differ.

    Args:
        rules: see `_policy/rules.py`.
        metrics: counters and histograms, see `mpsteal.metrics`.
    """

    def __init__(self, *parts: Any, rules: Rules, metrics: Any) -> None:
        super().__init__(*parts)
        self.rules, self.metrics = rules, metrics
        matching, order = rules.matching, rules.order
        self.placement = Placement(matching.queue_weight, matching.success_weight, matching.wildcard)
        self._tiers = [tuple(TIERS[name] for name in names) for names in (matching.normal, matching.protected)]
        self.classes: tuple[dict[frozenset[str], int], dict[frozenset[str], int]] = ({}, {})
        """Number of each set of skills, for plain and for protected tasks. Callers look here, the engine adds."""
        self.skills: list[frozenset[str]] = []
        """The skills of each class."""
        self.records: dict[int, AgentRecord] = {}
        """The registered agents, by slot."""
        self._registered = 0
        self.overflow: dict[int, deque[tuple[int, int]]] = {}
        """Ranges for which no deque had room, by group, the oldest first."""
        self.unmatched: dict[int, deque[Any]] = {}
        """Tasks that no agent can run, by class. They have no number yet: a page would have to stay for each."""
        self.stranded: dict[int, list[int]] = {}
        """Chunks whose last agent has left, by class."""
        self.unfinished: dict[int, Any] = {}
        """Tasks that are not over, by id; callers add."""
        self.ended = Ended(rules.metrics.keep_finished)
        self.is_draining = False
        """Nobody will register any more: what no agent can run never will."""
        self._pushed: dict[int, int] = {}
        """Chunks that were pushed and are not announced yet, by slot."""
        self._told: set[int] = set()
        self._nobody: set[int] = set()
        """Classes that had no agent when somebody looked last."""
        self._failing: deque[tuple[Any, Any]] = deque()
        self._is_failing = False
        self._moving: set[int] = set()
        self._why_ended: dict[int, str] = {}
        """Why an agent was ended that is about to be replaced, in words, by slot."""
        self._lengths_due = 0.0
        movable = tuple(reversed(range(LEVELS_PER_PRIORITY * (order.protected_from - 1))))
        urgent_levels = tuple(range(LEVELS - 1, 0, -LEVELS_PER_PRIORITY))
        self.urgent = Urgent(self, Aging(order.aging_tasks, LEVELS_PER_PRIORITY), urgent_levels)
        self.limits = Limits(self)
        self.balancer = Balancer(self, movable)

    def attach(self, engine: Any) -> None:
        """See `Dispatcher.attach`."""
        self.crew, self.collector = engine.crew, engine.collector
        self.pages.must_stay = lambda task: task._terms.tries_left > 0
        self.number_of(frozenset(), protected=False)

    # -- classes --------------------------------------------------------------------------------------------------

    def number_of(self, skills: frozenset[str], *, protected: bool) -> int:
        """The class of a set of skills; a new one when it is not known yet."""
        known = self.classes[protected]
        number = known.get(skills)
        if number is None:
            if len(self.skills) >= CLASSES:
                raise ValueError(f"more than {CLASSES} different sets of skills in one scheduler")
            number = len(self.skills)
            self.skills.append(skills)
            self.placement.add_class(number, skills, self._tiers[protected])
            self._write_mask(number)
            known[skills] = number
            if not self.placement.agents_of(number):
                self._nobody.add(number)
            if not skills:
                # Every agent has all of none: one class serves both, and agents need not look at its mask.
                self.classes[not protected][skills] = number
        return number

    def _write_mask(self, number: int) -> None:
        """Tell thieves which agents can run a class."""
        layout = self.segment.layout
        masks = {layout.class_mask(number, slot)[0]: 0 for slot in range(layout.geometry.slots)}
        for slot in self.placement.agents_of(number):
            at, bit = layout.class_mask(number, slot)
            masks[at] |= bit
        for at, mask in masks.items():
            self.words[at] = mask

    def _class_of(self, chunk: int) -> int:
        return self.words[self.segment.layout.chunk(chunk) + L.SLOT_FLAGS] >> L.CLASS_SHIFT

    def missing(self, number: int) -> frozenset[str]:
        """Skills of a class that the nearest agent lacks; none when there is no agent at all."""
        return self.placement.missing(number) if self.records else frozenset()

    def needs_names(self, number: int) -> bool:
        """Whether agents with the wildcard are there and do not help: a protected class may want skills by name."""
        wildcard = self.rules.matching.wildcard
        has_one = any(wildcard in record.capabilities for record in list(self.records.values()))
        return has_one and number in self.classes[True].values() and number not in self.classes[False].values()

    def check_matched(self, number: int, name: str) -> None:
        """Raise UnmatchedTaskError if no agent can run tasks of this class; `name` is the task's."""
        if not self.placement.agents_of(number):
            raise UnmatchedTaskError(name, self.missing(number), self.needs_names(number))

    def can_get(self, number: int, slot: int) -> bool:
        """Whether a class may be given to an agent: it has the skills, and is not on its way out."""
        return slot not in self.crew.leaving and self.placement.can_run(number, slot)

    # -- agents ---------------------------------------------------------------------------------------------------

    def add_agent(self, name: str, capabilities: frozenset[str]) -> tuple[int, int]:
        """Start an agent in a free slot, and place what has waited for one like it.

        Returns the slot and a number that no other registration has.

        Raises ValueError when every slot is taken, and what starting a process raises.
        """
        layout, words = self.segment.layout, self.words
        # What the agent before has queued there may not be moved away yet, and this one may lack the skills for it.
        free = (s for s in range(layout.geometry.slots) if s not in self.records and s not in self._moving)
        slot = next(free, None)
        if slot is None:
            raise ValueError(
                f"there are {len(self.records)} agents already, and agents.max_agents (or the limit of open files, "
                "ulimit -n) allows no more; agents that were removed count until they are gone"
            )
        words[layout.agent(slot) + L.LEAVE] = words[layout.agent(slot) + L.HELD] = 0
        words[L.SLOTS_USED] = max(words[L.SLOTS_USED], slot + 1)
        earlier = agent_status(self.segment, slot)
        self.crew.add(slot)
        self._registered += 1
        self.records[slot] = AgentRecord(name, capabilities, self._registered, earlier)
        self.slots.append(slot)
        self.placement.add_agent(slot, capabilities)
        self._agents_changed()
        self._told.clear()
        for number in [n for n in self.unmatched if self.placement.can_run(n, slot)]:
            self.pending.extend(self.unmatched.pop(number))
        for number in [n for n in self.stranded if self.placement.can_run(n, slot)]:
            self._place_again(sorted(self.stranded.pop(number)))
        return slot, self._registered

    def _agents_changed(self) -> None:
        for number in range(len(self.skills)):
            self._write_mask(number)
        self._nobody = {number for number in range(len(self.skills)) if not self.placement.agents_of(number)}
        self.balancer.look_soon()
        self._lengths_due = 0.0
        self.urgent.changed = True

    def remove_agent(self, slot: int, *, drain: bool) -> None:
        """Let an agent go: others get what is queued there. With `drain` it finishes what it runs and what nobody else
        can run; without, its process is ended."""
        self._retire(slot)
        self.urgent.tell()
        if self.crew.forget(slot):
            self.gone(slot, for_good=True)
            self.crew.leaving.discard(slot)
            return
        self._moving.add(slot)
        self._move_away()
        if not drain and slot in self.crew.alive:
            self.crew.alive[slot].kill_group()

    def _retire(self, slot: int) -> None:
        """It gets nothing more."""
        if slot not in self.crew.leaving:
            self.crew.leaving.add(slot)
            self.placement.remove_agent(slot)
            self._agents_changed()
            for lo, _ in self.urgent:
                if not self.placement.agents_of(self._class_of(lo)):
                    self._tell_unmatched(self._class_of(lo), self.tasks_of(lo, lo + 1)[0])

    def gone(self, slot: int, *, for_good: bool, is_end: bool = False) -> None:
        """A dead agent is settled: others get its queue, unless only one task's time was over."""
        ended_for_limit = self.limits.settled(slot)
        self.urgent.changed = True
        if for_good or is_end:
            self._why_ended.pop(slot, None)
        if is_end and not for_good:
            return  # all agents leave
        if not for_good and not ended_for_limit and not self.rules.agents.replace_dead:
            logger.warning("mpsteal: agent %r died and is not replaced", self.records[slot].name)
            self._retire(slot)
            for_good = True
        if for_good:
            self.slots.remove(slot)
            base = self.segment.layout.agent(slot)
            self.words[base + L.LEAVE] = self.words[base + L.HELD] = 0
            self.metrics.agent_left(self.records.pop(slot).name)
        if for_good or not ended_for_limit:
            self._moving.add(slot)
            self._move_away()

    def _move_away(self) -> None:
        """Give what is queued at agents that left or died to others."""
        for slot in list(self._moving):
            is_there = slot in self.records and slot in self.crew.leaving
            # What nobody else can run stays with an agent that is still there: it finishes that before it leaves.
            fits = (lambda chunk: bool(self.placement.agents_of(self._class_of(chunk)))) if is_there else None
            taken = self.deques.take_back(slot, 1 << 62, self.deques.levels, fits=fits)
            if taken is None:
                continue  # its lock was busy: again in `turn`
            self._moving.discard(slot)
            chunks = sorted(chunk for _, lo, hi in taken for chunk in range(lo, hi))
            if is_there:
                self.words[self.segment.layout.agent(slot) + L.LEAVE] = 1  # only now: it leaves when it has nothing
                self.locks.fence()
                self.ring(slot)
            self.metrics.redistributed += len(chunks)
            self._place_again(chunks)

    # -- taking in ------------------------------------------------------------------------------------------------

    def _take_pending(self, batch: Batch) -> None:
        pending, room = self.pending, batch.limit - len(batch.sinks) - batch.refused
        nobody = self._nobody
        ready: list[Any] = []
        while room > 0:
            try:
                task = pending.popleft()
            except IndexError:
                break
            if not task._seq:  # the first look at it
                task._seq = task._ready_ns  # when it was submitted: one number less for the garbage collector to visit
                if task._terms is not NO_TERMS:
                    self.limits.watch(task)
                if task._links is not None and not self._link(task):
                    continue
            if task._state is not PENDING:
                continue
            if nobody and (number := task._group & _CLASS_MASK) in nobody and not self.placement.agents_of(number):
                self.unmatched.setdefault(number, deque()).append(task)
                self._tell_unmatched(number, task)
                continue
            ready.append(task)
            room -= 1
        # Neighbours of one group share a range, and many ranges fill the deques; few may stand as they were submitted.
        ready.sort(key=_level_of if len(ready) <= KEEP_ORDER else _group_of, reverse=True)
        calls = deque(ready)
        try:
            self._pickle(batch, calls)
        finally:
            pending.extendleft(reversed(calls))  # the slab was full, or there was no memory
        slots = batch.slots
        for i, j, group in _groups(batch.sinks):
            if number := group & _CLASS_MASK:
                flags = slice(4 * i + 3, 4 * j, 4)
                slots[flags] = [word | number << L.CLASS_SHIFT for word in slots[flags]]

    def _link(self, task: Any) -> bool:
        """First look at a task that depends on others; whether it need not wait for them."""
        waits, links = 0, task._links
        for other in links.waits_for:
            if not other._is_finished:
                other._add_dependent(task)
                waits += 1
            elif other._exception is not None:
                self._fail_dependent(task, other)
                return False
        links.waits = waits
        return not waits and self._fill_in(task)

    def _fill_in(self, task: Any) -> bool:
        """Put the results of dependencies where the arguments name them."""
        try:
            task._fill_in()
        except BaseException as error:  # an argument's own code
            task._refuse(error, task._function)
            return False
        return True

    def _note_failure(self, task: Any, error: BaseException) -> tuple[str, int, str]:
        """What dependents that come later are told: the root, its id, the reason. Not the error: it holds frames."""
        if isinstance(error, DependencyError):
            return error.root, error.root_id, error.reason
        return task.name, task.id, describe(error)

    def _fail_dependent(self, task: Any, other: Any) -> None:
        cause = other._exception
        if isinstance(cause, DependencyError):
            error = DependencyError(task.name, task.id, cause.root, cause.root_id, cause.reason)
            error.__cause__ = cause.__cause__
        else:
            error = DependencyError(task.name, task.id, other.name, other.id, describe(cause))
            error.__cause__ = cause
        task._resolve(False, error)

    # -- placing --------------------------------------------------------------------------------------------------

    def _place(self, lo: int, hi: int) -> None:
        self._read_lengths()
        for i, j, group in _groups(self.tasks_of(lo, hi)):
            self.place_group(lo + i, lo + j, group)
        self.announce()
        if self.urgent.count:  # not only when all batches are placed: agents may be waiting for it
            self.urgent.give_out()

    def tasks_of(self, lo: int, hi: int) -> list[Any]:
        """Who waits for chunks [lo, hi), which are all of one page and unfinished."""
        page = self.pages.find(lo)
        if page is None:
            return [self.pages.sink_of(chunk) for chunk in range(lo, hi)]
        return page.sinks[lo - page.first : hi - page.first]

    def place_group(self, lo: int, hi: int, group: int) -> None:
        """Chunks [lo, hi) of one level and class: assign them, or keep them back."""
        level, number = group >> GROUP_SHIFT, group & _CLASS_MASK
        if level % LEVELS_PER_PRIORITY:
            self.urgent.hold(lo, hi, number, level)
            if not self.placement.agents_of(number):
                self._tell_unmatched(number, self.tasks_of(lo, lo + 1)[0])
            return
        if group in self.overflow:  # no overtaking
            self._keep(group, lo, hi)
            return
        at = lo
        for slot, count in self.placement.place_many(number, hi - lo):
            self.assign(slot, level, at, at + count)
            at += count
        if at < hi:
            self.stranded.setdefault(number, []).extend(range(at, hi))
            self._tell_unmatched(number, self.tasks_of(at, at + 1)[0])

    def _place_again(self, chunks: Iterable[int]) -> None:
        """Place chunks that have their numbers already (ascending)."""
        by_group: dict[int, list[int]] = {}
        for chunk in chunks:
            task = self.pages.sink_of(chunk)
            if task is not None:
                task._assigned_ns, task._agent = 0, None  # it is at no agent any more
                by_group.setdefault(task._group, []).append(chunk)
        for group in sorted(by_group, reverse=True):
            for lo, hi in _runs(by_group[group], self.pages.page_chunks):
                self.place_group(lo, hi, group)
        self.announce()

    def assign(self, slot: int, level: int, lo: int, hi: int) -> None:
        """Append a range to an agent's deque; if it has no room, to another's, else to `overflow`. Then `announce`."""
        if not self.deques.push(slot, level, lo, hi):
            others = self.placement.agents_of(self._class_of(lo))
            found = next((other for other in others if self.deques.push(other, level, lo, hi)), None)
            if found is None:
                self._keep(level << GROUP_SHIFT | self._class_of(lo), lo, hi)
                return
            slot = found
        self._pushed[slot] = self._pushed.get(slot, 0) + hi - lo
        now_ns, name = time.monotonic_ns(), self.records[slot].name
        for task in self.tasks_of(lo, hi):
            task._assigned_ns = now_ns
            task._agent = name

    def announce(self) -> None:
        """After pushes: news for their owners, a ring for those that are parked.

        Of the others as many are rung as there are chunks that an owner cannot start at once: they may steal them.
        """
        words, layout, pushed = self.words, self.segment.layout, self._pushed
        if not pushed:
            return
        for slot in pushed:
            at = layout.agent(slot) + L.NEWS
            words[at] = words[at] + 1
        self.locks.fence()
        parked = [slot for slot in self.slots if words[layout.agent(slot) + L.PARKED]]
        for slot in parked:
            if slot in pushed:
                pushed[slot] -= 1
                self.ring(slot)
        helpers = sum(pushed.values()) if self.rules.strategy != "push" else 0
        for slot in parked:
            if helpers > 0 and slot not in pushed and self.deques.can_get_work(slot):
                self.ring(slot)
                helpers -= 1
        pushed.clear()

    def _refill(self) -> None:
        """Assign what found no room before, the oldest first, group by group."""
        layout, words = self.segment.layout, self.words
        half = layout.geometry.entries // 2
        for group in sorted(self.overflow, reverse=True):
            heads = [layout.head(s, group >> GROUP_SHIFT) for s in self.placement.agents_of(group & _CLASS_MASK)]
            if heads and not any(words[at + 1] - words[at] <= half for at in heads):
                continue  # as in a Pool: at every single place it would cost more than it gives
            work = self.overflow.pop(group)
            while work and group not in self.overflow:
                lo, hi = work.popleft()
                if lo < hi:
                    self.place_group(lo, hi, group)
            if work:
                self.overflow[group].extend(work)
        self.announce()

    def _read_lengths(self) -> None:
        """Tell the placement how much each agent has to do, unless it was told just now."""
        now = time.monotonic()
        if now < self._lengths_due:
            return
        words, layout = self.words, self.segment.layout
        for slot in self.slots:
            if slot in self.crew.leaving:
                continue
            base = layout.agent(slot)
            queued = self.deques.queued(slot)
            # Neither parked nor still starting: it runs something that a new task would have to wait for. Looked at
            # last: it unparks before it takes, so what it takes meanwhile is counted in one place at least.
            busy = not words[base + L.PARKED] and words[base + L.STATE] == L.READY
            self.placement.set_queue(slot, queued + busy)
        done = time.monotonic()
        self._lengths_due = done + LENGTHS_STALE * (done - now)

    def _keep(self, group: int, lo: int, hi: int) -> None:
        """No deque has room for a range."""
        tasks = self.tasks_of(lo, hi)
        if tasks[0]._assigned_ns:  # taken back from an agent: all of them
            for task in tasks:
                task._assigned_ns, task._agent = 0, None
        self.overflow.setdefault(group, deque()).append((lo, hi))

    def _tell_unmatched(self, number: int, task: Any) -> None:
        """Once per class, until the agents change: nobody can run this."""
        if number in self._told:
            return
        self._told.add(number)
        why = why_unmatched(self.missing(number), self.needs_names(number))
        logger.warning("mpsteal: no agent can run task %d (%r), so it waits; %s", task.id, task.name, why)

    # -- results --------------------------------------------------------------------------------------------------

    def finished(self, task: Any, ok: bool, value: Any) -> None:
        """A task is over, however it ended: count it. Called once, by its `_resolve`, before anybody is woken."""
        slot, started_ns, run_ns = self.collector.noted
        metrics = self.metrics
        if slot >= 0:
            self.collector.noted = NOT_NOTED  # of this task, and not of those that fail with it
            task._started_ns, task._completed_ns = started_ns, started_ns + run_ns
            self._ran(slot, [task], ok)
        else:
            task._completed_ns = time.monotonic_ns()
        if ok:
            metrics.succeeded += 1
            self.ended.succeeded([task.id])
        else:
            if isinstance(value, TaskCancelledError):
                metrics.cancelled += 1
            else:
                metrics.failed += 1
            self.ended.failed(task.id, self._note_failure(task, value))
        if task._terms is not NO_TERMS:
            self.limits.finished(task)
        if task._links is not None:
            task._links.waits = 0

    def succeeded(self, slot: int, tasks: list[Any]) -> None:
        """Tasks without terms, whose results and times are in place, are over: what `_resolve` does, for many."""
        self._ran(slot, tasks, True)
        self.metrics.succeeded += len(tasks)
        ids = [task.id for task in tasks]
        self.ended.succeeded(ids)
        settle(tasks)
        for task in tasks:
            task._home = self  # what is over keeps no scheduler alive
            if task._links is not None:
                self.release_dependents(task)
        forget = self.unfinished.pop
        for number in ids:
            forget(number, None)

    def _ran(self, slot: int, tasks: list[Any], ok: bool) -> None:
        """An agent ran these: count them, and their times."""
        record, n = self.records[slot], len(tasks)
        name = record.name
        for task in tasks:
            task._agent = name
        if ok:
            record.succeeded += n
        else:
            record.failed += n
        if record.failed:
            self._tell_success(slot, record)
        runs_ns = [task._completed_ns - task._started_ns for task in tasks]
        mean_ns = sum(runs_ns) / n
        record.mean_ns = mean_ns + RUN_MEMORY**n * ((record.mean_ns or mean_ns) - mean_ns)
        self.metrics.runs.add(runs_ns)
        self.metrics.waits.add([task._started_ns - task._ready_ns for task in tasks])

    def _tell_success(self, slot: int, record: AgentRecord) -> None:
        if slot not in self.crew.leaving:
            self.placement.set_success(slot, record.success_rate)

    def release_dependents(self, task: Any) -> None:
        """See to those that wait for a task that is over."""
        dependents, task._links.dependents = task._links.dependents, []
        for other in dependents:
            if other._is_finished:
                continue
            if task._exception is not None:
                self._failing.append((other, task))
                continue
            other._links.waits -= 1
            if not other._links.waits:
                other._ready_ns = task._completed_ns
                if self._fill_in(other):
                    self.pending.append(other)
        # A loop, not recursion: a chain of 10,000 that fails at its head is as deep as it is long.
        if not self._is_failing:
            self._is_failing = True
            while self._failing:
                self._fail_dependent(*self._failing.popleft())
            self._is_failing = False

    def lost(self, slot: int, chunk: int, error: BaseException) -> BaseException | None:
        """See `Dispatcher.lost`: the end of its time, another try, or the death itself."""
        task = self.pages.sink_of(chunk)
        words, base = self.words, self.segment.layout.agent(slot)
        if words[base + L.LOADED] == chunk:
            task._started_ns = words[base + L.STARTED_NS]
        record = self.records[slot]
        task._agent = record.name
        record.failed += 1
        self._tell_success(slot, record)
        if self.limits.ending.get(slot) == chunk:
            self.metrics.timeouts += 1
            self._why_ended[slot] = f"task {task.id} ({task.name!r}) ran for longer than its {task.timeout:g} s"
            return TaskTimeoutError(task.name, task.timeout)
        self.metrics.agent_deaths += 1
        if isinstance(error, AgentDiedError):
            error = AgentDiedError(record.name, error.pid, error.exitcode, error.task)
        terms = task._terms
        if terms.tries_left <= 0:
            return error
        terms.tries_left -= 1
        self.metrics.retried += 1
        logger.warning("mpsteal: %s; it runs again (%d more tries)", error, terms.tries_left)
        self._place_again([chunk])
        return None

    # -- the loop -------------------------------------------------------------------------------------------------

    def before_results(self) -> None:
        """See `Dispatcher.before_results`: who has rung may wait for something urgent, and runs it meanwhile."""
        if self.urgent.count:
            self.urgent.give_out()

    def turn(self, now: float) -> None:
        """See `Dispatcher.turn`."""
        if self._moving:
            self._move_away()
        if self.overflow:
            self._refill()
        self.limits.turn(now)
        self.balancer.turn(now)
        self.urgent.give_out()
        if self.is_draining:
            self._fail_unmatched()

    def due(self, now: float) -> list[float]:
        """See `Dispatcher.due`."""
        times = self.limits.due() + self.balancer.due()
        if self._moving:
            times.append(now + MOVE_RETRY_S)
        return times

    def _fail_unmatched(self) -> None:
        """No agent will come any more: answer those that wait for one."""
        nobody = [number for number in self.urgent.classes() if not self.placement.agents_of(number)]
        chunks = {number: [c for r in self.urgent.drain(of=[number]) for c in range(*r)] for number in nobody}
        for number in list(self.stranded):
            chunks.setdefault(number, []).extend(self.stranded.pop(number))
        for number, waiting in chunks.items():
            missing, needs_names = self.missing(number), self.needs_names(number)
            for chunk in waiting:
                task = self.pages.sink_of(chunk)
                if task is not None:
                    self.collector.finish(chunk, False, UnmatchedTaskError(task.name, missing, needs_names))
        for number in list(self.unmatched):
            missing, needs_names = self.missing(number), self.needs_names(number)
            for task in self.unmatched.pop(number):
                task._resolve(False, UnmatchedTaskError(task.name, missing, needs_names))

    # -- withdrawing ----------------------------------------------------------------------------------------------

    def withdraw(self, sink: Any) -> int | None:
        """See `Dispatcher.withdraw`; a task that waits for others is nowhere else."""
        if sink._is_finished:
            return None
        for tasks in self.unmatched.values():
            if sink in tasks:
                tasks.remove(sink)
                return L.NONE
        waits = sink._links is not None and sink._links.waits
        return L.NONE if waits else super().withdraw(sink)

    def _remove(self, chunk: int) -> int | None:
        if self.urgent.cancel(chunk):
            return chunk
        for chunks in self.stranded.values():
            if chunk in chunks:
                chunks.remove(chunk)
                return chunk
        for ranges in self.overflow.values():
            for i, (lo, hi) in enumerate(ranges):
                if lo <= chunk < hi:
                    ranges[i] = (lo, chunk)
                    ranges.insert(i + 1, (chunk + 1, hi))
                    return chunk
        return super()._remove(chunk)

    def _push(self, agent: int, lo: int, hi: int) -> None:
        # What a cancel leaves of a range.
        self.assign(agent, self.pages.sink_of(lo)._group >> GROUP_SHIFT, lo, hi)
        self.announce()

    def kept(self) -> Iterator[tuple[int, int]]:
        """See `Dispatcher.kept`."""
        for ranges in self.overflow.values():
            yield from ranges
        yield from self.urgent
        for chunk in chain.from_iterable(self.stranded.values()):
            yield chunk, chunk + 1

    def obituary(self, slot: int, pid: int, exitcode: int | None) -> str:
        """See `Dispatcher.obituary`."""
        name, why = self.records[slot].name, self._why_ended.pop(slot, None)
        how = f"was ended, since {why}" if why else f"died with exit code {exitcode}"
        return f"agent {name!r} (pid {pid}) {how}"

    def describe(self, chunk: int) -> str:
        """See `Dispatcher.describe`."""
        task = self.pages.sink_of(chunk)
        return super().describe(chunk) if task is None else f"task {task.id} ({task.name!r})"

    def fail_sent(self, error: BaseException) -> None:
        """See `Dispatcher.fail_sent`; and nothing is kept back any more."""
        self.stranded.clear()
        self.overflow.clear()
        self.urgent.drain()
        super().fail_sent(error)

    def fail_rest(self, error: BaseException) -> None:
        """See `Dispatcher.fail_rest`: those that wait for an agent, and for others, if track of them was lost."""
        self.unmatched.clear()
        for task in list(self.unfinished.values()):
            task._resolve(False, error)


_group_of = attrgetter("_group")


def _level_of(task: Any) -> int:
    return int(task._group >> GROUP_SHIFT)


def _groups(tasks: list[Any]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of one group: where they begin and end, and the group."""
    at = 0
    for group, run in groupby(map(_group_of, tasks)):
        end = at + len(list(run))
        yield at, end, group
        at = end


def _runs(chunks: list[int], page_chunks: int) -> Iterable[tuple[int, int]]:
    """Ranges [lo, hi) of consecutive numbers within one page, of an ascending list that is not empty (S3)."""
    lo = previous = chunks[0]
    for chunk in chunks[1:]:
        if chunk != previous + 1 or chunk % page_chunks == 0:
            yield lo, previous + 1
            lo = chunk
        previous = chunk
    yield lo, previous + 1
