"""The engine: one thread in the parent that dispatches, collects and watches over the agents (D9).

    submitters --pending, wake pipe-->  .--------.  --ranges, doorbells-->  agents
    waiters   <--handles resolved------ | engine |  <--rings, results pipes--
                                        `--------'  <--pidfds: deaths--

It sleeps until something happens. While chunks are in flight it also looks at the rings by itself after 5 ms of
silence, backing off to 50 ms: an agent tells of short results late when a long task follows them.

Life of a pool: RUN -> CLOSING (nothing new; ends when all is done) -> STOPPING (agents leave) -> ended. TERMINATING
fails every handle first and ends the agents by signal. States only move to the right.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import context as mp_context
from multiprocessing import forkserver, resource_tracker
from typing import Any

from .._agent import by_value
from .._agent.launch import AgentSpec, Balancing, Descriptor, load_prctl
from .._agent.shared import Shared
from .._policy.stealing import steal_point
from .._queue import layout as L
from .._queue.arena import Segment
from .._queue.barrier import load_barrier
from .._queue.deque import Deques
from .._queue.locks import Locks, lock_files
from .._queue.manager import all_status
from ..errors import PoolTerminatedError, SegmentFullError
from .callbacks import CallbackThread, EndedThread, join
from .collect import Collector
from .crew import Crew
from .dispatch import Dispatcher
from .events import facts
from .guard import Guard
from .health import interrupts_deferred
from .logs import LogReader, wait_at_exit
from .quick_thread import QuickThread
from .recycle import AgentLimits, Recycler
from .share import share
from .surroundings import AUTO, Outfitter
from .validate import validate
from .vitals import STUCK_AFTER_S, Vitals, health_of
from .waits import acquire, in_parts

logger = logging.getLogger("mpsteal")

RUN, CLOSING, STOPPING, TERMINATING, ENDED = range(5)

_AWAKE: list[bool] = []

NO_LIMITS = AgentLimits()


class _Nobody:
    """Has no gate to be let through."""

    def release(self) -> None:
        """Nobody waits."""


NOBODY = _Nobody()
"""The gate of a caller that does not wait."""

LOOK_FIRST_S, LOOK_LAST_S = 0.005, 0.05
"""When the engine looks at the rings unasked: a shorter first look costs wake-ups under long tasks, a longer one
makes a short result in front of a long task late (4 s were seen without any)."""

RING_FIRST_NS, RING_LAST_NS = 500_000, 5_000_000
"""How long agents let results lie while somebody waits for any, before one of them rings: the first after a rest, and
where it ends, doubling with every look at the rings, while they are kept busy (ns). An agent that runs out of work
rings at once. Each ring costs the parent 90 to 130 us (two context switches, cold caches, the thread that is woken
up), taken from an agent where cores are short: at 0.5 ms tasks of 1 ms kept the cores 94.6 % busy, at 4 ms 96.8 %;
longer makes the result of a task that others are queued behind late by that much."""

EXIT_PATIENCE_S = 0.8
"""For how long a Ctrl-C cannot end the wait for the agents when the program ends anyhow. They are gone 0.2 s after they
were told; shorter gives a second traceback on a busy machine, longer keeps a user waiting who has had enough."""

RELEASE_WAIT_S = 1.0
"""How long the end waits for threads that are ringing before it leaves the descriptors open: too short leaks them for
nothing, too long holds up a signal handler that joins."""


class Engine:
    """What the front doors know (D13).

    `submit`, `cancel`, `close`, `terminate`, `join`, `status`; `pending`, `asleep`, `wake` and `late` for who spells
    `submit` out; `waiting`, `set_pace` and `polled` for who waits; `callbacks` for their code; `at_exit`. The scheduler
    calls its dispatcher through `call`, in the engine's thread.
    """

    def __init__(
        self,
        agents: int,
        make_process: Callable[..., Any],
        *,
        context: Any,
        initializer: Any = None,
        initargs: tuple[Any, ...] = (),
        limits: AgentLimits = NO_LIMITS,
        geometry: dict[str, int] | None = None,
        dispatcher: Callable[..., Dispatcher] = Dispatcher,
        balancing: Balancing | None = None,
        collector: Callable[..., Collector] = Collector,
        what: str = "the pool",
        stuck_after_s: float = STUCK_AFTER_S,
        capacity: int | None = None,
        finalizer: Any = None,
        finalargs: tuple[Any, ...] = (),
        inner_threads: int | str | None = AUTO,
        logs: bool = True,
        agents_expected: int = 0,
    ) -> None:
        self._what = what
        """What the front door's user made, in errors: who has a scheduler never made a pool."""
        self.slots = list(range(agents)) if balancing is None else []
        """Slots that have an agent. A scheduler starts with none and has `agents` at most."""
        self._equipped = agents
        """Slots that have what an agent needs (a doorbell, say) from the start; a Pool has room for more."""
        self._has_grown = False
        """Whether some agents may not have the doorbells of others."""
        self._make_dispatcher, self._make_collector, self._balancing = dispatcher, collector, balancing
        self.state = RUN
        self.asleep: list[bool] = _AWAKE
        """Not empty: the loop sleeps, or is about to. A list of its own for every sleep, which whoever has rung for it
        empties: so nobody can mark a later sleep as rung for, and a signal handler that comes before the ringing
        still sees it and rings by itself."""
        self.broken: BaseException | None = None
        self.owner_pid = os.getpid()
        self.ended = threading.Event()
        self.callbacks = CallbackThread(self)
        self.at_exit: Any = None
        self._cancels: deque[tuple[Any, bool, list[bool], Any]] = deque()
        self._calls: deque[tuple[Callable[[], Any], list[Any], Any]] = deque()
        self._initializer, self._initargs, self._limits = initializer, initargs, limits
        self._finalizer, self._finalargs = finalizer, finalargs
        self._stuck_after_s = stuck_after_s
        self._inner_threads, self._with_logs, self._agents_expected = inner_threads, logs, agents_expected
        self._close_asked = self._terminate_asked = False
        self.waiting: list[Any] = []
        """`(handle, gate)` of every thread that waits for a result. Here and below callers and the engine share only
        what the interpreter changes in one step, and no lock: see `results.py`."""
        self._ringing: list[object] = []
        """One for each thread that is about to write to the wake pipe, which is not closed under its hands."""
        self._fds: list[int] = []
        self._cleanup = contextlib.ExitStack()
        self.thread: Any = QuickThread(target=self._run, name="mpsteal-engine", daemon=True)
        self._fate: dict[str, str] = {}
        """Who comes first decides: the thread that it runs, or a start that failed that it never will."""
        self._gate = threading.Lock()
        self._gate.acquire()
        try:
            with interrupts_deferred():
                try:
                    self._build(make_process, context, {"slots": capacity or agents, **(geometry or {})})
                    self.thread.start()
                finally:
                    self._gate.release()
        except BaseException:
            if self._fate.setdefault("is", "abandoned") == "abandoned":
                self._abandon_start()
            else:  # all is well, but a signal handler has raised
                self.terminate()
                for part in in_parts(None):
                    if self.ended.wait(part):
                        break
            raise

    # -- building -------------------------------------------------------------------------------------------------

    def _build(self, make_process: Callable[..., Any], context: Any, geometry: dict[str, int]) -> None:
        equipped = self._equipped
        self.segment = Segment.create(L.Geometry(**geometry), equipped)
        self._cleanup.callback(self.segment.close)
        n = self.segment.layout.geometry.slots
        self.words = self.segment.words
        self.words[L.SLOTS_USED] = len(self.slots)
        self._lock_fds = [self._own(fd) for fd in lock_files(n, equipped)]
        barrier = load_barrier()
        self._owners_are_fenced = barrier is not None
        self.locks = Locks(self._lock_fds, n, barrier)
        self.locks.hold_life()
        levels = None if self._balancing is None else self._balancing.steal_levels
        self.deques = Deques(self.words, self.segment.layout, self.locks, steal_point, levels)
        self._results: dict[int, tuple[int, int]] = {}
        self._doorbells = [self._pipe() for _ in range(equipped)]  # all: agents ring each other, whoever starts when
        self._wake_r, self._wake_w = self._pipe()
        # With a core to spare the parent's wake-ups take nothing from an agent.
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._cpus = cpus
        self._parent_watch: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._parent_watch = self._own(os.pidfd_open(os.getpid()))
        bells = [w for _, w in self._doorbells]
        self.dispatcher = self._make_dispatcher(self.segment, self.locks, self.deques, bells, self.slots)
        self.pending = self.dispatcher.pending
        self.collector = self._make_collector(self.segment, self.locks, self.dispatcher, equipped, self.waiting)
        method = context.get_start_method() if isinstance(context, mp_context.BaseContext) else "fork"
        self._forks = method == "fork"
        self._is_starter = method != "forkserver"  # agents are children of this process
        if method == "spawn":
            resource_tracker.ensure_running()  # the same: it unblocks SIGINT when it has started
        if method == "forkserver":
            forkserver.ensure_running()  # before any start holds signals back: the server would keep that for ever
        if self._forks:
            load_prctl()
        self.dispatcher.encoder.set_kind(by_value.choose_pickler(forks=self._forks))
        if self._with_logs:
            self.logs = self.dispatcher.logs = LogReader(self.dispatcher.id_if_there, self.dispatcher.agent_id)
            self._cleanup.callback(self.logs.finish)
        self._outfitter = Outfitter(self._inner_threads, max(self._agents_expected, len(self.slots)), self.logs, method)
        self.crew = Crew(
            self._make_spec,
            make_process,
            self.segment,
            self.deques,
            self.dispatcher,
            self.collector,
            self.slots,
            forks=self._forks,
            has_initializer=self._initializer is not None,
            has_finalizer=self._finalizer is not None,
        )
        self.dispatcher.attach(self)
        self.vitals = Vitals(self.dispatcher, self._stuck_after_s)
        self.recycler = Recycler(self.dispatcher, self.crew, self._limits)
        self.selector = selectors.DefaultSelector()
        self._cleanup.callback(self.selector.close)
        self.guard = Guard(self.segment, self._lock_fds[-1], self._parent_watch, self.selector, forks=self._forks)
        self._cleanup.callback(self.guard.stop)
        self.selector.register(self._wake_r, selectors.EVENT_READ, ("wake", 0))
        if self.logs is not None:
            self.logs.watch(self.selector)
        self.crew.start_all()  # as late as may be, see there
        self.crew.watch_all(self.selector)

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _pipe(self) -> tuple[int, int]:
        r, w = os.pipe()
        self._fds += [r, w]
        os.set_blocking(r, False)
        os.set_blocking(w, False)
        return r, w

    def _equip(self, slot: int) -> None:
        """Make what the agent of a slot needs that had none yet. Raises OSError when the system refuses."""
        while len(self._doorbells) <= slot:
            self.segment.add_slot(len(self._doorbells))
            bell = self._pipe()
            self.collector.add_reader()
            self.dispatcher.add_bell(bell[1])
            self._doorbells.append(bell)
            self._has_grown = True

    def _make_spec(self, slot: int) -> AgentSpec:
        if slot not in self._results:
            self._results[slot] = self._pipe()
            self.selector.register(self._results[slot][0], selectors.EVENT_READ, ("result", slot))
        return AgentSpec(
            slot=slot,
            identity=self.dispatcher.identity(slot),
            geometry=self.segment.layout.geometry,
            segment=Descriptor(self.segment.fd),
            locks=[Descriptor(fd) for fd in self._lock_fds],
            results=Descriptor(self._results[slot][1]),
            doorbell=Descriptor(self._doorbells[slot][0]),
            bells=[Descriptor(w) for _, w in self._doorbells],
            parent_watch=None if self._parent_watch is None else Descriptor(self._parent_watch),
            initializer=self._initializer,
            initargs=self._initargs,
            finalizer=self._finalizer,
            finalargs=self._finalargs,
            max_tasks=self._limits.max_tasks,
            owners_are_fenced=self._owners_are_fenced,
            balancing=self._balancing,
            dies_with_starter=self._is_starter and threading.current_thread() in (threading.main_thread(), self.thread),
            inherited=self.segment if self._forks else None,
            deques=self.deques if self._forks else None,
            surroundings=self._outfitter.outfit(len({*self.slots, slot})),
        )

    def _abandon_start(self) -> None:
        """A start failed half-way: end what was started, keep nothing."""
        if hasattr(self, "crew"):
            self.crew.abandon()
        self._release()

    # -- any thread -----------------------------------------------------------------------------------------------

    def submit(self, item: Any) -> None:
        """Queue a job, or a single call in its handle."""
        self.pending.append(item)
        if self.asleep:
            self.wake()
        if self.state > CLOSING:
            self.late()

    def late(self) -> None:
        """The submit raced with the end: if the engine is gone, nobody else will answer."""
        if self.ended.is_set():
            self.dispatcher.fail_pending(self.broken or PoolTerminatedError(f"{self._what} has ended"))

    def poke(self) -> None:
        """Something may have changed that the loop cannot see in `pending` (room in an iterator, input that came)."""
        self._poked = True
        if self.asleep:
            self.wake()

    def wake(self) -> None:
        """Make the loop look."""
        sleep = self.asleep
        me = object()
        try:
            self._ringing.append(me)
            if self.state < ENDED:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_w, b"w")
        finally:
            with contextlib.suppress(ValueError):  # a signal handler raised before it was there
                self._ringing.remove(me)
        sleep.clear()  # only now: who is interrupted before has not rung

    def polled(self) -> None:
        """A thread asks whether a result is there: as urgent as to wait for it, until the next look."""
        with contextlib.suppress(ValueError):  # the segment is gone
            self.words[L.RING_AFTER_NS] = RING_FIRST_NS

    def cancel(self, sink: Any, *, end_running: bool = False) -> bool:
        """See `Cancels.cancel`. Any thread but the engine's."""
        if threading.current_thread() is self.thread:
            raise RuntimeError(f"a call cannot be cancelled in {self._what}'s own thread, which would have to do it")
        answer: list[bool] = []
        gate = threading.Lock()
        gate.acquire()
        self.ask_cancel(sink, answer, gate, end_running=end_running)
        acquire(gate)
        return answer == [True]

    def ask_cancel(self, sink: Any, answer: list[bool], gate: Any, *, end_running: bool = False) -> None:
        """`cancel` for who does not wait: the answer is there when `gate.release` is called. Any thread."""
        self._cancels.append((sink, end_running, answer, gate))
        self.wake()
        if self.ended.is_set():
            self._do_cancels()

    def _do_cancels(self) -> None:
        while True:
            try:
                sink, end_running, answer, gate = self._cancels.popleft()
            except IndexError:  # after the end several threads may come here
                return
            try:
                if self.state < STOPPING:
                    answer.append(self.dispatcher.cancels.cancel(sink, end_running=end_running))
            finally:
                gate.release()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the engine's thread and return what it gives, or raise what it raises.

        Raises PoolTerminatedError when the engine ends first.
        """
        if threading.current_thread() is self.thread:
            return function()
        answer: list[Any] = []
        gate = threading.Lock()
        gate.acquire()
        self._calls.append((function, answer, gate))
        self.wake()
        if self.ended.is_set():
            self._do_calls()
        acquire(gate)
        ok, value = answer
        if not ok:
            raise value
        return value

    def call_nowait(self, function: Callable[[], object]) -> None:
        """The same for who does not wait, and does not ask what becomes of it."""
        self._calls.append((function, [], NOBODY))
        self.wake()
        if self.ended.is_set():
            self._do_calls()

    @property
    def capacity(self) -> int:
        """How many agents there may be."""
        return self.segment.layout.geometry.slots

    @property
    def size(self) -> int:
        """How many agents there are, less those that were told to leave, with those that are being replaced."""
        return len(self.dispatcher.staying)

    def resize(self, agents: int) -> None:
        """Have a Pool go on with so many agents, at most `capacity`.

        Returns when those that are missing have been started, and those that are too many have been told to leave.
        Raises what starting a process raises; those that were started before stay.
        """
        self.call(lambda: self.dispatcher.resizer.resize(agents, self._equip))

    def _do_calls(self) -> None:
        while True:
            try:
                function, answer, gate = self._calls.popleft()
            except IndexError:  # after the end several threads may come here
                return
            try:
                if self.state >= STOPPING:
                    answer += (False, PoolTerminatedError(f"{self._what} has ended"))
                else:
                    answer += (True, function())
            except BaseException as error:
                answer += (False, error)
            finally:
                gate.release()

    def share(self, value: Any) -> Shared[Any]:
        """See `Pool.share`."""
        return share(self, value)

    def close(self) -> None:
        """Take nothing more; the engine ends when everything is done."""
        self._close_asked = True
        self.wake()

    def lift_limits(self) -> None:
        """Somebody waits for the end: unread iterators may not hold it up."""
        self._limits_lifted = True
        self.wake()

    def terminate(self) -> None:
        """Fail every pending handle and end the agents. Returns at once; `join` waits."""
        self._terminate_asked = True
        self.wake()

    def join(self) -> None:
        """Wait for the end of the loop and of all callbacks, unless called from either."""
        if threading.current_thread() is self.thread:
            return
        join(self.thread, lambda: self._is_over)
        self.thread = EndedThread()
        self.callbacks.join()
        if self.logs is not None:
            self.logs.join()

    def stop_at_exit(self) -> None:
        """For interpreter exit. Waits for the agents alone: a callback that blocks must not hold it up. A Ctrl-C
        meanwhile says nothing new, and ends the wait only if that is long: user code that is pickled may block.
        """
        patient_until = time.monotonic() + EXIT_PATIENCE_S
        while os.getpid() == self.owner_pid:
            try:
                self.terminate()
                join(self.thread, lambda: self._is_over)
                return wait_at_exit(self.logs)
            except KeyboardInterrupt:
                if time.monotonic() > patient_until:
                    return

    def stop_collected(self) -> None:
        """For the garbage collector, which may run in any thread, this one included: do not wait."""
        if os.getpid() == self.owner_pid:
            self.terminate()

    def validate(self) -> None:
        """Re-check I1, I2 and I6 while the pool is quiescent; see `validate.py`. For tests."""
        validate(self)

    def status(self) -> list[dict[str, Any]]:
        """See `_queue.manager.all_status`, and each agent's health; after the end, what was last known."""
        if self.state < ENDED:
            with contextlib.suppress(ValueError):
                rows = all_status(self.segment)
                for row in rows:
                    slot = row["slot"]
                    if slot in self.crew.leaving and row["state"] == "ready":
                        row["state"] = "leaving"
                    row["health"] = health_of(row, self.dispatcher.frozen.get(slot), self.crew.alive.get(slot))
                self._last_status = rows
        return self._last_status

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._gate.acquire()
        if self._fate.setdefault("is", "running") != "running":
            return
        try:
            while self._turn():
                pass
        except BaseException as error:
            logger.exception("mpsteal: the engine failed", extra=facts("engine_failed"))
            self.broken = error
            self.crew.kill_all()
        finally:
            try:
                self._end()
            finally:
                self._is_over = True

    _silence = LOOK_FIRST_S
    _look_due = 0.0

    def _timeout(self) -> float | None:
        """Seconds to sleep at most; None: until something happens."""
        if self._poked or self.dispatcher.has_more or (self.pending and not self._has_no_page):
            return 0.0
        now = time.monotonic()
        due = [self._look_due] if self.dispatcher.inflight else []
        if self.crew.needs_care:
            due += self.crew.due(now)
        if self.guard.due is not None and self.state <= CLOSING:
            due.append(self.guard.due)
        due += self.dispatcher.due(now) + self.vitals.due()
        if self.state <= CLOSING:
            due += self.recycler.due()
        return max(0.0, min(due) - now) if due else None

    def _pace(self) -> None:
        """Tell the agents when to ring again."""
        if not self.dispatcher.inflight:
            self._ring_ns = RING_FIRST_NS
        elif self._ring_ns < (RING_FIRST_NS if self._cpus > len(self.slots) else RING_LAST_NS):
            self._ring_ns *= 2
        self.words[L.LOOKED_NS] = time.monotonic_ns()
        self.set_pace()

    def set_pace(self) -> None:
        """Agents report sooner while any thread waits for a result. Any thread."""
        try:
            self.words[L.RING_AFTER_NS] = self._ring_ns if self.waiting else RING_LAST_NS
        except ValueError:
            pass  # the segment is gone

    logs: LogReader | None = None
    _ring_ns = RING_FIRST_NS
    _is_over = False
    _has_no_page = False
    _poked = False
    _limits_lifted = False

    def _turn(self) -> bool:
        """One round of the loop; False at the end."""
        self.asleep = [True]
        timeout = self._timeout()
        if self.collector.waking:
            self.collector.wake()
        events = self.selector.select(timeout)
        self.asleep = _AWAKE
        self._poked = False
        rung = False
        for key, _ in events:
            what, slot = key.data
            if what == "death":
                self.crew.died(slot)
            elif what == "guard":
                self.guard.died()
            elif what == "logs" and self.logs is not None:
                self.logs.start(self.selector)
            elif what == "linger":
                self.crew.lingered(slot)
                rung = True  # another may have waited for its place
            elif what == "spare":
                self.crew.spares.died(slot)
            else:
                try:
                    os.read(key.fd, 4096)
                except BlockingIOError:
                    pass
                rung = rung or what == "result"
        # Only now that the bell has been read: whoever asks later rings anew, whoever asked before is seen.
        if self._terminate_asked:
            self.state = TERMINATING
        elif self._close_asked:
            self.state = max(self.state, CLOSING)
        now = time.monotonic()
        if rung or (now >= self._look_due and self.dispatcher.inflight):
            if self._balancing is not None:
                self.dispatcher.before_results()
            # At all of them, whoever rang: each wake-up costs more than to look at another ring.
            found = self.collector.collect(*self.slots)
            self._silence = LOOK_FIRST_S if found else min(LOOK_LAST_S, 2 * self._silence)
            self._look_due = now + self._silence
            self._pace()
            if found and self._balancing is None:
                self.dispatcher.brake.observe()
        if rung and self._has_grown:
            self.dispatcher.wake_idle()
        if rung and self.state < STOPPING and (self.recycler.is_needed or self.crew.leaving):
            self.crew.see_leavers()
        if self.crew.needs_care:
            failed = self.crew.care(now, replacing=self.state < STOPPING and self.broken is None)
            if failed is not None:
                self._break(failed)
        if (
            self.guard.due is not None
            and self.state <= CLOSING
            and (now >= self.guard.due or self.crew.has_long_task(LOOK_FIRST_S))
        ):
            self.guard.start()
        if self.collector.init_error is not None and self.broken is None:
            self._break(self.dispatcher.init_failed(self.collector.init_error))
        if self._cancels:
            self._do_cancels()
        if self._calls:
            self._do_calls()
        if self._limits_lifted:
            for job in self.dispatcher.jobs:  # those that were still pending then come by in a later turn
                job.buffersize = None
        if self.state == TERMINATING:
            return self._terminating()
        if self.broken is not None:
            self._fail_everything(self.broken)
        if self.dispatcher.backlog:
            self.dispatcher.refill()
        if self.collector.waking and (self.pending or self.dispatcher.jobs):
            # Pickling runs user code, which may take its time, or wait for one whom this result lets go on.
            self.collector.wake()
        self._has_no_page = not self.dispatcher.flush()
        is_full = self._has_no_page and not self.dispatcher.pages.live  # before others free some
        self.dispatcher.turn(now)
        self.vitals.turn(now)
        if self.recycler.is_needed and self.state <= CLOSING:
            self.recycler.turn(now)
        if is_full:
            # Nothing has a page whose end could make room.
            full = SegmentFullError("no memory for a page of tasks: the device of the segment is full")
            self.dispatcher.fail_unsent(full)
        if self.state >= CLOSING:
            return self._closing()
        return True

    # -- giving up ------------------------------------------------------------------------------------------------

    def _break(self, error: BaseException) -> None:
        """The pool cannot go on: fail everything now and everything to come."""
        self.broken = error
        self._fail_everything(error)
        if self.state < STOPPING:
            self._stop_agents(STOPPING)

    def _fail_everything(self, error: BaseException) -> None:
        """Resolve every pending handle with `error`."""
        self.dispatcher.fail_sent(error)
        self.dispatcher.fail_unsent(error)
        self.dispatcher.fail_rest(error)

    # -- the end --------------------------------------------------------------------------------------------------

    def _stop_agents(self, state: int) -> None:
        self.state = max(self.state, state)
        self.crew.spares.drop_all()
        self.crew.expect_end()
        self.dispatcher.brake.stop()
        self.words[L.STOP] = 2 if state == TERMINATING else 1
        for slot in self.slots:
            self.dispatcher.ring(slot)

    def _closing(self) -> bool:
        d = self.dispatcher
        if self.state == CLOSING and not (d.pending or d.jobs or d.inflight or d._carry):
            self._stop_agents(STOPPING)
        if self.state != STOPPING:
            return True
        if self.broken is not None:
            self.crew.dismiss(only_busy=False)  # they may sit in tasks nobody waits for any more
        return not self.crew.is_gone

    def _terminating(self) -> bool:
        if self._finalizer is not None and self.words[L.STOP] != 2:
            self.collector.collect(*self.slots)
            self.crew.spare_idle()  # before nobody waits for what the others run
        # Every turn: who submits meanwhile has to be answered, too.
        self._fail_everything(self.broken or PoolTerminatedError(f"{self._what} was terminated"))
        if self.words[L.STOP] != 2:
            self._stop_agents(TERMINATING)
        self.crew.dismiss(only_busy=True)
        return not self.crew.is_gone

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self.status()
        self.state = ENDED
        # Handles first: nobody may wait for an engine that is gone. Twice, since from `ended` on late submitters
        # help, and what they could meet should be theirs alone.
        error = self.broken or PoolTerminatedError(f"{self._what} has ended")
        # Whatever one step meets (memory may be out), the others are done: somebody waits for each.
        steps: list[Callable[[], object]] = [
            lambda: self._fail_everything(error),
            self.collector.wake,
            self.ended.set,
            lambda: self._fail_everything(error),
            self._do_cancels,
            self._do_calls,
            self.callbacks.finish,
            self._release,
        ]
        for step in steps:
            try:
                step()
            except BaseException:
                with contextlib.suppress(BaseException):  # no memory for that either
                    logger.exception("mpsteal: the end of the engine failed", extra=facts("engine_failed"))
        if self.at_exit is not None:
            self.at_exit.cancel()
        self._initializer, self._initargs = None, ()  # a user's objects, and we are in cycles

    def _release(self) -> None:
        self._cleanup.close()
        # A thread rings within a microsecond, unless a signal handler came in between that waits for our end. Its
        # descriptors stay open then: better than to ring a stranger.
        deadline = time.monotonic() + RELEASE_WAIT_S
        while self._ringing and time.monotonic() < deadline:
            time.sleep(0.001)
        if not self._ringing:
            for fd in self._fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._fds.clear()
