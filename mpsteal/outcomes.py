"""`on_error=` of map-like calls: what becomes of a call of many items when one of them fails.

    engine --deliver--> Outcomes --deliver--> MapResult, IMapIterator
                            |
                            `-- "cancel": at the first failure, the engine is asked to withdraw the rest

"raise" needs none of this. `Outcomes` stands between the engine and the handle, so that the handles know nothing of it.
Engine thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._agent.serialize import decode_error
from ._engine.jobs import JobSink
from ._engine.loop import CLOSING, NOBODY
from ._policy.chunking import CHUNK_NS
from ._queue import layout as L
from .errors import PoolTerminatedError, TaskCancelledError

if TYPE_CHECKING:
    from .pool import Pool
    from .results import IMapIterator, MapResult

FLAGS = {"raise": 0, "collect": L.ITEMWISE, "cancel": L.ITEMWISE | L.FIRST_ONLY}
"""What each `on_error` means to an agent."""


@dataclass(frozen=True)
class Failure:
    """Stands where the result of an item would, when there is none.

    Attributes:
        error: what its call raised; `AgentDiedError`, `TaskTimeoutError` or an error of unpickling of the chunk that it
            was in; `TaskCancelledError` if it never ran.
        index: which item of the input, counted from 0.
    """

    error: BaseException
    index: int


class Outcomes:
    """Between the engine and a handle: items of a chunk end apart.

    Args:
        sink: the handle.
        is_chunked: whether chunks have several items, and give `(values, ns, failures)`; else one, which gives its
            value.
        length: how many items there are, where the handle gives a list; None: an iterator.
        withdraw: asks the engine to withdraw the rest, for "cancel"; None: "collect".
        is_of_pool: whether an error is that of the whole pool.
    """

    def __init__(
        self,
        sink: JobSink,
        *,
        is_chunked: bool,
        length: int | None,
        withdraw: Callable[[], None] | None,
        is_of_pool: Callable[[BaseException], bool],
    ) -> None:
        self._sink, self._is_chunked, self._withdraw, self._is_of_pool = sink, is_chunked, withdraw, is_of_pool
        self.items_of = sink.items_of
        self._refused: dict[int, dict[int, BaseException]] = {}
        self._partial: list[Any] | None = None if length is None or withdraw is None else [None] * length
        """What there is so far, for the error to carry; the engine goes on to fill it until the call is over."""
        self._cut_to = 0
        self._first: BaseException | None = None
        """The first failure: what the caller gets."""

    def refuse(self, index: int, errors: dict[int, BaseException]) -> None:
        """Items of chunk `index`, by place, were not sent, since they cannot be pickled."""
        self._refused[index] = errors

    def deliver(self, index: int, ok: bool, value: Any) -> None:
        """See `JobSink.deliver`."""
        items = self.items_of(index)
        self._cut_to = max(self._cut_to, items.stop)
        outcomes, failed, elapsed_ns = self._outcomes(index, items, ok, value)
        if self._partial is not None:
            self._partial[items.start : items.stop] = outcomes
        if not ok and self._is_of_pool(value):
            self._sink.deliver(index, False, value)
        elif self._withdraw is None:
            self._sink.deliver(index, True, (outcomes, elapsed_ns) if self._is_chunked else outcomes[0])
        else:
            self._deliver_until_failed(index, outcomes, failed, elapsed_ns)

    def _outcomes(self, index: int, items: range, ok: bool, value: Any) -> tuple[list[Any], int | None, int]:
        """A value or a `Failure` for each item of a chunk, the first place of one, and how long it took (ns)."""
        refused = self._refused.pop(index, {})
        if not ok:
            # How long a failed chunk took is not told; taking it for a long one errs towards small chunks.
            return [Failure(refused.get(i - items.start, value), i) for i in items], 0, CHUNK_NS
        if not self._is_chunked:
            return [value], None, 0
        values, elapsed_ns, failures = value
        raised = {place: decode_error(error) for place, error in failures}
        sent: Iterator[tuple[int, Any]] = enumerate(values)
        outcomes: list[Any] = []
        first: int | None = None
        for place, item in enumerate(items):
            error: BaseException
            if place in refused:
                error = refused[place]
            elif (found := next(sent, None)) is None:
                error = TaskCancelledError("an item before this one in its chunk failed")
            elif found[0] in raised:
                error = raised[found[0]]
            else:
                outcomes.append(found[1])
                continue
            outcomes.append(Failure(error, item))
            first = place if first is None else first
        return outcomes, first, elapsed_ns

    def _deliver_until_failed(self, index: int, outcomes: list[Any], failed: int | None, elapsed_ns: int) -> None:
        """ "cancel": what came before the first failure, then that."""
        if failed is None:
            self._sink.deliver(index, True, (outcomes, elapsed_ns) if self._is_chunked else outcomes[0])
            return
        error = outcomes[failed].error
        if self._first is not None and isinstance(error, TaskCancelledError):
            error = self._first  # an item before it, which was withdrawn for its sake
        if self._first is None:
            self._fail(error)
            assert self._withdraw is not None
            self._withdraw()
        if failed and self._partial is None:
            self._sink.deliver(index, True, (outcomes[:failed], elapsed_ns, error))
        else:
            self._sink.deliver(index, False, error)

    def _fail(self, error: BaseException) -> None:
        """This one is what the caller gets."""
        self._first = error
        if self._partial is not None:
            # Whatever its class makes of attributes.
            BaseException.__setattr__(error, "partial", self._partial)

    def input_ended(self, count: int, error: BaseException | None) -> None:
        """See `JobSink.input_ended`."""
        if self._partial is not None:
            for i in range(self._cut_to, len(self._partial)):
                self._partial[i] = Failure(TaskCancelledError("the call was cancelled before this item was sent"), i)
        if error is not None and self._first is None and not self._is_of_pool(error):
            self._fail(error)
        self._sink.input_ended(count, error)


def between(
    pool: Pool,
    handle: MapResult[Any] | IMapIterator[Any],
    on_error: str,
    *,
    length: int | None,
    is_chunked: bool,
) -> tuple[Any, int]:
    """What stands between the engine and a handle, whose `_job` is set before anything fails; and the job's flags.

    Raises ValueError when `on_error` is none of the three.
    """
    if on_error not in FLAGS:
        raise ValueError(f'on_error must be "raise", "collect" or "cancel", not {on_error!r}')
    if on_error == "raise":
        return handle, 0
    engine = pool._engine

    def withdraw() -> None:
        engine.ask_cancel(handle._job, [], NOBODY)

    def is_of_pool(error: BaseException) -> bool:
        return error is engine.broken or (engine.state > CLOSING and isinstance(error, PoolTerminatedError))

    outcomes = Outcomes(
        handle,
        is_chunked=is_chunked,
        length=length,
        withdraw=withdraw if on_error == "cancel" else None,
        is_of_pool=is_of_pool,
    )
    return outcomes, FLAGS[on_error]
