"""Questions: what does a large array cost on its way to an agent and back? One object that all tasks read? A function
with a large payload?

    large-in-*, large-out-*, large-both-*   numpy arrays of 8 and 256 MiB, by `imap` over 2 agents; the task sums every
                                            512th byte of its argument, makes its result, or gives back what it got;
                                            60 of 8 MiB and 6 of 256, in the suite 30 and 4
    large-share                             an array of 64 MiB that 20 tasks read: mpsteal's `share`; elsewhere it is
                                            sent with each task
    large-partial-*                         a `functools.partial` with 4 MiB (bytes, array), 200 items, by `imap` and by
                                            `map(chunksize=1)`; `map` without a chunksize, where the stock Pool pickles
                                            the payload 8 times only

Every result is checked. Not told: tasks that read all of what they get (memory's own speed is the same for both),
processes with little memory, and, for `large-share`, what others offer for a value that is known before the workers
start (an initializer, mpire's `shared_objects`) or by ways of their own (ray's `put`, dask's `scatter`).
The first argument of a size finds no memory, the later ones do; the mean is of both. Needs numpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import IMAP, MAP, warm

MIB = 1 << 20


def sum_of(array: Any) -> int:
    return int(array[::512].sum())


def make(size: int, number: int) -> Any:
    import numpy as np

    return np.full(size, number % 251, np.uint8)


def give_back(array: Any) -> Any:
    return array


def sum_of_shared(handle: Any) -> int:
    return sum_of(handle.value)


def length_and(payload: Any, number: int) -> int:
    return len(payload) + number


def _measure(setup: Setup, way: str, mib: int, items: int) -> dict[str, float]:
    size, items = mib * MIB, setup.size(items, 2, max(4, items // 2))
    arrays = [make(size, i) for i in range(3)]
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS, lazy=True)
        function, payload = {
            "in": (sum_of, lambda i: arrays[i % 3]),
            "out": (partial(make, size), lambda i: i % 3),
            "both": (give_back, lambda i: arrays[i % 3]),
        }[way]
        list(pool.imap(function, map(payload, range(AGENTS))))
        began = time.perf_counter()
        got = []
        for result in pool.imap(function, map(payload, range(items))):
            got.append(result if way == "in" else sum_of(result))
            del result
        wall_s = time.perf_counter() - began
    check(got, [sum_of(arrays[i % 3]) for i in range(items)], way)
    moved = size * items * (2 if way == "both" else 1)
    return {"ms": wall_s * 1e3 / items, "gb_s": moved / wall_s / 1e9}


def _measure_share(setup: Setup) -> dict[str, float]:
    array, items = make(setup.size(64, 8) * MIB, 7), 20
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS, lazy=True)
        began = time.perf_counter()
        if pool.share is not None:
            got = list(pool.imap(sum_of_shared, [pool.share(array)] * items))
        else:
            got = list(pool.imap(sum_of, [array] * items))
        wall_s = time.perf_counter() - began
    check(got, [sum_of(array)] * items, "share")
    return {"ms": wall_s * 1e3}


def _measure_partial(setup: Setup, kind: str, how: str) -> dict[str, float]:
    payload, items = bytes(4 * MIB) if kind == "bytes" else make(4 * MIB, 7), setup.size(200, 20)
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS, lazy=how == "imap")
        function = partial(length_and, payload)
        began = time.perf_counter()
        if how == "imap":
            got = list(pool.imap(function, range(items)))
        else:
            got = pool.map(function, range(items), **({"chunksize": 1} if how == "map1" else {}))
        wall_s = time.perf_counter() - began
    check(got, [4 * MIB + i for i in range(items)], how)
    return {"ms": wall_s * 1e3}


def _row(name: str, title: str, measure: Callable[[Setup], dict[str, float]], bound: float | None, unit: str) -> Row:
    figures = [Figure("ms", unit, "ms", None if bound is None else at_most(bound))]
    if "gb_s" in title:
        figures.append(Figure("gb_s", "moved", "GB/s", better="higher"))
        title = title.replace(" gb_s", "")
    needs = frozenset({MAP if name.endswith(("-map", "-map1")) else IMAP})
    package = "" if "bytes" in name else "numpy"
    return Row(name, title, measure, tuple(figures), limit_s=300, needs=needs, package=package)


ROWS = (
    *(
        _row(
            f"large-{way}-{mib}",
            f"arrays of {mib} MiB, {words} gb_s",
            partial(_measure, way=way, mib=mib, items=items),
            1 / 3,
            "per item",
        )
        for mib, items in ((8, 60), (256, 6))
        for way, words in (("in", "arguments"), ("out", "results"), ("both", "there and back"))
    ),
    _row("large-share", "64 MiB that 20 tasks read", _measure_share, 1 / 3, "wall time"),
    *(
        _row(
            f"large-partial-{kind}-{how}",
            f"partial with 4 MiB of {kind}, 200 items, {how}",
            partial(_measure_partial, kind=kind, how=how),
            1 / 20 if how != "map" else None,
            "wall time",
        )
        for kind in ("bytes", "numpy")
        for how in ("imap", "map1", "map")
    ),
)
