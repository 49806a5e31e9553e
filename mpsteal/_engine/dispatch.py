"""From submitted calls to ranges in the agents' deques.

    pending (submitters append) --> pickle one by one into one block --> page: slots + slab --> ranges --> push, ring
                                         jobs (map, imap) feed the same blocks

Engine thread only, but for `pending`, to which any thread appends.
"""

from __future__ import annotations

import pickle
import time
from array import array
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._agent import by_value
from .._agent.serialize import Encoder, is_by_reference
from .._policy.placement import split_evenly, split_range
from .._queue import layout as L
from .._queue.arena import Functions, Page, Pages, Segment
from .._queue.deque import Deques
from .._queue.leases import LentBlocks
from .._queue.locks import Locks
from .._queue.quick import make_ring
from .brake import Brake
from .cancel import Cancels
from .children import Children
from .jobs import END, WAIT, Job
from .limits import Limits
from .losses import Losses
from .luggage import Luggage, pack
from .resize import MOVE_RETRY_S, Resizer
from .share import Shares
from .terms import agents_lost, may_run_again

if TYPE_CHECKING:
    from .health import AgentProcess

FIRST_BATCH, LARGEST_BATCH = 32, 1024
"""Chunks written before they are handed out. Where an agent is idle, the first batch is small, so that it starts soon,
then they double; else the largest at once. Small batches cost a fence and a look at every agent each (about 10 us);
large ones let agents wait."""

FIRST_PER_AGENT = 4
"""Chunks per agent in the first batch, if that is more. Fewer: agents that are rung run dry, and sleep again, while the
parent still rings others, each of which may take its core (64 agents and naps of 4 ms: one nap for every ring); more:
the first waits longer."""


BATCHES_PER_TURN = 8
"""Batches between two looks at results, deaths and the pool's state. Fewer: more such looks (20 us each) in a flood of
submits; more: results, `terminate` and `cancel` wait for it (8 batches, 4,064 calls, take about 4 ms)."""

BATCH_CPU_S = 0.002
"""What a batch beyond the first may take, by what the one before took per chunk (s): arguments that are slow to pickle
go in small batches. Less: more batches; more: agents run out of work while one is made."""

TELLING = 8
"""More chunks than this tell what one takes: of fewer it is the batch itself that takes its time."""

TURN_CPU_S = 0.01
"""No further batch in this turn once pickling has computed for so long (s): for arguments that are slow to pickle.
Less: more turns; more: as above."""


_NO_FUNCTION = object()


class Batch:
    """Chunks on their way into one page: slots and sinks side by side, payloads in the encoder's buffer.

    Attributes:
        slots: four words per chunk, as in the layout.
        sinks: who gets each chunk's result.
        blocks: `(index, offset, size, luggage)` of chunks whose payload has a block of its own (else size 0), or which
            have buffers in blocks of theirs.
        at: byte of the slab where the buffer will go; `room` bytes of it are free.
        limit: chunks at most.
        is_full: the slab has no room for the next payload.
        refused: chunks that could not be pickled; they count towards `limit`, so that a batch always ends.
    """

    __slots__ = ("at", "blocks", "is_full", "limit", "refused", "room", "sinks", "slots")

    def __init__(self, pages: Pages, page: Page, limit: int) -> None:
        self.slots: list[int] = []
        self.sinks: list[Any] = []
        self.blocks: list[tuple[Any, ...]] = []
        self.at = pages.slab_at(page)
        self.room = pages.page_bytes - page.bytes_used
        self.limit = min(limit, pages.page_chunks - page.used)
        self.is_full = False
        self.refused = 0


class Dispatcher(Losses):
    """Numbers, pickles and places chunks."""

    def __init__(self, segment: Segment, locks: Locks, deques: Deques, bells: list[int], slots: list[int]) -> None:
        super().__init__()
        self.segment, self.locks, self.deques = segment, locks, deques
        self.slots = slots
        """Slots that have an agent; the engine's own list."""
        self.staying = slots
        """Those of them whose agents have not been told to leave: they get what is placed. The same list until a Pool
        is resized."""
        self.resizer = Resizer(self)
        self._dealt: set[int] = set()
        """Who has been given chunks since somebody was last rung."""
        self._bells = [make_ring(fd) for fd in bells]
        self.words = segment.words
        self.blocks = LentBlocks(segment)
        self.shares = Shares(self)
        self.pages = Pages(segment, self.blocks)
        self.functions = Functions(segment)
        self.encoder = Encoder(apart=True)
        self.pending: deque[Any] = deque()
        self.jobs: list[Job] = []
        self.backlog: deque[tuple[int, int]] = deque()
        self.names: dict[int, str] = {}
        self.inflight = 0
        self.has_more = False
        self.brake = Brake(self)
        self.limits = Limits(self)
        self.cancels = Cancels(self)
        self.pages.must_stay = may_run_again
        self.children = Children(self)
        self._known: dict[int, tuple[Any, int]] = {}
        self._carry: tuple[bytes, int, int, Any, Luggage | None] | None = None
        self._batch = self._affordable = max(FIRST_BATCH, FIRST_PER_AGENT * len(slots))
        self._made = 0.0
        """When the last batch was pickled and not handed out yet (CPU time of this thread, s)."""
        self._largest = min(1 << 17, segment.layout.geometry.page_bytes // 2)
        """Payloads above this get a block of their own (bytes)."""

    # -- flushing -------------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Send what can be sent now, up to `BATCHES_PER_TURN` and `TURN_CPU_S`; False when pages ran out."""
        self.has_more = False
        if not (self.pending or self.jobs or self._carry is not None):
            return True
        first = min(LARGEST_BATCH, max(FIRST_BATCH, FIRST_PER_AGENT * len(self.staying)))
        self._batch = min(first, self._affordable) if self._has_idle() else self._affordable
        now = time.thread_time()
        until = now + TURN_CPU_S
        for _ in range(BATCHES_PER_TURN):
            if not (self.pending or self._carry is not None or any(map(self._can_feed, self.jobs))):
                return True
            page = self.pages.open()
            if page is None:
                return False
            before, sent = now, self.inflight
            if not self._fill(page):
                return True
            now = time.thread_time()
            if self.inflight > sent + TELLING or self._made - before > BATCH_CPU_S:
                affordable = int(BATCH_CPU_S * (self.inflight - sent) / max(1e-9, self._made - before))
                self._affordable = max(FIRST_BATCH, min(LARGEST_BATCH, affordable))
                self._batch = min(2 * self._batch, self._affordable)
            if now > until:
                break
        self.has_more = True
        return True

    def _has_idle(self) -> bool:
        """Whether any agent waits for work, or will soon: it is asleep, or has not said hello yet."""
        parked = self.deques.look(L.PARKED)
        return any(parked[slot] for slot in self.slots)

    def _can_feed(self, job: Job) -> bool:
        return not job.ended and job.allowance(len(self.staying)) > 0

    def _fill(self, page: Page) -> bool:
        """One batch into one page. False when nothing was there after all."""
        self.encoder.reset()
        batch = Batch(self.pages, page, self._batch)
        if self._carry is not None:
            data, number, flags, sink, luggage = self._carry
            self._carry = None
            self.encoder.buffer.write(data)
            if luggage is not None:
                batch.blocks.append((0, 0, 0, luggage))
            batch.slots.extend((batch.at, len(data), number, flags))
            batch.sinks.append(sink)
        pending_before = len(self.pending)
        sinks = batch.sinks
        try:
            for job in self.jobs[:]:
                if not batch.is_full and len(sinks) < batch.limit:
                    self._take_job(job, batch)
            if not batch.is_full:
                self._take_pending(batch)
            if sinks:
                with self.encoder.buffer.getbuffer() as payloads:
                    first = self.pages.append(page, array("q", batch.slots), payloads, sinks)
        except MemoryError:  # what pickling itself raises has been dealt with
            self._fail_batch(batch, MemoryError("no memory to pickle what was submitted together with this call"))
            self.encoder.renew()
            return True
        except BaseException as error:
            self._fail_batch(batch, error)
            raise
        if sinks:
            self._made = time.thread_time()
            self.inflight += len(sinks)
            for i, *block in batch.blocks:
                page.blocks[first - page.first + i] = block
            self._place(first, first + len(sinks))
        if batch.is_full:
            self.pages.close_current()
        return bool(sinks) or batch.is_full or batch.refused > 0 or len(self.pending) != pending_before

    def _fail_batch(self, batch: Batch, error: BaseException) -> None:
        """Those in the batch are nowhere else, and somebody waits for them (I2)."""
        for sink in batch.sinks:
            self.settle(sink, False, error)
        for _, *block in batch.blocks:
            self.blocks.free(*block)

    def settle(self, sink: Any, ok: bool, value: Any) -> None:
        """`deliver` one result away from the others, and see whether its job is over with it."""
        deliver(sink, ok, value)
        if type(sink) is tuple:
            self.job_maybe_done(sink[0])

    def _take_pending(self, batch: Batch) -> None:
        """Fill the batch from what was submitted."""
        self._pickle(batch, self.pending)

    def _pickle(self, batch: Batch, calls: deque[Any]) -> None:
        """Pickle calls until the batch has enough or its slab is full."""
        sinks, room, at = batch.sinks, batch.room, batch.at
        pop, add, sink_add = calls.popleft, batch.slots.extend, sinks.append
        buffer, pickler = self.encoder.buffer, self.encoder.pickler
        dump, clear, tell = pickler.dump, pickler.clear_memo, buffer.tell
        known, largest, limit, limit_int = self._known, self._largest, batch.limit, L.INT_LIMIT
        one_int, two_ints = L.KIND_INT, L.KIND_TWO_INTS
        last_function, number = _NO_FUNCTION, L.INLINE_FUNCTION
        aside = self.encoder.aside
        start = tell()
        while len(sinks) + batch.refused < limit:
            try:
                sink = pop()
            except IndexError:
                return
            if type(sink) is Job:
                self.jobs.append(sink)
                self._take_job(sink, batch)
                if batch.is_full:
                    return
                start = tell()
                continue
            function, args, kwds = sink._function, sink._args, sink._kwds
            sink._function = sink._args = sink._kwds = None  # `_forget_call`, spelled out
            try:
                if function is not last_function:
                    last_function = _NO_FUNCTION  # should the next line raise
                    entry = known.get(id(function))
                    number = entry[1] if entry is not None else self._number(function)
                    last_function = function
                if number >= 0:
                    if type(args) is tuple and not kwds:
                        # Small ints alone travel in the slot: no pickle, 1 us less for both sides.
                        if len(args) == 1:
                            (a,) = args
                            if type(a) is int and -limit_int < a < limit_int:
                                add((a, 0, number, one_int))
                                sink_add(sink)
                                continue
                        elif len(args) == 2:
                            a, b = args
                            if (
                                type(a) is int
                                and type(b) is int
                                and -limit_int < a < limit_int
                                and -limit_int < b < limit_int
                            ):
                                add((a, b, number, two_ints))
                                sink_add(sink)
                                continue
                    if kwds:
                        dump((args, kwds))
                        flags = L.KIND_CALL_KWDS
                    else:
                        dump(args)
                        flags = L.KIND_CALL
                elif kwds:
                    dump((function, (args, kwds)))
                    flags = L.KIND_CALL_KWDS
                else:
                    dump((function, args))
                    flags = L.KIND_CALL
            except BaseException as error:
                refused, flags = self._by_value(function, number, args, kwds, start, error)
                if refused is not None:
                    sink._refuse(refused, function)
                    batch.refused += 1
                    self.encoder.forget_from(start)
                    continue
            clear()
            end = tell()
            size = end - start
            if size > largest or end > room or aside:
                self._oversized(batch, start, size, number, flags, sink)
                if batch.is_full:
                    return
                start = tell()
                continue
            add((at + start, size, number, flags))
            sink_add(sink)
            start = end

    def _by_value(
        self, function: Any, number: int, args: Any, kwds: Any, start: int, error: BaseException
    ) -> tuple[BaseException | None, int]:
        """See `Encoder.dump_refused`, of a call; and its flags."""
        try:
            payload, flags = ((args, kwds), L.KIND_CALL_KWDS) if kwds else (args, L.KIND_CALL)
        except BaseException:  # a user's `__bool__`, and then that is the error
            return error, L.KIND_CALL
        return self.encoder.dump_refused(payload if number >= 0 else (function, payload), start, error), flags

    def _take_job(self, job: Job, batch: Batch) -> None:
        """The same for a job's chunks."""
        if job.ended:
            return
        if job.number is None:
            self._send_function(job)
        sinks, room, at = batch.sinks, batch.room, batch.at
        add, sink_add, pull = batch.slots.extend, sinks.append, job.pull
        buffer, pickler = self.encoder.buffer, self.encoder.pickler
        dump, clear, tell = pickler.dump, pickler.clear_memo, buffer.tell
        largest, kind, function, number = self._largest, job.kind, job.function, job.number or 0
        if kind >= L.KIND_MAP:
            kind |= job.flags | (L.TIMED if job.terms.timeout_ns else 0)
        plain_calls, limit_int = kind == L.KIND_CALL and number >= 0, L.INT_LIMIT
        aside = self.encoder.aside
        allowed = min(batch.limit - len(sinks) - batch.refused, job.allowance(len(self.staying)))
        start = tell()
        while allowed > 0:
            try:
                payload = pull()
            except BaseException as error:
                self._end_job(job, error)
                return
            if payload is WAIT:
                return
            if payload is END:
                self._end_job(job, None)
                return
            index = job.index
            job.index = index + 1
            if plain_calls and type(payload[0]) is int and -limit_int < payload[0] < limit_int:
                add((payload[0], 0, number, L.KIND_INT))
                sink_add((job, index))
                allowed -= 1
                continue
            try:
                dump(payload if number >= 0 else (function, payload))
            except BaseException as error:
                whole = payload if number >= 0 else (function, payload)
                refused = self.encoder.dump_refused(whole, start, error)
                if refused is not None and not (kind & L.ITEMWISE and self._sift(job, index, payload, start)):
                    job.finished += 1
                    batch.refused += 1
                    allowed -= 1
                    job.sink.deliver(index, False, explain_pickling(refused, function, job.site))
                    self.encoder.forget_from(start)  # last: it raises where the buffer is lost, and with it the batch
                    continue
            clear()
            allowed -= 1
            end = tell()
            size = end - start
            job.bytes_sent += size
            if size > largest or end > room or aside:
                self._oversized(batch, start, size, number, kind, (job, index))
                if batch.is_full:
                    return
                start = tell()
                allowed = min(allowed, job.allowance(len(self.slots)))
                continue
            add((at + start, size, number, kind))
            sink_add((job, index))
            start = end

    def _sift(self, job: Job, index: int, items: Sequence[Any], start: int) -> bool:
        """Pickle at `start` what can be pickled of a chunk whose items end apart, and tell who waits for it of the
        others. False: nothing can, and then `forget_from`."""
        sink: Any = job.sink  # `Outcomes`, where items end apart
        dump, is_known = self.encoder.dump, (job.number or 0) >= 0
        kept: list[Any] = []
        refused: dict[int, BaseException] = {}
        try:
            for i, item in enumerate(items):
                self.encoder.forget_from(start)
                try:
                    dump(item if is_known else (job.function, item), start)
                    kept.append(item)
                except BaseException as error:  # a user's `__reduce__`
                    refused[i] = explain_pickling(error, job.function, job.site)
                    if job.flags & L.FIRST_ONLY:
                        break
            self.encoder.forget_from(start)
            sink.refuse(index, refused)
            if kept:
                dump(kept if is_known else (job.function, kept), start)
        except BaseException:  # the buffer is lost; or what could be pickled once cannot be again
            return False
        return bool(kept)

    def _oversized(self, batch: Batch, start: int, size: int, number: int, flags: int, sink: Any) -> None:
        """A payload that does not fit the slab: give it a block, or carry it to the next page (the batch is full). One
        that has luggage: see to that, too.
        """
        buffer, aside = self.encoder.buffer, self.encoder.aside
        luggage, stays = None, False
        try:
            if aside:
                whole = size + sum([one.nbytes for one in aside if type(one) is memoryview])
                luggage, table = pack(self.blocks, aside)
                if table:
                    buffer.write(table)
                    size, flags = size + len(table), flags | L.APART
                if type(sink) is tuple:
                    sink[0].bytes_sent += luggage.size
            else:
                whole = size
            if size > self._largest:
                with buffer.getbuffer()[start : start + size] as view:
                    offset = self.blocks.put(view)
                batch.blocks.append((len(batch.sinks), offset, size, luggage))
                batch.slots.extend((offset, size, number, flags | L.IN_BLOCK))
                batch.sinks.append(sink)
            elif start + size > batch.room:
                self._carry = (buffer.getvalue()[start:], number, flags, sink, luggage)
                batch.is_full = True
            else:
                batch.blocks.append((len(batch.sinks), 0, 0, luggage))
                batch.slots.extend((batch.at + start, size, number, flags))
                batch.sinks.append(sink)
                stays = True
        except OSError as error:
            self.blocks.free(0, 0, luggage)
            batch.refused += 1
            deliver(sink, False, MemoryError(f"no shared memory for an argument of {whole} bytes: {error}"))
        finally:
            aside.clear()
            if not stays:
                buffer.seek(start)
                buffer.truncate()

    def drop_carry(self) -> Any:
        """Who waits for the chunk that was carried over; its luggage is given back."""
        assert self._carry is not None
        *_, sink, luggage = self._carry
        self._carry = None
        self.blocks.free(0, 0, luggage)
        return sink

    def _end_job(self, job: Job, error: BaseException | None) -> None:
        job.end(error)
        self.job_maybe_done(job)

    def job_maybe_done(self, job: Job) -> None:
        """Forget a job whose chunks are all finished."""
        if job.is_done and not job.closed:
            job.closed = True
            self.jobs.remove(job)
            self.limits.watched.discard(job)
            if job.owns_number and job.number is not None:
                self.functions.remove(job.number)
                self.blocks.free(0, 0, job.luggage)
                self.names.pop(job.number, None)

    # -- functions ------------------------------------------------------------------------------------------------

    def _number(self, function: Any) -> int:
        """Number of a function sent by reference; `INLINE_FUNCTION` for everything else."""
        if not is_by_reference(function) or len(self._known) >= self.functions.size // 2:
            return L.INLINE_FUNCTION
        try:
            pickled = Encoder(self.encoder.kind).dumps(function, only_plain=True)
        except by_value.REFUSALS:
            return L.INLINE_FUNCTION  # a copy, if any, is made with every call: what it closes over may change
        number = self.functions.add(pickled)
        if number >= 0:
            # The reference keeps `id` from being used again.
            self._known[id(function)] = (function, number)
            self.names[number] = name_of(function)
        return number

    def _send_function(self, job: Job) -> None:
        """Send a job's function once; what cannot be pickled fails chunk by chunk, with the reason."""
        function = job.function
        try:
            entry = self._known.get(id(function))
            number = entry[1] if entry is not None else self._number(function)
            if number < 0:
                pickled, aside = Encoder(self.encoder.kind).dumps_apart(function)
                luggage, table = pack(self.blocks, aside)
                number = self.functions.add(pickled + table if table else pickled, for_one_job=True, apart=bool(table))
                job.owns_number = number >= 0
                if number >= 0:
                    job.luggage = luggage
                else:
                    self.blocks.free(0, 0, luggage)
                if number >= 0:
                    self.names[number] = name_of(function)
        except BaseException:
            number = L.INLINE_FUNCTION
        job.number = number

    # -- placing --------------------------------------------------------------------------------------------------

    def _place(self, lo: int, hi: int) -> None:
        """Deal a new range to the agents, then ring those that are parked (the mirror of `Agent.find_work`)."""
        deques, slots = self.deques, self.staying
        if self.backlog:
            self.backlog.append((lo, hi))
            self.refill()
            return
        if self.brake.is_on:
            slots = self.brake.choose() or slots
        if hi - lo >= 8 * len(slots):
            loads = [0] * len(slots)
        else:
            # Neither parked nor still starting: it runs something that a new chunk would have to wait for.
            parked, states = deques.look(L.PARKED), deques.look(L.STATE)
            loads = [not parked[a] and states[a] == L.READY for a in slots]
            queued = deques.may_have_work()
            if queued:
                lengths = {a: deques.queued(a) for a in queued}
                loads = [load + lengths.get(a, 0) for load, a in zip(loads, slots)]  # noqa: B905
        for i, a, b in split_range(lo, hi, loads):
            self._push(slots[i], a, b)
        self.ring_parked(hi - lo)

    def _push(self, agent: int, lo: int, hi: int) -> None:
        slots = self.staying
        first = slots.index(agent) if agent in slots else 0
        for i in range(len(slots)):
            slot = slots[(first + i) % len(slots)]
            if self.deques.push(slot, 0, lo, hi):
                self._dealt.add(slot)
                return
        backlog = self.backlog
        if backlog and backlog[-1][1] == lo:
            backlog[-1] = (backlog[-1][0], hi)
        else:
            backlog.append((lo, hi))

    def withdraw(self, sink: Any) -> int | None:
        """Take a call that has not started out of wherever it waits.

        Returns its chunk number (`layout.NONE` if it had none yet), or None when it is running or finished. What was
        withdrawn never runs: `Deques.remove` keeps the agent out. What waits for another try has run already.
        """
        if agents_lost(sink):
            return None
        with suppress(ValueError):
            self.pending.remove(sink)
            sink._forget_call()
            return L.NONE
        if self._carry is not None and self._carry[3] is sink:
            self.drop_carry()
            return L.NONE
        for page in self.pages.table:
            if page is not None:
                try:
                    chunk = page.first + page.sinks.index(sink)
                except ValueError:
                    continue
                return self._remove(chunk)
        return None

    def _remove(self, chunk: int) -> int | None:
        for i, (lo, hi) in enumerate(self.backlog):
            if lo <= chunk < hi:
                self.backlog[i] = (lo, chunk)
                self.backlog.append((chunk + 1, hi))
                return chunk
        # Twice: a thief may carry it past us the first time.
        for _ in range(2):
            for agent in (*self.slots, *self.resizer.moving):
                rest = self.deques.remove(agent, chunk)
                if rest is not None:
                    if rest[0] < rest[1]:
                        self._push(agent, *rest)
                        self.ring_parked(rest[1] - rest[0])
                    return chunk
        return None

    def ring_parked(self, chunks: int, *, is_urgent: bool = False, beside: Collection[int] = ()) -> None:
        """Ring as many parked agents as there are chunks for them, after what was queued can be seen.

        First those that have just got some: who finds its own need not steal it from one that sleeps.

        Args:
            is_urgent: also where a few are thought to be enough (`Brake`).
            beside: those that are rung beside the others, as what was stopped by a signal: they may not come.
        """
        self.locks.fence()
        dealt, self._dealt = self._dealt, set()
        if self.brake.is_on and not is_urgent:
            chunks = self.brake.allow(chunks)
        parked = self.deques.look(L.PARKED)
        rung = []
        for a in [*sorted(dealt), *[a for a in self.slots if a not in dealt]]:
            if chunks <= 0:
                break
            if parked[a]:
                self.ring(a)
                rung.append(a)
                chunks -= a not in self.frozen and a not in beside
        if rung and self.brake.is_on:
            self.brake.rang(rung)

    def wake_idle(self) -> None:
        """Ring those that are parked while others have something queued: an agent that started before the pool grew
        cannot ring those that came later, and rings the parent instead (the sum may count what is about to start: then
        somebody looks around in vain)."""
        if not self.brake.is_on and self._has_idle():
            self.ring_parked(sum(map(self.deques.queued, self.deques.may_have_work())))

    def ring(self, agent: int) -> None:
        """Ring an agent's doorbell."""
        self._bells[agent]()

    def add_bell(self, fd: int) -> None:
        """There is one slot more, with this doorbell."""
        self._bells.append(make_ring(fd))

    def _has_room(self) -> bool:
        """Whether some agent's ring is at most half full: refilling at every single place would cost more than it
        gives, since what is held back is merged into few long ranges meanwhile."""
        words, layout = self.words, self.segment.layout
        half = layout.geometry.entries // 2
        heads = (layout.head(a, 0) for a in self.staying)
        return any(words[at + 1] - words[at] <= half for at in heads)

    def refill(self) -> None:
        """Move what had to be held back into the deques, as far as they have room."""
        if not self.backlog or not self._has_room():
            return
        work, self.backlog = self.backlog, deque()
        merged: list[tuple[int, int]] = []
        for lo, hi in sorted(work):
            if merged and merged[-1][1] == lo:
                merged[-1] = (merged[-1][0], hi)
            else:
                merged.append((lo, hi))
        total = 0
        for lo, hi in merged:
            if lo == hi:
                continue
            for i, a, b in split_evenly(lo, hi, len(self.staying)):
                self._push(self.staying[i], a, b)
            total += hi - lo
        self.ring_parked(total)

    def kept(self) -> Iterator[tuple[int, int]]:
        """Ranges of chunks that have their numbers and are not handed out; some may be empty."""
        yield from self.backlog
        for number in self.children.held():
            yield number, number + 1

    def attach(self, engine: Any) -> None:
        """The engine is built; called once, before its thread starts."""
        self.crew, self.collector = engine.crew, engine.collector

    def turn(self, now: float) -> None:
        """One round of the loop, before the engine may sleep."""
        if self.resizer.moving:
            self.resizer.move_away()
        self.brake.turn(now)
        if self.limits.watched:
            self.limits.turn(now)
        if self.cancels.open:
            self.cancels.turn(now)
        self.blocks.turn(now, is_idle=not self.inflight)
        if self.shares.dropped:
            self.shares.free()
        self.children.turn()

    def due(self, now: float) -> list[float]:
        """Points in time (monotonic clock, s) at which `turn` has something to do."""
        return (
            self.limits.due()
            + self.brake.due()
            + self.cancels.due()
            + self.blocks.due()
            + self.children.due(now)
            + ([now + MOVE_RETRY_S] if self.resizer.moving else [])
        )

    def gone(self, slot: int, agent: AgentProcess, *, for_good: bool, is_end: bool, has_left: bool) -> None:
        """See `Losses.gone`."""
        super().gone(slot, agent, for_good=for_good, is_end=is_end, has_left=has_left)
        if for_good and not is_end:
            self.resizer.gone(slot, agent, has_left=has_left)

    def queue_again(self, chunk: int) -> None:
        """See `Losses.queue_again`."""
        if chunk >= L.CHILDREN:
            self.children.hold_again(chunk)
        else:
            self._place(chunk, chunk + 1)

    def init_failed(self, error: BaseException) -> BaseException:
        """An initializer has raised: what everybody gets from now on."""
        return error

    def deal_again(self, lo: int, hi: int) -> None:
        """A range that was queued at an agent that leaves."""
        self._place(lo, hi)

    # -- what a scheduler does, and a Pool does not ----------------------------------------------------------------

    def validate(self) -> None:
        """What `validate.validate` leaves to a dispatcher: nothing more for a Pool's."""

    def may_run(self, group: int, slot: int) -> bool:
        """Whether an agent may run children of such tasks."""
        return True

    def before_results(self) -> None:
        """Results are about to be read, which takes a while: hand out first what agents may be waiting for."""

    def fail_rest(self, error: BaseException) -> None:
        """Resolve what waits elsewhere, after `fail_sent` and `fail_unsent`."""

    # -- giving up ------------------------------------------------------------------------------------------------

    def fail_sent(self, error: BaseException) -> None:
        """Resolve the handle of every chunk that was handed out."""
        for page in self.pages.table:
            if page is not None:
                for i, sink in enumerate(page.sinks):
                    if sink is not None:
                        page.sinks[i] = None
                        self.inflight -= 1
                        deliver(sink, False, error)
        adrift = self.pages.adrift
        while adrift:
            self.inflight -= 1
            deliver(adrift.popitem()[1], False, error)

    def fail_unsent(self, error: BaseException) -> None:
        """Resolve the handle of everything that still waits in the parent."""
        if self._carry is not None:
            deliver(self.drop_carry(), False, error)
        self.fail_pending(error)
        for job in self.jobs[:]:
            if not job.ended:
                job.end(error)
            self.job_maybe_done(job)

    def fail_pending(self, error: BaseException) -> None:
        """The same for what was submitted and not yet looked at. Any thread, once the engine has ended."""
        while True:
            try:
                item = self.pending.popleft()
            except IndexError:  # empty, or another late submitter was faster
                break
            if type(item) is Job:
                item.end(error)
                self.limits.watched.discard(item)
            else:
                item._forget_call()
                item._resolve(False, error)


def deliver(sink: Any, ok: bool, value: Any) -> None:
    """Give a result to a single handle or to a job's sink."""
    if type(sink) is tuple:
        job, index = sink
        job.finished += 1
        job.sink.deliver(index, ok, value)
    else:
        sink._resolve(ok, value)


def explain_pickling(error: BaseException, function: Any, site: Any, task: str | None = None) -> BaseException:
    """The same error with the function's name, the place of the submit or the `task`'s name, and what to do about it
    where that can be told, added to its message.

    The type stays what the stock pool raises (`PicklingError`, `AttributeError`, `TypeError`). Other types, which may
    not take a message, stay as they are and have it as their cause.
    """
    name = name_of(function)
    text = f"the call of {name}{where(site)} cannot be pickled, so it was not sent to an agent"
    if task is not None:
        text = f"task {task!r}: {text}"
    try:
        from inspect import iscoroutinefunction  # here: only errors need it, and it takes 9 ms

        if iscoroutinefunction(function):
            text += "; it is a coroutine function: send a plain function that wraps it in asyncio.run()"
        elif by_value.would_help(error):
            if "<lambda>" in name or "<locals>" in name:
                text += "; a function travels by its name: define it with `def` at the top level of a module, or have"
                text += f" copies sent: {by_value.HINT}"
            else:
                text += f"; it can be sent as a copy: {by_value.HINT}"
        if type(error) not in (pickle.PicklingError, AttributeError, TypeError):
            error.__cause__ = error.__cause__ or pickle.PicklingError(text)
            return error
        told = type(error)(f"{error} -- {text}")
    except BaseException:  # a user's `__str__`
        return error
    told.__cause__ = error
    return told


def name_of(function: Any) -> str:
    """A callable in words; never raises, whatever its attributes do."""
    try:
        return str(getattr(function, "__qualname__", None) or f"a {type(function).__qualname__}")
    except BaseException:
        return f"a {type(function).__qualname__}"


def where(site: Any) -> str:
    """' submitted at file:line' for a `(code, instruction)` pair; empty without one."""
    if site is None:
        return ""
    code, instruction = site
    line = code.co_firstlineno
    for start, _, number in code.co_lines():
        if start > instruction:
            break
        if number is not None:
            line = number
    return f" submitted at {code.co_filename}:{line}"
