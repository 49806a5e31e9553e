"""`progress=True` of map-like calls: how many items are done, of how many, how fast, and how long it will take.

    engine --deliver--> Counted --deliver--> the handle         counts, and wakes nobody
                           |
         mpsteal-progress--'  looks every `DRAW_S`, and draws: a bar of tqdm where that is installed, else a line

A thread of its own draws, so neither the engine nor whoever waits depends on the terminal: one that was stopped by
Ctrl-S stops the drawing alone. It ends with the call, or with the pool.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import threading
import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol

from .errors import PoolTerminatedError, TaskCancelledError

DRAW_S = 0.1
"""Time between two looks (s). Shorter takes CPU time from agents, and more than ten a second nobody can read; longer
looks jerky."""

PIPED_S = 10.0
"""The same where standard error is no terminal: each look is a line in a log."""

CLOSE_WAIT_S = 1.0
"""How long the end of a call waits for its last line, which takes microseconds (s). Shorter: a busy machine writes it
after what the program writes next; longer: a terminal stopped by Ctrl-S holds up the program so long."""


class Bar(Protocol):
    """Draws."""

    def show(self, done: int) -> None:
        """So many items are done."""

    def close(self, done: int) -> None:
        """There will be no more."""


class Progress:
    """Counts the finished items of one call, and shows them.

    Args:
        label: what it is called; empty: nothing.
        total: how many items there are; None: unknown.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self.done = 0
        """Written by the engine alone."""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Bar | None = None
        with contextlib.suppress(Exception):  # a closed stream, a broken widget: nothing that a call should fail for
            # Here, not in the thread: a notebook puts it below the cell that makes it.
            self._bar = _make_bar(label, total)

    def start(self) -> None:
        """Begin to draw."""
        if self._bar is None:
            return
        thread = threading.Thread(target=self._run, args=(self._bar,), name="mpsteal-progress", daemon=True)
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread to be had: it is not drawn
            thread.start()
            self._thread = thread

    def end(self) -> None:
        """The call is over. Engine thread."""
        self._over.set()

    def close(self) -> None:
        """Draw no more once what there is has been drawn, and wait for that; not for ever. Any thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)

    def _run(self, bar: Bar) -> None:
        try:
            while not self._over.wait(DRAW_S):
                bar.show(self.done)
        except Exception:  # as in `__init__`
            return
        finally:
            with contextlib.suppress(Exception):
                bar.close(self.done)


class Counted:
    """Between the engine and a handle: counts.

    Args:
        ends_early: whether a chunk may have run fewer items than it has; then its result has so many.
    """

    def __init__(self, sink: Any, progress: Progress, *, ends_early: bool) -> None:
        self._sink, self._progress, self._ends_early = sink, progress, ends_early
        self._left, self._ended = 0, False
        self.items_of = sink.items_of

    def refuse(self, index: int, errors: dict[int, BaseException]) -> None:
        """See `Outcomes.refuse`."""
        self._sink.refuse(index, errors)

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """See `JobSink.deliver`."""
        if ok and self._ends_early:
            self._progress.done += len(value[0])
        elif ok or not isinstance(value, (TaskCancelledError, PoolTerminatedError)):
            self._progress.done += len(self.items_of(index))
        self._left -= 1
        self._sink.deliver(index, ok, value)
        self._look()

    def input_ended(self, count: int, error: BaseException | None) -> None:
        """See `JobSink.input_ended`."""
        self._left += count
        self._ended = True
        self._sink.input_ended(count, error)
        self._look()

    def _look(self) -> None:
        if self._ended and not self._left:
            self._progress.end()


def begin(wanted: bool | str, items: Iterable[Any], sink: Any, *, ends_early: bool) -> tuple[Any, Progress | None]:
    """Have the items of a call counted and shown as they come; gives what is to stand in place of `sink`.

    Raises TypeError when `wanted` is neither a bool nor a string.
    """
    if not isinstance(wanted, (bool, str)):
        raise TypeError(f"progress must be True, False or a description, not {wanted!r}")
    if wanted is False:
        return sink, None
    total: int | None = None
    with contextlib.suppress(Exception):  # a user's `__len__`
        total = operator.length_hint(items, -1)
    progress = Progress("" if wanted is True else wanted, total if total is not None and total >= 0 else None)
    progress.start()
    return Counted(sink, progress, ends_early=ends_early), progress


# -- what draws --------------------------------------------------------------------------------------------------------


def _make_bar(label: str, total: int | None) -> Bar | None:
    stream = sys.stderr
    if stream is None:  # a program without a console
        return None
    try:
        auto: Any = import_module("tqdm.auto")
    except ImportError:
        return Line(label, total, stream)
    is_notebook = auto.notebook_tqdm is not auto.std_tqdm
    return _TqdmBar(auto.tqdm, label, total, is_notebook=is_notebook, is_live=is_notebook or _is_terminal(stream))


class _TqdmBar:
    """tqdm's, without what it leaves behind in the process: its monitor thread, and a lock shared between processes."""

    def __init__(self, kind: Any, label: str, total: int | None, *, is_notebook: bool, is_live: bool) -> None:
        owner = os.getpid()

        class OwnBar(kind):  # type: ignore[misc]  # Any
            monitor_interval = 0
            _lock = threading.RLock()

            def __del__(self) -> None:
                if os.getpid() == owner:  # a fork of this process has a copy, and nothing to draw
                    super().__del__()

        self._is_live = is_live
        self._bar: Any = OwnBar(
            total=total,
            desc=label or None,
            mininterval=0 if is_live else PIPED_S,  # shorter times are kept by who calls `show`
            miniters=1,
            # A notebook puts it where it is made; elsewhere nothing is drawn here, in the caller's thread.
            delay=0 if is_notebook else 1e-9,
        )

    def show(self, done: int) -> None:
        """See `Bar.show`."""
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)
        elif self._is_live:
            self._bar.refresh()  # the time goes on

    def close(self, done: int) -> None:
        """See `Bar.close`."""
        self._bar.mininterval = 0
        self._bar.update(done - self._bar.n)
        self._bar.close()


class Line:
    """One line of text: rewritten on a terminal, else written anew now and then, and at the end."""

    def __init__(self, label: str, total: int | None, stream: Any) -> None:
        self._label, self._total, self._stream = label, total, stream
        self._is_terminal = _is_terminal(stream)
        self._began = self._drawn = time.monotonic()
        self._width = 0

    def show(self, done: int) -> None:
        """See `Bar.show`."""
        now = time.monotonic()
        if self._is_terminal or now >= self._drawn + PIPED_S:
            self._write(done, now, "" if self._is_terminal else "\n")

    def close(self, done: int) -> None:
        """See `Bar.close`."""
        self._write(done, time.monotonic(), "\n")

    def _write(self, done: int, now: float, end: str) -> None:
        self._drawn = now
        text = text_of(self._label, done, self._total, now - self._began)
        if self._is_terminal:
            self._width, blank = len(text), " " * (self._width - len(text))
            text = f"\r{text}{blank}"
        self._stream.write(text + end)
        self._stream.flush()


def text_of(label: str, done: int, total: int | None, elapsed_s: float) -> str:
    """Progress in words: `load: 250/1000 items, 25%, 50.0/s, 0:05, 0:15 left`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{done} items" if total is None else f"{done}/{total} items"]
    if total:
        parts.append(f"{100 * done // total}%")
    parts += [f"{rate:.1f}/s", _clock(elapsed_s)]
    if total is not None and rate and done < total:
        parts.append(f"{_clock((total - done) / rate)} left")
    return (f"{label}: " if label else "") + ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none, or closed
        return False
