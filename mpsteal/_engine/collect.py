"""From result rings to handles. Engine thread only."""

from __future__ import annotations

import logging
import pickle
from typing import Any

from .._agent.serialize import decode_error
from .._queue import layout as L
from .._queue import results as R
from .._queue.arena import Segment
from .._queue.locks import Locks
from .dispatch import Dispatcher
from .events import facts

logger = logging.getLogger("mpsteal")


class Collector:
    """Reads the rings and resolves whoever waits for a chunk."""

    def __init__(self, segment: Segment, locks: Locks, dispatcher: Dispatcher, agents: int, waiting: list[Any]) -> None:
        self.waiting = waiting
        self.waking: list[Any] = []
        """Handles that are done and have waiters. Woken when the engine is about to sleep: each waiter then finds all
        that there is, and need not stand in line for the interpreter."""
        self.words, self.layout = segment.words, segment.layout
        self.dispatcher = dispatcher
        self._segment, self._locks = segment, locks
        self.readers: list[R.ResultReader] = []
        self.collected: list[int] = []
        """Chunks whose results were read, per slot: what `DONE` has to be (I6)."""
        self.init_error: BaseException | None = None
        while len(self.readers) < agents:
            self.add_reader()

    def add_reader(self) -> None:
        """There is one slot more."""
        self.readers.append(R.ResultReader(self._segment, len(self.readers), self._locks))
        self.collected.append(0)

    def collect(self, *slots: int) -> int:
        """Deliver everything these agents have committed; returns how many chunks that were."""
        found = sum([self._collect(slot) for slot in slots])
        if self.dispatcher.blocks.lent:
            self.dispatcher.blocks.sweep()
        return found

    def wake(self) -> None:
        """Let those go who wait for single results that are there now."""
        waking, self.waking = self.waking, []
        for sink in waking:
            sink._wake_waiters(self.waiting)

    def _collect(self, slot: int) -> int:
        waking = self.waking
        reader = self.readers[slot]
        dispatcher = self.dispatcher
        pages, blocks = dispatcher.pages, dispatcher.blocks
        page_chunks = pages.page_chunks
        loads = pickle.loads
        value: Any
        page: Any = None
        sinks: list[Any] = []
        in_blocks: dict[int, tuple[int, int]] = {}
        first = -page_chunks
        found = done = 0
        for chunk, kind, payload in reader.drain():
            found += 1
            ok = True
            if kind == R.INT:
                value = payload
            elif kind == R.VOID:
                value = None
            elif kind == R.VALUE:
                try:
                    value = loads(payload)
                except BaseException as error:  # user code: __setstate__, __reduce__, missing modules
                    ok, value = False, error
            elif kind >= R.CHILD:
                found -= not dispatcher.children.receive(slot, reader, chunk, kind, payload)
                continue
            else:
                ok, value = self._decode(reader, kind, payload)
                if chunk == R.INIT_ERROR:
                    self.init_error = value
                    found -= 1
                    continue
            i = chunk - first
            if not 0 <= i < page_chunks:
                page = pages.find(chunk)
                if page is None:
                    self.finish(chunk, ok, value)
                    first = -page_chunks
                    continue
                first, sinks, in_blocks = page.first, page.sinks, page.blocks
                i = chunk - first
            sink = sinks[i]
            sinks[i] = None
            if in_blocks and i in in_blocks:
                blocks.free(*in_blocks.pop(i))
            page.left = left = page.left - 1
            if not left and page.closed:
                pages.free(page)
                first = -page_chunks
            if sink is None:
                continue
            done += 1
            if type(sink) is tuple:
                job, index = sink
                job.finished += 1
                try:
                    job.sink.deliver(index, ok, value)
                except BaseException:
                    logger.exception("mpsteal: delivering a result failed", extra=facts("delivery_failed"))
                if job.ended:
                    dispatcher.job_maybe_done(job)
            elif sink._callbacks is None:
                # `AsyncResult._settle`, spelled out: this is paid for every task.
                sink._success = ok
                sink._value = value
                sink._done = True
                sink._pool = None
                if sink._waited:
                    waking.append(sink)
            else:
                sink._resolve(ok, value)
        # Also when there was nothing: an agent that set this after our last look has rung for it.
        if self.words[self.layout.agent(slot) + L.RING_FULL]:
            self.dispatcher.ring(slot)
        self.collected[slot] += found
        dispatcher.inflight -= done
        return found

    def _decode(self, reader: R.ResultReader, kind: int, payload: bytes) -> tuple[bool, Any]:
        """Errors, and what was too large for the ring."""
        try:
            if kind == R.STORED_APART:
                pickled, buffers = reader.fetch_apart(payload)
                return True, pickle.loads(pickled, buffers=buffers)
            stored: Any = payload if kind == R.ERROR else reader.fetch(payload)
            if kind == R.STORED_VALUE:
                return True, pickle.loads(stored)
            return False, decode_error(stored)
        except BaseException as error:  # user code again, or no memory for it
            return False, error

    def finish(self, chunk: int, ok: bool, value: Any) -> bool:
        """Settle one chunk away from the others: its agent died, say. False if it was settled before."""
        dispatcher = self.dispatcher
        sink = dispatcher.pages.finish(chunk)
        if sink is None:
            return False
        dispatcher.inflight -= 1
        dispatcher.settle(sink, ok, value)
        return True

    def is_pending(self, chunk: int) -> bool:
        """Whether somebody still waits for this chunk."""
        return self.dispatcher.pages.sink_of(chunk) is not None
