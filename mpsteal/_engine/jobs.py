"""Jobs: many chunks of one function, read from their input as tasks finish (D11).

A `map` has all its chunks at hand. An `imap` reads its iterable as far as its window allows. Input that may run
user code or block (a generator) is read by a feeder thread of its own, as the stock pool reads it outside the thread
that collects results: a generator may wait for results. Plain sequences are read by the engine itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from .terms import NO_TERMS, Terms

WINDOW_CHUNKS = 2048
"""Chunks of one imap in flight. Too few: agents wait for the parent (it wakes every 0.5 to 5 ms); too many: more
memory for payloads and results nobody fetched yet."""

WINDOW_BYTES = 4 << 20
"""Payload bytes of one imap in flight (beyond a few chunks per agent), so that large items do not pile up."""

FEEDER_DEPTH = 512
"""Items a feeder thread reads ahead of the window: enough that a batch finds some, little memory."""

END = object()
WAIT = object()


class JobSink(Protocol):
    """Who gets a job's results."""

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """Chunk `index` is finished."""

    def input_ended(self, count: int, error: BaseException | None) -> None:
        """The input gave `count` chunks; `error` is what reading it raised."""

    def items_of(self, index: int) -> range:
        """Which items of the input chunk `index` has, counted from 0."""


def items_of(sink: Any) -> range | None:
    """The same of whoever waits for a chunk; None: it is of no job."""
    if type(sink) is not tuple:
        return None
    job, index = sink
    items: range = job.sink.items_of(index)
    return items


class Job:
    """Chunks of one function. Engine thread only, but for `consumed`.

    Attributes:
        kind: `layout.KIND_MAP` and so on.
        flags: of its chunks of items, as in the layout.
        number: the function's number once it is sent, or `INLINE_FUNCTION`.
        luggage: what the function has in the segment beside its pickle, or None.
        payloads: what each chunk pickles.
        feeder: who reads the input instead, with a `Feeder`'s `pull` and `stop`; `payloads` is not looked at then.
        window: chunks in flight, or None for all at once.
        buffersize: chunks in flight or finished and not consumed, or None.
        terms: time limit of each item, and how often a chunk may run again.
        deaths: how many agents a chunk has cost, by index, where it may run again.
    """

    def __init__(
        self,
        function: Any,
        kind: int,
        payloads: Iterator[Any],
        sink: JobSink,
        *,
        window: int | None = None,
        buffersize: int | None = None,
        threaded: bool = False,
        wake: Callable[[], None] | None = None,
        feeder: Any = None,
        site: Any = None,
        terms: Terms = NO_TERMS,
        flags: int = 0,
    ) -> None:
        self.function, self.kind, self.sink, self.site = function, kind, sink, site
        self.window, self.buffersize = window, buffersize
        self.terms, self.flags = terms, flags
        self.deaths: dict[int, int] = {}
        self.number: int | None = None
        self.owns_number = False
        self.luggage: Any = None
        self.index = self.finished = self.consumed = 0
        self.bytes_sent = 0
        self.ended = False
        self.closed = False
        self._feeder = Feeder(payloads, FEEDER_DEPTH, wake) if threaded and wake else feeder
        self.pull: Callable[[], Any] = self._feeder.pull if self._feeder else partial(next, payloads, END)
        """The next payload, `END`, or `WAIT` (none yet). Raises what the input raises."""

    def allowance(self, agents: int) -> int:
        """How many more chunks may be sent now."""
        if self.window is None:
            return 1 << 30
        window = self.window
        if self.index:
            mean = self.bytes_sent // self.index
            window = min(window, max(4 * agents, WINDOW_BYTES // max(1, mean)))
        room = window - (self.index - self.finished)
        if self.buffersize is not None:
            room = min(room, self.buffersize - (self.index - self.consumed))
        return room

    def end(self, error: BaseException | None) -> None:
        """The input has ended."""
        self.ended = True
        self.pull = partial(next, iter(()), END)
        self.abandon()
        self.sink.input_ended(self.index, error)

    def abandon(self) -> None:
        """Let the feeder go."""
        if self._feeder is not None:
            self._feeder.stop()
            self._feeder = None

    @property
    def is_done(self) -> bool:
        """Whether every chunk of the whole input is finished."""
        return self.ended and self.finished == self.index


class Feeder:
    """Reads an iterator in a thread of its own, at most `depth` items ahead.

    A daemon thread: a generator that blocks for ever must not keep the program alive. It ends with its input, or at
    the next item after `stop`.
    """

    def __init__(self, iterator: Iterator[Any], depth: int, wake: Callable[[], None]) -> None:
        self._iterator, self._depth, self._wake = iterator, depth, wake
        self._ready: deque[Any] = deque()
        self._room = threading.Event()
        self._room.set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="mpsteal-feeder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ready, iterator, wake = self._ready, self._iterator, self._wake
        del self._iterator
        while not self._stopped:
            if len(ready) >= self._depth:
                self._room.clear()
                if len(ready) >= self._depth and not self._stopped:
                    self._room.wait()
                continue
            try:
                item = next(iterator)
            except StopIteration:
                ready.append((END, None))
                wake()
                return
            except BaseException as error:
                ready.append((None, error))
                wake()
                return
            ready.append((item, None))
            del item
            wake()

    def pull(self) -> Any:
        """See `Job.pull`."""
        if not self._ready:
            return WAIT
        item, error = self._ready.popleft()
        if not self._room.is_set() and len(self._ready) <= self._depth // 2:
            self._room.set()
        if error is not None:
            raise error
        return item

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        self._room.set()
