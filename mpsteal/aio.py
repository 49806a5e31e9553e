"""`AsyncPool`: a pool of agents for asyncio, over the engine of `Pool`.

    async with mpsteal.AsyncPool() as pool:
        value = await pool.apply(func, (1,))
        async for value in pool.imap(func, range(1000)):
            ...

Nothing here waits in the thread of the event loop: `_aio_handles.py` tells how results come.

One pool may serve several loops in several threads: each future belongs to the loop that asked.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from ._agent.shared import Shared
from ._aio_handles import Call, IMap, IMapUnordered, Mailbox, Map, Source
from ._engine.jobs import END, FEEDER_DEPTH, WINDOW_CHUNKS, Job
from ._engine.loop import NOBODY
from ._engine.terms import Terms
from ._policy.chunking import CHUNKS_AHEAD_PER_AGENT
from ._queue.layout import KIND_CALL, KIND_MAP, KIND_STARMAP
from .errors import PoolTerminatedError
from .maps import PLAIN_INPUTS, batches, check_count, terms_for
from .pool import TERMINATE, Pool
from .stats import PoolStats

R = TypeVar("R")

BUFFER_CHUNKS = 1024
"""Chunks of an `imap` in flight, or finished and not yet fetched, where the caller does not say. Fewer: agents run out
of work while the loop is busy with something else; more: more results lie in memory when the consumer is slow."""


class AsyncPool:
    """A pool of agents for asyncio: `async with mpsteal.AsyncPool(...) as pool`.

    Takes what `Pool` takes. The agents are started on the way in. On the way out, no input of `imap` is read any
    further, and what other tasks still await is waited for; where the body raises or is cancelled, the agents are ended
    at once instead, and those calls raise `PoolTerminatedError`.

    A call whose awaiting task is cancelled never runs if it is still queued. If it runs, it runs on and its result is
    dropped; with `end_running=True` the process of its agent is killed and replaced, at the cost of no other task.
    `CancelledError` comes out of the `await` once that is done (a second cancellation does not wait for it).

    Raises what `Pool` raises, on the way in.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        **options: Any,
    ) -> None:
        self._arguments = (processes, initializer, initargs, maxtasksperchild)
        self._context, self._options = context, options
        self._started: Pool | None = None
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._iterators: weakref.WeakSet[AsyncIMapIterator[Any]] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<AsyncPool {'not started' if self._started is None else self._started!r}>"

    # -- beginning and end ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> AsyncPool:
        _running_loop()
        if self._started is not None:
            raise RuntimeError("an AsyncPool is entered only once; make another one")
        context = self._context
        if context is None or isinstance(context, str):
            context = multiprocessing.get_context(context)

        def start() -> Pool:
            return Pool(*self._arguments, context, **self._options)

        if context.get_start_method() == "fork":
            # A fork is quick, and best made by the thread that the agents are to live as long as.
            self._started = start()
        else:
            self._started = await _in_thread(start, Pool.terminate)
        return self

    async def __aexit__(self, exc_type: object, *exc_info: object) -> None:
        if exc_type is None:
            self.close()
        else:
            self.terminate()
        try:
            await self.join()
        except asyncio.CancelledError:
            self.terminate()
            await self.join()
            raise

    def close(self) -> None:
        """Take no more calls, and read no more input; the agents leave when all is done. Returns at once.

        An `imap` whose input has not been read to its end raises `PoolTerminatedError` after the results there are.
        """
        pool = self._pool
        for iterator in list(self._iterators):
            iterator._cut()
        pool.close()

    def terminate(self) -> None:
        """End the agents now; whoever awaits a call gets `PoolTerminatedError`. Returns at once."""
        pool = self._pool
        pool._state = TERMINATE
        pool._engine.terminate()

    async def join(self) -> None:
        """Wait until all agents are gone. Raises ValueError unless `close` or `terminate` was called before."""
        await _in_thread(self._pool.join)

    async def share(self, value: R) -> Shared[R]:
        """See `Pool.share`; the copying is done in a thread."""
        return await _in_thread(partial(self._pool.share, value))

    def stats(self) -> PoolStats:
        """See `Pool.stats`."""
        return self._pool.stats()

    @property
    def _pool(self) -> Pool:
        pool = self._started
        if pool is None:
            raise RuntimeError("the AsyncPool has not been started: `async with pool:` does that")
        return pool

    def _mailbox(self) -> Mailbox:
        """That of the running loop; the pool has to be running as well."""
        loop = _running_loop()
        self._pool._check_running()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            for other in list(self._mailboxes):
                if other.is_closed():
                    self._mailboxes.pop(other, None)
            mailbox = self._mailboxes.setdefault(loop, Mailbox(loop, self._pool))
        return mailbox

    # -- calls ------------------------------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006  the stock signature
        *,
        timeout: float | None = None,
        retries: int = 0,
        end_running: bool = False,
    ) -> Coroutine[Any, Any, R]:
        """Call `func(*args, **kwds)` in an agent; await the value.

        Args:
            func, args, kwds, timeout, retries: as in `Pool.apply_async`.
            end_running: whether cancelling the awaiting task ends the call even if it runs.

        Raises what the call raises, or what `AsyncResult.get` does; ValueError where the pool takes no more calls.
        """
        return self._apply(func, args, kwds, _site(), terms_for(timeout, retries), end_running)

    async def _apply(self, func: Any, args: Any, kwds: Any, site: Any, terms: Terms, end_running: bool) -> Any:
        mailbox = self._mailbox()
        call = Call(mailbox, terms)
        call._code, call._instruction = site
        call._function, call._args, call._kwds = func, args, kwds
        engine = self._pool._engine
        call._watched = engine.dispatcher.limits.watched
        if terms.timeout_ns:
            engine.dispatcher.limits.watch(call)
        engine.submit(call)
        return await mailbox.outcome(call, call, end_running)

    def map(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any] | AsyncIterable[Any],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        end_running: bool = False,
    ) -> Coroutine[Any, Any, list[R]]:
        """`[func(x) for x in iterable]` over the agents, in order; await the list. Arguments as in `Pool.map` and here
        in `apply`."""
        return self._map(func, iterable, KIND_MAP, chunksize, _site(), terms_for(timeout, retries), end_running)

    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        end_running: bool = False,
    ) -> Coroutine[Any, Any, list[R]]:
        """`map` of `func(*x)`."""
        return self._map(func, iterable, KIND_STARMAP, chunksize, _site(), terms_for(timeout, retries), end_running)

    async def _map(
        self, func: Any, iterable: Any, kind: int, chunksize: int | None, site: Any, terms: Terms, end_running: bool
    ) -> Any:
        mailbox = self._mailbox()
        if chunksize is not None:
            check_count("chunksize", chunksize, 0, "None lets the pool choose")
        if isinstance(iterable, AsyncIterable):
            items: Any = [item async for item in iterable]
        elif type(iterable) in PLAIN_INPUTS:
            items = iterable if type(iterable) in (tuple, range) else list(iterable)
        else:
            iter(iterable)  # what cannot be iterated is refused in the caller's words
            items = await _in_thread(lambda: list(iterable))
        if not items:
            return []
        mailbox = self._mailbox()  # the pool may have been closed meanwhile
        agents = self._pool._processes
        result = Map(mailbox, len(items))
        window = None if chunksize else CHUNKS_AHEAD_PER_AGENT * agents
        job = Job(func, kind, result.pieces(items, chunksize, agents), result, window=window, site=site, terms=terms)
        self._pool._submit_job(job)
        return await mailbox.outcome(result, job, end_running)

    # -- iterators --------------------------------------------------------------------------------------------------

    def imap(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any] | AsyncIterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        end_running: bool = False,
    ) -> AsyncIMapIterator[R]:
        """Lazy `map`: `async for value in pool.imap(...)`, in order, in flat memory whatever the length of the input.

        Args:
            func, chunksize, timeout, retries: as in `Pool.imap`.
            iterable: the input, which is read as results are fetched: an async iterable by a task of its own, a plain
                sequence by the engine, anything else (a generator may block) in a thread of its own.
            buffersize: chunks in flight, or finished and not yet fetched, at most; None: 1024.
            end_running: whether leaving the iterator early (`aclose`, or the end of the last reference to it) ends what
                runs of it. What is queued is withdrawn in any case.

        Raises ValueError or TypeError for arguments that cannot be, or where the pool takes no more calls. The iterator
        raises in the place of a result what its call raised, and goes on after it.
        """
        terms = terms_for(timeout, retries)
        return self._imap(IMap, func, iterable, chunksize, buffersize, _site(), terms, end_running)

    def imap_unordered(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any] | AsyncIterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        end_running: bool = False,
    ) -> AsyncIMapIterator[R]:
        """`imap` that gives results as they come."""
        terms = terms_for(timeout, retries)
        return self._imap(IMapUnordered, func, iterable, chunksize, buffersize, _site(), terms, end_running)

    def _imap(
        self,
        cls: Callable[[Pool, int, Mailbox], Any],
        func: Any,
        iterable: Any,
        chunksize: int,
        buffersize: int | None,
        site: Any,
        terms: Terms,
        end_running: bool,
    ) -> AsyncIMapIterator[Any]:
        mailbox, pool = self._mailbox(), self._pool
        check_count("chunksize", chunksize, 1, "1 sends each item alone")
        if buffersize is not None:
            check_count("buffersize", buffersize, 1, "None means 1024")
        buffersize = buffersize or BUFFER_CHUNKS
        source: Source | None = None
        if isinstance(iterable, AsyncIterable):
            source = Source(iterable, chunksize, min(buffersize, FEEDER_DEPTH), pool._engine.poke)
            payloads: Any = iter(())
        else:
            items = iter(iterable)  # here: what cannot be iterated is refused in the caller's words
            payloads = zip(items) if chunksize == 1 else batches(items, chunksize)
        sink = cls(pool, chunksize, mailbox)
        job = Job(
            func,
            KIND_CALL if chunksize == 1 else KIND_MAP,
            payloads,
            sink,
            window=WINDOW_CHUNKS,
            buffersize=buffersize,
            threaded=source is None and type(iterable) not in PLAIN_INPUTS,
            wake=pool._engine.poke,
            feeder=source,
            site=site,
            terms=terms,
        )
        iterator: AsyncIMapIterator[Any] = AsyncIMapIterator(pool, mailbox, sink, job, end_running)
        self._iterators.add(iterator)
        if source is not None:
            source.start()
        pool._submit_job(job)
        return iterator


class AsyncIMapIterator(Generic[R]):
    """Results of `AsyncPool.imap` and `imap_unordered`; made there.

    `async for` reads it; `aclose()` withdraws what has not started. So does the end of the last reference to it, as
    where a loop is left by `break`. Several tasks may read one, and each result goes to one of them.
    """

    def __init__(self, pool: Pool, mailbox: Mailbox, sink: Any, job: Job, end_running: bool) -> None:
        self._pool, self._mailbox, self._sink, self._job = pool, mailbox, sink, job
        self._end_running = end_running
        self._ready: deque[Any] = deque()
        """Items of chunks of several that have been fetched."""
        self._unreported = 0
        self._report_at = max(1, (job.buffersize or 1) // 4)  # now: a pool that is joined lifts the limit

    def __aiter__(self) -> AsyncIMapIterator[R]:
        return self

    async def __anext__(self) -> R:
        """The next result; raises what its call raised."""
        ready: Any = self._ready
        while not ready:
            ok, value = await self._fetch()
            self._consumed()
            if not ok:
                if isinstance(value, StopAsyncIteration):
                    raise RuntimeError("the call raised StopAsyncIteration") from value
                raise value
            if self._job.kind == KIND_CALL:
                return value  # type: ignore[no-any-return]
            ready.extend(value[0])
        return ready.popleft()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Read no further: withdraw what is queued, with `end_running` end what runs. Returns when that is done."""
        sink = self._sink
        sink._is_closed = True
        self._ready.clear()
        try:
            if not self._job.closed:
                await self._mailbox.cancel(sink, self._job, self._end_running)
        finally:
            sink.arrived()  # others that read it

    def __del__(self) -> None:
        if not self._job.closed and self._pool._is_ours():
            self._pool._engine.ask_cancel(self._job, [], NOBODY, end_running=self._end_running)

    async def _fetch(self) -> tuple[bool, Any]:
        """The next chunk's outcome."""
        sink = self._sink
        while not sink._is_closed:
            exhausted = sink._exhausted  # before the look: items come before the end does
            try:
                return sink._items.popleft()  # type: ignore[no-any-return]
            except IndexError:
                pass
            if exhausted:
                if sink._error is not None:
                    error, sink._error = sink._error, None
                    raise error
                break
            self._report()
            with self._mailbox.waits():
                await sink.change(self._mailbox.loop)
        raise StopAsyncIteration

    def _consumed(self) -> None:
        # The engine is told of a part of the buffer at a time: each word costs it a wake-up.
        self._unreported += 1
        if self._unreported >= self._report_at:
            self._report()

    def _report(self) -> None:
        if self._unreported:
            self._job.consumed += self._unreported
            self._unreported = 0
            self._pool._engine.poke()

    def _cut(self) -> None:
        """The pool is being closed: read no more input."""
        self._pool._engine.call_nowait(partial(_cut, self._pool, self._job))


def _cut(pool: Pool, job: Job) -> None:
    """Engine thread: the input of a job ends here. It may have been at its end, which the next read would have told."""
    error: BaseException | None
    try:
        is_at_its_end = not job.ended and job.pull() is END
        error = (
            None if is_at_its_end else PoolTerminatedError("the pool was closed before the input was read to its end")
        )
    except BaseException as raised:
        error = raised
    pool._engine.dispatcher.cancels.end_input(job, error)


# -- helpers --------------------------------------------------------------------------------------------------------


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "AsyncPool needs a running asyncio event loop, and there is none in this thread. Under trio, use asyncio "
            "as anyio's backend, or call the methods of a mpsteal.Pool in a thread (trio.to_thread.run_sync)"
        ) from None


def _site() -> tuple[Any, int]:
    """Where the caller of our caller is, for errors."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


async def _in_thread(function: Callable[[], R], unwanted: Callable[[R], object] | None = None) -> R:
    """Await a function that may block, in a thread of its own: the loop's executor may have none to spare.

    `unwanted` takes what it gives when nobody awaits that any more, in another thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    outcome: list[Any] = []

    def hand_over() -> None:
        if not future.cancelled():
            future.set_result(None)
        elif outcome[0] and unwanted is not None:
            threading.Thread(target=unwanted, args=(outcome[1],), name="mpsteal-unwanted", daemon=True).start()

    def run() -> None:
        try:
            outcome.extend((True, function()))
        except BaseException as error:
            outcome.extend((False, error))
        try:
            loop.call_soon_threadsafe(hand_over)
        except RuntimeError:  # the loop is closed
            if outcome[0] and unwanted is not None:
                unwanted(outcome[1])

    threading.Thread(target=run, name="mpsteal-waiter", daemon=True).start()
    await future
    ok, value = outcome
    if not ok:
        raise value
    return value  # type: ignore[no-any-return]
