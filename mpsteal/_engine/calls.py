"""The dispatcher of an `Executor`: a scheduler's, less what only tasks have (names, ids, dependencies, times).

    pending --> pickled, numbered --> one group: dealt to the deques at once       <-- most executors, always
                                  \'-> mixed: sorted and placed as a scheduler does it  <-- once `options` was used

Agents of an executor send no notes of when they started what (`Balancing.for_executor`): a record less for each call.
Agents start as calls come (`hire`), where the start method allows it without forking beside running threads.

Engine thread only, but where it says so.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import deque
from collections.abc import Container
from concurrent.futures.process import _RemoteTraceback
from itertools import chain
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]  # not in typeshed
from typing import Any

from .._queue import layout as L
from .._queue import results as R
from ..errors import AgentDiedError, AgentStartError, TaskCancelledError, TransferError
from .collect import Collector
from .collect_tasks import SETTLE_BYTES
from .dispatch import Batch
from .events import facts
from .future import settle
from .losses import Losses
from .schedule import LEVELS_PER_PRIORITY, Scheduling
from .terms import NO_TERMS, agents_lost
from .urgent import GROUP_SHIFT
from .validate_tasks import validate_calls

logger = logging.getLogger("mpsteal")

# Of calls for which none was chosen.
PRIORITY = 3

# `_group` of calls without options: no skills, which are class 0 (`Scheduling.attach`).
PLAIN = LEVELS_PER_PRIORITY * (PRIORITY - 1) << GROUP_SHIFT

HIRE_AGAIN_S = 1.0
"""When the system has refused a process for a further agent: pause before the next try. Shorter asks a system that is
short of them all the time, longer leaves CPUs idle that could be used again."""

CANCEL_TRIES, CANCEL_PAUSE_S = 200, 0.000_05
"""How often, and at what distance, the queue of an agent is tried whose lock is held, which takes microseconds unless
its holder was stopped: fewer leave calls queued that should be cancelled, more hold up the engine for a stopped one."""


class Calls(Scheduling):
    """Dispatches the calls of an executor."""

    def __init__(self, *parts: Any, **rules: Any) -> None:
        super().__init__(*parts, **rules)
        self.is_mixed = False
        """Whether calls may differ in priority, skills or terms. Set in the engine's thread, for good."""
        self.recruits: deque[tuple[Any, frozenset[str]]] = deque()
        """Agents that may be started still: id (a number where nobody named them), capabilities."""
        self._hire_at = 0.0

    # -- agents ---------------------------------------------------------------------------------------------------

    def hire(self, count: int) -> list[tuple[int, int]]:
        """Start up to so many agents of `recruits`; returns what `Roster.add` does. Raises what starting raises."""
        hired = []
        for _ in range(min(count, len(self.recruits))):
            hired.append(self.roster.add(*self.recruits[0]))
            self.recruits.popleft()
        return hired

    def hire_wanted(self) -> None:
        """Start at once what `turn` would start one by one."""
        if self.recruits:
            self.hire(self.inflight - len(self.slots))

    def _wants_more(self) -> bool:
        return bool(self.recruits) and self.inflight > len(self.slots)

    def turn(self, now: float) -> None:
        """See `Dispatcher.turn`. One agent at a time: starting it takes milliseconds, in which others wait."""
        if self._wants_more() and now >= self._hire_at:
            try:
                self.hire(1)
            except OSError as error:
                self._hire_at = now + HIRE_AGAIN_S
                logger.warning(
                    "mpsteal: no process for a further agent (%s); %d go on",
                    error,
                    len(self.slots),
                    extra=facts("agent_not_started"),
                )
        if self.urgent.count:
            self._measure()
        super().turn(now)

    def due(self, now: float) -> list[float]:
        """See `Dispatcher.due`."""
        times = super().due(now)
        if self._wants_more():
            times.append(self._hire_at)
        return times

    def _measure(self) -> None:
        """How long calls take, which `Urgent` asks: from the counters of the agents, since they note no times."""
        words, layout = self.words, self.segment.layout
        for slot in self.slots:
            base = layout.agent(slot)
            self.roster.records[slot].mean_ns = words[base + L.BUSY_NS] / max(1, words[base + L.DONE])

    def init_failed(self, error: BaseException) -> BaseException:
        """See `Dispatcher.init_failed`: nothing can be saved."""
        broken = AgentStartError(f"the initializer of an agent raised {type(error).__name__}: {error}")
        broken.__cause__ = _as_stock(error)
        return broken

    # -- taking in and placing ------------------------------------------------------------------------------------

    def _take_pending(self, batch: Batch) -> None:
        if self.is_mixed:
            super()._take_pending(batch)
        else:
            self._pickle(batch, self.pending)

    def _place(self, lo: int, hi: int) -> None:
        if self.is_mixed:
            super()._place(lo, hi)
        else:
            self._read_lengths()
            self.place_group(lo, hi, PLAIN)
            self.announce()

    def _note_assigned(self, slot: int, lo: int, hi: int) -> None:
        """Nobody asks when a call was assigned, and to whom."""

    # -- results --------------------------------------------------------------------------------------------------

    def finished(self, task: Any, ok: bool, value: Any) -> None:
        """A call is over, however it ended. Called once, by its `_resolve`, before anybody is woken."""
        if not ok and type(value.__cause__) is RemoteTraceback:
            _as_stock(value)
        if task._terms is not NO_TERMS:
            task._completed_ns = time.monotonic_ns()
            self.limits.watched.discard(task)
            self.deadlines.finished(task)

    def runs(self, sink: Any) -> bool:
        """Whether an agent has started this call, and not finished it. Any thread."""
        words, layout = self.words, self.segment.layout
        try:
            for slot in list(self.slots):
                base = layout.agent(slot)
                chunk = words[base + L.CLAIM]
                # Loaded: from the claim to there it could still be withdrawn.
                if chunk >= 0 and words[base + L.LOADED] == chunk and self.pages.sink_of(chunk) is sink:
                    return True
                if any(self.pages.sink_of(chunk) is sink for chunk in self.children.suspended(slot)):
                    return True
        except (ValueError, IndexError):  # the segment is gone
            pass
        return False

    # -- words ----------------------------------------------------------------------------------------------------

    def id_of(self, chunk: int) -> int:
        """See `Losses.id_of`."""
        return chunk

    def id_if_there(self, chunk: int) -> int | None:
        """See `Losses.id_if_there`."""
        return chunk

    def describe(self, chunk: int) -> str:
        """See `Losses.describe`."""
        return Losses.describe(self, chunk)

    def name_of_chunk(self, chunk: int) -> str:
        """See `Losses.name_of_chunk`."""
        return Losses.name_of_chunk(self, chunk)

    # -- withdrawing ----------------------------------------------------------------------------------------------

    def cancel_rest(self) -> None:
        """Cancel all calls that no agent has started, nor would at once: those who submit and then `shutdown` do not
        know how far we have got."""
        words, layout = self.words, self.segment.layout
        bases = map(layout.agent, self.slots)
        idle = sum(bool(words[base + L.PARKED]) or words[base + L.STATE] != L.READY for base in bases)
        self.flush()
        self.cancel_queued(but_first=idle)

    def cancel_queued(self, wanted: Container[Any] | None = None, *, but_first: int = 0) -> None:
        """Cancel all calls that no agent has started, or those of them that are `wanted`; in one pass (D13).

        Args:
            but_first: how many of those that were submitted first are left alone.
        """
        error = TaskCancelledError("the call was cancelled before it started")
        kept = []
        while self.pending:
            sink = self.pending.popleft()
            if wanted is not None and sink not in wanted:
                kept.append(sink)
            else:
                sink._forget_call()
                sink._resolve(False, error)
        self.pending.extendleft(reversed(kept))
        carried = None if self._carry is None else self._carry[3]
        if carried is not None and (wanted is None or carried in wanted):
            self.drop_carry()._resolve(False, error)
        again: list[int] = []
        for chunk in sorted(self._take_all_back()):
            sink = self.pages.sink_of(chunk)
            if sink is None:
                continue
            # What waits for another try has run.
            if len(again) < but_first or agents_lost(sink) or (wanted is not None and sink not in wanted):
                again.append(chunk)
            else:
                self.collector.finish(chunk, False, error)
        self.place_again(again)

    def _take_all_back(self) -> list[int]:
        """Chunks that no agent has started, out of wherever they are queued."""
        ranges = list(self.urgent.drain())
        ranges += chain.from_iterable(self.overflow.values())
        self.overflow.clear()
        chunks = list(chain.from_iterable(self.stranded.values()))
        self.stranded.clear()
        for _ in range(2):  # a thief may carry some past us the first time
            for slot in self.slots:
                taken = None
                for _ in range(CANCEL_TRIES):
                    taken = self.deques.take_back(slot, 1 << 62, self.deques.levels)
                    if taken is not None:
                        break
                    time.sleep(CANCEL_PAUSE_S)
                ranges += [(lo, hi) for _, lo, hi in taken or ()]
        return chunks + [chunk for lo, hi in ranges for chunk in range(lo, hi)]

    def end_all(self, how: str, exitcode: int) -> None:
        """Before the agents are ended by signal: cancel what is queued, and answer those who wait for what runs."""
        self.cancel_queued()
        for slot in self.slots:
            self.collector.collect(slot)
            base = self.segment.layout.agent(slot)
            for chunk in self.children.begun(slot, self.words[base + L.CLAIM]):
                pid = self.words[base + L.PID]
                died = AgentDiedError(self.roster.records[slot].name, pid, exitcode, self.describe(chunk))
                died.why = f"{how}() was called"
                self.collector.finish(chunk, False, died)

    # -- the end --------------------------------------------------------------------------------------------------

    def fail_rest(self, error: BaseException) -> None:
        """See `Dispatcher.fail_rest`: those that wait for an agent."""
        unmatched, self.unmatched = self.unmatched, {}
        for sink in chain.from_iterable(unmatched.values()):
            sink._resolve(False, error)

    def validate(self) -> None:
        """See `Dispatcher.validate`."""
        validate_calls(self)


def _as_stock(error: BaseException) -> BaseException:
    """The remote traceback of an error in the shape that `ProcessPoolExecutor` gives it: some tools look for that."""
    cause: Any = error.__cause__
    if type(cause) is RemoteTraceback:
        error.__cause__ = _RemoteTraceback(cause.tb)
    return error


class CallCollector(Collector):
    """From result rings to futures. Those that succeeded and have no terms, which most are, are settled together."""

    def _collect(self, slot: int) -> int:
        dispatcher: Any = self.dispatcher
        pages, blocks = dispatcher.pages, dispatcher.blocks
        page_chunks = pages.page_chunks
        loads = pickle.loads
        value: Any
        page: Any = None
        sinks: list[Any] = []
        first = -page_chunks
        found = done = failed = 0
        over: list[Any] = []
        try:
            for chunk, kind, payload in self.readers[slot].drain():
                found += 1
                ok = True
                if kind == R.INT:
                    value = payload
                elif kind == R.VOID:
                    value = None
                elif kind >= R.CHILD:
                    found -= not dispatcher.children.receive(slot, self.readers[slot], chunk, kind, payload)
                    continue
                else:
                    if over and (kind != R.VALUE or len(payload) > SETTLE_BYTES):
                        _settle(over)
                        over = []
                    if kind == R.VALUE:
                        try:
                            value = loads(payload)
                        except BaseException as error:  # user code: __setstate__, __reduce__, missing modules
                            ok, value = False, _not_loaded(error)
                    else:
                        ok, value = self._decode(self.readers[slot], kind, payload)
                        if chunk == R.INIT_ERROR:
                            self.init_error = value
                            found -= 1
                            continue
                i = chunk - first
                if not 0 <= i < page_chunks:
                    page = pages.find(chunk)
                    if page is None:
                        self.finish(chunk, ok, value)
                        first = -page_chunks
                        continue
                    first, sinks = page.first, page.sinks
                    i = chunk - first
                sink = sinks[i]
                sinks[i] = None
                if page.blocks and i in page.blocks:
                    blocks.free(*page.blocks.pop(i))
                page.left = left = page.left - 1
                if not left and page.closed:
                    pages.free(page)
                    first = -page_chunks
                if sink is None:
                    continue
                done += 1
                if ok and sink._terms is NO_TERMS:
                    sink._result = value
                    over.append(sink)
                else:
                    failed += not ok
                    sink._resolve(ok, value, ran=True)
        finally:
            if over:
                _settle(over)
            dispatcher.inflight -= done
            self.collected[slot] += found
        if found:
            record = dispatcher.roster.records[slot]
            record.succeeded += done - failed
            record.failed += failed
            if record.failed:
                dispatcher.roster.tell_success(slot)
        # Also when there was nothing: an agent that set this after our last look has rung for it.
        if self.words[self.layout.agent(slot) + L.RING_FULL]:
            dispatcher.ring(slot)
        return found

    def _decode(self, reader: Any, kind: int, payload: bytes) -> tuple[bool, Any]:
        """See `Collector._decode`."""
        ok, value = super()._decode(reader, kind, payload)
        return (ok, value) if ok or kind != R.STORED_VALUE else (False, _not_loaded(value))


def _settle(over: list[Any]) -> None:
    settle(over)
    for future in over:
        if future._watch is None:  # else its callbacks may still have to find their thread
            future._home = None


def _not_loaded(error: BaseException) -> TransferError:
    told = TransferError("result", type(error).__qualname__, str(error))
    told.__cause__ = error
    return told
