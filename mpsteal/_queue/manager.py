"""The Manager: a process of its own that outlives a dying parent, ends its agents, and is an address (D7).

    parent --control byte--> guard loop --- parent's pidfd readable, or its life's lock free: SIGKILL every agent's
                                  |         process group, leave
                                  |
                                  `-- after SERVE_AFTER_S, in threads, on sockets in the pool's private folder:
                                      QueueManager's server (status), and one that hands out the segment's descriptor

No task passes through it. The stock manager's server does not watch its parent, so the guard loop does, and serves
only when the pool has lived a while: most pools are over before anybody could ask. Each client has a thread of its own
from the moment it connects, so one that says nothing keeps nobody waiting. Nothing is unpickled before it has proven
that it knows the key; see docs/explanation/security.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import AuthenticationError, connection, managers, reduction
from typing import Any

from . import layout as L
from .arena import Segment
from .locks import ParentLife

LOOK_EVERY_S = 0.5
"""How often the guard asks whether the parent has become another program (`os.execv`), which its pidfd does not tell
(nor does end-of-file on the control pipe, while a forked child of the parent holds a copy). Shorter costs wake-ups,
0.1 ms of CPU each; longer leaves the agents alone with their tasks for that long."""

SERVE_AFTER_S = 0.2
"""How long the guard waits before it serves: sooner, short pools pay for imports and a socket they never use."""

STATE_NAMES = {
    L.VACANT: "empty",
    L.STARTING: "starting",
    L.READY: "ready",
    L.LEAVING: "leaving",
    L.INIT_FAILED: "failed",
}


def agent_status(segment: Segment, slot: int) -> dict[str, Any]:
    """One agent: slot, pid, state, chunks done, seconds busy, steals, and so on. Plain data, read without locks."""
    words, base = segment.words, segment.layout.agent(slot)
    parked = bool(words[base + L.PARKED])
    is_running = not parked and words[base + L.STATE] == L.READY and words[base + L.CLAIM] != L.NONE
    return {
        "slot": slot,
        "pid": words[base + L.PID] or None,  # never 0, which `os.kill` takes for whoever calls it
        "state": STATE_NAMES.get(words[base + L.STATE], "unknown"),
        "tasks_done": words[base + L.DONE],
        "busy_s": words[base + L.BUSY_NS] / 1e9,
        "steals": words[base + L.STEALS],
        "steals_failed": words[base + L.STEALS_FAILED],
        "chunks_stolen": words[base + L.CHUNKS_STOLEN],
        "chunks_lost": words[base + L.STOLEN_FROM],
        "repairs": words[base + L.REPAIRS],
        "parked": parked,
        # Since the start of what it took last, which may just be over.
        "running_s": max(0.0, (time.monotonic_ns() - words[base + L.STARTED_NS]) / 1e9) if is_running else 0.0,
    }


def all_status(segment: Segment) -> list[dict[str, Any]]:
    """`agent_status` of every slot that ever had an agent."""
    return [agent_status(segment, slot) for slot in range(segment.words[L.SLOTS_USED])]


class _Attachment:
    """Server side of what outsiders may ask for."""

    segment: Segment | None = None

    def status(self) -> list[dict[str, Any]]:
        """See `all_status`."""
        assert self.segment is not None
        return all_status(self.segment)

    def geometry(self) -> L.Geometry:
        """What the descriptor's layout follows from."""
        assert self.segment is not None
        return self.segment.layout.geometry


_attachment = _Attachment()


class QueueManager(managers.BaseManager):
    """The address other processes attach to: `QueueManager(address, authkey).connect()`, then `.queue()`."""

    def attach(self) -> Segment:
        """Map the pool's segment into this process. Nothing is deleted when this process exits."""
        geometry = self.queue().geometry()  # type: ignore[attr-defined]
        address = _descriptor_address(str(self.address))
        with connection.Client(address, "AF_UNIX", bytes(self._authkey)) as peer:  # type: ignore[attr-defined]
            fd = reduction.recv_handle(peer)
        os.set_inheritable(fd, False)  # those that come through a socket are
        return Segment(fd, L.Layout(geometry))


QueueManager.register("queue", callable=lambda: _attachment, exposed=("status", "geometry"))


def _descriptor_address(address: str) -> str:
    """Where the segment's descriptor is handed out, from the manager's own address."""
    return os.path.join(os.path.dirname(address), "segment")


def guard_main(
    segment: Segment,
    control: int,
    life: int,
    parent_watch: int | None,
    folder: str,
    authkey: bytes,
) -> None:
    """The Manager's process: watch the parent until it says stop or is dead. Never returns: ends the process.

    The parent makes the folder once this process is there to remove it. Until then, or without one (""), it serves
    nobody, and watches all the same.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setsid()
    keep = [segment.fd, control, life] + ([] if parent_watch is None else [parent_watch])
    segment.fd, control, life, *rest = _keep_only(keep)
    parent_watch = rest[0] if rest else None
    parent = ParentLife(life, segment.layout.geometry.slots)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if parent_watch is not None:
        poll.register(parent_watch, select.POLLIN)
    serving = False
    while True:
        ready = poll.poll(1000 * (LOOK_EVERY_S if serving or not folder else SERVE_AFTER_S))
        fds = [fd for fd, _ in ready]
        # A dying process closes its files before its pidfd tells: end-of-file without a word means the same.
        silent = control in fds and not os.read(control, 1)
        if silent or parent_watch in fds or (not ready and parent.is_over()):
            end_agents(segment)
            break
        if control in fds:
            break
        if not serving and os.path.isdir(folder):
            serving = True
            _serve(segment, folder, authkey)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _keep_only(keep: list[int]) -> list[int]:
    """Close all but `keep`: a guard that held copies of the user's pipes would keep their readers waiting.

    Returns the kept ones, moved out of the way of 0 to 2 (where they are if the program was started without stdin).
    """
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if fd < 3 else fd for fd in keep]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    last = 2
    for fd in kept:
        os.set_inheritable(fd, False)  # they are, in a bare interpreter
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, max(last + 1, min(os.sysconf("SC_OPEN_MAX"), 1 << 16)))
    return kept


def _serve(segment: Segment, folder: str, authkey: bytes) -> None:
    """Start to serve, on sockets (0600) in the pool's private folder (0700)."""
    _attachment.segment = segment
    os.umask(0o177)  # for good: this process makes nothing else
    address = os.path.join(folder, "manager")
    for left in (address, _descriptor_address(address)):  # by a Manager that was killed: nobody can bind there again
        with contextlib.suppress(OSError):
            os.unlink(left)
    with contextlib.suppress(OSError):
        # First, so that it is there for everybody who finds the manager's.
        listener = connection.Listener(_descriptor_address(address), "AF_UNIX", backlog=16)
        _start_thread(listener, _hand_out, listener, segment.fd, authkey)
        server: Any = QueueManager(address, authkey).get_server()
        _start_thread(server.listener, _serve_forever, server)


def _start_thread(served: Any, function: Callable[..., None], *args: Any) -> None:
    """Where the system has no thread left, `served` is closed: who asks is refused at once, and to watch goes on."""
    try:
        threading.Thread(target=function, args=args, daemon=True).start()
    except RuntimeError:
        served.close()


def _serve_forever(server: Any) -> None:
    with contextlib.suppress(SystemExit):
        server.serve_forever()


def _hand_out(listener: connection.Listener, fd: int, authkey: bytes) -> None:
    """Accept clients that want the segment's descriptor.

    Not by `reduction.DupFd`, which is what multiprocessing has for it: that serves clients in turn, so one that says
    nothing keeps all others waiting, and its socket's folder stays when this process is gone.
    """
    while True:
        try:
            client = listener.accept()
        except OSError:  # no descriptor is left, or the client has gone again
            time.sleep(0.05)
            continue
        _start_thread(client, _hand_to, client, fd, authkey)


def _hand_to(client: Any, fd: int, authkey: bytes) -> None:
    with client, contextlib.suppress(OSError, EOFError, AuthenticationError):
        connection.deliver_challenge(client, authkey)
        connection.answer_challenge(client, authkey)
        reduction.send_handle(client, fd, 0)


def end_agents(segment: Segment) -> None:
    """SIGKILL the process group of every agent, until none is left that leads its own group."""
    words, layout = segment.words, segment.layout
    deadline = time.monotonic() + 1.5
    quiet, ended = 0, set()
    while quiet < 3 and time.monotonic() < deadline:
        quiet += 1
        bases = [layout.agent(slot) for slot in range(layout.geometry.slots)]
        places = [base + at for base in bases for at in (L.PID, L.SPARE_PID)] + [*range(L.LINGERERS, L.HEADER_WORDS)]
        for at in places:
            pid = words[at]
            # Once each: where nobody reaps orphans, a dead leader can be signalled for ever.
            if pid > 1 and pid not in ended and kill_group(pid):
                ended.add(pid)
                quiet = 0
        # An agent that was being started may register late; look again until it is quiet.
        time.sleep(0.05)


def kill_group(pid: int) -> bool:
    """SIGKILL a process group if its leader is still that process; whether there was one."""
    try:
        if os.getpgid(pid) != pid:
            return False
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def _expect_fork_warning() -> None:
    """Hide what CPython 3.12 says of the fork of a threaded program, where that fork is the guard's.

    A filter that stays, since `catch_warnings` is not for threads: one that overlaps another thread's puts that one's
    state back after it has ended, and the program's warnings end up in a list that nobody reads.
    """
    if sys.version_info >= (3, 12):
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning, re.escape(__name__) + "$")


def start_guard(
    segment: Segment,
    life: int,
    parent_watch: int | None,
    folder: str,
    authkey: bytes,
    *,
    fork: bool,
    run: Callable[..., int],
) -> tuple[int, int]:
    """Start the guard; returns its pid and the write end of its control pipe. `life`: see `ParentLife`.

    With `fork` it is a fork of this process (2 ms); otherwise `run` starts a bare interpreter without the user's
    main module (spawn is chosen by people whose main module must not be forked).
    """
    read_end, write_end = os.pipe()
    try:
        if fork:
            _expect_fork_warning()
            pid = os.fork()
            if pid == 0:
                try:
                    guard_main(segment, read_end, life, parent_watch, folder, authkey)
                finally:
                    os._exit(1)
        else:
            pid = run(segment, read_end, life, parent_watch, folder, authkey)
        # It leaves the group by itself a little later; a pool inside a task is killed with that task's group.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return pid, write_end


def run_bare(segment: Segment, control: int, life: int, parent_watch: int | None, folder: str, authkey: bytes) -> int:
    """Start the guard in a bare interpreter: no site packages scan, no main module.

    Isolated (-I) and with our folder last: with `-c` alone the current directory comes first on the path, and a
    `selectors.py` that somebody left in it would be run.
    """
    from multiprocessing import spawn, util
    from pathlib import Path

    root = str(Path(__file__).resolve().parents[2])
    watch = -1 if parent_watch is None else parent_watch
    key_read, key_write = os.pipe()
    # Not on the command line, where every user can read it. One write, so one read gets it all (PIPE_BUF).
    os.write(key_write, bytes([len(authkey)]) + authkey + os.fsencode(folder))
    os.close(key_write)
    code = (
        f"import sys; sys.path.append({root!r}); from mpsteal._queue.manager import bare_main; "
        f"bare_main({segment.fd}, {tuple(segment.layout.geometry)!r}, {control}, {life}, {watch}, {key_read})"
    )
    executable = os.fsencode(spawn.get_executable() or sys.executable)
    fds = [segment.fd, control, life, key_read] + ([parent_watch] if parent_watch is not None else [])
    try:
        return util.spawnv_passfds(executable, [executable, b"-S", b"-I", b"-c", code.encode()], fds)
    finally:
        os.close(key_read)


def bare_main(fd: int, geometry: tuple[int, ...], control: int, life: int, watch: int, key_read: int) -> None:
    """Entry point of `run_bare`'s interpreter."""
    told = os.read(key_read, select.PIPE_BUF)
    os.close(key_read)
    authkey, folder = told[1 : 1 + told[0]], os.fsdecode(told[1 + told[0] :])
    segment = Segment(fd, L.Layout(L.Geometry(*geometry)))
    guard_main(segment, control, life, None if watch < 0 else watch, folder, authkey)
