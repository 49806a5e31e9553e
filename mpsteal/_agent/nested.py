"""Nested submission: tasks that submit tasks to their own pool, the agent's side.

    submit --> kept here, run by whoever waits                     short calls, while no other agent is idle
       '-----> CHILD to the parent --> RUN to an agent that waits or is idle --> its outcome comes back as a reply

A task that waits for a child does not block its agent. Until the outcome is there the agent runs, on top of it, what
descends from that task: what was submitted in it, in that, and so on. Nothing else, and here is why. A task waits for
its own children alone. If a child has begun and is not over, it runs at some agent, or waits there below tasks that
descend from it; so waits lead from shallow to deep, never in a circle, and the deepest task can always go on. With
leave to run just anything, two agents can each bury what the other one waits for.

What is kept here is a part of the task that has submitted it: it runs in that task's time, and dies with it.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from .._queue import layout as L
from .._queue import replies, results
from .._queue.replies import ReplyReader
from ..errors import TaskCancelledError
from . import here
from .itemwise import refusal
from .serialize import PLAIN, encode_error
from .task_pool import ChildResult, TaskPool

if TYPE_CHECKING:
    from .loop import Agent

_now = time.monotonic_ns

SHORT_NS = 10_000_000
"""Calls of a function that are mostly shorter stay with the task that submits them, less those that others need (ns).
Sending one costs 0.1 to 0.3 ms in all processes together. Shorter sends what is hardly worth it; longer lets an agent
that has used up what was sent be idle for so long, until the call that runs here is over."""

SENT_PER_AGENT = 2
"""Short calls that are sent ahead for each other agent. Fewer leaves agents idle while calls are on their way; more
sends calls in vain, which come back here."""

SHARE_NS = 100_000
"""Time between two looks whether other agents need short calls (ns). Shorter costs looks, 0.1 us for each agent, and
sends more before the parent has counted them; longer leaves an agent idle for longer."""

FUNCTIONS_KNOWN = 256
"""Functions whose run times are remembered. Fewer: all are forgotten sooner, and sent again; more takes memory."""

STACK_SPARE = 150
"""Frames of Python's recursion limit that must be free before a call runs on top of a waiting task: ours, and those
that any call needs. Fewer ends the agent where the limit is hit inside its own code; more refuses what would have gone
well."""

FRAMES_BETWEEN = 6
"""Frames, Python's and C's, from a task that waits to the call that runs on top of it, less those that are counted."""

LOOK_NS = 1_000_000
"""How long a wait without time, such as `ready()`, is open for calls that the parent may hand out (ns). Shorter: it,
taking 0.2 ms when it is free, comes too late again and again; longer: `ready()` is slow for who has else to do."""

_LAST = 1 << 62  # for WAITS: no child is so deep, so none is handed out


class _Kept(NamedTuple):
    """A call that is still with its task."""

    call: bytes
    kind: int
    depth: int
    result: ChildResult[Any]
    function: Any
    timeout_ns: int
    retries: int


class _Run(NamedTuple):
    """A child that the parent has handed to this agent."""

    number: int
    kind: int
    depth: int
    slot: int
    ticket: int
    call: Any


def _sealed(method: Any) -> Any:
    """Nothing in here may raise: shared words would be left half-written by a process that lives on (D4)."""

    @functools.wraps(method)
    def sealed(self: Nest, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException:
            self.agent.give_up()

    return sealed


class Nest:
    """What the tasks of one agent have submitted and wait for. One thread."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.pool = TaskPool(self)
        self._words, self._base = agent.words, agent.base
        self._replies = ReplyReader(agent.segment, agent.slot, agent.locks)
        self._chunk = L.NONE
        """The child that runs; none: what `serve` runs."""
        self._depth = 0
        self._serial = self._last_serial = 0
        """Of the call that runs, if it was kept here; else 0."""
        self._level = 0
        """How many tasks are suspended below what runs."""
        self._kept: list[_Kept] = []
        self._handed: deque[_Run] = deque()
        self._tickets: WeakValueDictionary[int, ChildResult[Any]] = WeakValueDictionary()
        self._next_ticket = 0
        self._withdrawn: dict[int, bool] = {}
        self._run_ns: dict[Any, float] = {}
        """About the median run time of the functions seen here."""
        self._shared_ns = 0
        self._done = self._busy_ns = 0
        self._frames = self._frames_here = 0
        """Python frames in use below what runs; and in the task that is about to wait."""
        self._interrupted: BaseException | None = None

    @property
    def _task(self) -> int:
        """The chunk that runs now."""
        return self._chunk if self._chunk != L.NONE else int(self._words[self._base + L.CLAIM])

    @property
    def caller(self) -> tuple[int, int]:
        """What runs now, as no other: a call that is kept here has no chunk of its own."""
        return self._task, self._serial

    @property
    def agents(self) -> int:
        """How many agents the pool has, about."""
        words, layout = self._words, self.agent.segment.layout
        return sum(words[layout.agent(slot) + L.STATE] == L.READY for slot in self.agent._slots) or 1

    def check_here(self) -> None:
        """Raise RuntimeError unless the agent's own thread runs a task."""
        if here.running is not self.agent:
            raise RuntimeError("this process is a fork that a task has made, and not an agent of the pool")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a task uses its pool in the thread it was started in; this is another thread")

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, function: Any, args: Any, kind: int, timeout_ns: int = 0, retries: int = 0) -> ChildResult[Any]:
        """Queue a call; what cannot be pickled fails through its result."""
        self.check_here()
        result: ChildResult[Any] = ChildResult(self, self.caller)
        try:
            call = self.agent.encoder.dumps((function, args))
        except Exception as error:
            result._settle(False, error)
            return result
        self._submit(_Kept(call, kind, self._depth + 1, result, function, timeout_ns, retries))
        return result

    @_sealed
    def _submit(self, kept: _Kept) -> None:
        if not self.agent.unusual:
            self.agent.unusual.append("nested")
        self._kept.append(kept)
        if kept.timeout_ns or kept.retries:
            self._send(len(self._kept) - 1)
        elif not self._is_alone():
            run_ns = self._run_ns.get(kept.function) if type(kept.function) is FunctionType else None
            if run_ns is None or run_ns > SHORT_NS:
                self._send(len(self._kept) - 1)
            else:
                self._share()

    def _is_alone(self) -> bool:
        return len(self.agent._slots) == 1

    def _share(self) -> None:
        """Send the oldest call that is kept here, which is most work, if others need it now, or will soon."""
        now = _now()
        if not self._kept or now - self._shared_ns < SHARE_NS or self._is_alone():
            return
        self._shared_ns = now
        words, layout, mine, depth = self._words, self.agent.segment.layout, self.agent.slot, self._kept[0].depth
        slots = self.agent._slots
        is_short = words[L.NESTED] - L.CHILDREN_USED < SENT_PER_AGENT * (len(slots) - 1)
        if is_short or any(slot != mine and 0 < words[layout.agent(slot) + L.WAITS] <= depth for slot in slots):
            self._send(0)

    def _send(self, index: int) -> None:
        """Give a call to the parent."""
        kept = self._kept.pop(index)
        ticket = self._next_ticket
        self._next_ticket += 1
        kept.result._ticket = ticket
        self._tickets[ticket] = kept.result
        try:
            name = str(getattr(kept.function, "__qualname__", None) or type(kept.function).__qualname__).encode()
        except BaseException:  # a user's `__getattr__`
            name = b"a callable"
        header = results.CHILD_HEADER.pack(self._task, kept.depth, kept.kind, kept.timeout_ns, kept.retries, len(name))
        try:
            self.agent.results.write(ticket, results.CHILD, header + name + kept.call)
        except OSError as error:
            text = f"no shared memory for an argument of {len(kept.call)} bytes: {error}"
            kept.result._settle(False, MemoryError(text))
            return
        self.agent.ring_parent()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Run what may be run until `done()`; False when `timeout` seconds passed first."""
        self.check_here()
        if done():
            return True
        self._check_stack()
        deadline = None if timeout is None else _now() + int(timeout * 1e9)
        answer = self._wait(done, deadline)
        self._raise_interruption()
        return bool(answer)

    def _raise_interruption(self) -> None:
        error, self._interrupted = self._interrupted, None
        if error is not None:
            raise error

    def _check_stack(self) -> None:
        """Raise RecursionError while there is room for it: within our own code it would be the agent's end."""
        frame: FrameType | None = sys._getframe(1)
        frames = self._frames + FRAMES_BETWEEN
        while frame is not None and frame.f_code not in _RUNNERS:
            frames += 1
            frame = frame.f_back
        if frames + STACK_SPARE > sys.getrecursionlimit():
            raise RecursionError("tasks wait for tasks that wait for tasks, too deep for Python's stack")
        self._frames_here = frames

    @_sealed
    def _wait(self, done: Callable[[], bool], deadline: int | None) -> bool:
        frames, has_looked = self._frames_here, False
        while True:
            self._read()
            if done() or self._interrupted is not None:
                break
            if deadline is not None and _now() >= deadline:
                if has_looked:
                    break
                if not self._has_kept():
                    deadline = _now() + LOOK_NS
            has_looked = True
            before, self._frames = self._frames, frames
            try:
                if self._has_kept():
                    self._share()  # not the only one: that is about to run
                    if self._has_kept():
                        self._run_kept(self._kept.pop())
                    continue
                if self._handed:
                    self._run_handed(self._handed.popleft(), is_nested=True)
                    continue
            finally:
                self._frames = before
            while self._kept:  # others are of tasks further down, and must not wait for this one
                self._send(0)
            self._park(1 + self._depth, deadline)
        while self._handed:
            self.agent.results.write(self._handed.popleft().number, results.GIVEN_BACK)
            self.agent.ring_parent()
        return done()

    def _has_kept(self) -> bool:
        """Whether calls of the task that runs are kept here."""
        return bool(self._kept) and self._kept[-1].depth > self._depth

    def _park(self, waits: int, deadline: int | None) -> None:
        """Sleep until there is something to read. The same handshake as in `Agent.find_work`, with the reply ring."""
        agent, words, at = self.agent, self._words, self._base + L.WAITS
        began = _now()
        words[at] = waits
        agent.locks.fence()
        try:
            if not self._replies.has_news():
                agent.ring_parent()
                if deadline is None:
                    agent.sleep()
                else:
                    agent._wait(max(1, min(1 << 30, (deadline - began) // 1_000_000)))
        except BaseException as error:
            if isinstance(error, agent.gone):
                os._exit(0)
            self._interrupted = error  # a signal handler of the task has raised: it stops waiting
        words[at] = 0
        agent.locks.lock(agent.slot)  # what the parent hands out under our lock is there now, or never will be
        agent.locks.unlock(agent.slot)
        self._busy_ns -= _now() - began

    def _read(self) -> None:
        for kind, key, payload in self._replies.read():
            if kind == replies.RUN:
                kind, depth, slot, ticket = replies.RUN_HEADER.unpack_from(payload)
                call = memoryview(payload)[replies.RUN_HEADER.size :]
                self._handed.append(_Run(key, kind, depth, slot, ticket, call))
            elif kind == replies.WITHDRAWN:
                self._withdrawn[key] = payload == b"\1"
            else:
                result = self._tickets.pop(key, None)
                if result is not None:
                    result._arrived(kind, payload)

    def withdraw(self, result: ChildResult[Any]) -> bool:
        """Take a call back that has not begun."""
        self.check_here()
        is_withdrawn = bool(self._withdraw(result))
        if is_withdrawn:
            result._settle(False, TaskCancelledError("the call was cancelled before it started"))
        self._raise_interruption()  # here: it is of this task, and nobody knows when the next one waits
        return is_withdrawn

    @_sealed
    def _withdraw(self, result: ChildResult[Any]) -> bool:
        for i, kept in enumerate(self._kept):
            if kept.result is result:
                del self._kept[i]
                return True
        ticket = result._ticket
        if ticket not in self._tickets:
            return False
        self.agent.results.write(ticket, results.WITHDRAW)
        self.agent.ring_parent()
        while ticket not in self._withdrawn:
            self._read()
            if ticket not in self._withdrawn:
                self._park(_LAST, None)
        is_withdrawn = self._withdrawn.pop(ticket)
        if is_withdrawn:
            self._tickets.pop(ticket, None)
        return is_withdrawn

    # -- running ------------------------------------------------------------------------------------------------------

    def _run_kept(self, kept: _Kept) -> None:
        """Run a call as a part of the task that waits for it."""
        before, self._last_serial = (self._depth, self._serial), self._last_serial + 1
        self._depth, self._serial = kept.depth, self._last_serial
        ok, outcome = self._outcome(kept.call, kept.kind, plain=True)
        self._depth, self._serial = before
        if ok and type(outcome) in PLAIN and type(outcome) is not bytes:
            kept.result._settle(True, outcome)
        else:
            kept.result._arrived(replies.VALUE if ok else replies.ERROR, outcome)

    def _outcome(self, call: Any, kind: int, *, plain: bool = False) -> tuple[bool, Any]:
        """Run a call, and pickle what it gives or raises; with `plain` a value of a plain type stays as it is."""
        agent = self.agent
        try:
            function, args = pickle.loads(call)
            if self._chunk != L.NONE:
                self._words[self._base + L.LOADED] = self._chunk
            began = _now()
            value = agent.call(function, args, kind)
            if kind & L.KIND_MASK >= L.KIND_MAP:
                value = value[0]
            elif type(function) is FunctionType:
                self._learn(function, _now() - began)
        except BaseException as error:
            if "copied" in agent.unusual:
                agent.look_back(error)
            return False, encode_error(error, agent.encoder)
        if "copied" in agent.unusual:
            agent.look_back(None)
        is_plain = type(value) in PLAIN
        if is_plain and plain and type(value) is not bytes:
            return True, value
        try:
            return True, pickle.dumps(value) if is_plain else agent.encoder.dumps(value)
        except BaseException as error:
            return False, encode_error(refusal(error, value), agent.encoder)

    def _learn(self, function: Any, elapsed_ns: int) -> None:
        """Follow the median of a function's run times: of a recursion, most calls are the short ones at the bottom."""
        known = self._run_ns
        if function not in known:
            if len(known) >= FUNCTIONS_KNOWN:
                known.clear()
            known[function] = float(max(1000, elapsed_ns))
        else:
            known[function] = max(1000.0, known[function] * (1.25 if elapsed_ns > known[function] else 0.8))

    def _run_handed(self, run: _Run, *, is_nested: bool) -> None:
        """Run a child that was handed to this agent: on top of the task that waits here, or in between two."""
        agent, words, base = self.agent, self._words, self._base
        below, floor, before = self._task, len(self._kept), (self._chunk, self._depth, self._serial)
        started_ns = words[base + L.STARTED_NS]
        if is_nested:
            agent.results.write(below, results.SUSPENDED, results.SUSPENSION.pack(self._level, started_ns))
            self._level += 1
        agent.deques.forget_place()
        words[base + L.CLAIM_AT] = L.NO_PLACE
        words[base + L.CLAIM] = run.number
        began = _now()
        words[base + L.STARTED_NS] = began
        self._chunk, self._depth, self._serial = run.number, run.depth, 0
        ok, payload = self._outcome(run.call, run.kind)
        self.task_ends(floor)
        result = self._tickets.pop(run.ticket, None) if run.slot == agent.slot else None
        if result is not None:
            agent.results.write(run.number, results.KEPT)
            result._arrived(replies.VALUE if ok else replies.ERROR, payload)
        else:
            self._answer(run.number, ok, payload)
            agent.ring_parent()
        self._chunk, self._depth, self._serial = before
        self._done += 1
        if is_nested:
            self._level -= 1
            words[base + L.CLAIM] = words[base + L.LOADED] = below
            words[base + L.STARTED_NS] = started_ns
        else:
            self._busy_ns += _now() - began

    def _answer(self, number: int, ok: bool, payload: bytes) -> None:
        try:
            self.agent.results.write(number, results.ANSWER if ok else results.FAILURE, payload)
        except OSError as error:
            full = MemoryError(f"no shared memory for a result of {len(payload)} bytes: {error}")
            self.agent.results.write(number, results.FAILURE, encode_error(full, self.agent.encoder))

    # -- for the agent's loop -----------------------------------------------------------------------------------------

    def run_idle(self) -> None:
        """The agent has nothing to do, and there is something to read: run what it was handed."""
        self._read()
        while self._handed:
            if not self.agent.unusual:
                self.agent.unusual.append("nested")
            self._run_handed(self._handed.popleft(), is_nested=False)

    def task_ends(self, floor: int) -> None:
        """A task is over, and its outcome not committed: what it leaves behind, from this place on, are tasks of their
        own from here on."""
        while len(self._kept) > floor:
            self._send(floor)

    def take_counts(self) -> tuple[int, int]:
        """How many children were run, and what is to be added to the time that tasks took (ns), since the last time."""
        counts, self._done, self._busy_ns = (self._done, self._busy_ns), 0, 0
        return counts


_RUNNERS = {Nest._run_kept.__code__, Nest._run_handed.__code__}
"""Where a task's own frames end."""
