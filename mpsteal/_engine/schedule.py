"""The dispatcher of a scheduler: skills, priorities, dependencies, agents that come and go.

    pending --> waits for its dependencies --> pickled, numbered --.
                                                                   |-- plain -----> a deque, by score; agents steal
                                                                   |-- urgent ----> held (urgent.py) until one is free
                                                                   '-- no agent --> unmatched, until one registers

It stands where a Pool has its `Dispatcher`, under the same engine: one queue, one process model. Engine thread only.
What it decides comes from `_policy`; here is what has to be done for it. Beside it: `classes.py` (skills), `roster.py`
(agents), `dependents.py`, `urgent.py` (what is held), `deadlines.py`, `balance.py` (moves between agents),
`collect_tasks.py` (results), `records.py` and `terms.py` (data), `validate_tasks.py` (invariants).

Urgent are the protected (from `order.protected_from` on) and tasks with a deadline. A priority p has two levels:
2(p - 1) for plain tasks, one more for urgent ones.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from .._policy.order import Aging
from .._policy.rules import Rules
from .._queue import layout as L
from ..errors import AgentDiedError, TaskCancelledError
from .balance import Balancer
from .classes import Classes
from .collect_tasks import NOT_NOTED
from .deadlines import Deadlines
from .dependents import Dependents, note_failure
from .dispatch import Batch, Dispatcher
from .future import PENDING, settle
from .records import Ended
from .roster import MOVE_RETRY_S, Roster
from .terms import NO_TERMS, agents_lost
from .urgent import GROUP_SHIFT, URGENT, Urgent
from .validate_tasks import validate_tasks

if TYPE_CHECKING:
    from .health import AgentProcess

logger = logging.getLogger("mpsteal")

LEVELS_PER_PRIORITY = 2
LEVELS = 5 * LEVELS_PER_PRIORITY

_CLASS_MASK = (1 << GROUP_SHIFT) - 1

KEEP_ORDER = 32
"""Tasks taken in at once up to which those of one level keep their order whatever skills they ask for; of more at once
those with equal skills come together. More fill deques with ranges of one task, fewer reorder what people notice."""

LENGTHS_STALE = 10
"""Queue lengths are read again when so many times the time of the last reading has passed: a smaller factor spends more
than a tenth of the parent on reading, a larger one places by older lengths."""

LAST_RESORT = 1 << 20  # queue length that an agent is given in placing which does not get on: longer than any other

RUN_MEMORY = 0.75
"""Weight of what was known of an agent's run times before, when a task is over: less follows single tasks, more lags
behind a change."""


class Scheduling(Dispatcher):
    """Dispatches tasks to agents that differ.

    Args:
        rules: see `_policy/rules.py`.
        metrics: counters and histograms, see `mpsteal.metrics`.
    """

    def __init__(self, *parts: Any, rules: Rules, metrics: Any) -> None:
        super().__init__(*parts)
        self.rules, self.metrics = rules, metrics
        self.counts = metrics
        self.classes = Classes(self)
        self.roster = Roster(self)
        self.dependents = Dependents(self)
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
        self.lengths_due = 0.0
        order = rules.order
        movable = tuple(reversed(range(LEVELS_PER_PRIORITY * (order.protected_from - 1))))
        urgent_levels = tuple(range(LEVELS - 1, 0, -LEVELS_PER_PRIORITY))
        self.urgent = Urgent(self, Aging(order.aging_tasks, LEVELS_PER_PRIORITY), urgent_levels)
        self.deadlines = Deadlines(self)
        self.balancer = Balancer(self, movable)

    def attach(self, engine: Any) -> None:
        """See `Dispatcher.attach`."""
        super().attach(engine)
        self._engine = engine  # for tasks that are over, which know their dispatcher alone
        self.classes.number_of(frozenset(), protected=False)

    def place_of(self, priority: int, skills: frozenset[str], *, refused: str | None = None) -> int:
        """The level and class of tasks without a deadline, as `_group`; a deadline adds `URGENT`.

        Args:
            refused: the name of a task that is refused (UnmatchedTaskError) if no agent can run it; None: it may wait.

        Raises ValueError when there are too many sets of skills.
        """
        number = self.classes.number_of(skills, protected=priority >= self.rules.order.protected_from)
        if refused is not None:
            self.classes.check_matched(number, refused)
        place = self.known_place_of(priority, skills)
        assert place is not None
        return place

    def known_place_of(self, priority: int, skills: frozenset[str]) -> int | None:
        """The same in any thread; None: these skills are new."""
        protected = priority >= self.rules.order.protected_from
        number = self.classes.numbers[protected].get(skills)
        if number is None:
            return None
        place = LEVELS_PER_PRIORITY * (priority - 1) << GROUP_SHIFT | number
        return place | URGENT if protected else place

    # -- taking in ------------------------------------------------------------------------------------------------

    def _take_pending(self, batch: Batch) -> None:
        pending, room = self.pending, batch.limit - len(batch.sinks) - batch.refused
        nobody = self.classes.nobody
        ready: list[Any] = []
        while room > 0:
            try:
                task = pending.popleft()
            except IndexError:
                break
            if not task._seq:  # the first look at it
                task._seq = task._ready_ns  # when it was submitted: one number less for the garbage collector to visit
                if task._terms is not NO_TERMS:
                    if task._terms.timeout_ns:
                        self.limits.watch(task)
                    self.deadlines.watch(task)
                if task._links is not None and not self.dependents.link(task):
                    continue
            if task._state is not PENDING:
                continue
            if nobody and (number := task._group & _CLASS_MASK) in nobody and not self.classes.has_agents(number):
                self.unmatched.setdefault(number, deque()).append(task)
                self.classes.tell_unmatched(number, task)
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
            if not self.classes.has_agents(number):
                self.classes.tell_unmatched(number, self.tasks_of(lo, lo + 1)[0])
            return
        if group in self.overflow:  # no overtaking
            self._keep(group, lo, hi)
            return
        at = lo
        for slot, count in self.classes.placement.place_many(number, hi - lo):
            self.assign(slot, level, at, at + count)
            at += count
        if at < hi:
            self.stranded.setdefault(number, []).extend(range(at, hi))
            self.classes.tell_unmatched(number, self.tasks_of(at, at + 1)[0])

    def place_again(self, chunks: Iterable[int]) -> None:
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
            others = self.classes.placement.agents_of(self.classes.class_of(lo))
            found = next((other for other in others if self.deques.push(other, level, lo, hi)), None)
            if found is None:
                self._keep(level << GROUP_SHIFT | self.classes.class_of(lo), lo, hi)
                return
            slot = found
        self._pushed[slot] = self._pushed.get(slot, 0) + hi - lo
        self._note_assigned(slot, lo, hi)

    def _note_assigned(self, slot: int, lo: int, hi: int) -> None:
        now_ns, name = time.monotonic_ns(), self.roster.records[slot].name
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
                pushed[slot] -= slot not in self.frozen
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
            agents = self.classes.placement.agents_of(group & _CLASS_MASK)
            heads = [layout.head(slot, group >> GROUP_SHIFT) for slot in agents]
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
        if now < self.lengths_due:
            return
        words, layout = self.words, self.segment.layout
        for slot in self.slots:
            if slot in self.crew.leaving:
                continue
            base = layout.agent(slot)
            queued = self.deques.queued(slot)
            # It runs something that a new task would have to wait for. Looked at last: it claims before it takes, so
            # what it takes meanwhile is counted in one place at least. One that looks around has no claim.
            busy = words[base + L.CLAIM] != L.NONE and not words[base + L.PARKED] and words[base + L.STATE] == L.READY
            self.classes.placement.set_queue(slot, queued + busy if slot not in self.frozen else LAST_RESORT)
        done = time.monotonic()
        self.lengths_due = done + LENGTHS_STALE * (done - now)

    def _keep(self, group: int, lo: int, hi: int) -> None:
        """No deque has room for a range."""
        tasks = self.tasks_of(lo, hi)
        if tasks[0]._assigned_ns:  # taken back from an agent: all of them
            for task in tasks:
                task._assigned_ns, task._agent = 0, None
        self.overflow.setdefault(group, deque()).append((lo, hi))

    def place_waiting(self, slot: int) -> None:
        """Place what has waited for an agent like a new one."""
        can_run = self.classes.placement.can_run
        for number in [n for n in self.unmatched if can_run(n, slot)]:
            self.pending.extend(self.unmatched.pop(number))
        for number in [n for n in self.stranded if can_run(n, slot)]:
            self.place_again(sorted(self.stranded.pop(number)))

    def help_out(self, slot: int) -> None:
        """See `Losses.help_out`; protected tasks, which nobody steals, are placed anew as well."""
        self.lengths_due = 0.0
        self.urgent.changed = True
        self._read_lengths()
        if len(self.slots) > 1:
            self.roster.relieve(slot)

    def thawed(self) -> None:
        """See `Losses.thawed`."""
        self.lengths_due = 0.0
        self.urgent.changed = True

    def agent_id(self, slot: int) -> int | str:
        """See `Losses.agent_id`."""
        return self.roster.records[slot].name

    def identity(self, slot: int) -> tuple[str, frozenset[str]]:
        """See `Losses.identity`."""
        record = self.roster.records[slot]
        return record.name, record.capabilities

    def gone(self, slot: int, agent: AgentProcess, *, for_good: bool, is_end: bool, has_left: bool) -> None:
        """See `Losses.gone`."""
        self.roster.gone(slot, agent, for_good=for_good, is_end=is_end, has_left=has_left)

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
            if slot < 0 and isinstance(value, TaskCancelledError):
                metrics.cancelled += 1
            else:
                metrics.failed += 1
            self.ended.failed(task.id, note_failure(task, value))
        if task._terms is not NO_TERMS:
            self.limits.watched.discard(task)
            self.deadlines.finished(task)
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
                self.dependents.release(task)
        forget = self.unfinished.pop
        for number in ids:
            forget(number, None)

    def _ran(self, slot: int, tasks: list[Any], ok: bool) -> None:
        """An agent ran these: count them, and their times."""
        record, n = self.roster.records[slot], len(tasks)
        name = record.name
        for task in tasks:
            task._agent = name
        if ok:
            record.succeeded += n
        else:
            record.failed += n
        if record.failed:
            self.roster.tell_success(slot)
        runs_ns = [task._completed_ns - task._started_ns for task in tasks]
        mean_ns = sum(runs_ns) / n
        record.mean_ns = mean_ns + RUN_MEMORY**n * ((record.mean_ns or mean_ns) - mean_ns)
        self.metrics.runs.add(runs_ns)
        self.metrics.waits.add([task._started_ns - task._ready_ns for task in tasks])

    def lost(self, slot: int, chunk: int, error: AgentDiedError) -> BaseException | None:
        """See `Losses.lost`; and it is noted at the task and at the agent."""
        if chunk >= L.CHILDREN:
            return super().lost(slot, chunk, error)
        task = self.pages.sink_of(chunk)
        words, base = self.words, self.segment.layout.agent(slot)
        if words[base + L.LOADED] == chunk:
            task._started_ns = words[base + L.STARTED_NS]
        record = self.roster.records[slot]
        task._agent = record.name
        record.failed += 1
        self.roster.tell_success(slot)
        named = AgentDiedError(record.name, error.pid, error.exitcode, error.task)
        named.why = error.why
        outcome = super().lost(slot, chunk, named)
        if outcome is None:
            task._started_ns = 0
        return outcome

    def queue_again(self, chunk: int) -> None:
        """See `Losses.queue_again`."""
        if chunk >= L.CHILDREN:
            super().queue_again(chunk)
        else:
            self.place_again([chunk])

    def id_of(self, chunk: int) -> int:
        """See `Losses.id_of`."""
        task = self.pages.sink_of(chunk)
        return chunk if task is None else int(task.id)

    def id_if_there(self, chunk: int) -> int | None:
        """See `Losses.id_if_there`."""
        task = self.pages.sink_of(chunk)
        return None if task is None else int(task.id)

    # -- the loop -------------------------------------------------------------------------------------------------

    def before_results(self) -> None:
        """See `Dispatcher.before_results`: who has rung may wait for something urgent, and runs it meanwhile."""
        if self.urgent.count:
            self.urgent.give_out()

    def turn(self, now: float) -> None:
        """See `Dispatcher.turn`."""
        if self.roster.moving:
            self.roster.move_away()
        if self.overflow:
            self._refill()
        self.deadlines.turn()
        self.balancer.turn(now)
        self.urgent.give_out()
        super().turn(now)  # children come after what is urgent
        if self.is_draining:
            self._fail_unmatched()

    def due(self, now: float) -> list[float]:
        """See `Dispatcher.due`."""
        times = super().due(now) + self.deadlines.due() + self.balancer.due()
        if self.roster.moving:
            times.append(now + MOVE_RETRY_S)
        return times

    def _fail_unmatched(self) -> None:
        """No agent will come any more: answer those that wait for one."""
        nobody = [number for number in self.urgent.classes() if not self.classes.has_agents(number)]
        chunks = {number: [c for r in self.urgent.drain(of=[number]) for c in range(*r)] for number in nobody}
        for number in list(self.stranded):
            chunks.setdefault(number, []).extend(self.stranded.pop(number))
        for number, waiting in chunks.items():
            for chunk in waiting:
                task = self.pages.sink_of(chunk)
                if task is not None:
                    self.collector.finish(chunk, False, self.classes.unmatched(number, task.name))
        for number in list(self.unmatched):
            for task in self.unmatched.pop(number):
                task._resolve(False, self.classes.unmatched(number, task.name))

    # -- withdrawing ----------------------------------------------------------------------------------------------

    def withdraw(self, sink: Any) -> int | None:
        """See `Dispatcher.withdraw`; a task that waits for others is nowhere else."""
        if sink._is_finished:
            return None
        with suppress(KeyError, ValueError):
            self.unmatched[sink._group & _CLASS_MASK].remove(sink)
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

    def may_run(self, group: int, slot: int) -> bool:
        """See `Dispatcher.may_run`: children ask for the skills of the task that has submitted them."""
        return self.classes.can_get(group & _CLASS_MASK, slot)

    def kept(self) -> Iterator[tuple[int, int]]:
        """See `Dispatcher.kept`."""
        yield from super().kept()
        for ranges in self.overflow.values():
            yield from ranges
        yield from self.urgent
        for chunk in chain.from_iterable(self.stranded.values()):
            yield chunk, chunk + 1

    def validate(self) -> None:
        """See `Dispatcher.validate`."""
        validate_tasks(self)

    def obituary(self, slot: int, pid: int, exitcode: int | None) -> str:
        """See `Losses.obituary`."""
        return f"agent {self.roster.records[slot].name!r} (pid {pid}) {self.how_it_ended(slot, exitcode)}"

    def describe(self, chunk: int) -> str:
        """See `Losses.describe`."""
        task = self.pages.sink_of(chunk)
        if task is None:
            return super().describe(chunk)
        tries = f", try {agents_lost(task) + 1} of {task.retries + 1}" if task.retries else ""
        return f"task {task.id} ({task.name!r}{tries})"

    def name_of_chunk(self, chunk: int) -> str:
        """See `Losses.name_of_chunk`."""
        task = self.pages.sink_of(chunk)
        return super().name_of_chunk(chunk) if task is None else str(task.name)

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
