"""What the engine fills for tasks of an event loop, and how they are woken; `aio.py` is the door.

Results come by a mailbox of each loop, which the engine rings once for all that it has collected at a time:

    engine --post--> mailbox --call_soon_threadsafe, once--> loop: wakes whoever awaits what has come

The other way an async input is read by a task of its loop, some chunks ahead: `Source`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from typing import Any

from ._engine.jobs import END, WAIT
from ._engine.loop import ENDED
from ._engine.terms import Terms
from .pool import Pool
from .results import IMapIterator, IMapUnorderedIterator, LimitedResult, MapResult


class Mailbox:
    """What has come for the tasks of one loop. `post` may be called by any thread, all else by the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self.loop = loop
        self._pool, self._engine = pool, pool._engine
        self._news: deque[Any] = deque()
        self._is_rung = False
        self._waiting = 0
        self._entry = (self, threading.Lock())

    def post(self, handle: Any) -> None:
        """There is news of a handle, whose `arrived` the loop is to call."""
        self._news.append(handle)
        if self._is_rung:
            return
        self._is_rung = True
        engine = self._engine
        if threading.current_thread() is engine.thread and engine.state < ENDED:
            engine.collector.waking.append(self)  # it rings before it sleeps, when it has collected all there is
        else:
            self._wake_waiters()

    def _wake_waiters(self, waiting: object = None) -> None:  # noqa: ARG002 - as of any handle in `waking`
        try:
            self.loop.call_soon_threadsafe(self._hand_out)
        except RuntimeError:  # the loop is closed: nobody awaits anything
            self._news.clear()

    def _hand_out(self) -> None:
        self._is_rung = False  # first: who posts from here on rings again
        news = self._news
        while news:
            news.popleft().arrived()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Somebody waits for a result, so agents are to tell soon of those they have."""
        self._waiting += 1
        if self._waiting == 1:
            self._engine.waiting.append(self._entry)
            self._engine.set_pace()
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._engine.waiting.remove(self._entry)
                self._engine.set_pace()

    async def outcome(self, handle: Any, owner: Any, end_running: bool) -> Any:
        """Await the end of a call or a map, cancel it if the awaiting task is cancelled.

        `owner` is what the engine knows it by: the call itself, or the job of a map.
        """
        try:
            with self.waits():
                while not handle._done:
                    await handle.change(self.loop)
        except asyncio.CancelledError:
            await self.cancel(handle, owner, end_running)
            raise
        if handle._success:
            return handle._value
        try:
            raise handle._value
        finally:
            handle = None  # no cycle through the traceback

    async def cancel(self, handle: Any, owner: Any, end_running: bool) -> None:
        """Cancel what is queued of it, and wait until that is done; with `end_running` until nothing runs any more."""
        answered = Answer(self, handle)
        with self.waits():
            self._engine.ask_cancel(owner, [], answered, end_running=end_running)
            while not answered.is_there or (end_running and not handle._is_done()):
                await handle.change(self.loop)


class Answer:
    """What the engine releases when a cancellation has been dealt with."""

    def __init__(self, mailbox: Mailbox, handle: Any) -> None:
        self._mailbox, self._handle = mailbox, handle
        self.is_there = False

    def release(self) -> None:
        self.is_there = True
        self._mailbox.post(self._handle)


class Awaited:
    """A handle whose changes tasks of one loop await."""

    __slots__ = ()

    _futures: Any
    _mailbox: Mailbox

    def change(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """To be awaited after a look at the handle that came too early."""
        future = loop.create_future()
        self._futures.append(future)
        return future

    def arrived(self) -> None:
        """The loop: something has changed."""
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


class Call(Awaited, LimitedResult[Any]):
    """A single call. `_callbacks` is not None, so that the engine resolves it by `_resolve`."""

    __slots__ = ("_futures", "_mailbox")

    def __init__(self, mailbox: Mailbox, terms: Terms) -> None:
        self._mailbox, self._terms = mailbox, terms
        self._futures: list[Any] = []
        self._pool = mailbox._pool
        self._callbacks = _NO_CALLBACKS
        self._done = self._waited = False

    def _resolve(self, ok: bool, value: Any) -> None:
        self._settle(ok, value)
        self._mailbox.post(self)


class Map(Awaited, MapResult[Any]):
    __slots__ = ("_futures", "_mailbox")

    def __init__(self, mailbox: Mailbox, length: int) -> None:
        super().__init__(mailbox._pool, length, None, None)
        self._mailbox = mailbox
        self._futures: list[Any] = []

    def _resolve(self, ok: bool, value: Any) -> None:
        self._settle(ok, value)
        self._mailbox.post(self)


_NO_CALLBACKS = (None, None)


class Fetched(Awaited):
    """The sink of an `imap`: what has come is fetched one by one, and only who has found nothing awaits a change."""

    _waited: bool
    _exhausted: bool
    _items: deque[Any]

    def __init__(self, pool: Pool, chunksize: int, mailbox: Mailbox) -> None:
        super().__init__(pool, chunksize)  # type: ignore[call-arg]  # of the iterator beside it
        self._mailbox = mailbox
        self._futures: list[Any] = []
        self._is_closed = False
        """Nobody fetches any more."""

    def _is_done(self) -> bool:
        return self._exhausted or (bool(self._items) and not self._is_closed)

    def change(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """See `Awaited`."""
        future = super().change(loop)
        self._waited = True
        if self._is_done():  # it came meanwhile, and nobody was told
            self.arrived()
        return future

    def _wake_waiters(self, waiting: object) -> None:  # noqa: ARG002
        self._waited = False
        self._mailbox.post(self)


class IMap(Fetched, IMapIterator[Any]):
    pass


class IMapUnordered(Fetched, IMapUnorderedIterator[Any]):
    pass


class Source:
    """Reads an async iterable in a task of its own, some chunks ahead: what a `Feeder` is for others."""

    def __init__(self, items: AsyncIterable[Any], chunksize: int, depth: int, wake: Callable[[], None]) -> None:
        self._items, self._chunksize, self._depth, self._wake = items, chunksize, depth, wake
        self._ready: deque[tuple[Any, BaseException | None]] = deque()
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read. This and the reading: the loop's thread."""
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        end: tuple[Any, BaseException | None] = (END, None)
        chunk: list[Any] = []
        items: Any = None
        try:
            items = aiter(self._items)
            async for item in items:
                chunk.append(item)
                if len(chunk) == self._chunksize:
                    await self._put(chunk)
                    chunk = []
        except BaseException as error:
            end = (None, error)
            if not isinstance(error, Exception):  # the input was cancelled from within, say: so is this task
                raise
        finally:
            try:
                if isinstance(items, AsyncGenerator):
                    await items.aclose()
            finally:  # whatever has ended it, who reads the results is told
                if chunk:
                    self._append(chunk)
                self._ready.append(end)
                self._wake()

    async def _put(self, chunk: list[Any]) -> None:
        while len(self._ready) >= self._depth:
            self._room.clear()
            if len(self._ready) >= self._depth:
                await self._room.wait()
        self._append(chunk)
        self._wake()

    def _append(self, chunk: list[Any]) -> None:
        self._ready.append((tuple(chunk) if self._chunksize == 1 else chunk, None))

    def pull(self) -> Any:
        """See `Job.pull`. Engine thread."""
        if not self._ready:
            return WAIT
        payload, error = self._ready.popleft()
        if len(self._ready) == self._depth // 2:
            self._tell(self._room.set)
        if error is not None:
            raise error
        return payload

    def stop(self) -> None:
        """Read no more. Any thread."""
        if self._task is not None:
            self._tell(self._task.cancel)

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks are gone
            self._loop.call_soon_threadsafe(what)
