"""What tasks submit: the parent's side of nested submission. Engine thread only.

    agent: CHILD ----> held, by task and depth ----> RUN to an agent that waits or is idle ----> ANSWER, FAILURE
                          ^                                        |                               |
                          '-- GIVEN_BACK, its death, a try left ---'        the submitter <--------'

A child is handed to an agent only while that one can do nothing else, so it is never queued behind anything: `WAITS`
says so, and the agent's lock is held meanwhile. An agent that waits in a task is handed only what descends from it, so
waits lead from shallow to deep, never in a circle (`_agent/nested.py`; the protocol: README.md of the queue).
Nothing is unpickled here: calls and outcomes pass as bytes.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._agent.serialize import Encoder, encode_error
from .._queue import layout as L
from .._queue import replies, results
from .terms import NO_TERMS, Terms

if TYPE_CHECKING:
    from .dispatch import Dispatcher

RETRY_S = 0.001
"""Next try when an agent's lock was busy, or its reply ring full (s): shorter costs wakes, longer has it wait."""


class Child:
    """A call that a task has submitted, and whoever waits for it.

    Attributes:
        number: its chunk's, from `layout.CHILDREN` on.
        slot, ticket: who waits for it; slot -1: nobody any more.
        parent: number of the chunk in which it was submitted.
        depth: how many tasks are above it.
        call: the bytes to run.
    """

    __slots__ = ("_group", "_home", "_terms", "call", "depth", "kind", "name", "number", "parent", "slot", "ticket")

    _links = None

    def __init__(self, home: Children, number: int, slot: int, ticket: int, payload: Any) -> None:
        self.parent, self.depth, self.kind, timeout_ns, tries, named = results.CHILD_HEADER.unpack_from(payload)
        end = results.CHILD_HEADER.size + named
        self.name = bytes(payload[results.CHILD_HEADER.size : end]).decode(errors="replace")
        self.call = bytes(memoryview(payload)[end:])
        self._home, self.number, self.slot, self.ticket = home, number, slot, ticket
        self._terms = Terms(None, timeout_ns / 1e9 or None, tries) if timeout_ns or tries else NO_TERMS
        self._group = 0

    @property
    def id(self) -> int:
        """What the logs call it."""
        return self.number - L.CHILDREN

    @property
    def retries(self) -> int:
        """As a task's."""
        return self._terms.retries

    def _resolve(self, ok: bool, value: Any) -> None:  # noqa: ARG002 - a sink's signature
        """It is over without an answer of its own: `value` is an error of ours."""
        self._home.over(self)
        try:
            self._home.reply(self, replies.OURS, pickle.dumps(value))
        except Exception:  # what an initializer raised, say
            self._home.reply(self, replies.ERROR, encode_error(value, Encoder()))


class Children:
    """All children that are not over."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._adrift = dispatcher.pages.adrift
        self._made = 0
        self._held: dict[tuple[int, int], deque[Child]] = {}
        """Those that no agent has, by the chunk in which they were submitted and their depth, in that order."""
        self._handed: dict[int, dict[int, Child]] = {}
        """Those that an agent has, by slot and number, begun or not."""
        self._waited: dict[int, dict[int, Child]] = {}
        """By the slot and the ticket of who waits for them."""
        self._suspended: dict[int, list[tuple[int, int]]] = {}
        """By slot: chunk and start of what an agent runs below what it runs, the lowest first."""
        self._writers: dict[int, replies.ReplyWriter] = {}
        self._unsent: dict[int, deque[tuple[int, int, Any]]] = {}
        """By slot: replies for which there was no room."""
        self._news: set[int] = set()
        """Slots that have been written to since the last turn."""
        self._is_hindered = False

    # -- from the agents --------------------------------------------------------------------------------------------

    def receive(self, slot: int, reader: results.ResultReader, key: int, kind: int, payload: Any) -> bool:
        """One record of an agent's result ring; whether it says that a child is over."""
        if kind in (results.STORED_CHILD, results.STORED_ANSWER, results.STORED_FAILURE):
            kind -= 1
            try:
                payload = reader.fetch(payload)
            except OSError as error:
                payload, kind = None, self._unreadable(slot, key, kind, error)
        if kind == results.CHILD:
            self._submitted(slot, key, payload)
        elif kind == results.SUSPENDED:
            level, started_ns = results.SUSPENSION.unpack(payload)
            below = self._suspended.setdefault(slot, [])
            del below[level:]
            below.append((key, started_ns))
        elif kind == results.GIVEN_BACK:
            child = self._handed.get(slot, {}).pop(key, None)
            if child is not None:
                self._hold(child, again=True)
        elif kind == results.WITHDRAW:
            self._withdraw(slot, key)
        elif kind in (results.ANSWER, results.FAILURE, results.KEPT):
            child = self._finish(key)
            if child is not None and kind != results.KEPT:
                self.reply(child, replies.VALUE if kind == results.ANSWER else replies.ERROR, payload)
            return True
        return False

    def _unreadable(self, slot: int, key: int, kind: int, error: OSError) -> int:
        """A block could not be read; returns what is left to be done, as a kind."""
        told = pickle.dumps(MemoryError(f"no memory for what a task has submitted, or its result: {error}"))
        if kind == results.CHILD:
            self._send(slot, replies.OURS, key, told)
            return -1
        child = self._adrift.get(key)
        if child is not None:
            self.reply(child, replies.OURS, told)
        return results.KEPT

    def _submitted(self, slot: int, ticket: int, payload: Any) -> None:
        dispatcher = self._dispatcher
        if not self._made:
            dispatcher.words[L.NESTED] = L.CHILDREN_USED
        child = Child(self, L.CHILDREN + self._made, slot, ticket, payload)
        self._made += 1
        child._group = getattr(dispatcher.pages.sink_of(child.parent), "_group", 0)
        self._adrift[child.number] = child
        self._waited.setdefault(slot, {})[ticket] = child
        dispatcher.inflight += 1
        if child._terms.timeout_ns:
            dispatcher.limits.watch(child)
        self._hold(child)

    def _hold(self, child: Child, *, again: bool = False) -> None:
        family = self._held.setdefault((child.parent, child.depth), deque())
        if again:
            family.appendleft(child)
        else:
            family.append(child)

    def hold_again(self, number: int) -> None:
        """A child that was begun is to run once more."""
        child = self._adrift[number]
        for handed in self._handed.values():
            handed.pop(number, None)
        self._hold(child, again=True)

    def _withdraw(self, slot: int, ticket: int) -> None:
        child = self._waited.get(slot, {}).get(ticket)
        is_held = child is not None and self._unhold(child)
        if child is not None and is_held:
            self._finish(child.number)
            self._waited[slot].pop(ticket, None)
        self._send(slot, replies.WITHDRAWN, ticket, b"\1" if is_held else b"\0")

    def _unhold(self, child: Child) -> bool:
        family = self._held.get((child.parent, child.depth))
        if family is None or child not in family:
            return False
        family.remove(child)
        if not family:
            del self._held[child.parent, child.depth]
        return True

    # -- to the agents ----------------------------------------------------------------------------------------------

    def reply(self, child: Child, kind: int, payload: Any) -> None:
        """Tell whoever waits for a child what became of it."""
        if child.slot >= 0 and self._waited.get(child.slot, {}).pop(child.ticket, None) is not None:
            self._send(child.slot, kind, child.ticket, payload)

    def _send(self, slot: int, kind: int, key: int, payload: Any) -> None:
        unsent = self._unsent.setdefault(slot, deque())
        unsent.append((kind, key, payload))
        if len(unsent) == 1:
            self._send_on(slot)

    def _send_on(self, slot: int) -> None:
        """Write what has been kept back, as far as there is room."""
        unsent = self._unsent[slot]
        while unsent:
            kind, key, payload = unsent[0]
            try:
                if not self._writer(slot).put(kind, key, payload):
                    return
            except OSError as error:
                text = f"no shared memory for a result of {len(payload)} bytes: {error}"
                unsent[0] = replies.OURS, key, pickle.dumps(MemoryError(text))
                continue
            unsent.popleft()
            self._news.add(slot)

    def _writer(self, slot: int) -> replies.ReplyWriter:
        if slot not in self._writers:
            d = self._dispatcher
            self._writers[slot] = replies.ReplyWriter(d.segment, slot, d.locks, d.blocks)
        return self._writers[slot]

    def turn(self) -> None:
        """Hand out what agents may run now, and ring those that have something to read."""
        if not self._made:
            return
        dispatcher = self._dispatcher
        words, layout = dispatcher.words, dispatcher.segment.layout
        self._is_hindered = False
        for slot, unsent in self._unsent.items():
            if unsent:
                self._send_on(slot)
        if self._held:
            self._tell_held()
            dispatcher.locks.fence()  # who has nothing to do from here on rings
            self._hand_out()
        self._tell_held()
        if self._news:
            dispatcher.locks.fence()
            for slot in self._news:
                if words[layout.agent(slot) + L.WAITS]:
                    dispatcher.ring(slot)
            self._news.clear()

    def _tell_held(self) -> None:
        self._dispatcher.words[L.NESTED] = L.CHILDREN_USED + sum(map(len, self._held.values()))

    def due(self, now: float) -> list[float]:
        """When `turn` has something to do (monotonic clock, s), if nothing else happens."""
        return [now + RETRY_S] if self._is_hindered or any(self._unsent.values()) else []

    def _hand_out(self) -> None:
        """First to those that wait in a task: most of what they may run is what they wait for."""
        words, layout = self._dispatcher.words, self._dispatcher.segment.layout
        waiting = {slot: depth for slot in self._dispatcher.slots if (depth := words[layout.agent(slot) + L.WAITS])}
        slots = sorted(filter(self._may_be_handed, waiting), key=lambda slot: words[layout.agent(slot) + L.PARKED])
        idle = [slot for slot in slots if words[layout.agent(slot) + L.PARKED]]
        for slot in slots:
            if not self._held:
                return
            child = self._best_for(slot, waiting[slot])
            if child is None:
                continue
            if child._terms is not NO_TERMS and slot not in idle:
                # It is not unlikely to cost its agent: better one on which nothing waits, or that is about to come.
                able = [other for other in idle if self._dispatcher.may_run(child._group, other)]
                if able:
                    slot = able[0]
                elif any(words[layout.agent(other) + L.STATE] != L.READY for other in self._dispatcher.slots):
                    continue
            self._hand(slot, waiting[slot], child)

    def _may_be_handed(self, slot: int) -> bool:
        dispatcher = self._dispatcher
        words, base = dispatcher.words, dispatcher.segment.layout.agent(slot)
        if slot in dispatcher.frozen or slot in dispatcher.limits.ending or slot not in dispatcher.crew.alive:
            return False
        if not words[base + L.PARKED]:
            return True
        # One that has a queue is about to go on with it; one that leaves has no time any more.
        return not (dispatcher.deques.has_work(slot) or words[base + L.LEAVE] or slot in dispatcher.crew.leaving)

    def _best_for(self, slot: int, least_depth: int) -> Child | None:
        """What an agent had best run of all that it may: of its own task the newest, else the oldest of the shallowest,
        which is most work.

        On top of a task that waits runs only what was submitted in it, or in that, and so on: so it can be ended when
        its time is over, and nobody else's call dies with it.
        """
        dispatcher = self._dispatcher
        base = dispatcher.segment.layout.agent(slot)
        is_idle = dispatcher.words[base + L.PARKED]
        mine = L.NONE if is_idle else dispatcher.words[base + L.CLAIM]
        found: tuple[tuple[bool, int, int], tuple[int, int]] | None = None
        for key, family in list(self._held.items()):
            while family and family[0].number not in self._adrift:
                family.popleft()  # failed with all others
            if not family:
                del self._held[key]
                continue
            parent, depth = key
            if depth < least_depth or not dispatcher.may_run(family[0]._group, slot):
                continue
            if not is_idle and not self._descends(family[0], mine):
                continue
            rank = (parent != mine, -family[0]._group, depth)
            if found is None or rank < found[0]:
                found = rank, key
        if found is None:
            return None
        family = self._held[found[1]]
        return family[-1] if found[1][0] == mine else family[0]

    def _descends(self, child: Child, chunk: int) -> bool:
        """Whether a child was submitted in a chunk, or in what was submitted there, and so on."""
        at: Any = child
        while type(at) is Child:
            if at.parent == chunk:
                return True
            at = self._adrift.get(at.parent)
        return False

    def _hand(self, slot: int, least_depth: int, child: Child) -> None:
        """Give a child to an agent, if it still waits: it looks after it has passed its own lock (`Agent._unpark`)."""
        dispatcher = self._dispatcher
        locks, at = dispatcher.locks, dispatcher.segment.layout.agent(slot) + L.WAITS
        if self._unsent.get(slot) or not locks.try_lock(slot):
            self._is_hindered = True
            return
        try:
            if dispatcher.words[at] != least_depth:
                return
            header = replies.RUN_HEADER.pack(child.kind, child.depth, child.slot, child.ticket)
            try:
                if not self._writer(slot).put(replies.RUN, child.number, header + child.call):
                    self._is_hindered = True
                    return
            except OSError as error:
                text = f"no shared memory for a call of {len(child.call)} bytes: {error}"
                self._unhold(child)
                dispatcher.collector.finish(child.number, False, MemoryError(text))
                return
            self._unhold(child)
            self._handed.setdefault(slot, {})[child.number] = child
            self._news.add(slot)
        finally:
            locks.unlock(slot)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self, number: int) -> Child | None:
        """A child is over: forget it, less who waits for it."""
        child = self._adrift.pop(number, None)
        if child is None:
            return None
        self._dispatcher.inflight -= 1
        self.over(child)
        return child  # type: ignore[no-any-return]

    def over(self, child: Child) -> None:
        """The same for one that is counted already."""
        self._dispatcher.limits.watched.discard(child)
        for handed in self._handed.values():
            handed.pop(child.number, None)

    def suspended(self, slot: int) -> dict[int, int]:
        """What an agent runs below what it runs: when each was started (monotonic clock, ns), by chunk."""
        sink_of = self._dispatcher.pages.sink_of
        return {chunk: ns for chunk, ns in self._suspended.get(slot, ()) if sink_of(chunk) is not None}

    def begun(self, slot: int, claim: int) -> list[int]:
        """What a dead agent had started and not finished: all that dies with it. `claim`: of it, what counts."""
        chunks = [*self.suspended(slot)]
        is_elsewhere = claim >= L.CHILDREN and claim not in self._handed.get(slot, ())
        if claim != L.NONE and claim not in chunks and not is_elsewhere:
            chunks.append(claim)
        return [chunk for chunk in chunks if self._dispatcher.collector.is_pending(chunk)]

    def agent_gone(self, slot: int, lost: list[int]) -> None:
        """An agent is dead, or has left, and what it had begun is settled: `lost`.

        What it had not begun goes to others. What its tasks waited for is withdrawn if nobody has begun it, and else of
        no use to anybody; calls of tasks that are over go on.
        """
        self._dispatcher.words[self._dispatcher.segment.layout.agent(slot) + L.WAITS] = 0
        if not self._made:
            return
        self._suspended.pop(slot, None)
        self._unsent.pop(slot, None)
        for child in self._handed.pop(slot, {}).values():
            if child.number in self._adrift:
                self._hold(child, again=True)
        for child in self._waited.pop(slot, {}).values():
            child.slot = -1
            if child.parent in lost and self._unhold(child):
                self._finish(child.number)
        if slot in self._writers:
            self._writers[slot].forget()

    # -- for others -------------------------------------------------------------------------------------------------

    def held(self) -> Iterator[int]:
        """Numbers of those that no agent has."""
        for family in self._held.values():
            for child in family:
                if child.number in self._adrift:
                    yield child.number

    def places(self, slot: int, unread: list[int]) -> Iterator[tuple[int, str]]:
        """Chunks that an agent has beside its queue and its claim, and where. For tests.

        Args:
            unread: what it has said to be suspended, and nobody has read.
        """
        claim = self._dispatcher.words[self._dispatcher.segment.layout.agent(slot) + L.CLAIM]
        pending = self._dispatcher.collector.is_pending
        below = {*self.suspended(slot), *filter(pending, unread)}
        for chunk in below:
            if chunk != claim:
                yield chunk, f"suspended at agent {slot}"
        for number in self._handed.get(slot, ()):
            if number != claim and number not in below:
                yield number, f"handed to agent {slot}"
