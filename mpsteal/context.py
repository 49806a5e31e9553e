"""`mpsteal.get_context(method)`: a `multiprocessing` context whose `Pool` is ours."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from typing import Any

from .pool import Pool


class _WithPool:
    """What is laid over the stock context's class."""

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **additions: Any,
    ) -> Pool:
        """A pool whose agents are started by this context's method."""
        return Pool(processes, initializer, initargs, maxtasksperchild, context=self, **additions)


def get_context(method: str | None = None) -> Any:
    """The context of a start method ("fork", "spawn", "forkserver"), or the default one.

    A context like the stock one in every respect but `Pool`.

    Raises:
        ValueError: this platform has no such method.
    """
    stock: BaseContext = multiprocessing.get_context(method)
    return type(type(stock).__name__, (_WithPool, type(stock)), {})()
