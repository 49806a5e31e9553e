"""A deterministic world for the queue's real code: shared words, kernel locks, deaths, store buffers.

    scenario(world)   lays out words, makes actors, returns check()
         |
         v                     one run = one schedule
    explore -- choices -->  World.run:  actor A --op--> pause --> who goes on?  A, B, ... or: A dies,
         ^                                                        or a delayed store of A lands
         '-- states seen, branches not yet taken

Every actor is a greenlet that runs the functions of `mpsteal._queue` (and `_agent`, `_engine`) as
they are; only the words and the locks are ours. It pauses before each load, store, lock call and
event, and the schedule says who goes on. A dead actor never runs again: its locks are released, and
whatever its `finally` clauses try to do has no effect.

What makes "every interleaving" affordable, none of which leaves a behaviour out:

1. An actor's local state is a function of what it has read, so (words, locks, hash of each actor's
   reads) is the state of the world, and a state seen before is not explored again.
2. A pause is a choice only before lock calls, doorbells, and words that are in dispute: touched by two
   actors, written by one, and not always under one and the same lock (the lockset rule of Savage
   et al., "Eraser", 1997). Accesses to other words commute with whatever can run beside them. Which
   words are in dispute is learnt: when a run finds a new one, the exploration starts over.
3. To die before a load is to die before the next store, lock call or event. An actor may be doomed
   before an event, a store to an undisputed word, or one that lands later: it goes no further, and dies
   at any later choice.

Memory models: "sc" (stores land at once), "tso" (x86: stores land in order, later; Sewell et al.,
"x86-TSO", 2010) and "pso" (stores to different words land in any order; SPARC v9), which stands for
machines where `order()` is needed. Loads are never reordered here.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from greenlet import GreenletExit, getcurrent, greenlet

from mpsteal._queue import layout as L

READY, DONE, DEAD = "ready", "done", "dead"

STEPS_LIMIT = 5_000
"""Operations in one run; more means that an actor spins (chosen by hand, ten times the longest)."""

WARM_UP_RUNS = 200
"""Random runs that learn which words are in dispute, so that the exploration seldom starts over."""

ACTORS, GO, KILL, LAND, DOOM = 8, 0, 1, 2, 248
"""A step in a byte: what, times the most actors there may be, plus whose. From `LAND` on: which store lands."""

_MORTAL = frozenset({"store", "lock", "try_lock", "unlock", "fence", "event", "ring"})


class Violation(AssertionError):
    """A rule was broken; the message ends with the schedule that did it."""


class Actor:
    """One process of the model."""

    def __init__(self, world: World, index: int, name: str, body: Callable[[], None]) -> None:
        self.world, self.index, self.name = world, index, name
        self.greenlet = greenlet(self._run)
        self.body = body
        self.state = READY
        self.mortal = False
        self.doomed = False
        """Whether it will do nothing more but die."""
        self.condemned = False
        """Whether somebody has killed it: it dies at some choice from here on, and may go on until then."""
        self.held = 0
        """Bit `slot` is set while it holds that lock."""
        self.optional = False
        """Whether it may still wait at the end (for a death that did not come, say)."""
        self.pending: tuple[str, Any] = ("begin", None)
        self.history = index
        self.news = True
        """Whether anybody else has changed anything since this actor's last `attempt`."""
        self.buffer: list[tuple[int, int]] = []
        self.error: BaseException | None = None

    def _run(self) -> None:
        self.history = hash((self.index, "begun"))  # else its first choice looks like the one before
        try:
            self.body()
        except GreenletExit:
            return
        except Exception as error:
            self.error = error
        if self.state == READY:
            self.state = DONE  # stores that have not landed still do, at any time

    @property
    def is_dead(self) -> bool:
        return self.state == DEAD


class Words:
    """Shared memory: int64 words whose every access is a pause."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):  # of a memoryview: a view, from which the words are copied one after the other
            return SimpleNamespace(tolist=lambda: [self.world._load(i) for i in range(*at.indices(len(self)))])
        return self.world._load(at)

    def __setitem__(self, at: int, value: int) -> None:
        self.world._store(at, value)

    def __len__(self) -> int:
        return len(self.world.cells)


class ModelLocks:
    """The kernel's record locks: they belong to an actor, and its death releases them."""

    def __init__(
        self,
        world: World,
        *,
        fence_works: bool = True,
        order_works: bool = True,
        barrier_works: bool = True,
    ) -> None:
        self.world, self.fence_works, self.order_works = world, fence_works, order_works
        self.owner_is_fenced, self.barrier_works = world.fenced, barrier_works

    def of_owner(self, slot: int) -> tuple[Callable[[], None], Callable[[], None]]:
        return partial(self.lock, slot), partial(self.unlock, slot)

    def lock(self, slot: int) -> None:
        self.world._acquire(slot, wait=True)

    def try_lock(self, slot: int) -> bool:
        return self.world._acquire(slot, wait=False)

    def unlock(self, slot: int) -> None:
        self.world._release(slot)

    def fence(self) -> None:
        if self.fence_works:
            self.world._fence()

    def fence_owners(self) -> None:
        # Also the caller's own fence: what it has stored is seen before what it looks at next.
        if self.owner_is_fenced and self.barrier_works:
            self.world._fence(all_actors=True)

    def order(self) -> None:
        # A fence only where stores may overtake each other, as in `Locks.order`.
        if self.order_works and self.world.memory == "pso":
            self.world._fence()


class Use:
    """Who touches which words under which locks; finds the words in dispute."""

    def __init__(self) -> None:
        self.actors: dict[int, int] = {}
        self.locks: dict[int, int] = {}
        self.written: set[int] = set()

    def note(self, at: int, actor: Actor, is_store: bool) -> None:
        """One access."""
        self.actors[at] = self.actors.get(at, 0) | 1 << actor.index
        self.locks[at] = self.locks.get(at, -1) & actor.held
        if is_store:
            self.written.add(at)

    def add(self, other: Use) -> None:
        """What another run has found."""
        for at, who in other.actors.items():
            self.actors[at] = self.actors.get(at, 0) | who
            self.locks[at] = self.locks.get(at, -1) & other.locks[at]
        self.written |= other.written

    def disputed(self) -> set[int]:
        """Words that two actors touch, one writes, and no lock guards throughout."""
        return {at for at in self.written if not self.locks[at] and self.actors[at] & (self.actors[at] - 1)}


class World:
    """One run of a scenario. `choose(options)` decides at every choice; see `explore`."""

    def __init__(self, scenario: Callable[[World], Callable[[], None]], **limits: Any) -> None:
        self.memory: str = limits.get("memory", "sc")
        self.deaths: int = limits.get("deaths", 0)
        self.fenced: bool = limits.get("fenced", True)
        self.preemptions: int | None = limits.get("preemptions")
        self.shared: set[int] | None = limits.get("shared")
        self.tracing: bool = limits.get("tracing", False)
        self.cells: list[int] = []
        self.names: Callable[[int], str] = str
        self.words = Words(self)
        self.holder: dict[int, Actor] = {}
        self.actors: list[Actor] = []
        self.log: list[tuple[str, str, int]] = []
        """Events in order: (actor, what, chunk)."""
        self.trace: list[str] = []
        self.current: Actor | None = None
        self.abandoned = False
        self.bells: set[Any] = set()
        """Doorbells that have been rung and not yet answered."""
        self.use = Use()
        self._sum = 0
        self._steps = 0
        self._again: bytes = limits.get("prefix", b"")
        """Steps that an earlier run has taken, which this one takes without looking what else could be done."""
        self._left = len(self._again)
        self.taken = bytearray(self._again)
        """These and all steps since, a byte each, see `step`."""
        self._main = getcurrent()
        self._choose: Callable[[list[Any], bool], int] = lambda options, forced: 0
        self.check = scenario(self)

    # -- set up -----------------------------------------------------------------------------------

    def actor(self, name: str, body: Callable[[], None], *, mortal: bool = False) -> Actor:
        """A new actor; `mortal` ones may be killed before any store, lock call or event."""
        actor = Actor(self, len(self.actors), name, body)
        assert actor.index < ACTORS, "a step is a byte"
        actor.mortal = mortal
        self.actors.append(actor)
        return actor

    # -- what actors do ---------------------------------------------------------------------------

    def event(self, what: str, chunk: int = 0) -> None:
        """Something that the check wants to know; a pause, before which the actor may die."""
        me = self._pause("event", what)
        if me is not None:
            me.history = hash((me.history, what, chunk))
        self.log.append((me.name if me else "after", what, chunk))
        self._tell(me, f"{what} {chunk}")

    def wait(self, condition: Callable[[], bool], why: str, *, optional: bool = False) -> None:
        """Stop until `condition()`; sleeping is a system call, so delayed stores land first."""
        me = self.current
        assert me is not None
        self._drain(me)
        me.optional = optional
        self._pause("wait", condition, force=True)
        me.optional = False
        me.history = hash((me.history, why))
        self._tell(me, f"wakes: {why}")

    def ring(self, bell: Any) -> None:
        """Write to a doorbell: a system call, as `sleep` is."""
        me = self._pause("ring", bell)
        if me is not None:
            self._drain(me)
            me.history = hash((me.history, "ring", bell))
            self._changed(me)
            self._tell(me, f"rings {bell}")
        self.bells.add(bell)

    def kill(self, victim: Actor) -> None:
        """Send SIGKILL: a system call, which may return before the victim has died."""
        me = self._pause("kill", victim.name)
        assert me is not None
        self._drain(me)
        victim.condemned = True
        me.history = hash((me.history, "kill", victim.name))
        self._tell(me, f"kills {victim.name}")

    def sleep(self, bell: Any) -> None:
        """Wait for a doorbell and answer it. To sleep for ever is no fault as such."""
        self.wait(lambda: bell in self.bells, f"{bell} was rung", optional=True)
        self.bells.discard(bell)

    def attempt(self) -> None:
        """Begin something that may have to be tried again, see `wait_news`."""
        if self.current is not None:
            self.current.news = False

    def wait_news(self) -> None:
        """Stop until somebody has changed something since `attempt`: until then trying is vain.

        Who waits here when nobody is left to change anything was refused without a reason, and the
        run fails; unless somebody died, since the parent will settle that.
        """
        me = self.current
        assert me is not None, "refused, and nobody is in the way"
        self.wait(lambda: me.news, "something changed", optional=any(actor.is_dead for actor in self.actors))

    def _changed(self, by: Actor) -> None:
        for actor in self.actors:
            if actor is not by:
                actor.news = True

    # -- the schedule -----------------------------------------------------------------------------

    def run(self, choose: Callable[[list[Any], bool], int]) -> None:
        """Run all actors to their end as `choose` says, then the check. Raises `Violation`."""
        self._choose = choose
        self._main = getcurrent()
        try:
            while True:
                actor = self._pick(None)
                if actor is None:
                    break
                self.current = actor
                actor.greenlet.switch()
                for one in self.actors:
                    if one.error is not None:
                        raise one.error
            if self.abandoned:
                return
            self.current = None
            for one in self.actors:
                if one.state == READY and not one.optional:
                    raise AssertionError(f"{one.name} waits for ever ({one.pending[0]})")
            assert not self.holder, f"locks still held: {sorted(self.holder)}"
            self.check()
        finally:
            self.current = None
            for one in self.actors:
                if not one.greenlet.dead:
                    if one.state == READY:
                        one.state = DEAD
                    one.greenlet.throw(GreenletExit)

    def _pause(self, kind: str, what: Any, force: bool = False) -> Actor | None:
        """Let the schedule decide; returns the actor once it may go on, None outside a run."""
        me = self.current
        if me is None:
            return None
        if me.state == DEAD:
            raise GreenletExit
        self._steps += 1
        if self._steps > STEPS_LIMIT:
            raise AssertionError(f"{me.name} spins")
        if kind in ("load", "store") and not self._left:
            self.use.note(what, me, kind == "store")
        me.pending = (kind, what)
        is_choice = kind != "event" and (kind not in ("load", "store") or self.shared is None or what in self.shared)
        if self.shared is not None and not is_choice and (kind == "load" or not self._is_doomed(me)):
            return me
        if self._left and self._again[-self._left] == me.index:  # `GO`, and nobody else in between
            self._left -= 1
        else:
            self._switch(me)
        return me

    def _is_doomed(self, me: Actor) -> bool:
        """Whether this is as far as it gets: where it may die, the schedule says so."""
        if not (me.condemned or (me.mortal and self.deaths)):
            return False
        if not self._is_chosen_to_die(me):
            return False
        me.doomed = True
        self.deaths -= not me.condemned
        return True

    def _is_chosen_to_die(self, me: Actor) -> bool:
        if self._left:
            code = self._again[-self._left]
            self._left -= 1
        else:
            options: list[Any] = [("go", me), ("doom", me)]
            code = step(options[self._choose(options, True)])
            self.taken.append(code)
        return code >= DOOM

    def _switch(self, me: Actor) -> None:
        """Let the schedule say who goes on; returns when `me` does."""
        actor = self._pick(me)
        if actor is not me:
            if actor is None:
                self._main.switch()
            else:
                self.current = actor
                actor.greenlet.switch()
        if me.state == DEAD:
            raise GreenletExit
        self.current = me

    def _enabled(self, actor: Actor) -> bool:
        if actor.state != READY or actor.doomed:
            return False
        kind, what = actor.pending
        if kind == "lock":
            return self.holder.get(what, actor) is actor
        if kind == "wait":
            return bool(what())
        return True

    def _pick(self, me: Actor | None) -> Actor | None:
        """The actor that goes on; None when nobody can, or when this run is given up."""
        while self._left:
            kind, index = divmod(self._again[-self._left], ACTORS)
            self._left -= 1
            actor = self.actors[index]
            if kind == GO:
                self._count_preemption(me, actor)
                return actor
            if kind == KILL:
                self._kill(actor)
            else:
                self._land(actor, kind - LAND)
        while not self.abandoned:
            options: list[Any] = []
            may_leave = True
            if me is not None and self._enabled(me):
                options.append(("go", me))
                may_leave = self.preemptions is None or self.preemptions > 0
            for actor in self.actors:
                if actor is not me and may_leave and self._enabled(actor):
                    options.append(("go", actor))
                if (actor.doomed or actor.condemned) and actor.state == READY:
                    options.append(("kill", actor))
                elif self.deaths and actor.mortal and actor.state == READY:
                    kind = actor.pending[0]
                    if kind in _MORTAL or (kind == "wait" and not self._enabled(actor)):
                        options.append(("kill", actor))
                if actor.buffer:
                    options += [("land", actor, i) for i in self._landable(actor)]
            if not options:
                return None
            self._check_stuck(options)
            index = self._choose(options, False) if len(options) > 1 else 0
            if index < 0:
                self.abandoned = True
                return None
            what, actor, *rest = options[index]
            self.taken.append(step(options[index]))
            if what == "kill":
                self._kill(actor)
            elif what == "land":
                self._land(actor, rest[0])
            else:
                self._count_preemption(me, actor)
                return actor
        return None

    def _count_preemption(self, me: Actor | None, actor: Actor) -> None:
        if self.preemptions is not None and me is not None and actor is not me and self._enabled(me):
            self.preemptions -= 1

    def _check_stuck(self, options: list[Any]) -> None:
        """Nobody may wait until somebody happens to be killed."""
        if options[0][0] != "go" and all(
            what == "kill" and not (actor.doomed or actor.condemned) for what, actor, *_ in options
        ):
            for actor in self.actors:
                if actor.state == READY and not actor.optional:
                    raise AssertionError(f"{actor.name} waits for ever ({actor.pending[0]})")

    def _kill(self, actor: Actor) -> None:
        self._drain(actor)  # what a CPU has retired lands, whatever becomes of the process
        self._tell(actor, f"DIES before {self._words_of(actor.pending)}")
        actor.state = DEAD
        actor.held = 0
        self.deaths -= not (actor.doomed or actor.condemned)
        for slot in [s for s, a in self.holder.items() if a is actor]:
            del self.holder[slot]
        self._changed(actor)

    def key(self) -> tuple[Any, ...]:
        """The state of the world: equal keys have equal futures."""
        return (
            self._sum,
            tuple(sorted((s, a.index) for s, a in self.holder.items())),
            tuple((a.state, a.doomed, a.condemned, a.history, a.news, tuple(a.buffer)) for a in self.actors),
            frozenset(self.bells),
            self.deaths,
            None if self.preemptions is None else (self.preemptions, self._last()),
        )

    def _last(self) -> int:
        return -1 if self.current is None else self.current.index

    # -- words and locks --------------------------------------------------------------------------

    def _load(self, at: int) -> int:
        me = self._pause("load", at)
        value = self.cells[at]
        if me is not None:
            for where, later in me.buffer:
                if where == at:
                    value = later
            me.history = hash((me.history, at, value + 10))
            if self.tracing:
                self._tell(me, f"{self.names(at)} is {value}")
        return value

    def _store(self, at: int, value: int) -> None:
        me = self.current
        if me is None:
            self.cells[at] = value
            return
        if self.memory == "sc":
            self._pause("store", at)
            self._write(at, value)
            self._changed(me)
        else:
            if me.state == DEAD:
                raise GreenletExit
            if not self._left:
                self.use.note(at, me, True)
            me.pending = ("store", at)
            if self._is_doomed(me):
                self._switch(me)
            me.buffer.append((at, value))
            self._land_private(me)
        me.history = hash((me.history, at, "=", value + 10))
        if self.tracing:
            self._tell(me, f"{self.names(at)} := {value}")

    def _write(self, at: int, value: int) -> None:
        self._sum ^= hash((at, self.cells[at] + 10)) ^ hash((at, value + 10))
        self.cells[at] = value

    def _landable(self, actor: Actor) -> list[int]:
        """Indices in the buffer of the stores that may land next."""
        if self.memory == "tso":
            return [0]
        first: dict[int, int] = {}
        for i, (at, _) in enumerate(actor.buffer):
            first.setdefault(at, i)
        return list(first.values())

    def _land(self, actor: Actor, index: int) -> None:
        at, value = actor.buffer.pop(index)
        self._write(at, value)
        self._changed(actor)
        if self.tracing:
            self._tell(actor, f"  ({self.names(at)} := {value} lands)")
        self._land_private(actor)

    def _land_private(self, actor: Actor) -> None:
        """Stores that nobody else looks at land as soon as they may."""
        if self.shared is None:
            return
        while actor.buffer:
            for i in self._landable(actor):
                if actor.buffer[i][0] not in self.shared:
                    at, value = actor.buffer.pop(i)
                    self._write(at, value)
                    break
            else:
                return

    def _drain(self, actor: Actor) -> None:
        while actor.buffer:
            self._land(actor, 0)

    def _acquire(self, slot: int, *, wait: bool) -> bool:
        me = self._pause("lock" if wait else "try_lock", slot)
        if me is None:
            assert slot not in self.holder
            return True
        self._drain(me)
        holder = self.holder.get(slot)
        # The kernel would grant it, and the first unlock would then give it away.
        assert holder is not me, f"{me.name} locks {slot} twice"
        if holder is None:
            self.holder[slot] = me
            me.held |= 1 << slot
        me.history = hash((me.history, "lock", slot, holder is None))
        self._tell(me, f"{'lock' if wait else 'try'} {slot}" + ("" if holder is None else ": busy"))
        return holder is None

    def _release(self, slot: int) -> None:
        me = self._pause("unlock", slot)
        if me is None:
            return
        self._drain(me)
        assert self.holder.get(slot) is me, f"{me.name} unlocks {slot}, which it does not hold"
        del self.holder[slot]
        me.held &= ~(1 << slot)
        self._changed(me)
        me.history = hash((me.history, "unlock", slot))
        self._tell(me, f"unlock {slot}")

    def _fence(self, *, all_actors: bool = False) -> None:
        me = self._pause("fence", None)
        if me is not None:
            for actor in self.actors if all_actors else (me,):
                self._drain(actor)
            me.history = hash((me.history, "fence"))
            self._tell(me, "fence")

    # -- words for people -------------------------------------------------------------------------

    def _tell(self, actor: Actor | None, text: str) -> None:
        if self.tracing:
            self.trace.append(f"{actor.name if actor else 'after':>10}  {text}")

    def _words_of(self, pending: tuple[str, Any]) -> str:
        kind, what = pending
        if kind in ("load", "store"):
            return f"{kind} of {self.names(what)}"
        return f"{kind} {what if not callable(what) else ''}".strip()


def step(option: tuple[Any, ...]) -> int:
    """One option as a byte."""
    what, actor, *rest = option
    kinds = {"go": GO, "kill": KILL, "doom": DOOM // ACTORS}
    kind = LAND + rest[0] if what == "land" else kinds[what]
    assert kind < DOOM // ACTORS or what == "doom", "a step is a byte"
    return int(kind * ACTORS + actor.index)


class Explored(NamedTuple):
    """What an exploration looked at."""

    schedules: int
    """Runs to the end, each of them checked."""
    states: int


class Stopped(Exception):
    """The exploration passed its limit of runs."""


def explore(scenario: Callable[[World], Callable[[], None]], *, runs_limit: int = 200_000, **limits: Any) -> Explored:
    """Run `scenario` under every schedule that `limits` allow.

    Args:
        scenario: makes the actors of a fresh world and returns the check that ends a run.
        runs_limit: an alarm, not a sample size: passing it raises `Stopped`.
        limits: memory ("sc", "tso", "pso"), deaths (how many), preemptions (None: any number), fenced (whether owners
            take without their locks).

    Raises:
        Violation: a rule was broken; the message has the schedule, step by step.
    """
    use = Use()
    for i in range(WARM_UP_RUNS):
        use.add(_run_randomly(scenario, i, limits).use)
    while True:
        found = _explore(scenario, use, runs_limit, limits)
        if found is not None:
            return found


def _explore(
    scenario: Callable[[World], Callable[[], None]],
    use: Use,
    runs_limit: int,
    limits: dict[str, Any],
) -> Explored | None:
    """One exploration; None as soon as a word turns out to be in dispute that was not known to be."""
    shared = use.disputed()
    seen: set[tuple[Any, ...]] = set()
    branches: list[bytes] = [b""]
    schedules = runs = 0
    while branches:
        prefix = branches.pop()
        runs += 1
        if runs > runs_limit:
            raise Stopped(f"more than {runs_limit} runs")
        world = World(scenario, shared=shared, prefix=prefix, **limits)

        def choose(options: list[Any], forced: bool, world: World = world) -> int:
            if not forced:
                # A forced choice (go on or die) belongs to its actor's history alone.
                key = world.key()
                if key in seen:
                    return -1
                seen.add(key)
            branches.extend(bytes(world.taken) + bytes([step(option)]) for option in options[1:])
            return 0

        try:
            world.run(choose)
        except Violation:
            raise
        except Exception as error:
            raise Violation(_story(scenario, limits, shared, bytes(world.taken), error)) from error
        schedules += not world.abandoned
        use.add(world.use)
        if (runs % 64 == 0 or not branches) and use.disputed() != shared:
            return None
    return Explored(schedules, len(seen))


def explore_randomly(scenario: Callable[[World], Callable[[], None]], *, rounds: int, seed: int, **limits: Any) -> None:
    """Run `scenario` under `rounds` random schedules; the violation's message has the seed.

    Each round has a seed of its own, derived from `seed` and its number, so a failure is found again
    by `MPSTEAL_SEED=<that seed>` in the first round.
    """
    for i in range(rounds):
        try:
            _run_randomly(scenario, seed + i, limits)
        except Violation as error:
            raise Violation(f"{error}\nRun it again with MPSTEAL_SEED={seed + i}") from error.__cause__


def _run_randomly(scenario: Callable[[World], Callable[[], None]], own: int, limits: dict[str, Any]) -> World:
    """One random schedule; lazy ones switch seldom, and long stretches find other faults."""
    chance = random.Random(own)
    laziness = chance.choice((0.5, 0.8, 0.95))
    mortality = chance.choice((0.0, 0.01, 0.05))

    def choose(options: list[Any], forced: bool) -> int:
        kills = [k for k, option in enumerate(options) if option[0] in ("kill", "doom")]
        others = [k for k in range(len(options)) if k not in kills]
        if kills and (not others or chance.random() < mortality):
            index = chance.choice(kills)
        elif others[0] == 0 and chance.random() < laziness:
            index = 0
        else:
            index = chance.choice(others)
        return index

    world = World(scenario, **limits)
    try:
        world.run(choose)
    except Exception as error:
        raise Violation(_story(scenario, limits, None, bytes(world.taken), error)) from error
    return world


def seed() -> int:
    """The seed of a random test: `MPSTEAL_SEED` if it is set, else a new one."""
    given = os.environ.get("MPSTEAL_SEED")
    return int(given) if given else random.SystemRandom().randrange(1 << 40)


def _story(
    scenario: Callable[[World], Callable[[], None]],
    limits: dict[str, Any],
    shared: set[int] | None,
    taken: bytes,
    error: Exception,
) -> str:
    """The schedule of a failed run, step by step: the run is repeated with its trace on."""
    world = World(scenario, tracing=True, shared=shared, prefix=taken, **limits)
    try:
        world.run(lambda options, forced: 0)
    except Exception as again:
        assert type(again) is type(error), f"not the same failure again: {again!r}"
    steps = "\n".join(world.trace)
    return f"{type(error).__name__}: {error}\nThe schedule:\n{steps}"


def name_words(layout: L.Layout) -> Callable[[int], str]:
    """Names for the words of a layout, for traces."""
    fields = {value: name for name, value in vars(L).items() if name in _AGENT_WORDS and isinstance(value, int)}
    g = layout.geometry
    names: dict[int, str] = {}
    for slot in range(g.slots):
        base = layout.agent(slot)
        names |= {base + at: f"{name}[{slot}]" for at, name in fields.items()}
        for level in range(g.levels):
            head = layout.head(slot, level)
            names |= {head: f"HEAD[{slot}.{level}]", head + 1: f"TAIL[{slot}.{level}]"}
            for i in range(g.entries):
                at = layout.entries(slot, level) + 2 * i
                names |= {at: f"lo[{slot}.{level}.{i}]", at + 1: f"hi[{slot}.{level}.{i}]"}
    return lambda at: names.get(at, f"word {at}")


_AGENT_WORDS = frozenset(
    [
        "CLAIM",
        "STARTED_NS",
        "RESULT_TAIL",
        "DONE",
        "BUSY_NS",
        "LOADED",
        "CLAIM_AT",
        "LEASES_ENDED",
        "RESULT_HEAD",
        "BLOCKS_FREED",
        "LEAVE",
        "HELD",
        "NEWS",
        "PARKED",
        "RING_FULL",
        "STATE",
        "PID",
        "MARK",
        "J_VICTIM",
        "J_ENTRY",
        "J_MID",
        "J_HI",
        "J_LEVEL",
        "SPENT",
        "LOOT_LO",
        "LOOT_HI",
        "LOOT_LEVEL",
        "STEALS",
        "STEALS_FAILED",
        "CHUNKS_STOLEN",
        "STOLEN_FROM",
        "REPAIRS",
    ]
)
