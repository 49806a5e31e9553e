"""One agent's process: start, watch, end (D6, D12). Engine thread only, but for the first start; see `crew.py`."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, popen_fork
from typing import Any, TypeVar

from .._agent.launch import AgentSpec
from .._agent.main import agent_main
from .._agent.surroundings import Name

START_FAILURES_ALLOWED = 3
"""Deaths in a row before an agent could take work, per agent and while no other can, until the pool gives up: one is
bad luck, a broken main module is not."""

START_KILLS_ALLOWED = 10
"""The same where the last one was killed from outside (SIGKILL, SIGTERM): that may stop; when it is the kernel's
out-of-memory killer, it will not. With the pauses between them that is about 6 s."""

HELLO_TIMEOUT_S = 60.0
"""A forked agent that has not said hello by then is killed and counted: it can hang on a lock that another thread held.
Others first import the main module, which may take any time, as in the stock pool. Too short kills agents on a machine
that is short of memory or cores; too long replaces one that hangs late."""


_Answer = TypeVar("_Answer")


def _ask(pid: int, question: Callable[[Any], _Answer], otherwise: _Answer) -> _Answer:
    """Ask the system about a `psutil.Process`; `otherwise` if it is gone, or no descriptor is free for that."""
    try:
        import psutil  # here: 10 ms to import, and few pools ever look

        try:
            return question(psutil.Process(pid))
        except psutil.Error:
            return otherwise
    except (OSError, MemoryError, ImportError):  # psutil cannot be imported without a descriptor either
        return otherwise


def _cpu_s(process: Any) -> float:
    return float(sum(process.cpu_times()[:4]))


class AgentProcess:
    """One process in a slot."""

    def __init__(self, slot: int, process: Any) -> None:
        self.slot, self.process = slot, process
        self.started = time.monotonic()
        self.done_before = 0
        """Chunks finished in its slot before it."""
        self.lost_task: int | None = None
        """What it ran as it died, in the log's terms."""
        self.why_recycled = ""
        """What limit it has passed, in words."""
        self.spare_at = self.spare_pause_s = 0.0
        """When a successor may be tried again (monotonic clock, s; 0.0: none was tried yet), and the pause before."""
        self.watch_fd = -1
        self.owns_fd = False
        self.exitcode: int | None = None

    def open_watch(self) -> int:
        """A descriptor that is readable once the process is dead.

        A pidfd where there is one: end-of-file on the sentinel proves nothing while a forked relative of the agent
        holds a copy of the pipe.
        """
        if hasattr(os, "pidfd_open"):
            try:
                self.watch_fd = os.pidfd_open(self.process.pid)
                self.owns_fd = True
            except ProcessLookupError:
                self.watch_fd = self.process.sentinel  # already dead and reaped by the fork server
            except OSError:
                self.watch_fd = self.process.sentinel
        else:
            self.watch_fd = self.process.sentinel
        return self.watch_fd

    def close_watch(self) -> None:
        """Give the descriptor back."""
        if self.owns_fd:
            os.close(self.watch_fd)
        self.watch_fd, self.owns_fd = -1, False

    def release(self) -> None:
        """Give back the descriptors of a process that has been joined: users may keep its object for long (I4)."""
        with contextlib.suppress(AttributeError, OSError):
            self.process._popen.close()

    def kill_group(self) -> None:
        """SIGKILL to the agent and to what its tasks started.

        The agent leads the group, and a group's number is not given away while anybody is in it. Its own pid is only
        used while the process object has not seen its end.
        """
        pid = self.process.pid
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        if self.watch_fd >= 0:  # still watched: not known to be dead, perhaps not yet leading a group
            self._signal(signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it (SIGSTOP, say), or a debugger; False also where that cannot be told."""
        return _ask(self.process.pid, lambda process: process.status() in ("stopped", "tracing-stop"), False)

    def rss_bytes(self) -> int:
        """Its resident memory; 0: it cannot be told."""
        return _ask(self.process.pid, lambda process: int(process.memory_info().rss), 0)

    def cpu_s(self) -> float:
        """CPU time that it, and those of its children that have ended, have used so far (s); 0.0: it cannot be told."""
        return _ask(self.process.pid, _cpu_s, 0.0)

    def children_cpu_s(self) -> float:
        """The same of the processes that it has started and that are there still. Reads all of /proc (5 ms at 100
        processes)."""
        nobody: list[int] = []
        children = _ask(self.process.pid, lambda process: [c.pid for c in process.children(recursive=True)], nobody)
        return sum([_ask(pid, _cpu_s, 0.0) for pid in children])

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            if self.owns_fd:  # a pidfd, which is never a stranger's
                signal.pidfd_send_signal(self.watch_fd, number)
            else:
                os.kill(self.process.pid, number)

    def was_killed(self) -> bool:
        """Whether a signal has ended it, to be asked before it is joined; False also where that cannot be told."""
        if not hasattr(os, "waitid"):
            return False
        try:
            end = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            return end is not None and end.si_code != os.CLD_EXITED
        except OSError:  # the fork server's child, or `multiprocessing` has fetched its end as it started another
            return (self.process.exitcode or 0) < 0

    def terminate(self) -> None:
        """SIGTERM to the agent."""
        self._signal(signal.SIGTERM)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back in this thread, and in what it starts until that lets it through again.

    A child belongs to the terminal's foreground group until it has made its own; a Ctrl-C in between would end it
    with a traceback of its own. `agent_main` unblocks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Have a Ctrl-C that comes inside take effect at the end, by the handler that was there before.

    What is half-built cannot be ended: an interrupt on the way out of `Thread.start` left a thread that runs on memory
    which was given back, one in an at-fork hook of `logging` left its lock held. A mask would not do: the system gives
    the signal to any thread that does not block it, and Python runs the handler in the main thread all the same.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # no Python handler ever runs in another thread
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])


_processes: weakref.WeakSet[Any] = weakref.WeakSet()
"""Process objects of all agents, from before their start for as long as they live."""


def _disown() -> None:
    # Agents are no children of this process; `multiprocessing` would try to join them when it exits.
    children: set[Any] = getattr(multiprocessing.process, "_children", set())
    children.difference_update(_processes)


os.register_at_fork(after_in_child=_disown)


def make_ready(make: Callable[..., Any], spec: AgentSpec, name: str) -> Any:
    """The process object of an agent that is to be started."""
    given = spec.surroundings
    process = make(target=agent_main, args=(spec,), name=name if given is None else Name(name, given.environment))
    _processes.add(process)
    return process


def start_process(process: Any, slot: int, name: str) -> AgentProcess:
    """Start what `make_ready` has made for a slot; to be called inside `interrupts_held`.

    Raises what starting a process raises (OSError when the system refuses).
    """
    try:
        process.start()
        if isinstance(getattr(process, "name", None), Name):
            process.name = name
    except OSError as error:
        _close_pipes_of_failed_fork(error)
        raise
    pid = getattr(process, "pid", None)
    if isinstance(pid, int):
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # the child does the same; whoever is first
    return AgentProcess(slot, process)


def _close_pipes_of_failed_fork(error: OSError) -> None:
    """Where the system refuses a fork, `multiprocessing` leaves the two pipes open that it made for it (CPython 3.10 to
    3.13), and where it refuses the second pipe, the first: up to four descriptors for every try, of which there may be
    sixty.
    """
    launch: Any = popen_fork.Popen._launch  # type: ignore[attr-defined]  # not in typeshed
    connect = forkserver.ForkServer.connect_to_new_process
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code in (launch.__code__, connect.__code__):  # no other: a look at our own frame's names makes a cycle
            names = trace.tb_frame.f_locals
            is_left = "parent_w" not in names if code is connect.__code__ else not hasattr(names["self"], "pid")
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if is_left and name in names:
                    os.close(names[name])
        trace = trace.tb_next
