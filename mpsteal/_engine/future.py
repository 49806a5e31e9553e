"""A `concurrent.futures.Future` that makes its lock only when somebody looks at it while it is pending.

A `Future` makes its lock at once (3 us, as much as all the rest of a task), and few are ever looked at before they are
over. Engine and waiter meet at steps that the interpreter does not divide:

    engine: 1 _state := SETTLING   2 takes the watch out of `_watches`   3 none there: _state := the end; else under it
    waiter: 1 puts a watch there   2 looks at _state                     3 SETTLING: waits for the end to follow

If the waiter finds an earlier state, the engine's step 2 is still to come, and finds the watch. The engine keeps what
it found in `_watch`: whoever holds that lock asks for it again, to give it back.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import _base as futures
from typing import Any, TypeVar

from ..errors import TaskCancelledError
from .waits import in_parts

_T = TypeVar("_T")

PENDING, FINISHED, CANCELLED = futures.PENDING, futures.FINISHED, futures.CANCELLED_AND_NOTIFIED
OVER, SETTLING = "OVER", "SETTLING"
"""In between, for our own eyes: how it ended is known; those who wait are about to be woken. `Future` takes any state
that it does not know for pending."""

_ENDED = (FINISHED, CANCELLED)

LOCK_WAIT_S, IMPATIENT_S = 1.0, 0.001
"""How long the engine waits for a lock that a waiting thread holds, which takes microseconds, or some milliseconds
where that thread has lost its core: at first, and once one did not come. Shorter: threads are started for nothing;
longer: all tasks wait with it."""

_patience_s = [LOCK_WAIT_S]


class LazyFuture(Future[_T]):
    """A future that an engine resolves. Who makes one sets `_state`, `_result`, `_exception` and `_watch` (by
    `_begin`, or spelled out where that matters)."""

    __slots__ = ("_exception", "_result", "_state", "_watch")

    def _begin(self) -> None:
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._watch: _Watch | None = None

    # -- to be told by who derives from it --------------------------------------------------------------------------

    def _check_waitable(self) -> None:
        """Raise if waiting would not help."""

    def _ended(self, ok: bool, value: Any) -> None:
        """How it ended is known, and nobody is woken yet: count it. Engine thread, once."""

    def _settled(self) -> None:
        """Everybody has been woken. Engine thread, once."""

    def _call_back(self) -> None:
        """Run the callbacks, in the thread for them: one that blocks must not hold up the loop."""
        raise NotImplementedError

    # -- for users --------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it is over, however it ended."""
        return self._state in _ENDED

    def result(self, timeout: float | None = None) -> _T:
        """What the call gave; raises what it raised.

        Raises:
            TimeoutError: it was not over within `timeout` seconds; ask again.
            CancelledError: it was cancelled before it started.
            RuntimeError: waiting would not help (it was not submitted, say).
        """
        if self._state is FINISHED and self._exception is None:  # the usual case, without a lock
            return self._result  # type: ignore[no-any-return]  # it is there
        self._check_waitable()
        try:
            return super().result(timeout)
        finally:
            self = None  # type: ignore[assignment]  # as a `Future` does: no cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised; None if it succeeded. Waits, and raises, as `result` does."""
        if self._state is FINISHED:
            return self._exception
        self._check_waitable()
        return super().exception(timeout)

    def set_result(self, result: Any) -> None:  # noqa: ARG002 - a `Future`'s signature
        """Not for users: RuntimeError."""
        raise RuntimeError(f"{self!r} gets its result from the agent that runs it")

    def set_exception(self, exception: BaseException | None) -> None:  # noqa: ARG002 - a `Future`'s signature
        """Not for users: RuntimeError."""
        raise RuntimeError(f"{self!r} gets its exception from the agent that runs it")

    # -- what `concurrent.futures` looks at ---------------------------------------------------------------------------

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        # Once given out while it was pending, it stays the same: who has acquired it asks again to release it. The
        # state is looked at first: once it has ended, `_watch` does not change any more.
        state = self._state
        if (watch := self._watch) is not None:
            return watch
        if state in _ENDED:
            return _NOTHING_TO_GUARD
        key = id(self)
        watch = _watches.get(key) or _watches.setdefault(key, _Watch(self))
        if self._state in (PENDING, OVER):
            return watch
        while self._watch is None and self._state not in _ENDED:
            time.sleep(0)  # the engine is between two lines of `_resolve`, and waits for nobody there
        _watches.pop(key, None)  # ours came too late, for whoever looked
        return _NOTHING_TO_GUARD if self._watch is None else self._watch

    def _watched(self) -> _Watch | None:
        """For those who hold the lock that `_condition` gave them."""
        if self._watch is not None or self._state in _ENDED:
            return self._watch
        # In this order: the engine puts it into `_watch` before it takes it out there, and from then on that one holds.
        watch = _watches.get(id(self))
        return watch if self._watch is None else self._watch  # type: ignore[redundant-expr]  # the engine sets it

    @property
    def _waiters(self) -> Any:  # type: ignore[override]
        watch = self._watched()
        return _NOBODY if watch is None else watch.waiters

    @property
    def _done_callbacks(self) -> Any:
        watch = self._watched()
        return _NOBODY if watch is None else watch.callbacks

    # -- for the engine ---------------------------------------------------------------------------------------------

    @property
    def _is_finished(self) -> bool:
        """Whether it is known how it ends."""
        return self._state is not PENDING

    def _resolve(self, ok: bool, value: Any, *, ran: bool = False) -> None:
        """It is over: store the outcome, and wake who waits for it. Once: who comes second changes nothing.

        `ran`: the call gave this; so it was not cancelled, even if it raised our own error for that.
        """
        if self._state is not PENDING:
            return
        end = FINISHED
        if ok:
            self._result = value
        else:
            self._exception = value
            if not ran and isinstance(value, TaskCancelledError):
                end = CANCELLED
        self._state = OVER  # after the outcome, which others look at then
        try:
            self._ended(ok, value)
        finally:  # only now: who is woken finds times and counts as they are in the end
            settle((self,), end)
        self._settled()

    def _settle_watched(self, watch: _Watch, end: str) -> None:
        """The middle of `_resolve` where somebody has looked, as a `Future` does it.

        Users' threads hold that lock for moments only, but one that was interrupted there (Ctrl-C in the middle of
        `concurrent.futures.wait`) may keep it for ever, or until a signal handler has got what it waits for. The engine
        does not wait for such a one: a thread of its own does.
        """
        self._watch = watch
        _watches.pop(id(self), None)
        if watch.acquire(timeout=_patience_s[0]):
            try:
                self._wake(watch, end)
            finally:
                watch.release()
            if watch.callbacks:
                self._call_back()
            return
        _patience_s[0] = IMPATIENT_S
        try:
            threading.Thread(target=self._settle_late, args=(watch, end), name="mpsteal-late", daemon=True).start()
        except RuntimeError:  # no threads any more: the interpreter ends
            self._state = end

    def _wake(self, watch: _Watch, end: str) -> None:
        self._state = end
        for waiter in watch.waiters:
            if end != FINISHED:
                waiter.add_cancelled(self)
            elif self._exception is None:
                waiter.add_result(self)
            else:
                waiter.add_exception(self)
        watch.notify_all()

    def _settle_late(self, watch: _Watch, end: str) -> None:
        with watch:
            self._wake(watch, end)
        if watch.callbacks:
            self._call_back()


def settle(counted: Sequence[LazyFuture[Any]], end: str = FINISHED) -> None:
    """Wake who waits for these. Their outcomes are in place and counted; `_settled` is left to the caller."""
    for future in counted:  # one by one: nothing may be waited for while any is SETTLING
        future._state = SETTLING
        if _watches and (watch := _watches.get(id(future))) is not None:
            future._settle_watched(watch, end)
        else:
            future._state = end


class _Watch(threading.Condition):
    """The lock of a pending future, and who waits for it."""

    def __init__(self, future: LazyFuture[Any]) -> None:
        super().__init__()
        self.waiters: list[Any] = []
        self.callbacks: list[Any] = []
        # One that is never resolved, nor even submitted, leaves nothing behind.
        key = id(future)
        forget = _watches.pop  # the name may be gone when the interpreter ends
        self._gone = weakref.ref(future, lambda _: forget(key, None))

    def wait(self, timeout: float | None = None) -> bool:
        """As that of a `Condition`, in parts; true once the future is over, too: it may be told between two parts."""
        for part in in_parts(timeout):
            if super().wait(part):
                return True
            future = self._gone()
            if future is not None and future._state in _ENDED:
                return True
        return False


_watches: dict[int, _Watch] = {}
"""Of pending futures that somebody has looked at, by `id()`."""


class _NoLock:
    """The lock of a future that was over before anybody looked: nothing changes any more."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


class _Nobody:
    """Those who wait for a future that was over before: nobody, whoever is noted down."""

    def append(self, item: object) -> None:
        pass

    def remove(self, item: object) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())


_NOTHING_TO_GUARD = _NoLock()
_NOBODY = _Nobody()
