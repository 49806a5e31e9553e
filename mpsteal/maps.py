"""The map-like calls of a Pool: `map`, `starmap`, `imap` and their kin; a base of `Pool`.

items --cut into chunks--> Job --engine--> [Counted] --> [Outcomes] --> MapResult, IMapIterator
                                           `progress=`   `on_error=`
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from ._engine.jobs import WINDOW_CHUNKS, Job
from ._engine.loop import Engine
from ._engine.terms import NO_TERMS, Terms
from ._policy.chunking import CHUNKS_AHEAD_PER_AGENT
from ._queue.layout import KIND_CALL, KIND_MAP, KIND_STARMAP
from .outcomes import Failure, between
from .progress import begin
from .results import (
    ChunkedIMapIterator,
    ChunkedIMapUnorderedIterator,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # every type checker has it

_Item = TypeVar("_Item")
_T = TypeVar("_T")
_Results = TypeVar("_Results", bound=IMapIterator[Any])

OnError = Literal["raise", "collect", "cancel"]


class MapOptions(TypedDict, total=False):
    """Keywords of `map` and its kin, beside `on_error`, on which the type of the result depends."""

    timeout: float | None
    retries: int
    progress: bool | str


class IMapOptions(MapOptions, total=False):
    """The same of `imap`."""

    buffersize: int | None


PLAIN_INPUTS = (list, tuple, range, str, bytes, dict, set, frozenset)
"""Input whose iteration runs no user code and cannot block, so the engine reads it by itself."""


class MapCalls:
    """What a Pool does with many items."""

    _engine: Engine
    _processes: int

    def _check_running(self) -> None:
        raise NotImplementedError

    @overload
    def map(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[MapOptions],
    ) -> list[_T]: ...

    @overload
    def map(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[MapOptions],
    ) -> list[_T | Failure]: ...

    def map(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> list[_T] | list[_T | Failure]:
        """`[func(x) for x in iterable]` over the agents, in order. Without `chunksize` it is cut by policy.

        Args:
            func, iterable, chunksize: what is called, on what, and how many items go together.
            timeout, retries: as in `apply_async`: each item has that time; a chunk of items runs again as a whole.
            progress: show how many items are done, on standard error: by tqdm where that is installed, else as a line.
                A string is what it is called.
            on_error: "raise": the first error is raised once all is over. "collect": nothing is raised, and a `Failure`
                stands where an item has no result. "cancel": at the first error what has not started is withdrawn, and
                once what runs is over that error is raised; its attribute `partial` is the list as of "collect".

        Raises what the first call that failed has raised; ValueError or TypeError for arguments that cannot be.
        """
        frame, terms = sys._getframe(1), terms_for(timeout, retries)
        result = self._map_async(func, iterable, KIND_MAP, chunksize, None, None, frame, terms, progress, on_error)
        try:
            return result.get()
        finally:
            result._hide()

    @overload
    def map_async(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = ...,
        callback: Callable[[list[_T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[MapOptions],
    ) -> MapResult[_T]: ...

    @overload
    def map_async(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = ...,
        callback: Callable[[list[_T | Failure]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[MapOptions],
    ) -> MapResult[_T | Failure]: ...

    def map_async(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> MapResult[_T] | MapResult[_T | Failure]:
        """`map` that returns a handle at once."""
        frame, terms = sys._getframe(1), terms_for(timeout, retries)
        return self._map_async(
            func, iterable, KIND_MAP, chunksize, callback, error_callback, frame, terms, progress, on_error
        )

    @overload
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[MapOptions],
    ) -> list[_T]: ...

    @overload
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[MapOptions],
    ) -> list[_T | Failure]: ...

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> list[_T] | list[_T | Failure]:
        """`[func(*x) for x in iterable]` over the agents, in order."""
        frame, terms = sys._getframe(1), terms_for(timeout, retries)
        result = self._map_async(func, iterable, KIND_STARMAP, chunksize, None, None, frame, terms, progress, on_error)
        try:
            return result.get()
        finally:
            result._hide()

    @overload
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        callback: Callable[[list[_T]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[MapOptions],
    ) -> MapResult[_T]: ...

    @overload
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = ...,
        callback: Callable[[list[_T | Failure]], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[MapOptions],
    ) -> MapResult[_T | Failure]: ...

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> MapResult[_T] | MapResult[_T | Failure]:
        """`starmap` that returns a handle at once."""
        frame, terms = sys._getframe(1), terms_for(timeout, retries)
        return self._map_async(
            func, iterable, KIND_STARMAP, chunksize, callback, error_callback, frame, terms, progress, on_error
        )

    def _map_async(
        self,
        func: Any,
        iterable: Iterable[Any],
        kind: int,
        chunksize: int | None,
        callback: Any,
        error_callback: Any,
        frame: Any,
        terms: Terms,
        progress: bool | str,
        on_error: str,
    ) -> MapResult[Any]:
        self._check_running()
        # A copy of what may change while it is read, and whatever user code there is in it runs here.
        items: Sequence[Any] = iterable if type(iterable) in (tuple, range) else list(iterable)  # type: ignore[assignment]
        if chunksize is not None:
            check_count("chunksize", chunksize, 0, "None lets the pool choose")
        site = (frame.f_code, frame.f_lasti)
        pool: Any = self
        result: MapResult[Any] = MapResult(pool, len(items), callback, error_callback)
        sink, flags = between(pool, result, on_error, length=len(items), is_chunked=True)
        if not items:
            result._settle(True, [])  # without a callback, as in the stock pool
            return result
        pieces = result.pieces(items, chunksize, self._processes)
        # The cutter says how far ahead it is for so many agents as there are; here bytes are bounded as well.
        window = None if chunksize else CHUNKS_AHEAD_PER_AGENT * self._engine.capacity
        if progress is not False:
            sink, result._progress = begin(progress, items, sink, ends_early=on_error == "cancel")
        job = Job(func, kind, pieces, sink, window=window, site=site, terms=terms, flags=flags)
        result._job = job
        self._submit_job(job)
        return result

    def _submit_job(self, job: Job) -> None:
        if job.terms.timeout_ns:
            self._engine.dispatcher.limits.watch(job)
        self._engine.submit(job)

    @overload
    def imap(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[IMapOptions],
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[IMapOptions],
    ) -> IMapIterator[_T | Failure]: ...

    def imap(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> IMapIterator[_T] | IMapIterator[_T | Failure]:
        """Lazy `map`: reads the iterable as tasks finish, gives results in order.

        Args:
            func, iterable: as in `map`.
            chunksize: items pickled together.
            buffersize: chunks in flight or finished and not yet fetched, at most; None: only those in flight are
                bounded, so a slow consumer lets results pile up.
            timeout, retries: as in `map`. Only the items of that chunk raise, and the iterator goes on.
            progress: as in `map`.
            on_error: "raise": an error is raised in the place of its chunk's results, and the iterator goes on with the
                next chunk. "collect": a `Failure` is given in the place of each result that is missing. "cancel": at
                the first error the input is read no further and what has not started is withdrawn; the error is raised
                in its place, after the results that come before it, and there is nothing after it.
        """
        terms = terms_for(timeout, retries)
        kind: type[IMapIterator[_T]] = IMapIterator if chunksize == 1 else ChunkedIMapIterator
        return self._imap(kind, func, iterable, chunksize, buffersize, sys._getframe(1), terms, progress, on_error)

    @overload
    def imap_unordered(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = ...,
        *,
        on_error: Literal["raise", "cancel"] = ...,
        **options: Unpack[IMapOptions],
    ) -> IMapUnorderedIterator[_T]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = ...,
        *,
        on_error: Literal["collect"],
        **options: Unpack[IMapOptions],
    ) -> IMapUnorderedIterator[_T | Failure]: ...

    def imap_unordered(
        self,
        func: Callable[[_Item], _T],
        iterable: Iterable[_Item],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool | str = False,
        on_error: OnError = "raise",
    ) -> IMapUnorderedIterator[_T] | IMapUnorderedIterator[_T | Failure]:
        """`imap` that gives results as they come."""
        terms = terms_for(timeout, retries)
        kind: type[IMapUnorderedIterator[_T]] = IMapUnorderedIterator
        if chunksize != 1:
            kind = ChunkedIMapUnorderedIterator
        return self._imap(kind, func, iterable, chunksize, buffersize, sys._getframe(1), terms, progress, on_error)

    def _imap(
        self,
        cls: type[_Results],
        func: Any,
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        frame: Any,
        terms: Terms,
        progress: bool | str,
        on_error: str,
    ) -> _Results:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        if buffersize is not None:
            check_count("buffersize", buffersize, 1, "None means no limit")
        engine = self._engine
        pool: Any = self
        out = cls(pool, chunksize)
        items: Iterator[Any] = iter(iterable)  # here: what cannot be iterated is refused in the caller's thread
        payloads: Iterator[Any] = zip(items) if chunksize == 1 else out._sized(batches(items, chunksize))
        sink, flags = between(pool, out, on_error, length=None, is_chunked=chunksize > 1)
        out._ends_at_error = on_error == "cancel"
        if progress is not False:
            is_short = on_error == "cancel" and chunksize > 1
            sink, out._progress = begin(progress, iterable, sink, ends_early=is_short)
        job = Job(
            func,
            KIND_CALL if chunksize == 1 else KIND_MAP,
            payloads,
            sink,
            window=WINDOW_CHUNKS,
            buffersize=buffersize,
            threaded=type(iterable) not in PLAIN_INPUTS,
            wake=engine.poke,
            site=(frame.f_code, frame.f_lasti),
            terms=terms,
            flags=flags,
        )
        out._job = job
        self._submit_job(job)
        return out


def terms_for(timeout: float | None, retries: int) -> Terms:
    return NO_TERMS if timeout is None and retries == 0 else Terms(None, timeout, retries)


def check_count(name: str, value: object, least: int, hint: str) -> None:
    try:
        ok = operator.index(value) >= least  # type: ignore[arg-type]  # what has no __index__ is told below
    except TypeError:
        ok = False
    if not ok:
        raise ValueError(f"{name} must be a positive int or None, not {value!r}; {hint}")


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
