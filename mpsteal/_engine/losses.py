"""What becomes of chunks whose agent died or does not get on, and how that is told: a base of `Dispatcher`.

    death settled (`crew.py`) --> lost: the end of its time | once more | AgentDiedError --> gone
    silent (`vitals.py`)      --> help_out ... thawed

A scheduler overrides what it knows better: names, places, books. Engine thread only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .._queue import layout as L
from .._queue.arena import Pages, Segment
from .._queue.deque import Deques, Words
from ..errors import AgentDiedError, TaskCancelledError, TaskTimeoutError
from .counts import Counts
from .events import facts
from .jobs import items_of
from .limits import Limits
from .terms import agents_lost, may_run_again, spend_try, terms_of

if TYPE_CHECKING:
    from .cancel import Cancels
    from .health import AgentProcess
    from .logs import LogReader

logger = logging.getLogger("mpsteal")


class Losses:
    """Deaths, tries, time that is over, and the words for them."""

    words: Words
    segment: Segment
    deques: Deques
    pages: Pages
    limits: Limits
    cancels: Cancels
    names: dict[int, str]
    """Functions that were sent, by number."""

    def __init__(self) -> None:
        self.counts: Any = Counts()
        """What has gone wrong so far; a scheduler puts its metrics here, which have the same counters."""
        self.frozen: dict[int, str] = {}
        """Agents that do not get on, by slot, and how; see `vitals.py`. What others could do is not left to them."""
        self.why_ended: dict[int, str] = {}
        """Why we ended an agent that is about to be replaced, in words, by slot."""
        self.logs: LogReader | None = None
        """Reads what agents log."""

    # -- deaths -----------------------------------------------------------------------------------------------------

    def lost(self, slot: int, chunk: int, error: AgentDiedError) -> BaseException | None:
        """An agent died while it ran this chunk: what its handle gets, or None if it was queued again.

        That is the end of its time, or of anybody's wish for it, another try, or the death itself.
        """
        sink = self.pages.sink_of(chunk)
        counts = self.counts
        if self.limits.ending.get(slot) == chunk:
            if self.cancels.is_asked(sink):
                self.why_ended[slot] = f"{self.describe(chunk)} was cancelled while it ran"
                return TaskCancelledError(
                    f"{self.describe(chunk)} was cancelled while it ran, and ended with its agent"
                )
            counts.timeouts += 1
            timeout_s = terms_of(sink).timeout or 0.0
            self.why_ended[slot] = f"{self.describe(chunk)} ran for longer than its {timeout_s:g} s"
            late = TaskTimeoutError(self.name_of_chunk(chunk), timeout_s)
            late.items = items_of(sink)
            return late
        counts.agent_deaths += 1
        error.items = items_of(sink)
        if not may_run_again(sink) or self.cancels.is_asked(sink):
            error.agents_lost = agents_lost(sink) + 1
            return error
        spend_try(sink)
        counts.retried += 1
        tries = terms_of(sink).retries + 1
        logger.warning(
            "mpsteal: %s; it runs again (try %d of %d)",
            error,
            agents_lost(sink) + 1,
            tries,
            extra=facts(
                "task_retried", agent=error.agent, agent_pid=error.pid, task=self.id_of(chunk), exitcode=error.exitcode
            ),
        )
        self.queue_again(chunk)
        return None

    def queue_again(self, chunk: int) -> None:
        """A chunk that was started, whose slot and payload are still there, is to run once more."""
        raise NotImplementedError

    def id_of(self, chunk: int) -> int:
        """What the logs call it."""
        return chunk

    def id_if_there(self, chunk: int) -> int | None:
        """The same of a chunk that is not over; None where only the task would know, and that is gone. Any thread."""
        return self.id_of(chunk)

    def note_logged(self, chunk: int) -> None:
        """A chunk that is about to be over has logged something, or may have."""
        if self.logs is not None:
            self.logs.note(chunk, self.id_of(chunk))

    def help_out(self, slot: int) -> None:
        """An agent does not get on: let others have what is queued there."""
        self.ring_parked(self.deques.queued(slot))

    def ring_parked(self, chunks: int) -> None:
        """See `Dispatcher.ring_parked`."""
        raise NotImplementedError

    def thawed(self) -> None:
        """One that did not gets on again, or is dead."""

    def agent_id(self, slot: int) -> int | str:
        """What users call an agent."""
        return slot

    def identity(self, slot: int) -> tuple[str, frozenset[str]]:
        """Name and capabilities of an agent that is about to start, for itself."""
        return f"mpsteal-{slot}", frozenset()

    def gone(self, slot: int, agent: AgentProcess, *, for_good: bool, is_end: bool, has_left: bool) -> None:
        """A dead agent is settled. Its ranges stay where they are: others steal them, or the next one takes them.

        Args:
            agent: its process, which is over.
            for_good: nobody takes its place.
            is_end: all agents leave.
            has_left: it left by itself, as it was told to.
        """
        self.limits.death_settled(slot)

    # -- words ------------------------------------------------------------------------------------------------------

    def obituary(self, slot: int, pid: int, exitcode: int | None) -> str:
        """What became of an agent that is gone, for people."""
        return f"agent {slot} (pid {pid}) {self.how_it_ended(slot, exitcode)}"

    def how_it_ended(self, slot: int, exitcode: int | None) -> str:
        """The same without its name."""
        why = self.why_ended.pop(slot, None)
        return f"was ended, since {why}" if why else f"died with exit code {exitcode}"

    def describe(self, chunk: int) -> str:
        """A chunk that an agent has started, for people."""
        if chunk >= L.CHILDREN:
            return f"child {chunk - L.CHILDREN} ({self.name_of_chunk(chunk)})"
        return f"task {chunk} ({self.name_of_chunk(chunk)})"

    def name_of_chunk(self, chunk: int) -> str:
        """What it calls, for people."""
        name = "a callable"
        if chunk >= L.CHILDREN:
            child = self.pages.sink_of(chunk)
            return name if child is None else str(child.name)
        if chunk not in self.pages.adrift:  # else its slot may be another chunk's by now
            number = self.words[self.segment.layout.chunk(chunk) + L.SLOT_FUNCTION]
            name = self.names.get(number, name)
        return name
