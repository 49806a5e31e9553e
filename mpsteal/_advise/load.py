"""Finds the user's function and its inputs, so that agents find the function, too.

script.py:function       the script is run as spawned children run it: its name is `__mp_main__`, so what stands below
                         `if __name__ == "__main__"` does not run, and it becomes the main module of this process, so
                         that agents of every start method load it again by its path
package.module:function  imported, with the current directory in front of `sys.path`, as `python -m` does

Inputs are asked of the same module: an expression, a name, a function that makes them; or they come from a file.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import itertools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from . import AdviceError

MOST_INPUTS = 100_000
"""Inputs that are read at most. Fewer: the end of a sorted input is not seen; more: memory, and an endless input has
to end somewhere."""

LEAST_INPUTS = 5
"""Fewer inputs tell nothing of how calls differ."""

_REFERENCE = re.compile(r"(?P<module>[\w./\\~-]+):(?P<name>[A-Za-z_][\w.]*)")


class Target(NamedTuple):
    """The user's function, and the module that it was found in."""

    function: Callable[[Any], Any]
    module: ModuleType
    name: str


class Inputs(NamedTuple):
    """What the function is called on.

    Attributes:
        items: at most `MOST_INPUTS`.
        is_cut: there would have been more.
    """

    items: list[Any]
    is_cut: bool


@contextmanager
def _own_failure(what: str) -> Iterator[None]:
    """What the user's code raises is shown as its own, and ends the command."""
    try:
        yield
    except AdviceError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise AdviceError(f"{what}\n{traceback_of(error)}", 1) from error


def traceback_of(error: BaseException) -> str:
    """Without the frames of this package."""
    here = os.path.dirname(__file__) + os.sep
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((here, "<frozen ")):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


@contextmanager
def kept_surroundings() -> Iterator[None]:
    """Whatever is loaded inside, this process has its main module, arguments and paths back afterwards."""
    mains = {name: sys.modules.get(name) for name in ("__main__", "__mp_main__")}
    argv, path = sys.argv, list(sys.path)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
        for name, module in mains.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def find_function(target: str) -> Target:
    """The function that `target` names.

    Raises AdviceError: there is no such file, module or function, it cannot be called, or its module does not load.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise AdviceError(f"{target!r} names no function: write script.py:function or package.module:function")
    module = load_module(place)
    function = _look_up(module, name, place)
    if not callable(function):
        raise AdviceError(f"{name} in {place} is no function, but {type(function).__name__} {function!r:.80}")
    if inspect.iscoroutinefunction(function):
        raise AdviceError(
            f"{name} is a coroutine function: what it awaits runs side by side under asyncio already; for a pool give "
            "one that wraps it in asyncio.run()"
        )
    return Target(function, module, name)


def load_module(place: str) -> ModuleType:
    """A script by its path, or a module by its name."""
    if place.endswith(".py") or os.sep in place:
        return _load_script(place)
    if not _is_safe_path():
        sys.path.insert(0, os.getcwd())
    try:
        with _own_failure(f"{place} could not be imported:"):
            return importlib.import_module(place)
    except AdviceError as failure:
        missing = failure.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{place}.".startswith(f"{missing.name}."):
            raise AdviceError(f"there is no module {place!r} (no module named {missing.name!r})") from None
        raise


def _is_safe_path() -> bool:
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _load_script(path: str) -> ModuleType:
    full = os.path.join(os.getcwd(), path)
    try:
        with open(full, "rb") as file:
            source = file.read()
    except OSError as error:
        raise AdviceError(f"cannot open {path!r}: {error.strerror}") from None
    module = ModuleType("__mp_main__")
    module.__dict__.update(__file__=full, __builtins__=sys.modules["builtins"], __spec__=None)
    if not _is_safe_path():
        sys.path.insert(0, os.path.dirname(os.path.realpath(full)))
    sys.argv = [path]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    with _own_failure(f"{path} could not be loaded:"):
        exec(compile(source, full, "exec", dont_inherit=True), module.__dict__)
    return module


def _look_up(module: ModuleType, name: str, place: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            guard = " (what stands below `if __name__ == '__main__'` is not there in agents either)"
            raise AdviceError(f"there is no {name!r} in {place}{hint or guard}") from None
    return found


def find_inputs(text: str, target: Target) -> Inputs:
    """Inputs from `--inputs`.

    Args:
        text: `inputs.py:name` or `package.module:name`, else a Python expression over the function's module.
        target: where the function is from.

    Raises AdviceError: that is no expression, it fails, or what comes of it is nothing to read items from.
    """
    reference = _REFERENCE.fullmatch(text)
    if reference and reference["module"] != "lambda":
        found = _look_up(load_module_beside(reference["module"], target), reference["name"], reference["module"])
    else:
        try:
            code = compile(text, "<inputs>", "eval", dont_inherit=True)
        except SyntaxError as error:
            raise AdviceError(f"--inputs is no Python expression: {text!r} ({error.msg})") from None
        with _own_failure(f"--inputs {text!r} failed:"):
            found = eval(code, dict(vars(target.module)))
    return _read(found, f"--inputs {text!r}")


def load_module_beside(place: str, target: Target) -> ModuleType:
    """The module of `--inputs`: the function's own if it is the same file; a second script is an ordinary module, since
    there is one main module."""
    if not place.endswith(".py"):
        return load_module(place)
    full = os.path.join(os.getcwd(), place)
    if getattr(target.module, "__file__", None) == full:
        return target.module
    name = os.path.basename(full)[:-3]
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None or not os.path.exists(full):
        raise AdviceError(f"cannot open {place!r}")
    if os.path.dirname(full) not in sys.path:
        sys.path.append(os.path.dirname(full))
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", None) != full:
        module = importlib.util.module_from_spec(spec)
        with _own_failure(f"{place} could not be loaded:"):
            sys.modules.setdefault(name, module)  # so that what is of its classes can be pickled
            spec.loader.exec_module(module)
    return module


def read_file(path: str) -> Inputs:
    """Inputs from `--inputs-file`: a JSON array (`.json`), else the lines of a text without their ends."""
    try:
        with open(path, encoding="utf-8") as file:
            if not path.endswith(".json"):
                return _read((line.rstrip("\n") for line in file), path)
            found = json.load(file)
    except OSError as error:
        raise AdviceError(f"cannot open {path!r}: {error.strerror}") from None
    except ValueError as error:
        raise AdviceError(f"cannot read {path!r}: {error}") from None
    if not isinstance(found, list):
        raise AdviceError(f"{path!r} holds no JSON array, but a {type(found).__name__}")
    return _read(found, path)


def _read(found: Any, what: str) -> Inputs:
    with _own_failure(f"{what}: the inputs could not be made:"):
        if callable(found):
            found = found()
        try:
            iterator = iter(found)
        except TypeError:
            raise AdviceError(f"{what} gives {type(found).__name__} {found!r:.60}, which has no items") from None
        items = list(itertools.islice(iterator, MOST_INPUTS + 1))
    if len(items) < LEAST_INPUTS:
        raise AdviceError(
            f"{what} gives {len(items)} inputs; at least {LEAST_INPUTS} are needed to see how calls differ"
        )
    return Inputs(items[:MOST_INPUTS], len(items) > MOST_INPUTS)
