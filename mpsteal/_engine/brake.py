"""The brake: where chunks are short and there are more agents than cores, only as many agents are woken as there are
cores. Engine thread only.

    results --> told: chunks are short --> FEW := 1 --> few get what is dealt, and are rung; agents ring nobody
                                                             |
    look: who is stuck is replaced, twice as many each time <'        told: they are not --> FEW := 0, ring for all

Without it 64 agents on two cores wake for work that two of them finish in the meantime: 250 us a task in place of 4. A
chunk that is never seen to end may be one for which others wait, so nothing may stay queued behind it: hence the look.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._policy.waking import STUCK_NS, are_short
from .._queue import layout as L
from .cpus import usable_cpus

if TYPE_CHECKING:
    from .dispatch import Dispatcher

LOOK_S = 0.002
"""How often the engine looks, while the brake is on and something is queued, whether somebody is stuck (s). Shorter: it
takes a core from those who work; longer: what stands behind a long chunk waits longer."""

AGAIN_S = 0.05
"""The next look where nothing seemed to be queued, while chunks are in flight (s): lengths are read one after another,
so what moves meanwhile may be missed. Shorter wakes for nothing; longer: what was missed waits longer."""

LEAST = 2
"""Agents that are woken however few cores there are: one may be stuck."""


class Brake:
    """Decides who is woken.

    Attributes:
        is_on: chunks are short.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.is_on = False
        self._enough = 0
        self._look_at: float | None = None
        self._has_stopped = False
        self._rung: dict[int, int] = {}
        """Slots that were rung since the last look, and how often each had found nothing by then."""
        self._called: dict[int, int] = {}
        """The same for those that were rung before."""
        self._done: list[int] = []
        self._busy: list[int] = []

    @property
    def enough(self) -> int:
        """Agents that use all cores."""
        self._enough = self._enough or max(LEAST, usable_cpus())  # here: not every pool needs it (0.3 ms)
        return self._enough

    # -- how long chunks take -------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Agents have reported: see what their chunks took."""
        dispatcher = self._dispatcher
        if len(dispatcher.staying) <= LEAST:
            if self.is_on:
                self._release()
            return
        look = dispatcher.deques.look
        done = look(L.DONE)
        if done == self._done:
            return
        busy = look(L.BUSY_NS)
        if len(done) != len(self._done):
            self._done, self._busy = done, busy
            return
        chunks = [now - before for now, before in zip(done, self._done)]  # noqa: B905
        short = are_short(chunks, [now - before for now, before in zip(busy, self._busy)])  # noqa: B905
        if short is None:
            return
        self._done, self._busy = done, busy
        if short and not self.is_on and len(dispatcher.staying) > self.enough:
            self.is_on = True
            dispatcher.words[L.FEW] = 1
            self._look_at = time.monotonic() + LOOK_S
        elif self.is_on and not short:
            self._release()

    def _release(self) -> None:
        """Wake everybody for whom there is something."""
        self.is_on, self._look_at = False, None
        self._rung, self._called = {}, {}
        dispatcher = self._dispatcher
        dispatcher.words[L.FEW] = 0
        dispatcher.locks.fence()  # who steals from here on rings the next, or we see what it has
        dispatcher.ring_parked(self._queued())

    def stop(self) -> None:
        """The agents are told to leave: nothing is due any more, whatever is still settled for those that die."""
        self._look_at, self._has_stopped = None, True

    def _queued(self) -> int:
        deques = self._dispatcher.deques
        return sum(map(deques.queued, deques.may_have_work()))

    # -- who is woken ---------------------------------------------------------------------------------------------

    def _getting_on(self) -> list[int]:
        """Slots of those that are awake and not stuck: they look for work (no claim), or have just begun."""
        look, since = self._dispatcher.deques.look, time.monotonic_ns() - STUCK_NS
        parked, states, claims, started = look(L.PARKED), look(L.STATE), look(L.CLAIM), look(L.STARTED_NS)
        return [
            a
            for a in self._dispatcher.staying
            if not parked[a]
            and states[a] == L.READY
            and a not in self._dispatcher.frozen
            and (claims[a] == L.NONE or started[a] > since)
        ]

    def choose(self) -> list[int] | None:
        """Who is to get what is dealt: those that get on, and of those that are parked as many as are missing."""
        awake = self._getting_on()[: self.enough]
        missing = self.enough - len(awake)
        if missing > 0:
            dispatcher = self._dispatcher
            parked = dispatcher.deques.look(L.PARKED)
            asleep = [a for a in dispatcher.staying if parked[a] and a not in dispatcher.frozen]
            awake += asleep[:missing]
        return awake if len(awake) == self.enough else None

    def allow(self, chunks: int) -> int:
        """How many may be rung for so many chunks."""
        if not self._has_stopped:
            due = time.monotonic() + LOOK_S
            if self._look_at is None or self._look_at > due:  # one after `AGAIN_S` is too late for what is queued now
                self._look_at = due
        return min(chunks, max(0, self.enough - len(self._getting_on())))

    def rang(self, slots: list[int]) -> None:
        """These have been rung."""
        found_nothing = self._dispatcher.deques.look(L.STEALS_FAILED)
        for slot in slots:
            self._rung.setdefault(slot, found_nothing[slot])

    def _deaf(self, parked: list[int]) -> set[int]:
        """Slots that were rung before the last look and have not stirred: they may have been stopped by a signal, which
        is noticed only where they have something queued. Whoever wakes for nothing counts that."""
        found_nothing = self._dispatcher.deques.look(L.STEALS_FAILED)
        deaf = {a: n for a, n in self._called.items() if parked[a] and found_nothing[a] == n}
        self._called, self._rung = {**self._rung, **deaf}, {}
        return set(deaf)

    # -- nothing stays behind a long chunk ------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Have those that are stuck replaced."""
        if self._look_at is None or now < self._look_at:
            return
        self._look_at = None
        dispatcher = self._dispatcher
        queued = self._queued()
        if queued:
            self._look_at = now + LOOK_S
            all_parked = dispatcher.deques.look(L.PARKED)
            parked = sum(bool(all_parked[a]) for a in dispatcher.staying)
            if self.is_on and not parked:
                self._release()  # nobody is left to be held back
                return
            deaf = self._deaf(all_parked)
            getting_on = len(self._getting_on())
            stuck = len(dispatcher.staying) - parked - getting_on
            if not getting_on:
                stuck += len(deaf)
            if parked and stuck > 0:
                dispatcher.ring_parked(min(queued, stuck), is_urgent=True, beside=deaf)
        elif self.is_on and dispatcher.inflight:
            self._look_at = now + AGAIN_S

    def due(self) -> list[float]:
        """When `turn` has something to do (monotonic clock, s)."""
        return [] if self._look_at is None else [self._look_at]
