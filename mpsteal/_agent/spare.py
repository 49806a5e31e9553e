"""A spare: a process that is to take an agent's slot over, and gets ready while that agent still works.

    import, initializer --> "up" --> wait for the parent's word --go--> the agent of that slot
                                          '-- the parent is dead, or needs it no more: end

It touches no word of the slot but its own two: the others belong to the agent that is there.
"""

from __future__ import annotations

import contextlib
import os
import select

from .._queue import layout as L
from .._queue.arena import Segment
from .._queue.locks import ParentLife
from . import logs, surroundings
from .launch import AgentSpec

LOOK_MS = 500
"""Between two looks whether the parent lives, where there is no descriptor that tells (ms): shorter wakes for nothing,
longer outlives it by so much."""

GO = b"g"


def wait_turn(spec: AgentSpec) -> tuple[AgentSpec, BaseException | None] | None:
    """Get ready and wait.

    Returns:
        The spec to go on with, and what the initializer raised; None: it is not wanted any more.
    """
    assert spec.go is not None
    segment = spec.inherited or Segment(spec.segment.fd, L.Layout(spec.geometry))
    words, base = segment.words, segment.layout.agent(spec.slot)
    words[base + L.SPARE_PID] = os.getpid()
    parent = ParentLife(spec.locks[-1].fd, spec.geometry.slots)
    poll = select.poll()
    if spec.parent_watch is not None:
        poll.register(spec.parent_watch.fd, select.POLLIN)
    if poll.poll(0) or parent.is_over():
        return None  # only now: from here on the Manager sees this process
    failure: BaseException | None = None
    if spec.initializer is not None:
        surroundings.set_up()
        try:
            spec.initializer(*spec.initargs)
        except BaseException as error:
            failure = error
    logs.initialized()
    words[base + L.SPARE_UP] = 1
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # the latter: nobody is there any more, see below
        os.write(spec.results.fd, b"r")
    poll.register(spec.go.fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll(None if spec.parent_watch is not None else LOOK_MS)]
        if spec.go.fd in ready:
            word = os.read(spec.go.fd, 1)
            os.close(spec.go.fd)
            return (spec._replace(inherited=segment, go=None), failure) if word == GO else None
        if ready or parent.is_over():
            return None
