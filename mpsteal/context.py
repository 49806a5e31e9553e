"""`mpsteal.get_context(method)`: a `multiprocessing` context whose `Pool` is ours."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, ClassVar

from .pool import Pool


class _WithPool:
    """What is laid over the stock context's class."""

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **additions: Any,
    ) -> Pool:
        """A pool whose agents are started by this context's method."""
        return Pool(processes, initializer, initargs, maxtasksperchild, context=self, **additions)  # type: ignore[arg-type]  # it is one, see below


if TYPE_CHECKING:

    class Context(_WithPool, BaseContext):  # type: ignore[misc]  # its `Pool` is ours
        """What `get_context` gives; at run time each is of a class of its own, after the stock one's."""

        Process: ClassVar[type[BaseProcess]]


def get_context(method: str | None = None) -> Context:
    """The context of a start method ("fork", "spawn", "forkserver"), or the default one.

    A context like the stock one in every respect but `Pool`.

    Raises:
        ValueError: this platform has no such method.
    """
    stock: BaseContext = multiprocessing.get_context(method)
    made: Context = type(type(stock).__name__, (_WithPool, type(stock)), {})()
    return made
