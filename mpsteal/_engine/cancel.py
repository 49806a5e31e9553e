"""Cancelling: what is queued is taken out, and where that is asked for, what runs is ended with its agent.

Engine thread only.

    cancel --> taken out? --yes--> TaskCancelledError
                  |no: it runs, it is over, or it is where it cannot be reached now
                  v
               open --every look--> over? forget it
                                    queued (a job's)? take it out
                                    running, and to be ended? `Limits.end` --> death --> `Losses.lost`

A job is a `map` or `imap`: its input is read no further, its queued chunks go in one pass over the deques.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._queue import layout as L
from ..errors import TaskCancelledError
from .future import LazyFuture
from .jobs import Job
from .limits import LOOK_S, RETRY_S

if TYPE_CHECKING:
    from .dispatch import Dispatcher

_ALL = 1 << 62


class Cancels:
    """What is to be cancelled."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.open: dict[Any, bool] = {}
        """Calls, tasks and jobs that are not settled yet, and whether what runs of them is to be ended."""
        self._look_at = 0.0

    def cancel(self, owner: Any, *, end_running: bool) -> bool:
        """Cancel a call, a task or a job.

        Returns:
            True: it was taken out and never runs; with `end_running`: or it is about to be ended. Of a job: it had not
            been finished. False: it runs on, or is over.
        """
        if _is_over(owner):
            return False
        if type(owner) is Job:
            self.end_input(owner, TaskCancelledError("the call was cancelled before all of it had run"))
        else:
            chunk = self._dispatcher.withdraw(owner)
            if chunk is not None:
                error = TaskCancelledError("the call was cancelled before it started")
                if chunk == L.NONE:
                    owner._resolve(False, error)
                else:
                    self._dispatcher.collector.finish(chunk, False, error)
                return True
            if not end_running:
                return False
        self.open[owner] = end_running or self.open.get(owner, False)
        self._look(0.0)
        return True

    def is_asked(self, sink: Any) -> bool:
        """Whether whoever waits for a chunk does not want it any more."""
        return bool(self.open) and _owner(sink) in self.open

    def turn(self, now: float) -> None:
        """Look at what is due."""
        if now >= self._look_at:
            self._look(now)

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        return [self._look_at] if self.open else []

    def _look(self, now: float) -> None:
        dispatcher, is_busy = self._dispatcher, False
        for owner, end_running in list(self.open.items()):
            is_queued = type(owner) is Job and self._take_out(owner)
            if _is_over(owner) or not (is_queued or end_running):
                del self.open[owner]
                continue
            is_busy = is_busy or is_queued
            for slot, chunk in self._claims():
                if (
                    end_running
                    and _owner(dispatcher.pages.sink_of(chunk)) is owner
                    and slot in dispatcher.crew.alive
                    and slot not in dispatcher.limits.ending
                ):
                    is_busy = not dispatcher.limits.end(slot, chunk) or is_busy
        self._look_at = now + (RETRY_S if is_busy else LOOK_S)

    def _claims(self) -> list[tuple[int, int]]:
        words, layout = self._dispatcher.words, self._dispatcher.segment.layout
        claims = [(slot, words[layout.agent(slot) + L.CLAIM]) for slot in self._dispatcher.slots]
        suspended = self._dispatcher.children.suspended
        below = [(slot, chunk) for slot in self._dispatcher.slots for chunk in suspended(slot)]
        return [(slot, chunk) for slot, chunk in claims if chunk >= 0] + below

    # -- jobs -------------------------------------------------------------------------------------------------------

    def end_input(self, job: Job, error: BaseException | None) -> None:
        """Read no more of its input, and send nothing more; the error, if any, follows what it has given."""
        dispatcher = self._dispatcher
        with suppress(ValueError):
            dispatcher.pending.remove(job)
            dispatcher.jobs.append(job)  # as if it had been looked at
        if not job.ended:
            job.end(error)
            dispatcher.job_maybe_done(job)

    def _take_out(self, job: Job) -> bool:
        """Settle what is queued of a job; whether any of it could not be reached."""
        dispatcher = self._dispatcher
        dispatcher.collector.collect(*dispatcher.slots)
        carry = dispatcher._carry
        if carry is not None and _owner(carry[3]) is job:
            dispatcher.settle(
                dispatcher.drop_carry(), False, TaskCancelledError("the call was cancelled before it started")
            )
        left = _chunks(dispatcher, job)
        if not left:
            return False
        kept, dispatcher.backlog = dispatcher.backlog, type(dispatcher.backlog)()
        dispatcher.backlog.extend(self._settle(left, kept))
        for slot in dispatcher.slots:
            if not any(left.intersection(range(*pair)) for pair in dispatcher.deques.ranges(slot)):
                continue
            taken = dispatcher.deques.take_back(slot, _ALL, dispatcher.deques.levels) or ()
            others = self._settle(left, [(lo, hi) for _, lo, hi in reversed(taken)])
            for lo, hi in others:
                dispatcher._push(slot, lo, hi)
            dispatcher.ring_parked(sum(hi - lo for lo, hi in others))
        return not left.issubset(chunk for _, chunk in self._claims())

    def _settle(self, left: set[int], ranges: Any) -> list[tuple[int, int]]:
        """Settle those chunks of some ranges that are in `left`, and take them out there; returns all the others."""
        others: list[tuple[int, int]] = []
        finish = self._dispatcher.collector.finish
        for lo, hi in ranges:
            start = lo
            for chunk in range(lo, hi):
                if chunk in left:
                    left.discard(chunk)
                    finish(chunk, False, TaskCancelledError("the call was cancelled before it started"))
                    if start < chunk:
                        others.append((start, chunk))
                    start = chunk + 1
            if start < hi:
                others.append((start, hi))
        return others


def _owner(sink: Any) -> Any:
    return sink[0] if type(sink) is tuple else sink


def _is_over(owner: Any) -> bool:
    if type(owner) is Job:
        return owner.closed
    return owner._is_finished if isinstance(owner, LazyFuture) else bool(owner._is_done())


def _chunks(dispatcher: Dispatcher, job: Job) -> set[int]:
    """The numbered chunks of a job that are not finished, and have not been loaded by an agent for long."""
    return {
        page.first + i
        for page in dispatcher.pages.table
        if page is not None
        for i, sink in enumerate(page.sinks)
        if type(sink) is tuple and sink[0] is job
    }
