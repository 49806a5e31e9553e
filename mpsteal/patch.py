"""Put mpsteal in the place of the stock pool, for programs that nobody wants to edit.

Every door of the stock Pool ends at the attribute `Pool` of the module `multiprocessing.pool`,
which the others look up when they are called:

    multiprocessing.Pool(...)                 default context ──┐
    multiprocessing.get_context(m).Pool(...)  BaseContext.Pool ─┼─> multiprocessing.pool.Pool
    from multiprocessing.pool import Pool     the class itself ─┘
    multiprocessing.Manager().Pool(...)       a registry that took the class at import

So there are two replacements: that attribute, and the registry's entry (also because the entry is
pickled by its name under spawn and forkserver, and by then the name means another class).

The attribute is replaced for whoever asks the module, and only for them: the code inside the module
finds its globals in the module's dictionary, which stays as it is. Rejected: assigning to
`multiprocessing.pool.Pool`. `ThreadPool.__init__` calls `Pool.__init__`, and the stock Pool its own
static methods, through that global: both break.

What stays stock: `ThreadPool`, a `Pool` that was imported from `multiprocessing.pool` before
`install`, and other interpreters that the program starts. Children of spawn and forkserver run
tasks and are not patched; children of fork are.

Run by `mpsteal run` in the main thread before the program's first line.
"""

from __future__ import annotations

import multiprocessing.managers
import multiprocessing.pool
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_StockPool = multiprocessing.pool.Pool
_registry: dict[str, Any] = vars(multiprocessing.managers.SyncManager)["_registry"]


class _PoolModule(ModuleType):
    """What `multiprocessing.pool` is meanwhile: the same module, with one answer changed."""

    @property
    def Pool(self) -> Any:
        """`mpsteal.Pool`, or what the program itself has put there (a mock, say)."""
        import mpsteal

        current = self.__dict__["Pool"]
        return mpsteal.Pool if current is _StockPool else current

    @Pool.setter
    def Pool(self, value: Any) -> None:
        import mpsteal

        # Whoever saved our answer and puts it back (a mock does) means the state before.
        self.__dict__["Pool"] = _StockPool if value is mpsteal.Pool else value


def install() -> None:
    """Replace the stock pool in this process; does nothing when it is already replaced."""
    import mpsteal

    _set_pool(_PoolModule, mpsteal.Pool)


def uninstall() -> None:
    """Put the stock pool back; does nothing when it is there. Pools made meanwhile live on."""
    _set_pool(ModuleType, _StockPool)


def is_installed() -> bool:
    """Whether the stock pool is replaced in this process."""
    return isinstance(multiprocessing.pool, _PoolModule)


@contextmanager
def installed() -> Iterator[None]:
    """Replace the stock pool inside a `with` block; an outer replacement stays as it was."""
    was_installed = is_installed()
    install()
    try:
        yield
    finally:
        if not was_installed:
            uninstall()


def _set_pool(module_class: type[ModuleType], pool_class: Any) -> None:
    multiprocessing.pool.__class__ = module_class
    # typeid: (callable, exposed methods, method to typeid, proxy type)
    _registry["Pool"] = (pool_class, *_registry["Pool"][1:])
