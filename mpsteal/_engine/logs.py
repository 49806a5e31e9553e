"""Records that agents log, handled by this program's own loggers, see `_agent/logs.py`.

    pipe --first frame--> the engine starts the thread --> frames --> records --> logging.getLogger(name).handle

A thread of its own, since a user's handler may block. While it does, the pipe fills and agents wait, so no memory
grows; the engine never reads it. Who logs nothing has a pipe, and no thread.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import pickle
import select
import selectors
import threading
from collections.abc import Callable

from .._agent.launch import Descriptor
from .._agent.logs import END, FIRST, FRAME, LAST
from .._queue import layout as L
from .callbacks import join
from .events import facts

logger = logging.getLogger("mpsteal")

READ_BYTES = 1 << 16
"""What is read at once: as much as a pipe holds."""

NUMBERS_KEPT = 4096
"""Numbers of tasks that are over and have logged. They are needed while their records are in the pipe or being read:
128 KiB, in which no more than a thousand find room."""

EXIT_WAIT_S = 1.0
"""How long the end of the program waits for records to be handled: shorter loses them, longer keeps a user waiting
whose handler hangs."""


class LogReader:
    """The parent's end of the pipe.

    Args:
        number_of: what the log calls a chunk that is not over; None: it is. Any thread.
        name_of: what users call the agent of a slot; raises KeyError if there is none.
    """

    def __init__(self, number_of: Callable[[int], int | None], name_of: Callable[[int], int | str]) -> None:
        self._number_of, self._name_of = number_of, name_of
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._thread: threading.Thread | None = None
        self._is_ending = self._is_over = False
        self._numbers: dict[int, int] = {}
        self._names: dict[int, int | str] = {}
        self._begun: dict[int, bytes] = {}

    # -- engine thread --------------------------------------------------------------------------------------------

    @property
    def for_agents(self) -> Descriptor:
        """The other end."""
        return Descriptor(self._write)

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have the first record reported, as `("logs", 0)`."""
        selector.register(self._read, selectors.EVENT_READ, ("logs", 0))

    def start(self, selector: selectors.BaseSelector) -> None:
        """It has been reported."""
        selector.unregister(self._read)
        self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="mpsteal-logs", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return  # none to be had: agents drop what the pipe does not hold, and the rest is handled at the end
        self._thread = thread

    def note(self, chunk: int, number: int) -> None:
        """A chunk that may have logged is about to be over."""
        numbers = self._numbers
        numbers[chunk] = number
        if len(numbers) > NUMBERS_KEPT:
            with contextlib.suppress(StopIteration, KeyError):
                del numbers[next(iter(numbers))]

    def finish(self) -> None:
        """The agents are gone: what is in the pipe is all. Once only."""
        if self._is_ending:
            return
        self._is_ending = True
        if self._thread is None and self._poll.poll(0):
            self._start()
        if self._thread is None:
            self._run()
        else:
            with contextlib.suppress(BlockingIOError):  # full: then there is something to read, and a look after that
                os.write(self._write, FRAME.pack(0, 0, L.NONE, 0, END))
        os.close(self._write)

    # -- any thread -----------------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> None:
        """Wait until all is handled, unless called by a handler."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        if timeout is None:
            join(thread, lambda: self._is_over)
        else:
            thread.join(timeout)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        rest = b""
        try:
            while True:
                if not self._poll.poll(0 if self._is_ending else None):
                    return
                data = rest + os.read(self._read, READ_BYTES)
                at = 0
                while len(data) - at >= FRAME.size:
                    slot, pid, chunk, size, part = FRAME.unpack_from(data, at)
                    if part == END:
                        return
                    if len(data) - at < FRAME.size + size:
                        break
                    at += FRAME.size
                    self._frame(slot, pid, chunk, part, data[at : at + size])
                    at += size
                rest = data[at:]
        finally:
            os.close(self._read)
            self._is_over = True

    def _frame(self, slot: int, pid: int, chunk: int, part: int, piece: bytes) -> None:
        begun = self._begun
        if part & FIRST:
            begun[pid] = piece
        elif pid in begun:
            begun[pid] += piece
        else:
            return  # the rest of one whose begin was dropped
        if part & LAST:
            data = begun.pop(pid)
            try:
                self._record(slot, pid, chunk, data)
            except Exception:  # a user's filter; handlers see to themselves
                with contextlib.suppress(Exception):
                    logger.exception(
                        "mpsteal: a log record of an agent could not be handled",
                        extra=facts("log_failed", agent=self._name(slot, pid), agent_pid=pid),
                    )

    def _record(self, slot: int, pid: int, chunk: int, data: bytes) -> None:
        fields, other = marshal.loads(data)
        agent = self._name(slot, pid)
        if type(fields) is int:
            logger.warning(
                "mpsteal: agent %r (pid %d) has dropped %d log records: they came faster than they are handled here",
                agent,
                pid,
                fields,
                extra=facts("logs_dropped", agent=agent, agent_pid=pid),
            )
            return
        if other is not None:
            with contextlib.suppress(Exception):  # a module that is not there; a user's `__setstate__`
                fields.update(pickle.loads(other))
        for name, value in (("agent", agent), ("agent_pid", pid), ("task", self._number(chunk))):
            fields.setdefault(name, value)  # a user's own `extra` stays
        record = logging.makeLogRecord(fields)
        logging.getLogger(record.name).handle(record)

    def _name(self, slot: int, pid: int) -> int | str:
        try:
            name = self._names[pid] = self._name_of(slot)
        except Exception:  # it was removed meanwhile
            name = self._names.get(pid, slot)
        return name

    def _number(self, chunk: int) -> int | None:
        if chunk < 0:
            return None
        number = self._numbers.get(chunk)
        if number is None:
            with contextlib.suppress(Exception):  # the engine changes what is looked at
                number = self._number_of(chunk)
            # Noted before it was over: if it was over as we looked, it is here now.
            number = self._numbers.get(chunk, number)
        return number


def wait_at_exit(reader: LogReader | None) -> None:
    """Give the handlers a moment."""
    if reader is not None:
        reader.join(EXIT_WAIT_S)
