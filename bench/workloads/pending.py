"""Question: what does the parent hold for 100,000 tasks that are waiting?

Both agents are held at a gate (a FIFO nobody has written to), 100,000 ``apply_async(noop, (i,))``
are submitted (in the suite 20,000) and their handles kept, and the parent's resident size is read
before and after, each time once it has stopped moving. Then the gate opens and every result is checked. Peer: the stock
Pool.

``rss`` counts shared pages the parent has touched, ``private`` only its own; ``tree`` is the
parent and all processes below it with shared pages split among them, so that memory cannot hide in
another process.

Not told: large arguments (all but the integer is overhead), memory after the tasks have run (an
allocator gives little back), or how it grows beyond this number. Resident size moves in pages and
arenas: differences below 0.2 MiB mean nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench import _rss
from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import warm
from bench._tasks import hold, noop


def measure(setup: Setup) -> dict[str, float]:
    n = setup.size(100_000, 20_000, suite=20_000)  # the same for all: memory comes in steps, which weigh more with few
    with tempfile.TemporaryDirectory() as folder, setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        arrived, gate = str(Path(folder, "arrived")), str(Path(folder, "gate"))
        os.mkfifo(arrived)
        os.mkfifo(gate)
        # Opened after the agents began, read-write: opening never blocks, and when the parent dies
        # the agents read end-of-file and go on.
        arrived_fd, gate_fd = os.open(arrived, os.O_RDWR), os.open(gate, os.O_RDWR)
        held = [pool.apply_async(hold, (arrived, gate)) for _ in range(AGENTS)]
        here = 0
        while here < AGENTS:
            here += len(os.read(arrived_fd, AGENTS))

        before = [_rss.settled(_rss.rss), _rss.private(), _rss.tree()]
        handles = [pool.apply_async(noop, (i,)) for i in range(n)]
        after = [_rss.settled(_rss.rss), _rss.private(), _rss.tree()]

        os.write(gate_fd, b"." * AGENTS)
        check(pool.gather(held), [True] * AGENTS, "pending, gate")
        check(pool.gather(handles), list(range(n)), "pending")
        os.close(arrived_fd)
        os.close(gate_fd)
    names = ("rss", "private", "tree")
    grown = [late - early for early, late in zip(before, after, strict=True)]
    result = {f"{name}_mib": size / _rss.MIB for name, size in zip(names, grown, strict=True)}
    return result | {"rss_bytes_per_task": grown[0] / n, "tree_bytes_per_task": grown[2] / n}


ROWS = (
    Row(
        "pending",
        "memory of pending tasks in the parent",
        measure,
        (
            Figure("rss_mib", "parent grows by (rss)", "MiB", at_most(1 / 3)),
            Figure("private_mib", "of it private", "MiB"),
            Figure("tree_mib", "parent and all below it", "MiB"),
            Figure("tree_bytes_per_task", "the same, per task", "bytes"),
        ),
        main="tree_bytes_per_task",
        not_for=frozenset({"serial"}),
    ),
)
