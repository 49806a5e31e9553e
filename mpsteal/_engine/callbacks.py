"""User callbacks run in a thread of their own, started with the first one, so that none can hold up the loop.

A handle with a callback becomes ready when its callback has returned, as in the stock pool. A callback that raises
is logged once with its traceback.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from .events import facts
from .waits import in_parts

logger = logging.getLogger("mpsteal")

FLUSH_LOOK_S = 0.05
"""How often who waits for callbacks looks whether their thread has ended (s). Shorter wakes for nothing; longer is
noticed where a pool ends at that moment."""


def join(thread: threading.Thread, is_over: Callable[[], bool]) -> None:
    """Wait for a thread that says itself when it has nothing left to do.

    Once a signal handler has raised in `Thread.join`, that takes the thread for ended, and returns at once ever after
    (CPython 3.10 to 3.12, by what bpo-45274 brought).
    """
    for part in in_parts(None):
        thread.join(part)
        if not thread.is_alive():
            break
    while not is_over():
        time.sleep(0.005)


class EndedThread:
    """Stands for a thread that is over. An engine is in cycles, and until the garbage collector comes it would keep the
    `Thread`, which some test suites take for a leak (CPython's up to 3.10, for one).
    """

    def join(self, timeout: float | None = None) -> None:
        """Nothing to wait for."""

    def is_alive(self) -> bool:
        """No."""
        return False


class CallbackThread:
    """Runs `(callback, value, then)` in order of arrival; `then()` follows whether or not the callback raised."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Callable[[Any], Any], Any, Callable[[], None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._finished = False
        self._is_over = False

    def put(self, callback: Callable[[Any], Any], value: Any, then: Callable[[], None]) -> None:
        """Queue one callback. From another thread than the engine's (a submit that came too late) it runs at once."""
        if self._finished or threading.current_thread() is not self._engine.thread:
            _run_one(callback, value, then)
            return
        if self._thread is None:
            try:
                thread = threading.Thread(target=self._run, name="mpsteal-callbacks", daemon=True)
                thread.start()
            except (RuntimeError, MemoryError):
                # No new threads while the interpreter shuts down, nor when the system has none left or no room for its
                # stack. The handle must be settled all the same.
                with contextlib.suppress(MemoryError):
                    logger.warning(
                        "mpsteal: no thread for a callback, so it is not called (%r)",
                        callback,
                        extra=facts("callback_dropped"),
                    )
                then()
                return
            self._thread = thread
        self._queue.put((callback, value, then))

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                _run_one(*item)
                del item
        finally:
            self._is_over = True

    def flush(self) -> None:
        """Wait until those that are there now have run, unless called from one of them."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        gate = threading.Lock()
        gate.acquire()
        self._queue.put((lambda _: None, None, gate.release))
        while not gate.acquire(timeout=FLUSH_LOOK_S):
            if self._is_over:  # it had ended before
                return

    def finish(self) -> None:
        """No more callbacks will come from the engine."""
        self._finished = True
        if self._thread is not None:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until all have run, unless called from one of them."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            join(thread, lambda: self._is_over)
            self._thread = None


def _run_one(callback: Callable[[Any], Any], value: Any, then: Callable[[], None]) -> None:
    try:
        callback(value)
    except BaseException:  # whatever a user's callback raises, the next one must run
        logger.exception("mpsteal: a callback raised (%r)", callback, extra=facts("callback_raised"))
    then()
