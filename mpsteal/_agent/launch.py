"""What an agent needs to start (D12); its first steps are in `main.py`."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from multiprocessing import context, reduction
from typing import Any, NamedTuple

from .._queue.layout import Geometry
from .by_value import choose_pickler
from .serialize import Encoder
from .surroundings import Surroundings


class Descriptor:
    """A file descriptor that travels to a child under every start method."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return _received, (reduction.DupFd(self.fd),)


def _received(duplicate: Any) -> Descriptor:
    fd = duplicate.detach()
    # It came through an exec or a socket, and either way programs that tasks start would inherit it.
    os.set_inheritable(fd, False)
    return Descriptor(fd)


_prctl: Any = None


def load_prctl() -> Any:
    """`prctl`, or None. To be called before agents are forked, too: they inherit the function, and need not load it
    each for itself.
    """
    global _prctl
    if _prctl is None and sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            _prctl = ctypes.CDLL(None).prctl
    return _prctl


class Balancing(NamedTuple):
    """What an agent of a scheduler is told about levels, stealing and asking; an agent of a Pool has none of it.

    Attributes:
        steals: whether it takes from others by itself.
        steal_levels: levels that it may take from.
        steal_tasks: chunks of one steal at most; 0: half of a range.
        aging_tasks, levels_per_priority: see `_policy/order.py`.
        ask_ms: how long it waits for something more urgent that the parent holds.
        for_executor: it notes no starts, and what cannot be pickled or unpickled is told as `ProcessPoolExecutor` does.
    """

    steals: bool
    steal_levels: tuple[int, ...]
    steal_tasks: int
    aging_tasks: int
    levels_per_priority: int
    ask_ms: int
    for_executor: bool = False


class AgentSpec(NamedTuple):
    """Everything an agent is told.

    Attributes:
        identity: its name and its capabilities.
        results: write end of this agent's results pipe.
        doorbell: read end of its own doorbell.
        bells: write ends of the doorbells of all agents that there have been so far, by slot.
        parent_watch: a pidfd of the pool's process, readable once that is dead; None where there are none.
        dies_with_starter: whether the kernel may kill it when the thread that started it ends: that thread lives as
            long as the pool may.
        owners_are_fenced: whether agents may take chunks without their locks, see `_queue/barrier.py`.
        finalizer, finalargs: what is called as it leaves in order, or None.
        inherited: the parent's `Segment`, if this process is a fork.
        deques: the parent's `Deques`, with its `Locks`, in a fork: to make them anew takes 0.3 ms there (see
            `main.py`). They hold nothing that changes but for what an agent sets.
        max_tasks: chunks after which the agent leaves, or None.
        balancing: None in a Pool. With it the agent also notes when each chunk was started.
        go: read end of a pipe; not None: it is a spare, and waits there for its turn (`spare.py`).
        surroundings: see `surroundings.py`; None: those of any process.
    """

    slot: int
    identity: tuple[str, frozenset[str]]
    geometry: Geometry
    segment: Descriptor
    locks: list[Descriptor]
    results: Descriptor
    doorbell: Descriptor
    bells: list[Descriptor]
    parent_watch: Descriptor | None
    initializer: Any
    initargs: tuple[Any, ...]
    max_tasks: int | None
    owners_are_fenced: bool
    dies_with_starter: bool = False
    balancing: Balancing | None = None
    inherited: Any = None
    deques: Any = None
    go: Descriptor | None = None
    finalizer: Any = None
    finalargs: tuple[Any, ...] = ()
    surroundings: Surroundings | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping stays behind where the process is not a fork. What is the user's is pickled as tasks are.
        plain = self._replace(inherited=None, deques=None, initializer=None, initargs=(), finalizer=None, finalargs=())
        if self.initializer is None and self.finalizer is None:
            return AgentSpec, tuple(plain)
        calls = {name: getattr(self, name) for name in ("initializer", "initargs", "finalizer", "finalargs")}
        return _with_calls, (tuple(plain), Encoder(choose_pickler(forks=False)).dumps(calls))


def _with_calls(plain: tuple[Any, ...], calls: bytes) -> AgentSpec:
    return AgentSpec(*plain)._replace(**pickle.loads(calls))
