"""Pickling of tasks and results (D3).

Tasks are pickled one by one, so that none sees another's objects, but into one buffer, which is written as one block.
The pickler is `multiprocessing`'s, so reducers users registered with it hold here too; it is made once and its memo
cleared between tasks (0.3 us a task; `ForkingPickler.dumps` makes a new one each time, 1.8 us). What it refuses goes
by value where that can be, see `by_value.py`.
"""

from __future__ import annotations

import io
import pickle
import types
from multiprocessing.reduction import ForkingPickler
from typing import Any

from . import by_value
from .buffers import APART_BYTES, Ticket

PROTOCOL = 5

PLAIN = frozenset({int, float, str, bytes, bool, type(None), complex})
"""Types that every pickler treats alike, so the fast function may be used for them."""

FLAT_ITEMS = 8
"""Of a tuple, list or dict with so many items at most it is looked up whether all are `PLAIN` (0.3 us), so that the
fast function may be used for it, too (1 us less). Fewer: for pairs alone; more: what is not flat pays for the look."""


def is_flat(value: Any, kind: type) -> bool:
    """Whether a value of that exact type is a small container of nothing but `PLAIN` values."""
    if kind is tuple or kind is list:
        return len(value) <= FLAT_ITEMS and PLAIN.issuperset(map(type, value))
    if kind is dict:
        return (
            len(value) <= FLAT_ITEMS
            and PLAIN.issuperset(map(type, value.values()))
            and PLAIN.issuperset(map(type, value))
        )
    return False


_BY_REFERENCE = (types.FunctionType, types.BuiltinFunctionType, type)


def is_by_reference(function: Any) -> bool:
    """Whether pickle sends this callable as a mere name, so that it may be cached for the life of the pool.

    Bound methods, partials and callable objects carry state that may change, builtin bound methods (`[].append`)
    too; a class with a metaclass of its own may be pickled by a registered reducer.
    """
    kind = type(function)
    if kind is types.BuiltinFunctionType:
        return isinstance(function.__self__, types.ModuleType) or function.__self__ is None
    return kind in _BY_REFERENCE


class BufferLostError(MemoryError):
    """An encoder's buffer is gone: `io.BytesIO` loses its content when it finds no memory to grow."""


class Encoder:
    """A buffer and a pickler that writes into it, one object after the other.

    Args:
        kind: the pickler's class, see `by_value.choose_pickler`.
        apart: whether large buffers of what is pickled are put aside rather than written into the pickle.

    Attributes:
        aside: what of the last object travels apart: buffers (memoryviews), and `Ticket`s.
    """

    def __init__(self, kind: type[ForkingPickler] = ForkingPickler, *, apart: bool = False) -> None:
        self.kind = kind
        self._apart = apart
        self.aside: list[Any] = []
        self.renew()

    def set_kind(self, kind: type[ForkingPickler]) -> None:
        """Go on with a pickler of that class."""
        self.kind = kind
        self.renew()

    def renew(self) -> None:
        """Start over with a buffer and a pickler of no past."""
        self.buffer = io.BytesIO()
        self.pickler = self.kind(self.buffer, PROTOCOL, True, self._put_aside)
        self.aside.clear()

    def _put_aside(self, picklable: pickle.PickleBuffer) -> bool:
        """The pickler asks whether a buffer is to be written into the pickle."""
        if not self._apart:
            return True
        try:
            view = picklable.raw()
        except BufferError:  # not contiguous, which the pickler refuses
            return True
        if type(view.obj) is Ticket:
            self.aside.append(view.obj)
            return True
        if view.nbytes < APART_BYTES:
            return True
        self.aside.append(view)
        return False

    def reset(self) -> None:
        """Start over with an empty buffer."""
        try:
            self.buffer.seek(0)
            self.buffer.truncate()
        except BufferError:  # a profiler or a debugger that keeps frames keeps what looks into it
            self.renew()

    def forget_from(self, start: int) -> None:
        """Drop an object that was half-written at `start`. Raises `BufferLostError` when nothing is left at all."""
        self.pickler.clear_memo()
        self.aside.clear()
        try:
            self.buffer.seek(start)
            self.buffer.truncate()
        except ValueError:
            raise BufferLostError from None

    def dump_refused(self, value: Any, start: int, error: BaseException) -> BaseException | None:
        """Write at `start`, by value, what the pickler has refused with `error`. None: it is there; else what to tell,
        and then `forget_from`, which is what the caller has to do.
        """
        if type(error) not in by_value.REFUSALS:
            return error
        try:
            self.forget_from(start)
        except MemoryError:
            return error
        try:
            by_value.dump(value, self.buffer, PROTOCOL, self._put_aside)
        except ImportError:  # the extra's; or one that a user's `__reduce__` raised second
            return error
        except by_value.REFUSALS as second:
            return _both(error, second)
        except BaseException as second:
            return second
        return None

    def dumps(self, value: Any, *, only_plain: bool = False) -> bytes:
        """One object as bytes of its own; `only_plain`: not by value."""
        start = self.buffer.tell()
        try:
            self.dump(value, start, only_plain)
            return self.buffer.getvalue()[start:]
        finally:
            self._forget_or_renew(start)

    def dumps_apart(self, value: Any) -> tuple[bytes, list[Any]]:
        """The same, and what of it travels apart, see `aside`. Spelled out, since it is paid for most results."""
        buffer, pickler, aside = self.buffer, self.pickler, self.aside
        self._apart = True
        start = buffer.tell()
        try:
            try:
                pickler.dump(value)
            except by_value.REFUSALS as error:
                self._dump_refused_or_raise(value, start, error)
            pickled, apart = buffer.getvalue()[start:], aside[:]
            pickler.clear_memo()
            aside.clear()
            buffer.seek(start)
            buffer.truncate()
        except BaseException:
            self._forget_or_renew(start)
            raise
        finally:
            self._apart = False
        return pickled, apart

    def dump(self, value: Any, start: int, only_plain: bool = False) -> None:
        """Write one object at `start`, the end of the buffer; by value if need be, unless `only_plain`.

        Raises the refusal; then `forget_from` is what the caller has to do.
        """
        try:
            self.pickler.dump(value)
        except by_value.REFUSALS as error:
            if only_plain:
                raise
            self._dump_refused_or_raise(value, start, error)

    def _dump_refused_or_raise(self, value: Any, start: int, error: BaseException) -> None:
        told = self.dump_refused(value, start, error)
        if told is error:
            raise error
        if told is not None:
            raise told from error

    def _forget_or_renew(self, start: int) -> None:
        try:
            self.forget_from(start)
        except BufferLostError:
            self.renew()


def _both(error: BaseException, second: BaseException) -> BaseException:
    """A refusal of both, of the first one's type."""
    try:
        if str(second) == str(error):
            return error
        return type(error)(f"{error}; and cloudpickle: {describe(second)}")
    except BaseException:  # a user's `__str__`
        return error


def describe(error: BaseException) -> str:
    """Type and message of an error, even if it has no words of its own."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # a user's `__str__`
        return type(error).__name__


def explain_coroutine(error: BaseException, value: Any) -> BaseException:
    """What a result that cannot be pickled is refused for: `error`, unless there are coroutines in it.

    Then somebody has sent an `async def`, whose call runs nothing, and "cannot pickle 'coroutine' object" tells nobody
    what to do. They are closed, so that the agent does not warn of coroutines that were never awaited; one that has
    begun is left alone, since closing it would run a user's code.

    Args:
        value: the result; of a chunk of items the list of theirs.
    """
    found = [one for one in (value if type(value) is list else [value]) if type(one) is types.CoroutineType]
    if not found:
        return error
    from inspect import CORO_CREATED, getcoroutinestate  # here: most agents never need it

    for coroutine in found:
        if getcoroutinestate(coroutine) == CORO_CREATED:
            coroutine.close()
    name = found[0].__qualname__
    return TypeError(
        f"{name} is a coroutine function, so its call gave a coroutine and ran nothing; send a plain function that "
        f"wraps it: asyncio.run({name}(...))"
    )


def encode_error(error: BaseException, encoder: Encoder) -> bytes:
    """An exception as `(pickled or None, type name, message, traceback text, reason)`, which always pickles."""
    try:
        import traceback  # here: most agents never need it

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as broken:  # a user's `__str__` again
        text = f"<formatting the traceback raised {type(broken).__name__}>\n"
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = "".join([str(error), ""])  # a plain str, whatever `__str__` gave
    except BaseException as broken:  # a user's __str__
        message = f"<its __str__ raised {type(broken).__name__}>"
    reason = ""
    pickled: bytes | None = None
    try:
        pickled = encoder.dumps(error)
    except BaseException as refused:  # a user's `__reduce__`
        reason = f"pickling it raised {describe(refused)}"
    return pickle.dumps((pickled, name, message, text, reason), PROTOCOL)


def decode_error(payload: Any) -> BaseException:
    """Parent side of `encode_error`: the exception, with the remote traceback as its cause where it can be rebuilt."""
    from multiprocessing import pool as stock  # heavy, and only errors need it

    from ..errors import RemoteError

    pickled, name, message, text, reason = pickle.loads(payload)
    if pickled is not None:
        try:
            error = pickle.loads(pickled)
            if isinstance(error, BaseException):
                # The same shape as the stock pool's, so that tools which look for it find it.
                error.__cause__ = stock.RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[attr-defined]  # not in typeshed
                return error
            reason = f"unpickling it gave a {type(error).__name__}"
        except BaseException as refused:  # a user's `__setstate__`
            reason = f"unpickling it raised {describe(refused)}"
    return RemoteError(name, message, text, reason)
