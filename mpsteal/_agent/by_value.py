"""What plain pickle refuses goes by value, through cloudpickle, where that is installed; silently, and only then.

    plain pickle --refuses--> cloudpickle there? --yes--> a copy: code, closure, the globals it uses
                                                 '--no--> the refusal, which names the extra

So lambdas, closures, and functions and classes that are defined inside of others can be sent, alone and inside of other
objects, and come back; whatever can go by its name does, at full speed. cloudpickle is not imported before the first
refusal. A copy is made anew for every call, since what it closes over may have changed, and once for every map.

What stands in the `__main__` of a notebook or a prompt has a name as well, but no agent can import it; and a fork has
it as it was when the agent started. So there it goes by value too, and a cell that is run again takes effect.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

REFUSALS = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises where it cannot; anything else is an error of the user's `__reduce__`."""

HINT = 'pip install "mpsteal[cloudpickle]"'

_HELPED = frozenset({"cell", "code", "dict_items", "dict_keys", "dict_values", "mappingproxy", "memoryview", "module"})
"""Types that plain pickle refuses with a TypeError and cloudpickle takes (its `_dispatch_table`, 3.1)."""


def is_main_interactive() -> bool:
    """Whether `__main__` is a notebook, a prompt, `python -c` or a script from stdin, which nobody else can import.

    After `python -i script.py` it has a file, and more than what stands in that.
    """
    main = sys.modules.get("__main__")
    has_file = getattr(main, "__spec__", None) is not None or getattr(main, "__file__", None) not in (None, "<stdin>")
    return not has_file or hasattr(sys, "ps1") or bool(sys.flags.interactive)


class MainByValue(ForkingPickler):
    """Refuses what has its name in a `__main__` that agents cannot import, or have as it once was."""

    def reducer_override(self, value: Any) -> Any:
        """0.1 us for each object that is no plain data."""
        if isinstance(value, (types.FunctionType, type)) and getattr(value, "__module__", None) == "__main__":
            raise pickle.PicklingError(
                f"Can't pickle {value.__qualname__}: it was defined at a prompt or in a notebook, where agents find no "
                "names"
            )
        return NotImplemented


def choose_pickler(*, forks: bool) -> type[ForkingPickler]:
    """The pickler for what is sent to agents.

    Args:
        forks: whether agents have what there was in `__main__` when they started: better than nothing.
    """
    if not is_main_interactive() or (forks and not _is_installed()):
        return ForkingPickler
    return MainByValue


_pickler: Any = None


def dump(value: Any, buffer: io.BytesIO, protocol: int, put_aside: Callable[[pickle.PickleBuffer], bool]) -> None:
    """Write one object, less the buffers that are put aside.

    Raises ImportError where there is no cloudpickle, and what that raises.
    """
    global _pickler
    cloudpickle = import_module("cloudpickle")
    if _pickler is None:
        _pickler = _make_pickler(cloudpickle.Pickler)
    _pickler(buffer, protocol, buffer_callback=put_aside).dump(value)


def _make_pickler(base: Any) -> Any:
    class Pickler(base):  # type: ignore[misc]  # Any
        """cloudpickle's, with the reducers that users have registered with multiprocessing; and what stands in a main
        module that agents import goes by its name, else their own functions would not know its classes."""

        dispatch_table: ClassVar[Any] = ChainMap(ForkingPickler._extra_reducers, base.dispatch_table)  # type: ignore[attr-defined]

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, (types.FunctionType, type)) and _is_in_main_module(value):
                return NotImplemented
            return super().reducer_override(value)

    return Pickler


def _is_in_main_module(value: Any) -> bool:
    if getattr(value, "__module__", None) != "__main__" or is_main_interactive():
        return False
    found: Any = sys.modules["__main__"]
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def would_help(error: BaseException) -> bool:
    """Whether cloudpickle, which is not installed, takes what plain pickle has refused, as far as its words tell."""
    if type(error) not in REFUSALS or _is_installed():
        return False
    return type(error) is not TypeError or any(f"'{name}'" in _words(error) for name in _HELPED)


def explain(error: BaseException) -> BaseException:
    """A result's refusal, with what would help."""
    if not would_help(error):
        return error
    told = type(error)(f"{_words(error)}; it can be sent as a copy: {HINT}")
    told.__cause__ = error
    return told


def explain_missing(error: BaseException) -> BaseException:
    """Why an agent could not read a call, with what would help where its `__main__` lacks a name."""
    if type(error) is not AttributeError or not any(
        f"'{main}'" in _words(error) for main in ("__main__", "__mp_main__")
    ):
        return error
    if is_main_interactive():
        why = f"it was defined at a prompt or in a notebook after the agents had started: {HINT}"
    else:
        why = (
            "agents import the main module and run nothing below `if __name__ == '__main__'`; forks have it as it was "
            "when they started"
        )
    told = AttributeError(f"{_words(error)} -- {why}")
    told.__cause__ = error
    return told


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # a user's `__str__`, of what is in it
        return ""


def _is_installed() -> bool:
    import importlib.util  # here: 2 ms, and few need it

    return importlib.util.find_spec("cloudpickle") is not None
