"""A Pool's agents come and go with its size. Engine thread only.

    larger:   one that is leaving stays, else a free slot gets an agent, which looks for work by itself
    smaller:  told to leave --> others get its queue --> it ends what it runs --> its slot is free

A scheduler's agents have names and skills, and come and go by `roster.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._queue import layout as L
from .events import facts

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .health import AgentProcess

logger = logging.getLogger("mpsteal")

MOVE_RETRY_S = 0.001
"""Next try to take back what a leaving agent has queued, when its lock was busy: shorter spins beside who holds it,
longer leaves what is queued there."""


class Resizer:
    """Changes how many agents a Pool has."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.moving: set[int] = set()
        """Slots of agents that leave or have left, whose queue has to be given to others."""

    def resize(self, agents: int, equip: Callable[[int], None]) -> None:
        """Start agents, or tell some to leave, until so many stay.

        Args:
            equip: makes what a slot that never had an agent needs.

        Raises what starting a process raises; those that were started before stay.
        """
        dispatcher = self._dispatcher
        if dispatcher.staying is dispatcher.slots:
            dispatcher.staying = list(dispatcher.slots)
        while len(dispatcher.staying) < agents:
            self._add(equip)
        surplus = len(dispatcher.staying) - agents
        if surplus > 0:
            self._send_away(sorted(dispatcher.staying, key=self._worth)[:surplus])

    def _add(self, equip: Callable[[int], None]) -> None:
        dispatcher = self._dispatcher
        crew, slots, words = dispatcher.crew, dispatcher.slots, dispatcher.words
        for slot in sorted(crew.leaving):
            # It may have seen the word, and leave; then it has a successor.
            crew.leaving.discard(slot)
            words[dispatcher.segment.layout.agent(slot) + L.LEAVE] = 0
            if slot in crew.alive:
                crew.alive[slot].why_recycled = "the pool was made smaller, and larger again"
            dispatcher.staying.append(slot)
            return
        slot = next(at for at in range(dispatcher.segment.layout.geometry.slots) if at not in slots)
        equip(slot)
        words[L.SLOTS_USED] = max(words[L.SLOTS_USED], slot + 1)
        state = dispatcher.segment.layout.agent(slot) + L.STATE
        try:
            crew.add(slot)
        except BaseException:
            words[state] = L.VACANT
            raise
        slots.append(slot)
        dispatcher.staying.append(slot)
        self.moving.discard(slot)  # what is left there is its own now

    def _worth(self, slot: int) -> tuple[int, int]:
        """Who leaves first: those that do not get on, have no process, have nothing to do; of equals the last slot."""
        dispatcher = self._dispatcher
        base = dispatcher.segment.layout.agent(slot)
        if slot in dispatcher.frozen or slot not in dispatcher.crew.alive:
            return 0, -slot
        is_idle = dispatcher.words[base + L.PARKED] or dispatcher.words[base + L.STATE] == L.STARTING
        return 1 if is_idle else 2, -slot

    def _send_away(self, leavers: list[int]) -> None:
        dispatcher = self._dispatcher
        crew = dispatcher.crew
        for slot in leavers:
            dispatcher.staying.remove(slot)
            crew.leaving.add(slot)
            self.moving.add(slot)
            if crew.forget(slot):  # it has no process
                crew.leaving.discard(slot)
                dispatcher.slots.remove(slot)
            else:
                dispatcher.words[dispatcher.segment.layout.agent(slot) + L.LEAVE] = L.LEAVE_NOW
        dispatcher.locks.fence()
        for slot in leavers:
            dispatcher.ring(slot)
        self.move_away()

    def move_away(self) -> None:
        """Give what is queued at agents that leave or have left to others. Some may stay in `moving`: come again."""
        deques = self._dispatcher.deques
        for slot in list(self.moving):
            taken = deques.take_back(slot, 1 << 62, deques.levels)
            if taken is None:
                continue  # its lock was busy
            self.moving.discard(slot)
            for _, lo, hi in reversed(taken):
                self._dispatcher.deal_again(lo, hi)

    def gone(self, slot: int, agent: AgentProcess, *, has_left: bool) -> None:
        """The process of an agent that was told to leave is gone, or has given its slot back."""
        dispatcher = self._dispatcher
        if not has_left:
            name, pid, exitcode = dispatcher.agent_id(slot), agent.process.pid, agent.exitcode
            logger.warning(
                "mpsteal: %s; it was to leave, and is not replaced",
                dispatcher.obituary(slot, pid, exitcode),
                extra=facts("agent_lost", agent=name, agent_pid=pid, task=agent.lost_task, exitcode=exitcode),
            )
        dispatcher.why_ended.pop(slot, None)
        dispatcher.slots.remove(slot)
        dispatcher.words[dispatcher.segment.layout.agent(slot) + L.LEAVE] = 0
        self.moving.add(slot)  # it may have stolen something just before it saw that it was to leave
        self.move_away()
