"""The agent's loop: take, run, commit; steal when there is nothing; park when there is nothing anywhere.

    take --> unpickle --> call --> pickle --> commit --> take ...
      `-- empty: report, steal -- nothing: park at the doorbell (and watch the parent)

One thread. Nothing outside the user's code may raise: an exception there (a late alarm of a task, say) would leave
the shared words half-written by a process that lives on, so it ends the process and the parent repairs (D4).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import starmap
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

from .._policy.stealing import around, choose_victims, steal_point, steal_point_of
from .._queue import layout as L
from .._queue import results as R
from .._queue.arena import Segment, read_function
from .._queue.barrier import load_barrier, register
from .._queue.deque import ASK, EMPTY, RETRY, STOLEN, Deques
from .._queue.leases import Leases
from .._queue.locks import Locks
from .._queue.result_blocks import COOL_MS
from . import by_value, here, lines, logs, surroundings
from .buffers import load_call
from .here import facts
from .itemwise import refusal, run_items, sift
from .launch import AgentSpec
from .serialize import PLAIN, Encoder, describe, encode_error, explain_coroutine, is_flat
from .shared import forget_freed
from .shared import kept as shared_kept

if TYPE_CHECKING:
    from .nested import Nest

JOB_FUNCTIONS_KEPT = 4
"""Functions of single jobs (partials, bound methods) that an agent keeps unpickled. Fewer: jobs that run side by side
unpickle theirs again and again; more: payloads of finished jobs stay in memory."""

EXIT_BROKEN = 70
"""Exit code when the agent could not go on (EX_SOFTWARE of sysexits.h)."""

RETRY_PAUSE_S = 0.000_05
"""Pause before the next try for a lock that somebody holds: sections take 10 us or so, longer only if the holder was
stopped or lost its core."""

SLOTS_AHEAD = 32
"""Slots that an agent reads at once, of a chunk and those queued behind it (0.1 us each, alone 0.3). Fewer: each read
is for fewer; more: more are read in vain, since thieves take them or tasks are long (3 us for 32)."""

REPORT_LOOK_NS = 50_000
"""How often a busy agent looks whether it is time to report (ns): a word and a comparison less for each short task.
Longer: results are late by that much more, when somebody has begun to wait for them (`Engine.set_pace`)."""

_slots = Struct("4q").iter_unpack
_now = time.monotonic_ns


ALONE_NS, LOOK_EVERY_MS = 5_000_000_000, 500
"""For how long after its start an agent looks by itself whether the parent has become another program (a pidfd tells of
a death alone), and how often while it is parked; later the Manager is there, who looks for all. Too short leaves
agents to themselves where the Manager starts slowly; longer costs wake-ups, and 3 us for every report."""


class ParentGone(BaseException):
    """The process the pool belongs to has died, or runs another program."""


class Agent:
    """One agent, in its own process."""

    def __init__(self, spec: AgentSpec) -> None:
        self.spec, self.slot = spec, spec.slot
        # A forked agent has the mapping already; a second one would double its address space.
        self.segment = spec.inherited or Segment(spec.segment.fd, L.Layout(spec.geometry))
        self.words = self.segment.words
        barrier = load_barrier() if spec.owners_are_fenced else None
        if spec.owners_are_fenced and barrier is None:
            raise RuntimeError("membarrier() works in the pool's process and not in its agent: what forbids it here?")
        is_fenced = barrier is not None and register()
        if spec.deques is not None:
            self.locks = spec.deques.locks
            self.locks.owner_is_fenced = is_fenced
        else:
            fds = [lock.fd for lock in spec.locks]
            self.locks = Locks(fds, spec.geometry.slots, barrier, owner_is_fenced=is_fenced)
        self.base = self.segment.layout.agent(self.slot)
        rules = self.rules = spec.balancing
        self.for_executor = rules is not None and rules.for_executor
        self.take: Any
        if rules is None:
            self.deques = spec.deques or Deques(self.words, self.segment.layout, self.locks, steal_point)
            self.take = self.deques.make_take(self.slot)
        else:
            from .._policy.order import Aging  # here: an agent of a Pool needs neither
            from .._queue.levels import make_take

            point = steal_point_of(rules.steal_tasks)
            self.deques = Deques(self.words, self.segment.layout, self.locks, point, rules.steal_levels)
            turns = Aging(rules.aging_tasks, rules.levels_per_priority)
            self.take = make_take(self.deques, self.slot, turns, rules.levels_per_priority)
        self.results = R.ResultWriter(self.segment, self.slot, self.locks, self._wait_for_room)
        self.leases = Leases(self.segment, self.slot, self.locks, self.ring_parent)
        self.unusual: list[str] = []
        """What the task at hand has done beside its call, for `serve` to see to: "copied" in a fork of the agent that
        it has made, "nested" where it has submitted tasks."""
        self.functions: dict[int, Any] = {}
        self.job_functions: deque[int] = deque()
        self.poll = select.poll()
        self.poll.register(spec.doorbell.fd, select.POLLIN)
        self.alone_until_ns = _now() + ALONE_NS
        if spec.parent_watch is not None:
            self.poll.register(spec.parent_watch.fd, select.POLLIN)
        else:
            self.alone_until_ns = 1 << 62

    has_left = False
    """Its slot, and what is written there, is another's from now on."""

    # -- life -----------------------------------------------------------------------------------------------------

    def run(self, *, is_initialized: bool = False, failure: BaseException | None = None) -> None:
        """Say hello, run the initializer, serve, leave.

        Args:
            is_initialized: the initializer has run, when this was a spare; `failure` is what it raised.
        """
        words, base, spec = self.words, self.base, self.spec
        here.begin(self)
        os.register_at_fork(before=self.before_fork, after_in_child=self.leases.stop_in_fork)
        logs.attach(self)
        words[base + L.PID] = os.getpid()
        words[base + L.SPARE_PID] = words[base + L.SPARE_UP] = 0
        if spec.initializer is not None and not is_initialized:
            surroundings.set_up()
            try:
                self.check_parent()  # after PID is known: the Manager saw it, or we see that the parent is dead
                spec.initializer(*spec.initargs)
            except ParentGone:
                os._exit(0)
            except BaseException as error:
                failure = error
        logs.initialized()
        if failure is not None:
            self.results.write(R.INIT_ERROR, R.ERROR, encode_error(failure, self.encoder))
            words[base + L.STATE] = L.INIT_FAILED
            self.ring_parent()
            return
        words[base + L.STATE] = L.READY
        try:
            self.check_parent()  # as above
            self.serve()
        except ParentGone:
            os._exit(0)
        except BaseException:
            self.give_up()
        self.leases.stop()
        self.has_left = True
        words[base + L.STATE] = L.LEAVING
        self.ring_parent()  # its slot is free, whatever Python's exit, or the finalizer, may wait for
        if spec.finalizer is not None:
            finalize(spec)

    def give_up(self) -> NoReturn:
        """Our own code has raised, and the words may be half-written: no clean-up code may run, the parent repairs what
        we held."""
        if isinstance(sys.exc_info()[1], ParentGone):
            os._exit(0)
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(EXIT_BROKEN)

    gone = ParentGone

    def serve(self) -> None:
        """Take and run chunks until the pool stops or `max_tasks` is reached."""
        words, base, take, functions = self.words, self.base, self.take, self.functions
        data, loads = self.segment.data, pickle.loads
        results = self.results
        write_small = results.make_write_small()
        self.write_value = results.make_write_value()
        read_slots, slots_from, slots_to = self.read_slots, 0, 0
        slots: list[tuple[int, ...]] = []
        started_at, done_at, busy_at = base + L.STARTED_NS, base + L.DONE, base + L.BUSY_NS
        loaded_at, leave = base + L.LOADED, base + L.LEAVE
        done, busy = words[done_at], words[busy_at]
        left = -1 if self.spec.max_tasks is None else self.spec.max_tasks
        void, integer, an_int, two_ints = R.VOID, R.INT, L.KIND_INT, L.KIND_TWO_INTS
        limit, ring_after = L.INT_LIMIT, L.RING_AFTER_NS
        ring = self.ring_parent
        rung = _now()
        look_at = 0
        unreported = False
        for_executor = self.for_executor
        noted = self.rules is not None and not for_executor
        logged = logs.note_chunks() if noted else logs.logged
        args: Any = None
        unusual = self.unusual
        os.register_at_fork(after_in_child=lambda: unusual.append("copied"))
        while True:
            chunk = take()
            if chunk < 0:
                if chunk == RETRY:
                    time.sleep(RETRY_PAUSE_S)
                words[done_at], words[busy_at] = done, busy
                if unreported:
                    ring()
                    unreported = False
                if chunk != ASK:
                    if not self.find_work():
                        return
                    if unusual:
                        count, ns = self.count_nested()
                        done, busy = words[done_at], words[busy_at] = done + count, busy + ns
                        if left > 0:
                            left = max(0, left - count)
                            if not left:
                                ring()
                                return
                elif words[L.STOP] or words[leave] == L.LEAVE_NOW:
                    return  # what is held will not come any more, or not to this one
                elif not self.ask():
                    chunk = take(True)
                rung = _now()
                if chunk < 0:
                    continue
            if not slots_from <= chunk < slots_to:
                slots, slots_from = read_slots(chunk), chunk
                slots_to = chunk + len(slots)
            offset, size, number, flags = slots[chunk - slots_from]
            began = _now()
            words[started_at] = began
            try:
                if flags == 0 and number in functions:
                    args = loads(data[offset : offset + size])
                    words[loaded_at] = chunk
                    value = functions[number](*args)
                elif flags == an_int and number in functions:
                    words[loaded_at] = chunk
                    value = functions[number](offset)
                elif flags == two_ints and number in functions:
                    words[loaded_at] = chunk
                    value = functions[number](offset, size)
                else:
                    value = self.run_other(chunk, offset, size, number, flags)
            except BaseException as error:
                finished = _now()
                if unusual:
                    self.look_back(error)
                if noted:
                    if logged:
                        self.note_logged()
                    write_small(-began, integer, finished - began)
                if for_executor and words[loaded_at] != chunk:
                    error = not_loaded(by_value.explain_missing(error))
                self.commit_error(chunk, error)
                del error
            else:
                finished = _now()
                if unusual:
                    self.look_back(None)
                if noted:
                    if logged:
                        self.note_logged()
                    write_small(-began, integer, finished - began)
                kind = type(value)
                if kind is int and -limit < value < limit:
                    write_small(chunk, integer, value)
                elif value is None:
                    write_small(chunk, void, 0)
                else:
                    self.commit_value(chunk, value, flags)
                    value = None
            args = None  # it may be large, and the next chunk may be long in coming
            done += 1
            busy += finished - began
            unreported = True
            if unusual:
                count, ns = self.count_nested()
                done, busy = done + count, busy + ns
                if left > 0:
                    left = max(1, left - count)
            if finished > look_at:
                look_at = finished + REPORT_LOOK_NS
                if finished - rung > words[ring_after]:
                    looked = words[L.LOOKED_NS]
                    if looked > rung:
                        rung = looked  # somebody else has rung, and the parent looks at all rings then
                    if finished - rung > words[ring_after]:
                        words[done_at], words[busy_at] = done, busy
                        if shared_kept:
                            self.forget_shared()
                        ring()
                        self.check_parent()
                        unreported = False
                        rung = finished
                    if words[leave] == L.LEAVE_NOW:  # the parent has a successor ready, who takes the queue over
                        words[done_at], words[busy_at] = done, busy
                        ring()
                        return
            if left > 0:
                left -= 1
                if not left:
                    words[done_at], words[busy_at] = done, busy
                    ring()
                    return

    def read_slots(self, chunk: int) -> list[tuple[int, ...]]:
        """Slots of a chunk and of those queued behind it, as far as it is worth it.

        Some may be stolen, and overwritten, when we read them or later. Then we never start those: a chunk that we do
        start was unfinished all the time, and its slot does not change before it is finished (D-7, D-8).
        """
        words, layout = self.words, self.segment.layout
        end = words[words[self.base + L.CLAIM_AT] + 1]  # of the range that it is from, if it is from one
        count = max(1, min(SLOTS_AHEAD, end - chunk, layout.chunks - chunk % layout.chunks))
        at = 8 * layout.chunk(chunk)
        return list(_slots(self.segment.data[at : at + 32 * count]))

    # -- one chunk ------------------------------------------------------------------------------------------------

    def run_other(self, chunk: int, offset: int, size: int, number: int, flags: int) -> Any:
        """A chunk that is not a plain call of a known function. Chunks of items give `(values, elapsed ns)`."""
        payload: Any
        if surroundings.due is not None:
            surroundings.set_up()
        flags &= L.FLAGS_MASK  # above them stands the class, which is about who may run it
        if flags & L.APART:
            stored = flags & L.IN_BLOCK
            raw = self.segment.read_block(offset, size) if stored else self.segment.data[offset : offset + size]
            payload = load_call(raw, self.segment, self.leases)
        elif flags & L.IN_BLOCK:
            payload = pickle.loads(self.segment.read_block(offset, size))
        elif flags == L.KIND_INT:
            payload = (offset,)
        elif flags == L.KIND_TWO_INTS:
            payload = (offset, size)
        else:
            payload = pickle.loads(self.segment.data[offset : offset + size])
        self.words[self.base + L.LOADED] = chunk
        if number == L.INLINE_FUNCTION:
            function, payload = payload
        else:
            function = self.function(number)
        return self.call(function, payload, flags)

    def call(self, function: Any, payload: Any, flags: int) -> Any:
        """Run what a chunk holds. Chunks of items give `(values, elapsed ns)`."""
        kind = flags & L.KIND_MASK
        if kind == L.KIND_CALL:
            return function(*payload)
        if kind == L.KIND_CALL_KWDS:
            return function(*payload[0], **payload[1])
        began = _now()
        items = self.stamped(payload) if flags & L.TIMED else payload
        if flags & L.ITEMWISE:
            star, first_only = kind == L.KIND_STARMAP, bool(flags & L.FIRST_ONLY)
            each, failures = run_items(function, items, star=star, first_only=first_only, encoder=self.encoder)
            return each, _now() - began, failures
        values = list((map if kind == L.KIND_MAP else starmap)(function, items))
        if len(values) != len(payload):
            # `list` takes a call's StopIteration for the end of the input, and results would be missing silently.
            raise RuntimeError(f"call {len(values)} of the {len(payload)} in this chunk raised StopIteration")
        return values, _now() - began

    def stamped(self, items: list[Any]) -> Iterator[Any]:
        """The items; as each is taken, its time starts to run."""
        words, started_at = self.words, self.base + L.STARTED_NS
        for item in items:
            words[started_at] = _now()
            yield item

    def function(self, number: int) -> Any:
        """The function of that number, unpickled once. What cannot be loaded is tried again next time."""
        if number not in self.functions:
            pickled, for_one_job, apart = read_function(self.segment, number)
            try:
                self.functions[number] = load_call(pickled, self.segment) if apart else pickle.loads(pickled)
            except AttributeError as error:
                raise by_value.explain_missing(error) from None
            if for_one_job:
                # It may hold a large payload, and nobody tells us when its job is over.
                self.job_functions.append(number)
                if len(self.job_functions) > JOB_FUNCTIONS_KEPT:
                    del self.functions[self.job_functions.popleft()]
        return self.functions[number]

    def before_fork(self) -> None:
        """A task is about to fork this process: nothing that the child will see may change for it later."""
        shared_kept.clear()
        self.leases.own()

    def forget_shared(self) -> None:
        """Keep no shared object that the parent has freed, nor functions of jobs, which may hold one."""
        if forget_freed():
            while self.job_functions:
                self.functions.pop(self.job_functions.popleft(), None)

    def commit_value(self, chunk: int, value: Any, flags: int) -> None:
        """Pickle and commit a result; what cannot be pickled becomes `MaybeEncodingError`, as in the stock pool."""
        buffers: list[memoryview] | None = None
        try:
            kind = type(value)
            if kind in PLAIN or is_flat(value, kind):  # a metaclass may have a `__hash__` that raises
                payload = pickle.dumps(value)
            else:
                payload, buffers = self.encoder.dumps_apart(value)
        except BaseException as error:  # a user's `__reduce__`, `sys.exit` in it included
            if self.for_executor:
                self.commit_error(chunk, by_value.explain(explain_coroutine(error, value)))
                return
            if flags & L.ITEMWISE:
                self.commit_value(chunk, sift(value, self.encoder), flags & ~L.ITEMWISE)
                return
            if flags & L.KIND_MASK >= L.KIND_MAP:
                value = value[0]  # less the time it took, which is ours
            self.commit_error(chunk, refusal(error, value))
            return
        try:
            if buffers:
                self.results.write_apart(chunk, payload, buffers)
            else:
                self.write_value(chunk, payload)
        except OSError as error:
            size = len(payload) + sum([buffer.nbytes for buffer in buffers or ()])
            self.commit_error(chunk, MemoryError(f"no shared memory for a result of {size} bytes: {error}"))

    def commit_error(self, chunk: int, error: BaseException) -> None:
        """Commit a task's error."""
        if self.words[self.base + L.LOADED] != chunk:
            error = by_value.explain_missing(error)
        payload = encode_error(error, self.encoder)
        try:
            self.results.write(chunk, R.ERROR, payload)
        except OSError as full:
            small = MemoryError(f"no shared memory for this error: {type(error).__name__} ({full})")
            self.results.write(chunk, R.ERROR, encode_error(small, self.encoder))

    def note_logged(self) -> None:
        """Tell a scheduler, before the result, that this chunk has logged, see `logs.logged`."""
        for chunk in logs.logged:
            self.results.write(chunk, R.LOGGED)
        logs.logged.clear()

    @cached_property
    def encoder(self) -> Encoder:
        """What pickles that which the plain `pickle.dumps` may not be given. Made when it is needed."""
        return Encoder()

    # -- what tasks submit ------------------------------------------------------------------------------------------

    @cached_property
    def nest(self) -> Nest:
        """What this agent's tasks have submitted, and what it was handed of that."""
        from .nested import Nest  # here: most agents never need it

        return Nest(self)

    def look_back(self, error: BaseException | None) -> None:
        """A call is over, with that error, and its outcome not committed: see to what else it has done."""
        if "copied" in self.unusual:
            end_copy(error)
        self.nest.task_ends(0)

    def count_nested(self) -> tuple[int, int]:
        """Children run since the last count, and what they add to the time that tasks took (ns)."""
        self.unusual.clear()
        return self.nest.take_counts()

    # -- finding work ---------------------------------------------------------------------------------------------

    def find_work(self) -> bool:
        """Return True when `take` may succeed, False when the pool stops. Steals, else parks.

        Park and submit mirror each other; both pass through the kernel between their two steps (D5), so at least one
        side sees the other:

            agent: PARKED := 1   fence   look at every deque   sleep
            parent: push         fence   look at PARKED        ring
        """
        if lines.unfinished:
            lines.finish()
        words, parked, waits = self.words, self.base + L.PARKED, self.base + L.WAITS
        leave, held = self.base + L.LEAVE, self.base + L.HELD
        told, read = self.base + L.REPLY_TAIL, self.base + L.REPLY_HEAD
        pause = 0.0
        while True:
            if words[L.STOP]:
                return False
            if words[leave]:
                # What nobody else could take is finished first, unless there is a successor.
                return words[leave] != L.LEAVE_NOW and self.deques.has_work(self.slot)
            if words[told] != words[read]:
                surroundings.set_up()
                self.nest.run_idle()
                return True
            if words[held]:
                self.ask()
            found = self.steal_round()
            if found == STOLEN:
                self.ring_next()
                return True
            if found != EMPTY:
                # Somebody holds a lock we need, for microseconds unless it was stopped or killed.
                time.sleep(pause)
                pause = min(0.002, pause + RETRY_PAUSE_S)
                continue
            words[parked] = words[waits] = 1
            self.locks.fence()
            if words[L.STOP] or words[leave] or self._is_work_anywhere():
                self._unpark()
                continue
            if words[held] or words[L.NESTED] > L.CHILDREN_USED:
                self.ring_parent()  # it may have looked before we were parked
            self.sleep()
            self._unpark()
            if words[told] == words[read] and self.deques.has_work(self.slot):
                self.ring_next()
                return True

    def ask(self) -> bool:
        """The parent holds something more urgent: park, so that it hands it over. False when it does not answer, or
        will not hand over more: then we go on with what we have.

        Bounded, since the parent's main thread may be in one long C call: then we wait no more before it has looked.
        """
        assert self.rules is not None
        words = self.words
        looked = words[L.LOOKED_NS]
        if looked == self._silent_since:
            return False
        words[self.base + L.PARKED] = 1
        self.locks.fence()
        answered = bool(words[L.STOP] or words[self.base + L.LEAVE])
        if not answered and self._is_more_urgent_held():
            self.ring_parent()
            answered = self._wait(self.rules.ask_ms)
            if not answered:
                self._silent_since = looked
        self._unpark()
        return answered

    _silent_since = -1
    """When the parent had last looked, as we asked and got no answer."""

    def _is_more_urgent_held(self) -> bool:
        """Whether the parent holds something more urgent than all that it has handed over and is queued here. Looked at
        again once we are parked (D-9): it may have handed that over before, to us or to another, and then it does not
        ring.
        """
        assert self.rules is not None
        level, step = self.words[self.base + L.HELD] - 1, self.rules.levels_per_priority
        handed_over = [at for at in self.deques.levels if at >= level and at % step == step - 1]
        return level >= 0 and not self.deques.queued_at(self.slot, handed_over)

    @property
    def _slots(self) -> range:
        """All slots that have, or may have, an agent."""
        return range(self.words[L.SLOTS_USED])

    def _is_work_anywhere(self) -> bool:
        """Whether this agent could find something if it looked again."""
        if self.rules is None:
            return self.deques.is_any_queued()
        return self.deques.can_get_work(self.slot) if self.rules.steals else self.deques.has_work(self.slot)

    def _unpark(self) -> None:
        """Not parked any more, and everybody can see it before we look at the deques again.

        Without the fence a submitter may still see the flag, ring us, who have looked already, and leave the next
        agent asleep: its chunk then waits behind the task we start.
        """
        words = self.words
        words[self.base + L.PARKED] = words[self.base + L.WAITS] = 0
        self.locks.fence()
        if words[L.NESTED]:
            # The parent hands a child out under our lock: from here on it does not, or we see it.
            self.locks.lock(self.slot)
            self.locks.unlock(self.slot)

    def steal_round(self) -> int:
        """Look at the queues of a few that seem to have any, and try those, the longest first.

        The others are tried when these have been emptied meanwhile: whoever parks looks at all.
        """
        deques, rules, slot = self.deques, self.rules, self.slot
        if deques.has_work(slot):
            return STOLEN
        if rules is not None and not rules.steals:
            return EMPTY
        levels = None if rules is None else rules.steal_levels
        verdict = EMPTY
        for victim in choose_victims(
            around(deques.may_have_work(levels), slot),
            deques.queued if levels is None else lambda other: deques.queued_at(other, levels),
        ):
            found = deques.steal(slot, victim)
            if found == STOLEN:
                return STOLEN
            if found != EMPTY:
                verdict = found
        at = self.base + L.STEALS_FAILED
        self.words[at] += 1
        return verdict

    def ring_next(self) -> None:
        """Whoever leaves two or more stealable chunks behind wakes one parked agent, which wakes the next."""
        deques, rules = self.deques, self.rules
        if self.words[L.FEW]:
            return  # chunks are short, and the parent sees to it that nobody waits behind one that is not
        parked = deques.look(L.PARKED)
        if not any(parked) or (rules is not None and not rules.steals):
            return
        if rules is None:
            # What lies at those that sleep they were rung for.
            if deques.queued(self.slot) >= 2 or deques.is_queued(2, beside=parked):
                self.ring(around([a for a, is_parked in enumerate(parked) if is_parked], self.slot)[0])
        elif deques.is_queued(2, rules.steal_levels):
            for agent in around([a for a, is_parked in enumerate(parked) if is_parked], self.slot):
                if deques.can_get_work(agent):
                    self.ring(agent)
                    return

    def ring(self, slot: int) -> None:
        """Ring an agent's doorbell. A full pipe means it has been rung enough.

        One that came after us, when the pool grew, is rung by the parent: whenever that is rung it looks who is parked
        beside what others have queued (`Dispatcher.wake_idle`).
        """
        if slot >= len(self.spec.bells):
            self.ring_parent()
            return
        with contextlib.suppress(BlockingIOError):
            os.write(self.spec.bells[slot].fd, b"w")

    def ring_parent(self) -> None:
        """Tell the parent that there is something to read. A hint: the ring and the counters hold the truth.

        If it is dead, that is found out by who looks for it (`check_parent`, `sleep`).
        """
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.spec.results.fd, b"r")

    # -- waiting --------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Wait for the doorbell; raises `ParentGone` when the parent is gone."""
        if shared_kept:
            self.forget_shared()
        if self.results.is_warm:
            if self._wait(COOL_MS):
                return
            self.results.blocks.cool()
        while _now() < self.alone_until_ns:
            if self._wait(LOOK_EVERY_MS):
                return
        self._wait(None)

    def check_parent(self) -> None:
        """Raise `ParentGone` if the parent is gone (1 us, at first 4)."""
        self._wait(0)

    def _wait(self, timeout_ms: int | None) -> bool:
        """Wait for a ring; False when none came in time."""
        spec = self.spec
        rung = self.poll.poll(timeout_ms)
        for fd, _ in rung:
            if fd != spec.doorbell.fd:
                raise ParentGone
            os.read(fd, 4096)
        if not rung and _now() < self.alone_until_ns and self.locks.is_parent_gone():
            raise ParentGone
        return bool(rung)

    def _wait_for_room(self, head: int) -> None:
        """The ring was full when its head stood at `head`: say so, look again, sleep (the same handshake as park).

        The head must be the one that was found too low: reading it anew here would miss a parent that made room in
        between, and sleep for ever.
        """
        words, full = self.words, self.base + L.RING_FULL
        words[full] = 1
        self.locks.fence()
        self.ring_parent()
        if words[self.base + L.RESULT_HEAD] == head and not words[L.STOP]:
            self.sleep()
        words[full] = 0
        if words[L.STOP] == 2:
            raise ParentGone


def not_loaded(error: BaseException) -> BaseException:
    """What the caller of an executor gets when a call's arguments could not be unpickled."""
    from ..errors import TransferError

    told = TransferError("arguments", type(error).__qualname__, describe(error).partition(": ")[2])
    return told.with_traceback(error.__traceback__)


def finalize(spec: AgentSpec) -> None:
    """Run the user's finalizer. All results are delivered, or about to be: nothing depends on it."""
    surroundings.set_up()
    try:
        spec.finalizer(*spec.finalargs)
    except BaseException:
        import logging  # here: few agents need it, and it takes 5 ms to import

        logger = logging.getLogger("mpsteal")
        logger.exception("mpsteal: the finalizer of %s raised", spec.identity[0], extra=facts("finalizer_raised"))


def end_copy(error: BaseException | None) -> None:
    """End a fork of the agent that came back from the task: two processes must not be one agent.

    A task may fork and leave the child by `sys.exit`; the code it gave is kept.
    """
    code: Any = 0
    if isinstance(error, SystemExit):
        code = error.code
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit((code or 0) & 0xFF)
