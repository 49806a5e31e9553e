"""`Executor.map`: one future for each chunk, read in order.

    iterables --chunks--> submit, all at once or `buffersize` ahead --> futures, the oldest first --> results
                                                     '-- an iterator that ends early cancels the rest

The iterator keeps the executor alive only while it has more to submit; the stock one's ends then, without a word.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from .errors import BrokenProcessPool, PoolTerminatedError


def map_calls(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[Any]:
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    until = None if timeout is None else timeout + time.monotonic()
    items = zip(*iterables, strict=False)  # the shortest counts, as for `map`
    calls: Iterator[tuple[Any, ...]] = items
    if chunksize > 1:
        calls = zip(itertools.repeat(fn), iter(lambda: list(itertools.islice(items, chunksize)), []))
        fn = _run_chunk
    first = calls if buffersize is None else itertools.islice(calls, buffersize)
    futures = deque(submit(fn, *call) for call in first)
    more = None if buffersize is None else partial(_submit_next, submit, fn, calls)
    results = _results(futures, more, until)
    return results if chunksize == 1 else _items_of(results)


def _submit_next(submit: Callable[..., Future[Any]], fn: Any, calls: Iterator[tuple[Any, ...]]) -> list[Future[Any]]:
    return [submit(fn, *call) for call in itertools.islice(calls, 1)]


def _results(
    futures: deque[Future[Any]],
    more: Callable[[], list[Future[Any]]] | None,
    until: float | None,
) -> Iterator[Any]:
    called_back: list[Any] = []
    try:
        while futures:
            if more is not None:
                futures.extend(more())
            # The future is in no variable while its result is out: users may count on its end.
            yield _result_of(futures, None if until is None else until - time.monotonic(), called_back)
    except GeneratorExit:  # perhaps by the garbage collector, in any thread: who waits there may wait for ever
        _cancel(futures, wait=False)
        raise
    except BaseException:
        _cancel(futures, wait=True)
        raise
    for engine in called_back:
        # Who has hung callbacks on its futures (tqdm does) finds all of them run at the end, as good as with the stock
        # executor, whose callbacks run in the thread that brings the results.
        with contextlib.suppress(PoolTerminatedError, BrokenProcessPool):  # it has ended, and handed over all
            engine.call(_nothing)  # so that it has handed over the last
        engine.callbacks.flush()


def _cancel(futures: Iterable[Any], *, wait: bool) -> None:
    """Cancel those of one executor's futures that have not started, together."""
    wanted = {future for future in futures if not future.done()}
    home = next(filter(None, (future._home for future in wanted)), None)
    if home is None or home._engine.owner_pid != os.getpid():
        return
    cancel = partial(home.cancel_queued, wanted)
    if wait:
        with contextlib.suppress(BrokenProcessPool):  # the engine has ended, and they with it
            home._engine.call(cancel)
    else:
        home._engine.call_nowait(cancel)


def _nothing() -> None:
    pass


def _result_of(futures: deque[Any], left_s: float | None, called_back: list[Any]) -> Any:
    future = futures.popleft()
    try:
        return future.result(left_s)
    finally:
        if not future.done():
            futures.appendleft(future)  # it is late, and is to be cancelled with the others
        elif not called_back and future._done_callbacks and future._home is not None:
            called_back.append(future._home._engine)
        del future  # what it raised has this frame


def _items_of(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _run_chunk(fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in chunk]
