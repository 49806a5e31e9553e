"""What agents print: whole lines, each in one piece, whoever else prints into the same pipe, file or terminal.

    print --> text layer --> the line so far, by thread --"\\n", "\\r" or flush()--> one write

Python's own streams collect 8 KiB where they write to a pipe or a file, and cut lines at its end; unbuffered they
write a line in pieces. Files and terminals take one write as a whole; a pipe does so up to 4 KiB, and a longer one
while it has room. So where it is neither file nor terminal, agents write their lines one after the other, under a lock.

What has no end yet waits for it, for `flush()`, or until the agent has nothing to do. Streams that somebody has put in
the place of Python's own are left alone; those are `sys.__stdout__` and `sys.__stderr__` as before.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import stat
import sys
import threading
import time
from typing import Any

LONGEST_UNFINISHED = 1 << 16
"""Bytes of a line that may wait for its end: fewer cut long lines, more take memory where binary data is written."""

LOCK_WAIT_S = 1.0
"""How long a line waits for another agent's that is being written. That takes as long as the reader lets it, so a line
may come in between then (if somebody has stopped that agent, say): a shorter wait mixes lines where a reader is slow,
a longer one holds up tasks."""

_NB, _UN = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN

unfinished: dict[tuple[int, int], bytearray] = {}
"""Lines without an end, by descriptor and thread."""


class WholeLines(io.BufferedIOBase):
    """The binary layer of an agent's standard stream.

    Args:
        fd, name: of the stream that was there.
        lock: descriptor of a file, and a byte of it, which all agents of the pool lock.
    """

    def __init__(self, fd: int, name: str, lock: tuple[int, int]) -> None:
        self._fd, self.name, self.mode = fd, name, "wb"
        mode = os.fstat(fd).st_mode
        self._lock = None if stat.S_ISREG(mode) or stat.S_ISCHR(mode) else lock
        self._depth = 0
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        # In a fork that a task has made: another thread may have held it.
        self._threads = threading.RLock()
        for key in [key for key in unfinished if key[0] == self._fd]:
            del unfinished[key]

    # -- what a text layer and users ask for --------------------------------------------------------------------------

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """That of the stream which was there."""
        return self._fd

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    @property
    def raw(self) -> Any:
        """What writes without waiting for anything."""
        return io.FileIO(self._fd, "wb", closefd=False)

    def write(self, data: Any) -> int:
        """Write what is whole with it, keep the rest. Raises what the system says, as any stream does."""
        data = bytes(data)
        key = self._fd, threading.get_ident()
        line = unfinished.setdefault(key, bytearray())
        end = 1 + max(data.rfind(b"\n"), data.rfind(b"\r"))
        line += data[:end] if end else data
        if end or len(line) > LONGEST_UNFINISHED:
            if end < len(data) and end:
                unfinished[key] = bytearray(data[end:])
            else:
                del unfinished[key]
            self._put(bytes(line))
        return len(data)

    def flush(self) -> None:
        """Write what this thread has begun."""
        line = unfinished.pop((self._fd, threading.get_ident()), None)
        if line:
            self._put(bytes(line))

    # -- the system ---------------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        with self._threads:
            self._depth += 1
            locked = self._lock is not None and self._depth == 1 and self._try_lock()
            try:
                while data:
                    try:
                        data = data[os.write(self._fd, data) :]
                    except BlockingIOError:  # somebody has made the descriptor non-blocking, which all share
                        poll = select.poll()
                        poll.register(self._fd, select.POLLOUT)
                        poll.poll()
            finally:
                self._depth -= 1
                if locked and self._lock is not None:
                    fcntl.lockf(self._lock[0], _UN, 1, self._lock[1])

    def _try_lock(self) -> bool:
        assert self._lock is not None
        until, pause = time.monotonic() + LOCK_WAIT_S, 0.000_05
        while True:
            try:
                fcntl.lockf(self._lock[0], _NB, 1, self._lock[1])
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    return False
                time.sleep(pause)
                pause = min(0.002, 2 * pause)
            except OSError:  # no locks to be had
                return False
            else:
                return True


def take_over(lock: tuple[int, int]) -> None:
    """Put such streams in the place of Python's own."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or stream is not getattr(sys, f"__{name}__"):
            continue
        with contextlib.suppress(OSError, ValueError):  # closed
            if stream.fileno() == fd:
                stream.flush()
                lines = WholeLines(fd, stream.name, lock)
                text = io.TextIOWrapper(lines, stream.encoding, stream.errors, newline="\n", write_through=True)
                setattr(sys, name, text)


def finish(*, everything: bool = False) -> None:
    """Write what this thread, or any, has begun: the agent has nothing to do, or ends."""
    me = threading.get_ident()
    for key in list(unfinished):
        if everything or key[1] == me:
            line = unfinished.pop(key, b"")
            with contextlib.suppress(OSError):  # nobody reads any more
                os.write(key[0], line)
