"""Spares: processes that get ready to take a slot over while its agent still works (see `_agent/spare.py`). Engine
thread only.

    start --> hello, initializer: up --> take: it is the agent of that slot
                     '--> dies, or is not needed any more: forgotten
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from collections.abc import Callable
from typing import Any

from .._agent.launch import AgentSpec, Descriptor
from .._agent.spare import GO
from .._queue import layout as L
from .._queue.arena import Segment
from .events import facts
from .health import HELLO_TIMEOUT_S, AgentProcess, interrupts_held, make_ready, start_process

logger = logging.getLogger("mpsteal")


class Spares:
    """One spare per slot at most.

    Args:
        make_spec, make_process, segment: as in `Crew`.
        forks: whether a spare may hang on what another thread held when it was forked.
    """

    def __init__(
        self,
        make_spec: Callable[[int], AgentSpec],
        make_process: Callable[..., Any],
        segment: Segment,
        *,
        forks: bool,
    ) -> None:
        self._make_spec, self._make_process, self._forks = make_spec, make_process, forks
        self._words, self._layout = segment.words, segment.layout
        self.selector: selectors.BaseSelector | None = None
        self._waiting: dict[int, tuple[AgentProcess, int]] = {}

    def __contains__(self, slot: int) -> bool:
        return slot in self._waiting

    @property
    def processes(self) -> list[Any]:
        """Their process objects."""
        return [agent.process for agent, _ in list(self._waiting.values())]

    def start(self, slot: int) -> bool:
        """Start one for a slot. False when the system refuses: the agent is replaced when it has left, then."""
        base = self._layout.agent(slot)
        self._words[base + L.SPARE_PID] = self._words[base + L.SPARE_UP] = 0
        go_read = go_write = -1
        try:
            go_read, go_write = os.pipe()
            spec = self._make_spec(slot)._replace(go=Descriptor(go_read))
            with interrupts_held():
                name = f"mpsteal-{slot}"
                agent = start_process(make_ready(self._make_process, spec, name), slot, name)
                self._waiting[slot] = agent, go_write
            if self.selector is not None:
                self.selector.register(agent.open_watch(), selectors.EVENT_READ, ("spare", slot))
        except Exception:
            logger.warning(
                "mpsteal: no spare for agent %d could be started", slot, exc_info=True, extra=facts("spare_failed")
            )
            if slot in self._waiting:
                self.drop(slot)
            elif go_write >= 0:
                os.close(go_write)
            return False
        finally:
            if go_read >= 0:
                os.close(go_read)
        return True

    def is_up(self, slot: int) -> bool:
        """Whether it could take over at once. One that hangs since it was forked is killed here."""
        agent, _ = self._waiting[slot]
        base = self._layout.agent(slot)
        if self._words[base + L.SPARE_UP]:
            return True
        if self._forks and not self._words[base + L.SPARE_PID] and time.monotonic() - agent.started > HELLO_TIMEOUT_S:
            agent.kill_group()
        return False

    def take(self, slot: int) -> AgentProcess | None:
        """Let it be the agent of its slot; None if there is none. Its death is told as that of an agent from now on."""
        if slot not in self._waiting:
            return None
        agent, go = self._waiting.pop(slot)
        with contextlib.suppress(BrokenPipeError):  # it has just died, and will be found dead
            os.write(go, GO)
        os.close(go)
        if self.selector is not None:  # the descriptor is kept: its number may be a stranger's by now
            self.selector.modify(agent.watch_fd, selectors.EVENT_READ, ("death", slot))
        agent.started = time.monotonic()
        return agent

    def died(self, slot: int) -> None:
        """The selector has reported a death."""
        logger.warning("mpsteal: the spare for agent %d died", slot, extra=facts("spare_died"))
        self.drop(slot)

    def drop(self, slot: int) -> None:
        """End it, if there is one; it has done nothing yet."""
        if slot not in self._waiting:
            return
        agent, go = self._waiting.pop(slot)
        os.close(go)
        agent.kill_group()
        if self.selector is not None and agent.watch_fd >= 0:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(agent.watch_fd)
        agent.close_watch()
        agent.process.join()
        agent.release()
        self.clear_words(slot)

    def clear_words(self, slot: int) -> None:
        """Unless there is a spare, no process is named as one: its number may be a stranger's by now, whom the Manager
        would end."""
        if slot not in self._waiting:
            base = self._layout.agent(slot)
            self._words[base + L.SPARE_PID] = self._words[base + L.SPARE_UP] = 0

    def drop_all(self) -> None:
        """The pool ends."""
        for slot in list(self._waiting):
            self.drop(slot)
