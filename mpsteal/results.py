"""Handles that the Pool gives out: `AsyncResult`, `MapResult`, `IMapIterator`, `IMapUnorderedIterator`.

Resolved once by the engine (or the callback thread), waited for by anybody. There is no lock: the engine stores the
value, then `_done`, then looks at `_waited`, then for waiters; a waiter puts itself on the engine's list, then sets
`_waited`, then looks at `_done`. The interpreter runs those steps in some order, so one side sees the other.

A lock would not do: a signal handler may interrupt the thread that holds it, and wait for a result that needs another
thread (the engine, a feeder) which waits for that lock.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ._engine.dispatch import explain_pickling
from ._engine.jobs import WAIT
from ._engine.terms import NO_TERMS, Terms
from ._engine.waits import acquire
from ._policy.chunking import CHUNK_NS, MapCutter

if TYPE_CHECKING:
    from .pool import Pool

_T = TypeVar("_T")
_Results = TypeVar("_Results", bound="IMapIterator[Any]")


class _Waitable:
    """Something that threads wait for."""

    __slots__ = ("__weakref__", "_pool", "_waited")

    _pool: Pool | None
    _waited: bool
    """Whether any thread may be waiting; false tells the engine that it need not look."""

    def _is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        raise NotImplementedError

    def _wait(self, timeout: float | None) -> bool:
        """Block until done; False when `timeout` seconds passed first."""
        if self._is_done():
            return True
        pool = self._pool
        if pool is not None:
            pool._check_owner()
            if timeout is not None and timeout <= 0:
                pool._engine.polled()
                return self._is_done()
            if threading.current_thread() is pool._engine.thread:
                raise RuntimeError(
                    "a result cannot be waited for in the pool's own thread, which has to deliver it: a `__reduce__`, "
                    "`__setstate__` or `__del__` may not wait"
                )
            gate = threading.Lock()
            gate.acquire()
            entry = (self, gate)
            waiting = pool._engine.waiting
            try:
                waiting.append(entry)
                self._waited = True
                if not self._is_done():
                    pool._engine.set_pace()
                    acquire(gate, timeout)
            finally:
                with contextlib.suppress(ValueError):
                    waiting.remove(entry)  # timed out, or interrupted
                pool._engine.set_pace()
        return self._is_done()

    def _wake_waiters(self, waiting: list[Any]) -> None:
        """Engine: let those go who are on the list for this."""
        self._waited = False
        for entry in tuple(waiting):
            if entry[0] is self:
                with contextlib.suppress(ValueError):  # it timed out meanwhile
                    waiting.remove(entry)
                    entry[1].release()


class AsyncResult(_Waitable, Generic[_T]):
    """Result of `Pool.apply_async`: the contract of `multiprocessing.pool.AsyncResult`.

    Of 100,000 pending calls this object is most of what the parent holds. `_function`, `_args` and `_kwds` are the call
    until it is pickled, then None; `_code` and `_instruction` say where it was submitted; `_callbacks` is a
    `(callback, error_callback)` pair or None; `_success` and `_value` are there once it is done. Made by
    `Pool.apply_async`, field by field.
    """

    __slots__ = (
        "_args",
        "_callbacks",
        "_code",
        "_done",
        "_function",
        "_instruction",
        "_kwds",
        "_success",
        "_value",
    )

    _args: Any
    _callbacks: tuple[Any, Any] | None
    _code: types.CodeType
    _done: bool
    _function: Any
    _instruction: int
    _kwds: Any
    _success: bool
    _value: Any
    _terms: ClassVar[Terms] = NO_TERMS

    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    def __getattr__(self, name: str) -> Any:
        # A field that is not filled in yet: a manager that serves handles looks at every one of them.
        if name in AsyncResult.__slots__:
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def _is_done(self) -> bool:
        return self._done

    def ready(self) -> bool:
        """Whether the call is finished."""
        pool = self._pool
        if not self._done and pool is not None and pool._is_ours():
            pool._engine.polled()
        return self._done

    def successful(self) -> bool:
        """Whether the call finished without raising. Raises ValueError when it is not finished."""
        if not self._done:
            raise ValueError(f"{self!r} not ready")
        return self._success

    def cancel(self, *, end_running: bool = False) -> bool:
        """Withdraw a single call that has not started (an addition to the stock contract).

        Args:
            end_running: end it also if it runs: the process of its agent is killed and replaced, no other task is lost.

        Returns:
            True: it never runs, and `get` raises `TaskCancelledError`; with `end_running`: or it is about to be ended,
            and `get` tells whether it was over before. False: it is running or finished.
        """
        pool = self._pool
        if pool is not None:
            pool._check_owner()
        return not self._done and pool is not None and pool._engine.cancel(self, end_running=end_running)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until finished or until `timeout` seconds have passed."""
        self._wait(timeout)

    def get(self, timeout: float | None = None) -> _T:
        """The call's value.

        Raises:
            multiprocessing.TimeoutError: not finished within `timeout` seconds; ask again.
            AgentDiedError: the agent died while it ran this call.
            TaskTimeoutError: the call ran for longer than its own `timeout`, and was ended.
            PoolTerminatedError: the pool was terminated first.
            BaseException: whatever the call raised, with the remote traceback as `__cause__`.
        """
        if not self._done and not self._wait(timeout):
            raise multiprocessing.TimeoutError
        if self._success:
            return self._value  # type: ignore[no-any-return]  # or an error
        raise self._value

    def _resolve(self, ok: bool, value: Any) -> None:
        """Engine: the call is finished."""
        if self._callbacks is not None:
            callback = self._callbacks[not ok]
            if callback is not None and self._pool is not None:
                self._pool._engine.callbacks.put(callback, value, lambda: self._settle(ok, value))
                return
        self._settle(ok, value)

    def _settle(self, ok: bool, value: Any) -> None:
        self._success = ok
        self._value = value
        self._done = True
        pool, self._pool, self._callbacks = self._pool, None, None
        if self._waited and pool is not None:
            self._wake_waiters(pool._engine.waiting)

    def _refuse(self, error: BaseException, function: Any) -> None:
        """Engine: the call could not be pickled."""
        self._resolve(False, explain_pickling(error, function, (self._code, self._instruction)))

    def _forget_call(self) -> None:
        """Engine: it is on its way, or never will be; the caller may keep this handle for long."""
        self._function = self._args = self._kwds = None


ApplyResult = AsyncResult


class LimitedResult(AsyncResult[_T]):
    """The same of a call that has a time limit, or may run again if its agent dies.

    `_callbacks` is never None here, so that it is always resolved by its own methods.
    """

    __slots__ = ("_terms", "_watched")

    _terms: Terms  # type: ignore[misc]  # each has its own
    _watched: set[Any]
    """Where the engine finds what has a limit."""

    def _settle(self, ok: bool, value: Any) -> None:
        super()._settle(ok, value)
        self._watched.discard(self)


class MapResult(AsyncResult[list[_T]]):
    """Result of `map_async` and `starmap_async`: a list in order, or the first error.

    As in the stock pool an error is known at once but the result is ready only when all chunks are finished.
    """

    __slots__ = ("_cut_to", "_cutter", "_ended", "_job", "_left", "_progress", "_starts", "_values")

    def __init__(
        self,
        pool: Pool,
        length: int,
        callback: Callable[[list[_T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._pool = pool
        self._callbacks = (callback, error_callback) if callback or error_callback else None
        self._done = self._waited = False
        self._success = True
        self._values: list[Any] = [None] * length
        self._starts: list[int] = []
        self._left = self._cut_to = 0
        self._ended = False
        self._cutter: MapCutter | None = None
        self._job: Any = None
        self._progress: Any = None

    def get(self, timeout: float | None = None) -> list[_T]:
        """The list of results; see `AsyncResult.get`."""
        try:
            return super().get(timeout)
        finally:
            if self._done:
                self._hide()

    def _hide(self) -> None:
        """Nobody asks for it any more: show its progress no longer."""
        if self._progress is not None:
            self._progress.close()

    def cancel(self, *, end_running: bool = False) -> bool:
        """Withdraw what has not started of it.

        Args:
            end_running: see `AsyncResult.cancel`; here of each agent that runs a chunk of it.

        Returns:
            True: it was not finished. What had not started never runs, and `get` raises `TaskCancelledError` once what
                runs is over; it gives the list where nothing was left to withdraw.
            False: it was finished.
        """
        pool, job = self._pool, self._job
        if pool is not None:
            pool._check_owner()
        return job is not None and pool is not None and pool._engine.cancel(job, end_running=end_running)

    def pieces(self, items: Sequence[Any], chunksize: int | None, agents: int) -> Iterator[Any]:
        """Engine: cut the input, by `chunksize` or by policy; `WAIT` while the policy wants to see results first."""
        cutter = None if chunksize else MapCutter(len(items), agents)
        self._cutter = cutter
        at = 0
        while at < len(items):
            if cutter is not None and self._pool is not None:
                cutter.agents = self._pool._processes  # it may be resized meanwhile
            size = chunksize or cutter.next_size()  # type: ignore[union-attr]  # one of the two is there
            if not size:
                yield WAIT
                continue
            self._starts.append(at)
            self._cut_to = min(at + size, len(items))
            self._left += 1
            yield list(items[at : at + size])
            at += size

    def items_of(self, index: int) -> range:
        """See `JobSink.items_of`."""
        starts = self._starts
        return range(starts[index], starts[index + 1] if index + 1 < len(starts) else self._cut_to)

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """Chunk `index` is finished."""
        self._left -= 1
        # How long a failed chunk took is not told; taking it for a long one errs towards small chunks.
        values, elapsed_ns = value if ok else ((None,), CHUNK_NS)
        if self._cutter is not None:
            self._cutter.observe(len(values), elapsed_ns)
        if ok:
            if self._success:
                start = self._starts[index]
                self._values[start : start + len(values)] = values
        elif self._success:
            self._success = False
            self._value = value
            self._values = []
        self._maybe_resolve()

    def input_ended(self, count: int, error: BaseException | None) -> None:
        """All chunks have been sent, or the pool failed first."""
        self._ended = True
        if error is not None and self._success:
            self._success, self._value = False, error
            self._values = []
        self._maybe_resolve()

    def _maybe_resolve(self) -> None:
        if self._ended and self._left == 0 and not self._done:
            self._job = None
            if self._success:
                values, self._values = self._values, []
                self._resolve(True, values)
            else:
                self._resolve(False, self._value)


class IMapIterator(_Waitable, Generic[_T]):
    """Results of `imap`, in order; `next(timeout=None)` and iteration."""

    def __init__(self, pool: Pool, chunksize: int) -> None:
        self._pool = pool
        self._chunksize = chunksize
        self._waited = False
        self._items: deque[tuple[bool, Any]] = deque()
        self._early: dict[int, tuple[bool, Any]] = {}
        self._count: int | None = None
        self._given = 0
        self._error: BaseException | None = None
        self._exhausted = False
        self._job: Any = None
        self._lock = threading.Lock()
        self._ends_at_error = self._is_cut = False
        """Whether there is nothing after an error, and whether that has been given."""
        self._short: tuple[int, int] | None = None
        """The last chunk's index and size, where it has fewer items than the others."""
        self._progress: Any = None

    def _is_done(self) -> bool:
        return bool(self._items) or self._exhausted

    def __iter__(self: _Results) -> _Results:  # noqa: PYI019  Self needs typing_extensions before 3.11
        return self

    def next(self, timeout: float | None = None) -> _T:
        """The next result; raises what its call raised.

        Raises:
            StopIteration: there are no more.
            multiprocessing.TimeoutError: none came within `timeout` seconds.
        """
        try:
            entry = self._items.popleft()
        except IndexError:
            entry = None  # what is raised while waiting should not say "during handling of"
        ok, value = entry or self._next_slow(timeout)
        job = self._job
        if job is not None and job.buffersize is not None:
            self._consumed(job)
        if ok:
            return value  # type: ignore[no-any-return]  # or an error
        if self._ends_at_error:
            self._cut()
        raise value

    __next__ = next

    def cancel(self, *, end_running: bool = False) -> bool:
        """Withdraw what has not started, and read the input no further.

        Args:
            end_running: see `AsyncResult.cancel`; here of each agent that runs a chunk of it.

        Returns:
            True: it was not finished. What is there is still given, then `TaskCancelledError` is raised where the first
                result is missing, and there is nothing after it.
            False: it was finished.
        """
        pool = self._pool
        if pool is None:
            return False
        pool._check_owner()
        before, self._ends_at_error = self._ends_at_error, True  # first: another thread may meet the error at once
        is_cancelled = pool._engine.cancel(self._job, end_running=end_running)
        self._ends_at_error = is_cancelled or before
        return is_cancelled

    def _cut(self) -> None:
        """Nothing more is given."""
        self._is_cut = True
        self._exhausted = True
        self._items = deque(maxlen=0)  # what the engine still brings is dropped

    def _consumed(self, job: Any) -> None:
        pool = self._pool
        if pool is not None and not pool._is_ours():
            return  # a forked child reads what was there; the lock may belong to a thread it has not
        with self._lock:
            job.consumed += 1
        if pool is not None:
            pool._engine.poke()

    def _next_slow(self, timeout: float | None) -> tuple[bool, Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            exhausted = self._exhausted  # before the last look: items come before the end does
            try:
                return self._items.popleft()
            except IndexError:
                pass
            if exhausted:
                if self._progress is not None:
                    self._progress.close()
                if self._error is not None and not self._is_cut:
                    error, self._error = self._error, None
                    raise error
                raise StopIteration
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise multiprocessing.TimeoutError
            self._wait(left)

    # -- engine -----------------------------------------------------------------------------------------------------

    def _sized(self, batches: Iterator[list[Any]]) -> Iterator[list[Any]]:
        """The same chunks; notes the size of the last one before anybody can ask for it. Engine or feeder."""
        for index, batch in enumerate(batches):
            if len(batch) < self._chunksize:
                self._short = (index, len(batch))
            yield batch

    def items_of(self, index: int) -> range:
        """See `JobSink.items_of`."""
        size = self._chunksize if self._short is None or self._short[0] != index else self._short[1]
        return range(index * self._chunksize, index * self._chunksize + size)

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """Chunk `index` is finished."""
        if index != self._given:
            self._early[index] = (ok, value)
            return
        items, early = self._items, self._early
        items.append((ok, value))
        index += 1
        while early and index in early:
            items.append(early.pop(index))
            index += 1
        self._given = index
        if self._waited or index == self._count:
            self._announce()

    def input_ended(self, count: int, error: BaseException | None) -> None:
        """The input gave `count` chunks and ended, or raised."""
        self._count, self._error = count, error
        self._announce()

    def _announce(self) -> None:
        pool = self._pool
        if self._given == self._count:
            self._exhausted = True
            self._pool = None
        if self._waited and pool is not None:
            self._wake_waiters(pool._engine.waiting)


class IMapUnorderedIterator(IMapIterator[_T]):
    """Results of `imap_unordered`, as they come."""

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """A chunk is finished."""
        self._given += 1
        self._items.append((ok, value))
        if self._waited or self._given == self._count:
            self._announce()


class _Chunked(IMapIterator[_T]):
    """Items of chunks of more than one."""

    def __init__(self, pool: Pool, chunksize: int) -> None:
        super().__init__(pool, chunksize)
        self._current: Iterator[Any] = iter(())
        self._then: BaseException | None = None
        """What follows the items of the current chunk."""
        self._reading = threading.Lock()

    def next(self, timeout: float | None = None) -> _T:
        """See `IMapIterator.next`."""
        # Two threads that read it may not lose a chunk between them.
        lock = self._reading
        if not lock.acquire(False) and not acquire(lock, timeout):  # the first is quicker, and nearly always succeeds
            raise multiprocessing.TimeoutError
        try:
            while True:
                for value in self._current:
                    return value  # type: ignore[no-any-return]  # as it came
                if self._then is not None:
                    error, self._then = self._then, None
                    self._cut()
                    raise error
                chunk: Any = super().next(timeout)
                self._current = iter(chunk[0])
                self._then = chunk[2] if len(chunk) == 3 else None
        finally:
            lock.release()

    __next__ = next


class ChunkedIMapIterator(_Chunked[_T], IMapIterator[_T]):
    """Results of `imap` with a `chunksize`."""


class ChunkedIMapUnorderedIterator(_Chunked[_T], IMapUnorderedIterator[_T]):
    """Results of `imap_unordered` with a `chunksize`: chunks as they come, the items of each in order."""
