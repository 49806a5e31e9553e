"""Re-checks the design's invariants I1, I2 and I6 on a living engine. For tests: it looks at every chunk.

Where it may run: in the engine thread, between two turns; or in any thread while the pool is quiescent, that is while
nobody submits and no task begins or ends (all agents are parked, or held inside a task). `validate` waits for that
and refuses when it does not come. It takes no lock and writes nothing, since locks belong to the engine thread (D5).

    I1  a numbered chunk with a sink is in exactly one of: the backlog, a range, a claim, an uncollected result
    I2  one sink per handle, none of them resolved; counts of pages, jobs and the engine agree with the sinks
    I6  an agent's DONE equals what was collected from it; when nothing is in flight, all queues are empty
"""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from .._queue import layout as L
from .._queue import results as R

if TYPE_CHECKING:
    from .loop import Engine

SETTLE_S = 30.0
"""How long `validate` waits for quiescence: an alarm, not a pace."""


def validate(engine: Engine) -> None:
    """Check everything; raises AssertionError with the facts, also when the pool never gets quiescent."""
    _wait_quiescent(engine)
    places = _places(engine)
    sinks = _check_sinks(engine)
    for chunk in sinks:
        found = places[chunk]
        assert len(found) == 1, f"I1 chunk {chunk} is in {found or 'no place'}"
    for chunk, found in places.items():
        assert chunk in sinks, f"I1 chunk {chunk} is in {found}, but nobody waits for it"
    _check_idle(engine)
    engine.dispatcher.validate()


def _wait_quiescent(engine: Engine) -> None:
    inside = threading.current_thread() is engine.thread
    deadline = time.monotonic() + SETTLE_S
    while True:
        # Twice, since the engine may have been awake for a moment after the first look.
        restless = [_restless(engine, inside) for _ in range(2)]
        if not any(restless):
            return
        assert time.monotonic() < deadline, f"not quiescent, so nothing can be checked: {restless}"
        time.sleep(0.001)


def _restless(engine: Engine, inside: bool) -> str:
    """Who is still moving, in words; empty when nobody is."""
    # One with more to do calls itself asleep for a moment at the start of its next turn.
    if not inside and (not engine.asleep or engine.pending or engine.dispatcher.has_more):
        return "the engine is at work"
    if not engine.crew.is_settled:
        return "a death is being settled"
    if engine.dispatcher.resizer.moving:
        return "what an agent that left had queued is being moved"
    layout, words = engine.segment.layout, engine.words
    for slot in engine.slots:
        base = layout.agent(slot)
        if words[base + L.STATE] != L.READY:
            return f"agent {slot} is not ready"
        if words[base + L.RESULT_TAIL] != words[base + L.RESULT_HEAD] and words[base + L.PARKED]:
            return f"the results of agent {slot} are being collected"
        if not words[base + L.PARKED] and not engine.collector.is_pending(words[base + L.CLAIM]):
            return f"agent {slot} is between two tasks"
    return ""


def _places(engine: Engine) -> dict[int, list[str]]:
    """Every place each chunk is in."""
    places: dict[int, list[str]] = {}

    def put(chunk: int, place: str) -> None:
        places.setdefault(chunk, []).append(place)

    for lo, hi in engine.dispatcher.kept():
        for chunk in range(lo, hi):
            put(chunk, "the backlog")
    engine.deques.validate()
    committed, suspended = _uncollected(engine)
    for chunk in committed:
        put(chunk, "a ring of results")
    for slot in engine.slots:
        ranges = engine.deques.ranges(slot)
        for lo, hi in ranges:
            for chunk in range(lo, hi):
                put(chunk, f"the deque of agent {slot}")
        claim = engine.words[engine.segment.layout.agent(slot) + L.CLAIM]
        # A claim stays written when its chunk is finished, and does not count before the range has moved past it.
        counts = claim != L.NONE and claim not in committed and not any(lo == claim for lo, _ in ranges)
        if counts and engine.collector.is_pending(claim):
            put(claim, f"the claim of agent {slot}")
        for chunk, place in engine.dispatcher.children.places(slot, suspended[slot]):
            if chunk not in committed:
                put(chunk, place)
    for found in places.values():
        found.sort()
    return _WithDefault(places)


class _WithDefault(dict[int, list[str]]):
    def __missing__(self, chunk: int) -> list[str]:
        return []


def _uncollected(engine: Engine) -> tuple[set[int], list[list[int]]]:
    """Chunks whose results are committed and not collected, and those that are said to be suspended, by slot; read from
    a copy, so that nothing is consumed."""
    found: list[int] = []
    suspended: list[list[int]] = []
    for reader in engine.collector.readers:
        peek: Any = copy.copy(reader)
        peek.words = {at: reader.words[at] for at in (reader.head_at, reader.tail_at)}
        records = [(chunk, kind) for chunk, kind, _ in peek.drain() if chunk >= 0]  # below: notes
        found += [chunk for chunk, kind in records if kind not in R.NO_RESULTS]
        suspended.append([chunk for chunk, kind in records if kind == R.SUSPENDED])
    twice = [chunk for chunk, n in Counter(found).items() if n > 1]
    assert not twice, f"I2 committed twice: {twice}"
    return set(found), suspended


def _check_sinks(engine: Engine) -> set[int]:
    """Chunks that somebody waits for."""
    waited: set[int] = set()
    handles: Counter[Any] = Counter()
    per_job: Counter[Any] = Counter()
    dispatcher = engine.dispatcher
    for page in dispatcher.pages.table:
        if page is None:
            continue
        assert len(page.sinks) == page.used, f"I2 page {page.first}: {len(page.sinks)} sinks for {page.used} chunks"
        live = [i for i, sink in enumerate(page.sinks) if sink is not None]
        assert len(live) == page.left, f"I2 page {page.first}: {page.left} chunks left, {len(live)} waited for"
        for i in live:
            sink = page.sinks[i]
            waited.add(page.first + i)
            if type(sink) is tuple:
                per_job[sink[0]] += 1
                handles[(id(sink[0]), sink[1])] += 1
            else:
                is_over = sink._is_finished if hasattr(sink, "_is_finished") else sink._done  # a task, or a handle
                assert not is_over, f"I2 chunk {page.first + i} is in flight and its handle is resolved"
                handles[id(sink)] += 1
    for chunk, sink in dispatcher.pages.adrift.items():
        waited.add(chunk)
        if type(sink) is tuple:
            per_job[sink[0]] += 1
    twice = [key for key, n in handles.items() if n > 1]
    assert not twice, f"I2 {len(twice)} handles have more than one chunk"
    assert dispatcher.inflight == len(waited), f"I6 inflight is {dispatcher.inflight}, {len(waited)} waited for"
    for job in dispatcher.jobs:
        out = job.index - job.finished
        carried = (
            dispatcher._carry is not None and type(dispatcher._carry[3]) is tuple and dispatcher._carry[3][0] is job
        )
        assert out == per_job[job] + carried, f"I2 a job has {out} chunks out, {per_job[job]} of them waited for"
    return waited


def _check_idle(engine: Engine) -> None:
    layout, words, deques = engine.segment.layout, engine.words, engine.deques
    for slot in engine.slots:
        base = layout.agent(slot)
        if words[base + L.PARKED]:
            done, collected = words[base + L.DONE], engine.collector.collected[slot]
            assert done == collected, f"I6 agent {slot} has done {done} chunks, {collected} were collected"
    if engine.dispatcher.inflight:
        return
    backlog = [(lo, hi) for lo, hi in engine.dispatcher.kept() if lo < hi]
    assert not backlog, f"I6 idle with a backlog: {backlog[:5]}"
    for slot in engine.slots:
        assert not deques.queued(slot), f"I6 idle with {deques.queued(slot)} chunks queued at agent {slot}"
