"""Time limits: a task that runs for longer than its `timeout` is ended, and nothing else with it. Engine thread only,
but for `watch` and `watched`.

    claim, started (shared words) --look--> over its limit? --hold its lock--> still that one? --> SIGKILL
                                                                                                     |
                                          `Losses.lost`: TaskTimeoutError <--death is settled--------'

A limit counts from the start of a task; in a chunk of several items from the start of each, which the agent stamps then
(`layout.TIMED`). Nobody tells the parent of starts (D9), so it looks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .._queue import layout as L
from .terms import terms_of

if TYPE_CHECKING:
    from .dispatch import Dispatcher

LOOK_S = 0.02
"""Time between two looks at who has started what, while tasks with a limit wait for their start: a limit is noticed
late by so much at most; shorter costs wakes. When all of them run, the next look is when the first is over."""

NEVER = float("inf")

RETRY_S = 0.001
"""Next try when the agent's lock was busy."""


class Limits:
    """Who has to be ended."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.watched: set[Any] = set()
        """What has a limit and is not over: calls and jobs of a Pool, tasks."""
        self.ending: dict[int, int] = {}
        """The chunk for which an agent was ended, by slot, until its death is settled."""
        self._seen_start: dict[int, tuple[int, int]] = {}
        self._look_at = 0.0
        self._is_asked = False

    def watch(self, limited: Any) -> None:
        """Something with a limit has come in. Any thread: `_look_at` would not do to ask for a look, which one that is
        under way overwrites."""
        self.watched.add(limited)
        self._is_asked = True

    def turn(self, now: float) -> None:
        """Look at what is due."""
        if self.watched:
            if self._is_asked or now >= self._look_at:
                self._is_asked = False  # before the look: who asks from here on is seen next time
                self._check_starts(now)
        elif self._seen_start:
            self._seen_start.clear()

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        if not self.watched or not self._dispatcher.inflight:
            return []
        return [0.0 if self._is_asked else self._look_at]

    def _check_starts(self, now: float) -> None:
        dispatcher = self._dispatcher
        words, layout = dispatcher.words, dispatcher.segment.layout
        now_ns = time.monotonic_ns()
        running, look_at = 0, NEVER
        for slot in dispatcher.slots:
            base = layout.agent(slot)
            for chunk, started in dispatcher.children.suspended(slot).items():
                timeout_ns = terms_of(dispatcher.pages.sink_of(chunk)).timeout_ns
                if not timeout_ns or slot in self.ending or slot not in dispatcher.crew.alive:
                    continue
                if chunk == words[base + L.CLAIM]:
                    continue  # it goes on, see below
                running += 1
                due_ns = started + timeout_ns
                if due_ns > now_ns:
                    look_at = min(look_at, now + (due_ns - now_ns) / 1e9)
                elif not self.end(slot, chunk):
                    look_at = min(look_at, now + RETRY_S)
            chunk = words[base + L.CLAIM]
            sink = dispatcher.pages.sink_of(chunk) if chunk >= 0 else None
            terms = None if sink is None else terms_of(sink)
            if terms is None or not terms.timeout_ns or slot in self.ending or slot not in dispatcher.crew.alive:
                continue
            seen = self._seen_start.get(slot)
            if seen is None or seen[0] != chunk:
                seen = self._seen_start[slot] = (chunk, now_ns)
            # STARTED_NS is that of this chunk once it is loaded; before, the clock starts when we see the claim.
            started = seen[1]
            if words[base + L.LOADED] == chunk:
                started = words[base + L.STARTED_NS]
                running += type(sink) is not tuple  # of a job there may be more
            due_ns = started + terms.timeout_ns
            if due_ns > now_ns:
                look_at = min(look_at, now + (due_ns - now_ns) / 1e9)
            elif not self.end(slot, chunk):
                look_at = min(look_at, now + RETRY_S)
        # Nobody tells when one of the others starts; when an agent dies, one of these may have to wait again.
        if running != len(self.watched) or look_at == NEVER:
            look_at = min(look_at, now + LOOK_S)
        self._look_at = look_at

    def end(self, slot: int, chunk: int) -> bool:
        """Kill the agent if it still runs that chunk. False: come again.

        Its lock and a mark keep it from starting the next one meanwhile; both are left for who settles its death, which
        finds the mark of the parent and clears it.
        """
        dispatcher = self._dispatcher
        words, locks, deques = dispatcher.words, dispatcher.locks, dispatcher.deques
        if not deques.hold(slot):
            return False
        if self._still_runs(slot, chunk):
            self.ending[slot] = chunk
            dispatcher.crew.alive[slot].kill_group()
            return True
        words[dispatcher.segment.layout.agent(slot) + L.MARK] = 0
        locks.unlock(slot)
        return True

    def _still_runs(self, slot: int, chunk: int) -> bool:
        """Whether an agent that can start nothing has this chunk and no result for it."""
        dispatcher = self._dispatcher
        dispatcher.collector.collect(slot)
        claim = dispatcher.words[dispatcher.segment.layout.agent(slot) + L.CLAIM]
        if chunk in dispatcher.children.suspended(slot):
            claim = chunk  # below what it claims now, which was submitted in it
        return claim == chunk and dispatcher.pages.sink_of(chunk) is not None

    def death_settled(self, slot: int) -> bool:
        """The death of an agent is settled; whether it was ended for a limit."""
        self._seen_start.pop(slot, None)
        self._look_at = 0.0
        return self.ending.pop(slot, None) is not None
