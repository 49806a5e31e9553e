"""Records that tasks log, on their way to the parent's `logging`.

    logger --> root's handler --> one pipe of the pool, in frames --> a thread of the parent --> its loggers' handlers

All agents write into the same pipe. A frame is no longer than what the system writes as a whole, so no lock is needed,
between threads of one agent neither, and a killed agent leaves no half of one. What is in the pipe survives its sender.

A full pipe means that the parent's handlers are slower than the records come: then a task waits, but not for ever, and
drops records, counted, while the pipe stays full. The parent writes one warning for each such time.

A record that a handler of the agent's own takes (one that the initializer has set up, say) is not sent. Handlers that
come from the parent's set-up, by the fork or since the main module was imported once more, are put aside: their records
are written by the parent. Levels are those that the parent's loggers had when the agent started, so what nobody wants
costs what it costs in the parent.

`logging` itself is not imported for this (7 ms in a spawned agent): who imports it finds the handler there.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import select
import sys
import time
from struct import Struct
from typing import TYPE_CHECKING, Any

from .._queue import layout as L

if TYPE_CHECKING:
    import logging

    from .loop import Agent

FRAME = Struct("=HIqHB")
"""Slot, process, chunk (`layout.NONE`: outside of tasks), bytes that follow, and which part of a record that is."""

# Parts of a record, which may be both; and the parent's word to its own thread that nothing more will come.
FIRST, LAST, END = 1, 2, 4

# What a pipe takes as a whole (POSIX: 512 at least; Linux: 4096).
FRAME_BYTES = min(select.PIPE_BUF, 4096)

LARGEST_RECORD = 1 << 20
"""Bytes of a record; longer messages and tracebacks are cut: fewer cut what people want to read, more let one record
keep all others waiting."""

FULL_WAIT_S = 1.0
"""How long a task waits for room in the pipe, until records are dropped: a shorter time loses records when the parent
is in one long C call, a longer one holds tasks up where its handlers hang."""

NOTICE_EVERY_S = 1.0
"""Least time between two reports of dropped records, which become a warning each: shorter repeats itself, longer tells
late."""

CUT = " ... (cut)"

_PLAIN = frozenset({int, float, str, bytes, bool, type(None), complex})

logged: list[int] = []
"""Chunks that have logged since a scheduler's agent has told the parent which ones: that knows its tasks by other
numbers, and forgets what is over, perhaps before it reads what they have logged."""


class Sender:
    """Writes records into the pipe. Any thread, one after the other: `logging` holds its handler's lock."""

    def __init__(self, fd: int, slot: int) -> None:
        self._fd, self._slot = fd, slot
        self._is_busy = self._is_stalled = False
        self._later: list[tuple[int, bytes]] = []
        self._dropped = 0
        self._notice_at = 0.0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._later, self._dropped, self._is_busy = [], 0, False

    def chunk(self) -> int:
        """What the agent runs."""
        agent = _agent
        if agent is None:
            return L.NONE
        words, base = agent.words, agent.base
        return L.NONE if words[base + L.STATE] != L.READY or words[base + L.PARKED] else words[base + L.CLAIM]

    def send(self, record: bytes) -> None:
        """Send one record, or drop it."""
        chunk = self.chunk()
        if _is_noting and chunk >= 0 and logged[-1:] != [chunk]:
            logged.append(chunk)
        self._later.append((chunk, record))
        if self._is_busy:
            return  # a signal handler, or `__del__`, that logs while we send: who was interrupted goes on with it
        self._is_busy = True
        try:
            while self._later:
                chunk, record = self._later.pop(0)
                if not self._send_one(chunk, record):
                    self._dropped += 1
                elif self._dropped and time.monotonic() >= self._notice_at:
                    self._notice()
        finally:
            self._is_busy = False

    def finish(self) -> None:
        """The agent ends: tell what was not told yet."""
        if self._dropped:
            self._is_stalled = False
            self._notice()

    def _notice(self) -> None:
        if self._send_one(L.NONE, marshal.dumps((self._dropped, None))):
            self._dropped = 0
            self._notice_at = time.monotonic() + NOTICE_EVERY_S

    def _send_one(self, chunk: int, record: bytes) -> bool:
        most = FRAME_BYTES - FRAME.size
        pid = os.getpid()
        for at in range(0, len(record), most):
            piece = record[at : at + most]
            part = (0 if at else FIRST) | (LAST if at + most >= len(record) else 0)
            if not self._write(FRAME.pack(self._slot, pid, chunk, len(piece), part) + piece):
                return False
        return True

    def _write(self, frame: bytes) -> bool:
        until = 0.0
        while True:
            try:
                os.write(self._fd, frame)
            except BlockingIOError:
                if self._is_stalled:
                    return False
                now = time.monotonic()
                until = until or now + FULL_WAIT_S
                if now >= until:
                    self._is_stalled = True
                    return False
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(max(1, int(1000 * (until - now))))
            except OSError:  # nobody is there any more
                return False
            else:
                self._is_stalled = False
                return True


_sender: Sender | None = None
_agent: Agent | None = None
_is_noting = _is_set_up = False
_put_aside: list[Any] = []
"""Handlers of the parent. They are kept: to be freed they would write what they hold."""


def install(fd: int, slot: int, levels: tuple[dict[str, int], int] | None) -> None:
    """From here on records go to the parent.

    Args:
        fd: write end of the pipe, non-blocking.
        levels: of the parent's loggers, by name, and below which all is off; None: this is a fork.
    """
    global _sender
    _sender = Sender(fd, slot)
    if "logging" in sys.modules:
        _arrived(levels)
    else:
        sys.meta_path.insert(0, _AtImport(levels))


def attach(agent: Agent) -> None:
    """The agent is there, and knows what it runs. A fork of a scheduler's agent, for a pool inside a task, notes no
    chunks for it."""
    global _agent, _is_noting
    _agent, _is_noting = agent, False
    logged.clear()


def note_chunks() -> list[int]:
    """Note in `logged`, which this gives, who logs: the agent tells its parent."""
    global _is_noting
    _is_noting = True
    return logged


def initialized() -> None:
    """The initializer has run. Only now root gets the handler: before, `logging.basicConfig` would do nothing."""
    global _is_set_up
    _is_set_up = True
    logging: Any = sys.modules.get("logging")
    if _sender is not None and logging is not None and logging.lastResort not in logging.root.handlers:
        logging.root.addHandler(logging.lastResort)


def finish() -> None:
    """The agent ends."""
    if _sender is not None:
        with contextlib.suppress(Exception):
            _sender.finish()


class _AtImport:
    """Finds `logging` as Python does, and sets it up when it is there."""

    def __init__(self, levels: tuple[dict[str, int], int] | None) -> None:
        self._levels = levels

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder`. 0.1 us for every other module."""
        if name != "logging":
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)  # all that is asked of it is this method
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec: Any = next((found for found in specs if found is not None), None)
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                _arrived(self._levels, module)

            spec.loader.exec_module = exec_module
        return spec


def _arrived(levels: tuple[dict[str, int], int] | None, module: Any = None) -> None:
    """`logging` is imported."""
    logging: Any = module or sys.modules["logging"]
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    for logger in loggers:
        if module is None:  # else it is fresh
            _put_aside.append(logger.handlers)
            logger.handlers = []
            logger.propagate = True  # to root, whose handler asks the parent's loggers
    if levels is not None:
        by_name, off_below = levels
        for name, level in by_name.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(off_below)
    assert _sender is not None
    handler = _handlers[0] if _handlers else _make_handler(logging)
    handler.sender = _sender
    logging.lastResort = handler
    if _is_set_up:
        logging.root.addHandler(logging.lastResort)


_handlers: list[Any] = []
"""The parent's only, if it has made any agent's beforehand: an agent that is forked has it, and sets `sender`."""


def prepare() -> None:
    """In the parent, before agents are forked: make the handler once for all of them (0.15 ms for each)."""
    if not _handlers:
        import logging

        _handlers.append(_make_handler(logging))


def _make_handler(logging: Any) -> Any:
    def is_taken(record: logging.LogRecord, handler: Any) -> bool:
        logger = logging.getLogger(record.name)
        while logger is not None:
            for other in logger.handlers:
                if other is not handler and record.levelno >= other.level and type(other) is not logging.NullHandler:
                    return True
            logger = logger.parent if logger.propagate else None
        return False

    class Handler(logging.Handler):  # type: ignore[misc]  # Any
        """Sends what no handler of the agent's own takes."""

        sender: Sender

        def emit(self, record: logging.LogRecord) -> None:
            """See `logging.Handler`."""
            try:
                if not is_taken(record, self):
                    self.sender.send(encode(record, logging.Formatter().formatException))
            except Exception:
                self.handleError(record)

    return Handler()


def encode(record: logging.LogRecord, format_exception: Any) -> bytes:
    """A record as bytes: plain data, which can always be read, and apart from it what else a user has attached.

    Arguments stay apart from the message where they are plain data.
    """
    facts = dict(record.__dict__)
    facts.pop("message", None)
    if facts["exc_info"]:
        facts["exc_text"] = facts["exc_text"] or format_exception(facts["exc_info"])
    facts["exc_info"] = None
    args = facts["args"]
    if type(facts["msg"]) is not str or not _is_plain(args):
        facts["msg"], facts["args"] = record.getMessage(), None
    other = {name: facts.pop(name) for name in [n for n, v in facts.items() if not _is_plain(v)]}
    data = marshal.dumps((facts, _pickled(other) if other else None))
    if len(data) <= LARGEST_RECORD:
        return data
    message = record.getMessage()
    facts = {name: value for name, value in facts.items() if type(value) in _PLAIN}
    facts["msg"], facts["args"] = _cut(message), None
    for name in [name for name, value in facts.items() if type(value) in (str, bytes)]:
        facts[name] = _cut(facts[name]) if type(facts[name]) is str else facts[name][: 1 << 12]
    return marshal.dumps((facts, None))


def _cut(text: str) -> str:
    most = LARGEST_RECORD // 16
    return text if len(text) <= most else text[:most] + CUT


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether it is of types that need no pickle, through and through. `marshal` itself makes bytes of other things."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind in (tuple, list) and depth and len(value) < 1000:
        return all(_is_plain(item, depth - 1) for item in value)
    if kind is dict and depth and len(value) < 1000:
        return all(_is_plain(key, 0) and _is_plain(item, depth - 1) for key, item in value.items())
    return False


def _pickled(values: dict[str, Any]) -> bytes:
    """What can be pickled as it is, the rest in words."""
    for name, value in values.items():
        try:
            pickle.dumps(value)
        except Exception:  # a user's `__reduce__`
            values[name] = _words(value)
    return pickle.dumps(values)


def _words(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # a user's `__repr__`
        return f"a {type(value).__qualname__} whose repr() fails"


def levels_here() -> tuple[dict[str, int], int]:
    """In the parent: what its loggers let through."""
    import logging

    root = logging.root
    found = {
        name: logger.level
        for name, logger in list(root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"root": root.level, **found}, root.manager.disable
