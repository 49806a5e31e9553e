"""From result rings to tasks: the collector of a scheduler. Engine thread only.

    ring: note (start, run time), result, note, result, ...  -->  by task: value, times
                                                             -->  all that succeeded, at once: counts, then wake

Tasks that succeeded and have no terms, which are most, are settled together at the end of a reading (1.1 us a task less
than one by one). Nobody sees one as over before it is counted.
"""

from __future__ import annotations

import pickle
from typing import Any

from .._queue import layout as L
from .._queue import results as R
from .collect import Collector
from .terms import NO_TERMS

NOT_NOTED = (-1, 0, 0)

SETTLE_BYTES = 1 << 16
"""Before a result of so many bytes is unpickled, which takes its time, those before it are settled: fewer settle often,
more let their waiters wait."""


class TaskCollector(Collector):
    """Reads the rings and resolves tasks."""

    noted = NOT_NOTED
    """What an agent tells of the result at hand: slot, start (monotonic clock, ns), run time (ns)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._noted_before: dict[int, tuple[int, int]] = {}
        """Start and run time, by slot, where the result was not there yet: it is pickled later, which may take long."""

    def _collect(self, slot: int) -> int:
        dispatcher: Any = self.dispatcher
        pages, blocks = dispatcher.pages, dispatcher.blocks
        page_chunks = pages.page_chunks
        loads = pickle.loads
        value: Any
        page: Any = None
        sinks: list[Any] = []
        first = -page_chunks
        found = done = 0
        began, run = self._noted_before.pop(slot, (0, 0))
        over: list[Any] = []
        try:
            for chunk, kind, payload in self.readers[slot].drain():
                if chunk < 0 and chunk != R.INIT_ERROR:  # no chunk: when the next one was started, see `Agent.serve`
                    began, run = -chunk, payload
                    continue
                found += 1
                ok = True
                if kind == R.INT:
                    value = payload
                elif kind == R.VOID:
                    value = None
                elif kind >= R.CHILD:
                    found -= not dispatcher.children.receive(slot, self.readers[slot], chunk, kind, payload)
                    continue
                else:
                    if over and (kind != R.VALUE or len(payload) > SETTLE_BYTES):
                        dispatcher.succeeded(slot, over)
                        over = []
                    if kind == R.LOGGED:
                        dispatcher.note_logged(chunk)
                        found -= 1
                        continue
                    if kind == R.VALUE:
                        try:
                            value = loads(payload)
                        except BaseException as error:  # user code: __setstate__, __reduce__, missing modules
                            ok, value = False, error
                    else:
                        ok, value = self._decode(self.readers[slot], kind, payload)
                        if chunk == R.INIT_ERROR:
                            self.init_error = value
                            found -= 1
                            continue
                i = chunk - first
                if not 0 <= i < page_chunks:
                    page = pages.find(chunk)
                    if page is None:
                        self.noted, began = ((slot, began, run) if began else NOT_NOTED), 0
                        self.finish(chunk, ok, value)
                        self.noted = NOT_NOTED  # it may have been settled before
                        first = -page_chunks
                        continue
                    first, sinks = page.first, page.sinks
                    i = chunk - first
                sink = sinks[i]
                sinks[i] = None
                if page.blocks and i in page.blocks:
                    blocks.free(*page.blocks.pop(i))
                page.left = left = page.left - 1
                if not left and page.closed:
                    pages.free(page)
                    first = -page_chunks
                if sink is None:
                    began = 0
                    continue
                done += 1
                if ok and began and sink._terms is NO_TERMS:
                    sink._result = value
                    sink._started_ns = began
                    sink._completed_ns = began + run
                    over.append(sink)
                else:
                    self.noted = (slot, began, run) if began else NOT_NOTED
                    sink._resolve(ok, value, ran=True)
                began = 0
        finally:
            if over:
                dispatcher.succeeded(slot, over)
            dispatcher.inflight -= done
            self.collected[slot] += found
        if began:
            self._noted_before[slot] = (began, run)
        # Also when there was nothing: an agent that set this after our last look has rung for it.
        if self.words[self.layout.agent(slot) + L.RING_FULL]:
            dispatcher.ring(slot)
        return found
