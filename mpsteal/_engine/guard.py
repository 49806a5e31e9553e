"""The Manager's process as the engine sees it: started late, started again if it dies, asked to leave at the end.

What runs in that process, and why there is one, is told in `_queue/manager.py`. Engine thread only.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import select
import selectors
import shutil
import signal
import tempfile
import time

from .._queue.arena import Segment
from .._queue.manager import run_bare, start_guard
from .events import facts
from .health import interrupts_held

logger = logging.getLogger("mpsteal")

FORK_AFTER_S, SPAWN_AFTER_S = 0.05, 0.25
"""When the first one is started: it costs as much as an agent (a fork of the parent, or an interpreter beside those of
the agents), which pools that live for milliseconds should not pay. Until then agents watch the parent themselves
whenever they are not inside a task."""

AGAIN_FIRST_S, AGAIN_LAST_S = 0.01, 10.0
"""Pause before the next one, doubled with each that dies: one death is an accident, and a process that cannot live
must not keep the engine busy."""

PLACES = ("/tmp", "/var/tmp", "/usr/tmp", os.curdir)
"""Where temporary files go if the environment does not say it, in the order of `tempfile`."""

GRACE_MS = 1000
"""How long the end of a pool waits for its Manager to leave before it is killed (ms); it takes about 1 ms."""


def _name_folder() -> str:
    """Where the Manager's folder is to be; nothing is made. Raises `OSError` if there is no place for it.

    Not `tempfile.mkdtemp`: that makes it, and before that a file, to see whether it can write. Whoever is killed before
    its Manager is there leaves both behind.
    """
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    places = [tempfile.tempdir] if tempfile.tempdir is not None else [*named, *PLACES]
    for place in places:
        if os.access(place, os.W_OK | os.X_OK):
            return os.path.join(os.path.abspath(os.fsdecode(place)), f"mpsteal-{secrets.token_hex(8)}")
    raise OSError(errno.EACCES, f"no folder that can be written to: {places}")


class Guard:
    """One pool's Manager.

    Attributes:
        pid: its process; 0 while there is none.
        due: when to call `start`, by `time.monotonic()`; None: not until something happens.
        folder: where its sockets live, 0700, made when it has been started; "" before, and where there is no place.
        authkey: what a `QueueManager` needs to talk to it.
    """

    def __init__(
        self, segment: Segment, life: int, parent_watch: int | None, selector: selectors.BaseSelector, *, forks: bool
    ) -> None:
        self._segment, self._life, self._parent_watch = segment, life, parent_watch
        self._selector, self._forks = selector, forks
        self.pid = 0
        self.due: float | None = time.monotonic() + (FORK_AFTER_S if forks else SPAWN_AFTER_S)
        self.folder = ""
        self.authkey = secrets.token_bytes(32)
        self._control = self._watch = -1
        self._pause = AGAIN_FIRST_S

    def start(self) -> None:
        """Start the process; work goes on if that fails, and it is tried again."""
        self.due = None
        try:
            if not self.folder:
                self._choose_folder()
            with interrupts_held():
                self.pid, self._control = start_guard(
                    self._segment,
                    self._life,
                    self._parent_watch,
                    self.folder,
                    self.authkey,
                    fork=self._forks,
                    run=run_bare,
                )
            if self.folder:
                self._make_folder()
            if hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):
                    self._watch = os.pidfd_open(self.pid)
                    self._selector.register(self._watch, selectors.EVENT_READ, ("guard", 0))
        except (OSError, RuntimeError):  # RuntimeError: no forks while the interpreter shuts down (3.12)
            logger.exception("mpsteal: the Manager could not be started; trying again", extra=facts("manager_failed"))
            self._try_later()

    def _choose_folder(self) -> None:
        try:
            self.folder = _name_folder()
        except OSError as error:
            self._tell_unreachable(error)

    def _make_folder(self) -> None:
        """Only now that the Manager is there, which removes it when we are killed, and serves once it is made."""
        try:
            with contextlib.suppress(FileExistsError):  # its predecessor's
                os.mkdir(self.folder, 0o700)
        except OSError as error:
            self.folder = ""
            self._tell_unreachable(error)

    def _tell_unreachable(self, error: OSError) -> None:
        """Without its folder the Manager serves nobody, and watches."""
        text = "mpsteal: no place for the Manager's sockets, so nobody can attach to this pool: %s"
        logger.warning(text, error, extra=facts("manager_unreachable"))

    def died(self) -> None:
        """The process is gone, and nobody asked it to leave."""
        logger.warning("mpsteal: the Manager process died; starting a new one", extra=facts("manager_died"))
        self._reap()
        self._try_later()

    def _leaves_in(self, limit_ms: int) -> bool:
        """Whether the process ends by itself in that time (ms), for all that we can see."""
        if self._watch < 0:
            return True
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        return bool(poll.poll(limit_ms))

    def _try_later(self) -> None:
        self.due = time.monotonic() + self._pause
        self._pause = min(AGAIN_LAST_S, 2 * self._pause)

    def _reap(self) -> None:
        with contextlib.suppress(OSError):
            os.waitpid(self.pid, 0)
        self.pid = 0
        if self._watch >= 0:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._watch)
            os.close(self._watch)
            self._watch = -1
        os.close(self._control)

    def stop(self) -> None:
        """Have it leave, and wait until it has; remove its folder."""
        self.due = None
        if self.pid:
            with contextlib.suppress(OSError):
                os.write(self._control, b"q")
            # Where it is an interpreter of its own it may still be starting. All it would do at its end is done by us.
            if not self._forks or not self._leaves_in(GRACE_MS):
                with contextlib.suppress(OSError):
                    if self._watch >= 0:
                        signal.pidfd_send_signal(self._watch, signal.SIGKILL)
                    elif not self._forks:
                        os.kill(self.pid, signal.SIGKILL)
            self._reap()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
