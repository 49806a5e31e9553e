"""The agents of one pool: started together, settled and replaced when they die, ended together (D6, D12).

    start --> hello --> serves --> leaves by itself ----------.
                 `--------`-------> dies: settle what it held --+--> a new one in its slot, or none

Engine thread only, but for the first start. What a death costs is decided in `_settle`; whether the pool can go on is
told to the engine, which has the handles to fail.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from .._agent.launch import AgentSpec
from .._queue import layout as L
from .._queue.arena import Segment
from .._queue.deque import Deques
from ..errors import AgentDiedError, AgentStartError
from .collect import Collector
from .dispatch import Dispatcher
from .events import facts
from .health import (
    HELLO_TIMEOUT_S,
    START_FAILURES_ALLOWED,
    START_KILLS_ALLOWED,
    AgentProcess,
    interrupts_held,
    make_ready,
    start_process,
)
from .spares import Spares

logger = logging.getLogger("mpsteal")

TERM_GRACE_S = 0.2
"""Between SIGTERM and SIGKILL at terminate: long enough for a Python-level handler, short enough for `with` blocks."""

FINALIZE_GRACE_S = 5.0
"""After `terminate`, what an agent that ran nothing then may take for its finalizer, before it is killed: shorter cuts
off what may just be ending; longer has a finalizer that hangs hold up a `with` block, or a program's exit, for longer
(chosen by hand)."""

LEAVE_GRACE_S = 30.0
"""After `close`, or a scheduler's `stop`, an agent that has left may take so long for its finalizer, and wait for
threads and processes that its tasks have left behind, as any Python process does; then it is killed with them, since
whoever joins the pool would wait as well (the stock pool does, for ever). Chosen by hand: shorter cuts off what may
just be ending."""

KILL_EVERY_S = 1.0
"""Next SIGKILL for those that are still there then: one that was starting may not have had its group yet."""

HELLO_EVERY_S = 1.0
"""Time between two looks at forked agents that have not said hello; shorter costs wakes, longer finds one that hangs
later."""

RETRY_S = 0.001
"""Next try when a dead agent's neighbour held a lock we need."""

RESPAWN_PAUSE_S, RESPAWN_TRIES = 0.05, 60
"""When the system refuses a process (EAGAIN): pause before the next try, doubled up to 1 s; then the pool gives up."""

BARREN_S, BARREN_PAUSE_LAST_S = 1.0, 30.0
"""An agent that died within so long of its start and had taken no task was barren. The first is replaced at once; after
the second in a row there is a pause (`RESPAWN_PAUSE_S`), doubled with each up to the longest; 1 s where no other agent
works. Shorter burns CPU on agents that are killed as they come; longer lets an agent be missed when that is over."""


def _name(slot: int) -> str:
    return f"mpsteal-{slot}"


class Crew:
    """All agents, by slot.

    Args:
        make_spec: everything the agent of a slot is told.
        make_process: the context's `Process`.
        slots: those that have an agent, the engine's own list.
        forks: whether agents are forks of this process, which may hang on what another thread held.
        has_initializer: whether they run code of the user's before their first task.
        has_finalizer: whether they do after their last.
    """

    def __init__(
        self,
        make_spec: Callable[[int], AgentSpec],
        make_process: Callable[..., Any],
        segment: Segment,
        deques: Deques,
        dispatcher: Dispatcher,
        collector: Collector,
        slots: list[int],
        *,
        forks: bool,
        has_initializer: bool,
        has_finalizer: bool = False,
    ) -> None:
        self._make_spec, self._make_process, self._forks = make_spec, make_process, forks
        self._has_initializer, self._has_finalizer = has_initializer, has_finalizer
        self._segment, self._words, self._layout, self._deques = segment, segment.words, segment.layout, deques
        self._dispatcher, self._collector = dispatcher, collector
        self._slots = slots
        self.leaving: set[int] = set()
        """Slots whose agent is not replaced when it is gone, unless it was to finish more."""
        self._selector: selectors.BaseSelector | None = None
        self.spares = Spares(make_spec, make_process, segment, forks=forks)
        self.alive: dict[int, AgentProcess] = {}
        """Those whose death has not been seen."""
        self.processes: list[Any] = []
        """Their process objects, in the order of their slots: what the stock pool calls `_pool`."""
        self._dead: dict[int, AgentProcess] = {}
        self._lingering: dict[int, AgentProcess] = {}
        """Those that have left their slots and whose processes are still there, by pid."""
        self._leave_by: float | None = None
        self._is_recycled: dict[int, bool] = {}
        """Slots to be filled again: whether the one before left by rule, or died."""
        self._respawn_at: dict[int, tuple[float, int]] = {}
        self._kill_at: float | None = None
        self._idle: set[int] = set()
        """Slots of agents that run nothing as the pool is terminated: they leave by themselves, and end in order."""
        self._finalize_by = 0.0
        self._hello_missing = False
        self._hello_due = 0.0
        self._failures_in_row = 0
        self._barren: dict[int, int] = {}
        """How many in a row died before they had taken a task, by slot."""

    # -- starting -------------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start an agent in every slot. Raises what starting a process raises; see `abandon`.

        All that can be done before is done before the first of them: a fork leaves every page of this process to be
        copied when it is next written (2 to 3 us each), and what runs between two forks pays for that once more.
        """
        for slot in self._slots:
            self._tidy(slot)
        ready = [(slot, self._make_ready(slot)) for slot in self._slots]
        with interrupts_held():
            for slot, process in ready:
                self._launch(slot, process)
        self._list_processes()

    def add(self, slot: int) -> None:
        """Start an agent in a slot that has none. Raises what starting a process raises."""
        self._start(slot)
        self._watch(self.alive[slot])

    def watch_all(self, selector: selectors.BaseSelector) -> None:
        """Report deaths to this selector, as `("death", slot)`, from now on."""
        self._selector = self.spares.selector = selector
        for agent in self.alive.values():
            self._watch(agent)

    def _start(self, slot: int) -> None:
        self._tidy(slot)
        agent = self.spares.take(slot)
        if agent is not None:
            self.alive[slot] = agent
            agent.done_before = self._collector.collected[slot]
        else:
            process = self._make_ready(slot)
            with interrupts_held():
                self._launch(slot, process)
        self._list_processes()

    def _tidy(self, slot: int) -> None:
        """The slot's words, for the next agent."""
        words, base = self._words, self._layout.agent(slot)
        words[base + L.STATE], words[base + L.PARKED], words[base + L.RING_FULL] = L.STARTING, 0, 0
        words[base + L.PID], words[base + L.LEAVE] = 0, slot in self.leaving
        self._hello_missing = self._forks

    def _make_ready(self, slot: int) -> Any:
        return make_ready(self._make_process, self._make_spec(slot), _name(slot))

    def _launch(self, slot: int, process: Any) -> None:
        """Inside `interrupts_held`, until it is known: a Ctrl-C in between would leave an agent nobody ends."""
        agent = self.alive[slot] = start_process(process, slot, _name(slot))
        agent.done_before = self._collector.collected[slot]

    def _list_processes(self) -> None:
        self.processes = [self.alive[slot].process for slot in sorted(self.alive)]

    def forget(self, slot: int) -> bool:
        """Replace no agent that is gone already; False if there is one to wait for."""
        self._respawn_at.pop(slot, None)
        if slot in self.alive or slot in self._dead:
            return False
        self._barren.pop(slot, None)
        self.spares.drop(slot)
        return True

    def _watch(self, agent: AgentProcess) -> None:
        if self._selector is not None and agent.watch_fd < 0:  # one that was a spare is watched already
            self._selector.register(agent.open_watch(), selectors.EVENT_READ, ("death", agent.slot))

    def abandon(self) -> None:
        """The start of the pool failed half-way: end what was started."""
        self.spares.drop_all()
        for agent in list(self.alive.values()):
            process = agent.process
            process.terminate()
            if isinstance(getattr(process, "pid", None), int):
                agent.kill_group()  # a handler inherited from this program may swallow SIGTERM
            process.join()
            agent.close_watch()
            agent.release()

    def _is_starting(self) -> bool:
        states = [self._words[self._layout.agent(s) + L.STATE] for s in self.alive]
        self._hello_missing = L.STARTING in states
        return self._hello_missing

    def _check_hello(self, now: float) -> None:
        """Kill forks that have been silent for too long; they are counted as any other death."""
        if not self._hello_missing or now < self._hello_due:
            return
        self._hello_due = now + HELLO_EVERY_S
        for slot, agent in self.alive.items():
            if now - agent.started > HELLO_TIMEOUT_S:
                words, base = self._words, self._layout.agent(slot)
                # A spare has said hello as one, and may still be in its initializer when its turn comes.
                if words[base + L.STATE] == L.STARTING and not (words[base + L.PID] or words[base + L.SPARE_PID]):
                    agent.kill_group()

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether every agent is dead and settled."""
        return not (self.alive or self._dead or self._lingering)

    @property
    def is_settled(self) -> bool:
        """Whether no death waits to be settled or replaced."""
        return not (self._dead or self._respawn_at)

    @property
    def needs_care(self) -> bool:
        """Whether `care` has, or may soon have, something to do."""
        is_ending = self._kill_at is not None or self._leave_by is not None
        return is_ending or bool(self._dead or self._respawn_at or self._hello_missing)

    def due(self, now: float) -> list[float]:
        """Points in time (monotonic clock, s) at which `care` has something to do."""
        if self._dead:
            return [now + RETRY_S]
        times = [at for at, _ in self._respawn_at.values()]
        if self._kill_at is not None:
            times.append(self._kill_at)
        elif self._leave_by is not None:
            times.append(self._leave_by)
        elif self._hello_missing and self._is_starting():
            times.append(self._hello_due)
        return times

    def has_long_task(self, longer_than_s: float) -> bool:
        """Whether an agent is inside a task for longer than that: it does not watch the parent meanwhile."""
        words, before = self._words, time.monotonic_ns() - int(longer_than_s * 1e9)
        bases = map(self._layout.agent, self.alive)
        return any(0 < words[b + L.STARTED_NS] < before and not words[b + L.PARKED] for b in bases)

    # -- deaths ---------------------------------------------------------------------------------------------------

    def died(self, slot: int) -> None:
        """The selector has reported a death; `care` settles it."""
        agent = self.alive.pop(slot)
        if self._selector is not None:
            self._selector.unregister(agent.watch_fd)
        agent.close_watch()
        self._dead[slot] = agent

    def see_leavers(self) -> None:
        """Settle agents that have left their loop, as `care` does with the dead, though their processes are there.

        What is left of them is Python's own exit, which waits for threads and children that tasks have left behind,
        perhaps for ever. They touch no shared word any more, so their slots are free.
        """
        for slot, agent in list(self.alive.items()):
            if self._words[self._layout.agent(slot) + L.STATE] == L.LEAVING and self._selector is not None:
                pid = agent.process.pid
                if not self._note_lingerer(0, pid):
                    return  # so many are left that no more can be told to the Manager: this one has to end first
                self._dead[slot] = self._lingering[pid] = self.alive.pop(slot)
                self._selector.modify(agent.watch_fd, selectors.EVENT_READ, ("linger", pid))

    def _note_lingerer(self, old: int, new: int) -> bool:
        """Change a word of those by which the Manager knows them; False if there is none of the old value."""
        at = next((at for at in range(L.LINGERERS, L.HEADER_WORDS) if self._words[at] == old), None)
        if at is None:
            return False
        self._words[at] = new
        return True

    def lingered(self, pid: int) -> None:
        """The selector has reported the end of one that had left its slot before."""
        agent = self._lingering.pop(pid)
        self._dispatcher.blocks.lingered(pid)
        self._note_lingerer(pid, 0)  # before it is joined: its number may be a stranger's then
        if self._kill_at is not None or agent.was_killed():
            agent.kill_group()  # the signal ended it alone
        if self._selector is not None:
            self._selector.unregister(agent.watch_fd)
        agent.close_watch()
        agent.process.join()
        agent.release()

    def expect_end(self) -> None:
        """All agents have been told to leave, and have nothing to do."""
        if self._leave_by is None:
            self._leave_by = time.monotonic() + LEAVE_GRACE_S

    def _end_leavers(self, now: float) -> None:
        """Those that have left and do not end have had their time."""
        states = {slot: self._words[self._layout.agent(slot) + L.STATE] for slot in self.alive}
        for agent in (*(a for s, a in self.alive.items() if states[s] == L.LEAVING), *self._lingering.values()):
            logger.warning(
                "mpsteal: agent %d (pid %d) has left and waits for %s; ended",
                agent.slot,
                agent.process.pid,
                "its finalizer, or " * self._has_finalizer + "threads or processes that tasks left behind",
                extra=facts("agent_ended", agent=agent.slot, agent_pid=agent.process.pid),
            )
            agent.kill_group()
        for slot, agent in self.alive.items():
            if states[slot] != L.LEAVING and agent.is_stopped():
                agent.kill_group()  # all is done, and it would never leave
        self._leave_by = now + KILL_EVERY_S

    def care(self, now: float, *, replacing: bool) -> BaseException | None:
        """Settle deaths, replace agents if wanted, kill those that are silent or would not go.

        Returns why the pool cannot go on, if so.
        """
        failed: BaseException | None = None
        self._check_hello(now)
        for slot, agent in list(self._dead.items()):
            claim = self._take_over(slot)
            if claim is not None:
                del self._dead[slot]
                state = self._settle(slot, agent, claim, replacing=replacing)
                if replacing and slot in self._slots and state != L.INIT_FAILED and failed is None:
                    ran = claim != L.NONE or self._collector.collected[slot] > agent.done_before
                    failed = self._replace(agent, state, ran=ran)
        for slot, (at, tries) in list(self._respawn_at.items()):
            if now >= at:
                del self._respawn_at[slot]
                failed = failed or self._respawn(slot, tries)
        if self._leave_by is not None and now >= self._leave_by:
            self._end_leavers(now)
        if self._kill_at is not None and now >= self._kill_at:
            may_end = self._has_finalizer and now < self._finalize_by
            for slot, agent in self.alive.items():
                if not (may_end and self._words[self._layout.agent(slot) + L.STATE] == L.LEAVING):
                    agent.kill_group()
            for agent in self._lingering.values() if not may_end else ():
                agent.kill_group()
            self._kill_at = now + KILL_EVERY_S
        return failed

    def _take_over(self, slot: int) -> int | None:
        """Deliver what a dead agent committed; returns what it had started, as `Deques.repair_dead` does."""
        self._collector.collect(slot)
        return self._deques.repair_dead(slot)

    def _settle(self, slot: int, agent: AgentProcess, claim: int, *, replacing: bool) -> int:
        """An agent is gone: bury it, and fail what it ran. Returns the state it was in."""
        # What it leaves can be stolen, and a finished theft may just have brought more; nobody else rings for it.
        self._dispatcher.ring_parked(self._deques.queued(slot))
        base, words = self._layout.agent(slot), self._words
        state = words[base + L.STATE]
        # Once it is joined its number may be a stranger's, and users may signal what they find in this list.
        self.processes = [process for process in self.processes if process is not agent.process]
        if agent.process.pid not in self._lingering:
            if state != L.LEAVING or self._kill_at is not None:
                agent.kill_group()
            agent.process.join()
            agent.exitcode = agent.process.exitcode
            agent.release()
        self._dispatcher.frozen.pop(slot, None)
        words[base + L.PID], words[base + L.STATE], words[base + L.PARKED] = 0, L.VACANT, 0
        self.spares.clear_words(slot)  # it may have died as a spare whose turn had come
        self._collector.collect(slot)
        self._dispatcher.blocks.settle(slot, agent.process.pid if agent.process.pid in self._lingering else None)
        self._segment.punch_blocks(1 + slot)  # what it had begun to write and not committed; the rest has been read
        words[base + L.DONE] = self._collector.collected[slot]  # its own count may lag behind what it committed
        begun = self._dispatcher.children.begun(slot, claim)
        for chunk in begun:
            agent.lost_task = self._dispatcher.id_of(chunk)
            self._dispatcher.note_logged(chunk)
            task = self._dispatcher.describe(chunk)
            died = AgentDiedError(slot, agent.process.pid, agent.exitcode, task)
            died.why = self._dispatcher.why_ended.get(slot)
            error = self._dispatcher.lost(slot, chunk, died)
            if error is not None:
                self._collector.finish(chunk, False, error)
        self._dispatcher.children.agent_gone(slot, begun)
        words[base + L.LOADED] = L.NONE  # what it had read is read anew if it runs again, here or elsewhere
        has_left = state == L.LEAVING
        self._dispatcher.gone(slot, agent, for_good=slot in self.leaving, is_end=not replacing, has_left=has_left)
        if slot not in self._slots:
            self.spares.drop(slot)
            self.leaving.discard(slot)
            self._barren.pop(slot, None)  # the next agent there is another one
        return state

    def _replace(self, agent: AgentProcess, state: int, *, ran: bool) -> BaseException | None:
        """A new agent in the slot of a dead one, unless too many have died before they could take a task."""
        slot, has_left = agent.slot, state == L.LEAVING
        self._is_recycled[slot] = has_left
        if has_left:
            name, pid = self._dispatcher.agent_id(slot), agent.process.pid
            logger.info(
                "mpsteal: agent %r (pid %d) has left, since %s; replaced",
                name,
                pid,
                agent.why_recycled or "it has run as many tasks as it may",
                extra=facts("agent_recycled", agent=name, agent_pid=pid),
            )
        if has_left or ran:
            self._failures_in_row = 0
            self._barren.pop(slot, None)
            if not has_left:
                self._tell_death(agent, "replaced")
            return self._respawn(slot, 0)
        others_work = any(self._words[self._layout.agent(other) + L.STATE] == L.READY for other in self.alive)
        if state == L.READY or others_work:
            self._failures_in_row = 0
        else:
            self._failures_in_row += 1
            was_killed = agent.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
            allowed = START_KILLS_ALLOWED if was_killed else START_FAILURES_ALLOWED
            if self._failures_in_row >= allowed * len(self._slots):
                self._tell_death(agent, "given up")
                return AgentStartError(
                    f"{self._failures_in_row} agents in a row died before they could take a task (the last one "
                    f"with exit code {agent.exitcode}){self._why_no_start()}"
                )
        now = time.monotonic()
        barren = self._barren[slot] = self._barren.get(slot, 0) + 1 if now - agent.started < BARREN_S else 1
        if barren == 1:
            self._tell_death(agent, "replaced")
            return self._respawn(slot, 0)
        longest = BARREN_PAUSE_LAST_S if others_work else 1.0
        pause = min(longest, RESPAWN_PAUSE_S * 2 ** min(barren - 2, 20))
        self._tell_death(agent, f"a new one is tried in {pause:.2g} s")
        self._respawn_at[slot] = now + pause, 0
        return None

    def _why_no_start(self) -> str:
        """What may be the reason, in words."""
        causes = ["the initializer ends the process"] * self._has_initializer
        if not self._forks:
            causes.append(
                "the main module cannot be imported, or starts the pool again without `if __name__ == '__main__'`"
            )
        return "; look at their output above" + (f": often {', or '.join(causes)}" if causes else "")

    def _tell_death(self, agent: AgentProcess, what_now: str) -> None:
        dispatcher, slot, pid = self._dispatcher, agent.slot, agent.process.pid
        event = "agent_ended" if slot in dispatcher.why_ended else "agent_died"
        name = dispatcher.agent_id(slot)
        logger.warning(
            "mpsteal: %s; %s",
            dispatcher.obituary(slot, pid, agent.exitcode),
            what_now,
            extra=facts(event, agent=name, agent_pid=pid, task=agent.lost_task, exitcode=agent.exitcode),
        )

    def _respawn(self, slot: int, tries: int) -> BaseException | None:
        try:
            self._start(slot)
        except Exception as error:
            if tries >= RESPAWN_TRIES:
                return AgentStartError(f"no process could be started: {error}")
            pause = min(1.0, RESPAWN_PAUSE_S * 2**tries)
            self._respawn_at[slot] = (time.monotonic() + pause, tries + 1)
        else:
            self._watch(self.alive[slot])
            if self._is_recycled.pop(slot, False):
                self._dispatcher.counts.agents_recycled += 1
            else:
                self._dispatcher.counts.agents_replaced += 1
        return None

    # -- the end --------------------------------------------------------------------------------------------------

    def spare_idle(self) -> None:
        """The pool is about to be terminated: note who runs nothing, and so has its finalizer run."""
        words, is_pending = self._words, self._collector.is_pending
        for slot in self.alive:
            base = self._layout.agent(slot)
            if words[base + L.STATE] in (L.READY, L.LEAVING) and not is_pending(words[base + L.CLAIM]):
                self._idle.add(slot)

    def dismiss(self, *, only_busy: bool) -> None:
        """End the agents by signal, whatever they do: SIGTERM now, SIGKILL after `TERM_GRACE_S`. Once only.

        With `only_busy` those that are parked are left alone: they leave by themselves. So are all that run nothing,
        where there is a finalizer; those that have begun with it have `FINALIZE_GRACE_S`.
        """
        if self._kill_at is not None:
            return
        now = time.monotonic()
        if not (only_busy and self._has_finalizer):
            for agent in self._lingering.values():
                agent.terminate()
        for slot, agent in self.alive.items():
            # One whose initializer has failed leaves by itself, and may have more to tell a log.
            base = self._layout.agent(slot)
            is_leaving = self._words[base + L.STATE] == L.INIT_FAILED
            if not is_leaving and not (only_busy and (slot in self._idle or self._words[base + L.PARKED])):
                agent.terminate()
        self._respawn_at.clear()
        self._kill_at = now + TERM_GRACE_S
        if only_busy:
            self._finalize_by = now + FINALIZE_GRACE_S

    def kill_all(self) -> None:
        """The engine itself has failed: leave nobody."""
        self.spares.drop_all()
        for agent in {id(a): a for d in (self.alive, self._dead, self._lingering) for a in d.values()}.values():
            agent.kill_group()
            agent.close_watch()
            try:
                agent.process.join()
            except Exception:
                logger.exception("mpsteal: cannot wait for agent %d", agent.slot, extra=facts("agent_not_joined"))
            agent.release()
