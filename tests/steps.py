"""Steps: hold an agent at a named step of the protocol, so that a test can kill it exactly there.

    test (parent)                                    agent (a fork, of any slot)
    -------------                                    ---------------------------
    steps = hold_at([STEPS["..."]])   patches Agent
    pool = open_pool(3, "fork")                      watches its own words, locks, pipes and blocks
    steps.arm()
                                                     the first one that reaches the step writes its pid down,
    pid = steps.wait_held()      <──── a gate ─────  arrives, and stays
    os.kill(pid, SIGKILL)

The agents run the code of `mpsteal` as it is: only the `words` of their segment, their locks and a few methods are
wrapped, in the child, after the fork. What happens is told as a `Moment`: within which protocol, which locks are held
(the agent's own, both, or none), and what was just done, or is about to be. A step is such a moment with a name.

One agent is held, once: whoever reaches the step later, its own replacement included, goes on.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fault_tasks import note
from gates import Gate, Gates

from mpsteal._agent import loop as agent_loop
from mpsteal._agent import main as agent_start
from mpsteal._agent.launch import AgentSpec
from mpsteal._queue import layout as L
from mpsteal._queue import results as R
from mpsteal._queue.deque import Deques
from mpsteal._queue.locks import Locks


class Moment(NamedTuple):
    """What an agent is at.

    Attributes:
        within: "start" (of the process), "take", "steal", "repair", "park", "ask", "room" (in its result ring), or
            "serve" for everything else.
        held: the locks it holds: "own", "other", "both", or "".
        what: "after" or "before", and what: a store to a word of its own (`CLAIM`, or `CLAIM none`), to one of another
            agent (`other MARK`), a call (`fence_owners`), or a point in a task (`in run`).
    """

    within: str
    held: str
    what: str


class Step(NamedTuple):
    """A named moment, and what the death of an agent there costs.

    Attributes:
        name: for people and test ids.
        told: what happens there, in a sentence.
        at: the moment.
        costs: tasks that fail with the agent: one or none.
        ran: whether the task that it costs had begun to run.
        sleeps: the agent is not held by a gate: it goes on into the sleep that comes next.
        needs: what brings an agent there, beside tasks that are queued: "start" (it is held before its first task),
            "ring" (of its doorbell, while it is parked), "leaving" (it has run as many tasks as it may), "silence" (the
            engine does nothing, so nobody answers or reads results), "lock" (owners take theirs for every chunk),
            "work" (it has begun one of the tasks of this module, and is not at another's).
    """

    name: str
    told: str
    at: Moment
    costs: int = 0
    ran: bool = True
    sleeps: bool = False
    needs: str = ""


def _steps(within: str, held: str, *rows: tuple[Any, ...], **common: Any) -> Iterator[Step]:
    for name, what, told, *more in rows:
        yield Step(name, told, Moment(within, held, what), **{**common, **(more[0] if more else {})})


_unseen = {"needs": "silence"}  # else the engine may have read it before it is killed
_begun, _ran = {"costs": 1, "ran": False}, {"costs": 1, "ran": True}

_ALL = [
    *_steps(
        "start",
        "",
        ("before hello", "before PID", "The process runs, and nobody knows its number yet."),
        ("initializer", "in initializer", "It has said hello and runs the pool's initializer."),
        ("ready", "before STATE", "The initializer has returned, and the agent has not said that it is ready."),
        needs="start",
    ),
    *_steps(
        "take",
        "own",
        ("start: locked", "after lock", "It has its own lock, to look for the first chunk of a range."),
        ("start: claim dropped", "after CLAIM none", "The last claim is dropped, and there is no new one."),
        ("start: place named", "after CLAIM_AT", "Where the new claim will point is written, the claim is not."),
        ("start: claimed", "after CLAIM", "The first chunk of a range is claimed, under the lock, and not committed."),
        ("start: committed", "after lo", "The range has moved past the chunk, and the lock is held.", _begun),
    ),
    *_steps(
        "take",
        "",
        ("start: unlocked", "after unlock started", "The chunk is started, and the lock given back.", _begun),
    ),
    *_steps(
        "take",
        "",
        ("next: claimed", "after CLAIM", "The next chunk of a range is claimed, without a lock, and not committed."),
        ("next: committed", "after lo", "The range has moved past the next chunk, without a lock.", _begun),
    ),
    *_steps(
        "take",
        "own",
        ("next: claimed, where locks are taken", "after CLAIM", "As where there is no membarrier."),
        ("next: committed, where locks are taken", "after lo", "As where there is no membarrier.", _begun),
        needs="lock",
    ),
    *_steps(
        "serve",
        "",
        ("time of start noted", "after STARTED_NS", "It has written down when it started the chunk.", _begun),
        ("unpickling", "in unpickle", "It unpickles the arguments.", _begun),
        ("arguments read", "after LOADED", "The arguments are unpickled, and the call has not begun.", _begun),
        ("running", "in run", "It runs the call.", _ran),
        ("pickling the result", "in pickle", "The call has returned, and its result is being pickled.", _ran),
        ("small result: not committed", "before RESULT_TAIL of INT", "The record is there, the tail is not.", _ran),
        ("small result: committed", "after RESULT_TAIL of INT", "The tail has passed it; nobody knows.", _unseen),
        ("result: not committed", "before RESULT_TAIL of VALUE", "The same for a result that was pickled.", _ran),
        ("result: committed", "after RESULT_TAIL of VALUE", "The same for a result that was pickled.", _unseen),
        ("error: not committed", "before RESULT_TAIL of ERROR", "The same for what the call raised.", _ran),
        ("error: committed", "after RESULT_TAIL of ERROR", "The same for what the call raised."),
        ("block: not written", "before block", "A large result is about to be written to a block.", _ran),
        ("block: half written", "inside block", "One half of the block is written.", _ran),
        ("block: written", "after block", "The block is written, and there is no record of it.", _ran),
        ("block: not committed", "before RESULT_TAIL of STORED_VALUE", "The record is there, the tail is not.", _ran),
        ("block: committed", "after RESULT_TAIL of STORED_VALUE", "The tail has passed the record of the block."),
        ("counted", "after BUSY_NS", "It has written down how many chunks it has done, and is about to ring."),
        ("pipe: not written", "before results pipe", "It is about to ring the parent: its results are committed."),
        ("pipe: written", "after results pipe", "It has rung the parent."),
    ),
    *_steps(
        "room",
        "",
        ("ring full: said", "after RING_FULL", "RING_FULL is set, and it has not looked once more."),
        ("ring full: told", "after results pipe", "It has rung the parent, and has not looked once more."),
        ("ring full: asleep", "before sleep", "It sleeps until there is room for its result.", {"sleeps": True}),
        **_ran,
        needs="silence",
    ),
    *_steps(
        "steal",
        "own",
        ("steal: own lock", "after lock", "The thief has its own lock."),
        ("steal: victim unlocked", "after unlock other", "All is done, and only its own lock is held."),
    ),
    *_steps(
        "steal",
        "both",
        ("steal: both locks", "after try_lock other", "The thief has the victim's lock, too."),
        ("steal: one mark", "after other MARK", "The victim is marked, the thief is not."),
        ("steal: marks", "after MARK", "Both are marked."),
        ("steal: fenced", "after fence_owners", "The victim's owner has seen the mark, or claims nothing."),
        ("steal: half a journal", "after J_MID", "The journal is half written, and names no victim."),
        ("steal: journal", "after J_VICTIM", "The journal is there, and nothing has moved."),
        ("steal: committed", "after other hi", "The victim's range ends earlier, and nobody has the rest."),
        ("steal: half the loot", "after LOOT_LO", "Where the loot begins is written, not where it ends."),
        ("steal: loot", "after LOOT_HI", "The loot is written, and the journal is still there."),
        ("steal: no journal", "after J_VICTIM none", "The journal is cleared, the marks are not."),
        ("steal: own mark cleared", "after MARK none", "Its own mark is cleared, the victim's is not."),
        ("steal: marks cleared", "after other MARK none", "Both marks are cleared, and both locks held."),
        ("steal: counted", "after STEALS", "The steal is counted, and both locks are held."),
    ),
    *_steps("steal", "", ("steal: unlocked", "after unlock", "The loot lies in its register, and no lock is held.")),
    *_steps(
        "park",
        "",
        ("park: said", "after PARKED", "PARKED is set, and it has not looked once more."),
        ("park: fenced", "after fence", "PARKED is set and can be seen by all, and it has not looked once more."),
        ("park: asleep", "before sleep", "It sleeps.", {"sleeps": True}),
        ("park: woken", "after sleep", "Its doorbell was rung, and PARKED is still set.", {"needs": "ring"}),
        ("park: unparked", "after PARKED none", "It was rung, and has looked for nothing yet.", {"needs": "ring"}),
    ),
    *_steps(
        "start", "", ("leaving", "after STATE LEAVING", "It has run as many tasks as it may.", {"needs": "leaving"})
    ),
]

_ASKING = [
    *_steps(
        "ask",
        "",
        ("ask: parked", "after PARKED", "It wants what the parent holds: PARKED is set, and the parent not rung."),
        (
            "ask: asleep",
            "before sleep",
            "It sleeps until the parent has answered.",
            {"sleeps": True, "needs": "silence"},
        ),
        ("ask: answered", "after sleep", "The parent has answered, and PARKED is still set."),
        ("ask: unparked", "after PARKED none", "It goes on, with what the parent has handed over."),
    ),
    *_steps(
        "serve",
        "",
        ("note: not committed", "before RESULT_TAIL of a note", "The call is over, its time not written down."),
        ("note: committed", "after RESULT_TAIL of a note", "How long it took is committed, its result is not."),
        **_ran,
        needs="work",
    ),
]

_REPAIRING = [
    *_steps(
        "repair",
        "both",
        ("repair: half the loot", "after other lo", "It writes the dead thief's loot from the journal: half of it."),
        ("repair: loot", "after other hi", "The loot of the dead thief is written, and its journal is still there."),
        ("repair: no journal", "after other J_VICTIM none", "The dead thief's journal is cleared, the marks are not."),
        ("repair: one mark", "after other MARK none", "One mark is cleared, and both locks are held."),
    ),
]

STEPS = {step.name: step for step in _ALL}
"""What every agent comes by."""

TASK_STEPS = {step.name: step for step in _ASKING}
"""What only an agent of a scheduler comes by."""

REPAIR_STEPS = {step.name: step for step in _REPAIRING}
"""What an agent comes by that finds the marks of another, which died once it had committed a steal."""


# -- in an agent ------------------------------------------------------------------------------------------------------


class Watch:
    """Tells which moment an agent is at, and holds it at one of them."""

    def __init__(self, steps: list[Step], gate: Gate, directory: Path) -> None:
        self.steps, self.gate = steps, gate
        self.held_by = [directory / f"held-{i}" for i in range(len(steps))]
        self.armed = mmap.mmap(-1, 1)
        """One byte that forks share: the number of the step that counts now, from 1 on; 0: none."""
        self.within = ["start"]
        self.locks: set[str] = set()
        self.works = steps[0].needs != "work"
        self.started = False
        """Whether this `take` has committed a chunk."""

    def come(self, what: str) -> None:
        """The agent comes by a moment."""
        number = self.armed[0] - 1
        if number < 0 or what != (step := self.steps[number]).at.what or self.within[-1] != step.at.within:
            return
        held = "both" if len(self.locks) == 2 else "".join(self.locks)
        if held == step.at.held and self.works:
            self._hold(number)

    def _hold(self, number: int) -> None:
        try:
            fd = os.open(self.held_by[number], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        os.write(fd, f"{os.getpid()}\n".encode())
        os.close(fd)
        if self.steps[number].sleeps:
            self.gate.arrive()
        else:
            self.gate.wait()

    @contextmanager
    def inside(self, within: str) -> Iterator[None]:
        self.within.append(within)
        self.started = False
        try:
            yield
        finally:
            self.within.pop()

    def wrap(self, within: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, inside a protocol."""

        def wrapped(*args: Any, **kwds: Any) -> Any:
            with self.inside(within):
                return call(*args, **kwds)

        return wrapped


_watch: Watch | None = None


def come(where: str) -> None:
    """A task, or what it is made of, comes by a point; in the parent and in agents that nobody watches: nothing."""
    if _watch is not None:
        _watch.works |= where == "unpickle"
        _watch.come(f"in {where}")


_WORDS = (
    "CLAIM STARTED_NS RESULT_TAIL DONE BUSY_NS LOADED CLAIM_AT PARKED RING_FULL STATE PID MARK J_VICTIM J_ENTRY J_MID"
)
_WORDS += (
    " WAITS REPLY_HEAD J_HI J_LEVEL LOOT_LO LOOT_HI LOOT_LEVEL STEALS STEALS_FAILED CHUNKS_STOLEN STOLEN_FROM REPAIRS"
)
_NAMES = {getattr(L, name): name for name in _WORDS.split()}
_NOTHING = {"CLAIM": L.NONE, "MARK": 0, "J_VICTIM": 0, "PARKED": 0, "RING_FULL": 0, "WAITS": 0}
_RESULT_KINDS = ["VALUE", "ERROR", "INT", "VOID", "STORED_VALUE", "STORED_ERROR", "STORED_APART", "LOGGED"]
_RESULT_KINDS += ["CHILD", "STORED_CHILD", "ANSWER", "STORED_ANSWER", "FAILURE", "STORED_FAILURE"]
_RESULT_KINDS += ["KEPT", "SUSPENDED", "GIVEN_BACK", "WITHDRAW"]


class WatchedWords:
    """Shared words: every store is two moments."""

    def __init__(self, words: Any, layout: L.Layout, slot: int, watch: Watch) -> None:
        self.words, self.layout, self.slot, self.watch = words, layout, slot, watch
        self.record = ""
        """The kind of the record that is on its way into the result ring, where more than its head goes there."""

    def __getitem__(self, at: int) -> int:
        found: int = self.words[at]
        return found

    def __setitem__(self, at: int, value: int) -> None:
        what = self._name(at, value)
        self.watch.come(f"before {what}")
        self.words[at] = value
        self.watch.started |= what == "lo"
        self.watch.come(f"after {what}")

    def _name(self, at: int, value: int) -> str:
        lay = self.layout
        slot, offset = divmod(at - lay.agents_word, lay.agent_words)
        if not 0 <= slot < lay.geometry.slots:
            return f"word {at}"
        owner = "" if slot == self.slot else "other "
        if offset >= L.LEVELS_AT:
            offset -= L.LEVELS_AT + 2 * lay.geometry.levels
            return owner + ("head or tail" if offset < 0 else "hi" if offset % 2 else "lo")
        if offset in (L.LOOT_LO, L.LOOT_HI) and (owner or self.watch.within[-1] == "take"):
            return owner + ("lo" if offset == L.LOOT_LO else "hi")
        name = _NAMES.get(offset, f"word {offset}")
        if name == "RESULT_TAIL":
            name += f" of {self.record or 'a note'}"
        if name == "STATE" and value == L.LEAVING:
            name += " LEAVING"
        if name in _NOTHING and value == _NOTHING[name]:
            name += " none"
        return owner + name


class WatchedLocks(Locks):
    """Locks that are told to the watch."""

    watch: Watch
    slot: int

    def _whose(self, slot: int) -> str:
        return "own" if slot == self.slot else "other"

    def of_owner(self, slot: int) -> tuple[Callable[[], object], Callable[[], object]]:
        return partial(self.lock, slot), partial(self.unlock, slot)

    def lock(self, slot: int) -> None:
        super().lock(slot)
        self.watch.locks.add(self._whose(slot))
        self.watch.come("after lock")

    def try_lock(self, slot: int) -> bool:
        taken = super().try_lock(slot)
        if taken:
            self.watch.locks.add(self._whose(slot))
            self.watch.come("after try_lock other")
        return taken

    def unlock(self, slot: int) -> None:
        super().unlock(slot)
        self.watch.locks.discard(self._whose(slot))
        other, started = " other" if slot != self.slot else "", " started" if self.watch.started else ""
        self.watch.come(f"after unlock{other}{started}")

    def fence(self) -> None:
        super().fence()
        self.watch.come("after fence")

    def fence_owners(self) -> None:
        super().fence_owners()
        self.watch.come("after fence_owners")


class WatchedDeques(Deques):
    """Deques that tell which protocol they are at. Class attributes are set in the agent."""

    watch: Watch

    def steal(self, thief: int, victim: int) -> int:
        with self.watch.inside("steal"):
            return super().steal(thief, victim)

    def _repair(self, slot: int, also_held: int = -1) -> bool:
        with self.watch.inside("repair"):
            return super()._repair(slot, also_held)


def _watched_agent(watch: Watch) -> type[agent_loop.Agent]:
    """A class of agents that are watched."""

    class WatchedAgent(agent_loop.Agent):
        def __init__(self, spec: AgentSpec) -> None:
            global _watch
            segment = spec.inherited
            assert segment is not None, "only forks can be watched"
            _watch = watch
            words = segment.words = WatchedWords(segment.words, segment.layout, spec.slot, watch)
            write_block = segment.write_block

            def write_in_halves(offset: int, data: Any) -> None:
                view = memoryview(data).cast("B")
                half = len(view) // 2
                watch.come("before block")
                write_block(offset, view[:half])
                watch.come("inside block")
                write_block(offset + half, view[half:])
                watch.come("after block")

            segment.write_block = write_in_halves
            WatchedLocks.watch = WatchedDeques.watch = watch
            WatchedLocks.slot = spec.slot
            agent_loop.Locks, agent_loop.Deques = WatchedLocks, WatchedDeques  # type: ignore[misc]
            super().__init__(spec._replace(deques=None))  # of its own, in place of the parent's, which tell nothing
            self.take = watch.wrap("take", self.take)
            write = self.results.write

            def write_named(chunk: int, kind: int, payload: bytes = b"", value: int = 0) -> None:
                large = len(payload) > self.results.largest
                words.record = _kind_of(chunk, kind) if not large else f"STORED_{_kind_of(chunk, kind)}"
                write(chunk, kind, payload, value)

            self.results.write = write_named  # type: ignore[method-assign]
            small = self.results.make_write_small

            def make_write_small() -> Callable[[int, int, int], None]:
                write_small = small()

                def write_small_named(chunk: int, kind: int, value: int) -> None:
                    words.record = _kind_of(chunk, kind)
                    write_small(chunk, kind, value)

                return write_small_named

            self.results.make_write_small = make_write_small  # type: ignore[method-assign]
            of_values = self.results.make_write_value

            def make_write_value() -> Callable[[int, bytes], None]:
                write_value = of_values()

                def write_value_named(chunk: int, payload: bytes) -> None:
                    if len(payload) <= self.results.largest:
                        words.record = _kind_of(chunk, R.VALUE)
                    write_value(chunk, payload)

                return write_value_named

            self.results.make_write_value = make_write_value  # type: ignore[method-assign]

        def serve(self) -> None:
            with watch.inside("serve"):
                super().serve()

        def find_work(self) -> bool:
            with watch.inside("park"):
                return super().find_work()

        def ask(self) -> bool:
            with watch.inside("ask"):
                return super().ask()

        def _wait_for_room(self, head: int) -> None:
            with watch.inside("room"):
                super()._wait_for_room(head)

        def ring_parent(self) -> None:
            watch.come("before results pipe")
            super().ring_parent()
            watch.come("after results pipe")

        def _wait(self, timeout_ms: int | None) -> bool:
            if timeout_ms == 0:
                return super()._wait(0)
            watch.come("before sleep")
            rung = super()._wait(timeout_ms)
            watch.come("after sleep")
            return rung

    return WatchedAgent


def _kind_of(chunk: int, kind: int) -> str:
    if chunk < 0 and chunk != R.INIT_ERROR:
        return "a note"
    return _RESULT_KINDS[kind]


# -- what it runs -----------------------------------------------------------------------------------------------------


class Piece:
    """An argument that comes by a point while it is unpickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_piece, (self.number,)


def _load_piece(number: int) -> Piece:
    come("unpickle")
    return Piece(number)


class Outcome:
    """A result that comes by a point while it is pickled."""

    def __init__(self, number: int, luggage: bytes) -> None:
        self.number, self.luggage = number, luggage

    def __reduce__(self) -> tuple[Any, ...]:
        come("pickle")
        return Outcome, (self.number, self.luggage)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and other.number == self.number and other.luggage == self.luggage

    __hash__ = None  # type: ignore[assignment]


class WorkError(Exception):
    """What one task in ten raises."""


def work(path: str, piece: Piece) -> Any:
    """Note the piece's number. Every ten of them meet all kinds of results; see `outcome`."""
    number = piece.number
    note(path, number)
    come("run")
    if number % 10 == 8:
        raise WorkError(number)
    return outcome(number)


def outcome(number: int) -> Any:
    """What `work` gives: a small int, something that has to be pickled, or what gets a block of its own.

    Five of them fill a ring of `RING_BYTES`; a result over a quarter of it does not go into it.
    """
    if number % 10 == 7:
        return bytes([number % 256]) * RING_BYTES
    # Every fourth is small: dealt in turn to three agents, each has some, before its ring is full of the others.
    return number if number % 4 == 0 else Outcome(number, bytes(RING_BYTES // 5))


RING_BYTES = 4096


def is_outcome(number: int, value: Any) -> bool:
    """Whether this is what `work` gave or raised for that number."""
    if number % 10 == 8:
        return isinstance(value, WorkError) and value.args == (number,)
    return bool(value == outcome(number))


def say_initialized() -> None:
    """An initializer that comes by a point."""
    come("initializer")


# -- in the test ------------------------------------------------------------------------------------------------------


class Steps:
    """Steps at which agents are held, one after the other: the test's side."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def arm(self) -> None:
        """From now on the first agent that comes by the next step is held."""
        self._watch.armed[0] += 1

    def wait_held(self) -> int:
        """Wait until an agent is held; its process."""
        self._watch.gate.wait_arrived()
        return int(self._watch.held_by[self._watch.armed[0] - 1].read_text())

    def close(self) -> None:
        """Give the shared byte back."""
        self._watch.armed.close()


def hold_at(steps: list[Step], gates: Gates, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Have every agent that is forked from now on watched for these steps. To be called before a pool is made."""
    watch = Watch(steps, gates("step"), directory)
    monkeypatch.setattr(agent_start, "Agent", _watched_agent(watch))
    return Steps(watch)
