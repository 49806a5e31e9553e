"""What a task sees of its pool: `mpsteal.current_pool()`, and the results of what it has submitted.

`nested.py` keeps, sends and runs these calls.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable
from multiprocessing import TimeoutError as WaitTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._policy.amounts import check_retries, limit_ns
from .._queue import layout as L
from .._queue import replies
from .serialize import decode_error

if TYPE_CHECKING:
    from .nested import Nest

_Item = TypeVar("_Item")
_T = TypeVar("_T")

PIECES_PER_AGENT = 4
"""Chunks per agent into which a map inside a task is cut: fewer balance worse, more cost 0.1 ms each."""


class TaskPool:
    """The pool that runs this task, as the task sees it: `mpsteal.current_pool()`.

    Its methods and results are named and behave as those of `mpsteal.Pool`, with these differences: a result is for the
    task that has submitted the call, in the thread it was started in; there are no callbacks and no iterators.
    """

    def __init__(self, nest: Nest) -> None:
        self._nest = nest

    def __reduce__(self) -> Any:
        raise NotImplementedError("a task's pool cannot be passed on: call mpsteal.current_pool() in the other task")

    def __repr__(self) -> str:
        return f"<the pool of agent {self._nest.agent.slot}>"

    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006 - the stock signature
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> _T:
        """Call `func(*args, **kwds)` as a task of its own and wait for its value."""
        return self.apply_async(func, args, kwds, timeout=timeout, retries=retries).get()

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},  # noqa: B006 - the stock signature
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> ChildResult[_T]:
        """Submit `func(*args, **kwds)` to the pool; returns a handle at once.

        Nobody has to wait for it: it runs all the same, also when this task is over.

        Args:
            func, args, kwds: what is called.
            timeout: seconds that the call may take, counted from its start; then its agent is ended, and the handle
                raises `TaskTimeoutError`. None: any time.
            retries: how often the call may run again if its agent dies of it.

        Raises:
            ValueError, TypeError: `timeout` is no positive number, or `retries` no whole number from 0 on.
            RuntimeError: called in another thread than the task's own, or in a fork.
        """
        check_retries(retries)
        timeout_ns = limit_ns(timeout)
        if kwds:
            return self._nest.submit(func, (tuple(args), dict(kwds)), L.KIND_CALL_KWDS, timeout_ns, retries)
        return self._nest.submit(func, tuple(args), L.KIND_CALL, timeout_ns, retries)

    def map(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> list[_T]:
        """`[func(x) for x in iterable]` over the agents, in order.

        Without `chunksize` the input is cut into `4` chunks per agent. `timeout` is of each item, `retries` of a chunk.
        """
        return self.map_async(func, iterable, chunksize, timeout=timeout, retries=retries).get()

    def map_async(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> ChildMapResult[_T]:
        """`map` that returns a handle at once."""
        return self._map(L.KIND_MAP, func, iterable, chunksize, timeout, retries)

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> list[_T]:
        """`[func(*x) for x in iterable]` over the agents, in order."""
        return self.starmap_async(func, iterable, chunksize, timeout=timeout, retries=retries).get()

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> ChildMapResult[_T]:
        """`starmap` that returns a handle at once."""
        return self._map(L.KIND_STARMAP, func, iterable, chunksize, timeout, retries)

    def _map(
        self, kind: int, func: Any, iterable: Any, chunksize: Any, timeout: Any, retries: int
    ) -> ChildMapResult[Any]:
        check_retries(retries)
        timeout_ns = limit_ns(timeout)
        items = list(iterable)
        if chunksize is None:
            chunksize = -(-len(items) // (PIECES_PER_AGENT * self._nest.agents))
        elif type(chunksize) is not int or chunksize < 1:
            raise ValueError(
                f"chunksize must be a whole number from 1 on, not {chunksize!r}; None lets the pool choose"
            )
        kind |= L.TIMED if timeout_ns else 0
        pieces = [items[at : at + chunksize] for at in range(0, len(items), max(1, chunksize))]
        return ChildMapResult([self._nest.submit(func, piece, kind, timeout_ns, retries) for piece in pieces])


class ChildResult(Generic[_T]):
    """Result of a call that a task has submitted; its methods are those of `AsyncResult`."""

    __slots__ = ("__weakref__", "_caller", "_done", "_nest", "_success", "_ticket", "_value")

    def __init__(self, nest: Nest, caller: tuple[int, int]) -> None:
        self._nest, self._caller, self._ticket = nest, caller, -1
        self._done = self._success = False
        self._value: Any = None

    def __reduce__(self) -> Any:
        raise NotImplementedError("a task's results cannot be passed on: return what `get` gives")

    def _settle(self, ok: bool, value: Any) -> None:
        self._success, self._value, self._done = ok, value, True

    def _arrived(self, kind: int, payload: Any) -> None:
        """Its outcome is here."""
        try:
            if kind == replies.ERROR:
                self._settle(False, decode_error(payload))
            else:
                self._settle(kind == replies.VALUE, pickle.loads(payload))
        except BaseException as error:  # user code: __setstate__, __reduce__, missing modules
            self._settle(False, error)

    def _check_ours(self) -> None:
        if self._caller != self._nest.caller:
            raise RuntimeError("a call's result is for the task that has submitted the call; this is another task")

    def ready(self) -> bool:
        """Whether the call is over. If it is not, one call that may run here is run first, or 1 ms waited for one: so
        that a task that only asks comes to an end, too."""
        return self._done or self._wait(0)

    def successful(self) -> bool:
        """Whether the call did not raise. Raises ValueError when it is not over."""
        if not self._done:
            raise ValueError(f"{self!r} not ready")
        return self._success

    def _wait(self, timeout: float | None) -> bool:
        if not self._done:
            self._check_ours()
            self._nest.wait(lambda: self._done, timeout)
        return self._done

    def wait(self, timeout: float | None = None) -> None:
        """Run other tasks of the pool until this one is over, or `timeout` seconds have passed and none runs."""
        self._wait(timeout)

    def get(self, timeout: float | None = None) -> _T:
        """The call's value. Until it is there this agent runs other tasks, see `wait`.

        Raises:
            multiprocessing.TimeoutError: not over within `timeout` seconds; ask again.
            AgentDiedError: its agent died while it ran the call.
            TaskTimeoutError: the call ran for longer than its own `timeout`, and was ended.
            TaskCancelledError: it was cancelled.
            RecursionError: tasks wait for tasks too deep for Python's stack.
            BaseException: whatever the call raised, with the remote traceback as `__cause__`.
        """
        if not self._wait(timeout):
            raise WaitTimeoutError
        if self._success:
            return self._value  # type: ignore[no-any-return]
        raise self._value

    def cancel(self) -> bool:
        """Withdraw the call if nobody has begun it; True: it never runs, and `get` raises `TaskCancelledError`."""
        if self._done:
            return False
        self._check_ours()
        return self._nest.withdraw(self)


class ChildMapResult(Generic[_T]):
    """Result of a map inside a task: a list in order, or the first error once all chunks are over."""

    def __init__(self, parts: list[ChildResult[list[_T]]]) -> None:
        self._parts = parts

    def __reduce__(self) -> Any:
        raise NotImplementedError("a task's results cannot be passed on: return what `get` gives")

    def ready(self) -> bool:
        """Whether all is over."""
        return all(part.ready() for part in self._parts)

    def successful(self) -> bool:
        """Whether nothing was raised. Raises ValueError when it is not over."""
        return all(part.successful() for part in self._parts)

    def wait(self, timeout: float | None = None) -> None:
        """As `ChildResult.wait`, for all chunks."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for part in self._parts:
            part.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def get(self, timeout: float | None = None) -> list[_T]:
        """The values; raises as `ChildResult.get` does."""
        self.wait(timeout)
        if not all(part._done for part in self._parts):
            raise WaitTimeoutError
        return [value for part in self._parts for value in part.get()]
