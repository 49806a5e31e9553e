"""Chunks whose items end apart: what one of them raises costs none of the others (`on_error="collect"` and "cancel").

Such a chunk gives `(values, elapsed ns, failures)`. A failure is a pair of the item's place in the chunk and its error
as `encode_error` writes it; `values` has None there. `FIRST_ONLY`: it ends with the first failure, and `values` is so
much shorter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from . import by_value
from .serialize import Encoder, describe, encode_error, explain_coroutine

Failures = list[tuple[int, bytes]]


def run_items(
    function: Callable[..., Any], items: Iterable[Any], *, star: bool, first_only: bool, encoder: Encoder
) -> tuple[list[Any], Failures]:
    """Call the function for each item; what a call raises is put down and the next one is made."""
    values: list[Any] = []
    failures: Failures = []
    here = os.getpid()
    for at, item in enumerate(items):
        try:
            values.append(function(*item) if star else function(item))
        except BaseException as error:
            if os.getpid() != here:
                raise  # a fork of the agent that leaves the task so: it must not go on with the next item
            told: BaseException = error
            if isinstance(error, StopIteration):  # raised from an iterator it would be taken for the end
                told = RuntimeError("a call raised StopIteration")
                told.__cause__ = error
            values.append(None)
            failures.append((at, encode_error(told, encoder)))
            if first_only:
                break
    return values, failures


def sift(result: tuple[list[Any], int, Failures], encoder: Encoder) -> tuple[list[Any], int, Failures]:
    """The same result of a chunk without the values that cannot be pickled, which become failures."""
    values, elapsed_ns, failures = result
    for at, value in enumerate(values):
        try:
            encoder.dumps(value)
        except BaseException as error:  # a user's `__reduce__`
            values[at] = None
            failures.append((at, encode_error(refusal(error, value), encoder)))
    return values, elapsed_ns, failures


def refusal(error: BaseException, value: Any) -> BaseException:
    """What the caller gets for a value that could not be pickled: `MaybeEncodingError`, as in the stock pool."""
    from multiprocessing import pool as stock  # here: it is heavy, and most agents never need it

    error = by_value.explain(explain_coroutine(error, value))
    try:
        return stock.MaybeEncodingError(error, value)  # type: ignore[attr-defined, no-any-return]  # not in typeshed
    except BaseException:  # a user's `__repr__`
        text = f"a {type(value).__qualname__} whose repr() fails"
        return stock.MaybeEncodingError(describe(error), text)  # type: ignore[attr-defined, no-any-return]
