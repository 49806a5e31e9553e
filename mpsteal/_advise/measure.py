"""Calls the user's function on a sample of its inputs in this process, and pickles what would travel."""

from __future__ import annotations

import pickle
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from .._agent import by_value
from . import AdviceError, Profile
from .load import traceback_of
from .predict import SEED

MOST_CALLS = 5000
"""Calls that are measured one by one. Fewer: rare heavy inputs are missed; more: time, and nothing changes."""

LEAST_CALLS = 3
"""Calls that are measured whatever they take."""

MOST_PICKLED = 64
"""Arguments and results that are pickled and kept. Fewer: a mixed input looks like its first kinds; more: memory."""

FAR = 10.0
"""How many times the median a short call has to take to be timed again. Lower: time; higher: a disturbance is taken for
a heavy input."""

SHORT_S = 50e-6
"""Calls shorter than this are also timed many at a time, since reading the clock takes about 0.1 us."""


class Sample(NamedTuple):
    """What `measure` found, with the objects that the calibration needs.

    Attributes:
        profile: the figures.
        places: some of the inputs that were measured.
        arguments, results: these inputs, and what came of them.
    """

    profile: Profile
    places: list[int]
    arguments: list[Any]
    results: list[Any]


def measure(function: Callable[[Any], Any], items: Sequence[Any], budget_s: float) -> Sample:
    """Measure the function alone.

    Args:
        function: called on one item.
        items: all inputs.
        budget_s: what the calls may take together; at least `LEAST_CALLS` are made.

    Raises:
        AdviceError: the function fails, or it, an argument or a result cannot be pickled.
    """
    function_bytes, function_s = _weigh([function], f"the function {_name(function)}")
    order = list(range(len(items)))
    random.Random(SEED).shuffle(order)
    order = order[:MOST_CALLS]
    first = order[0]
    before = _dumps(items[first], f"input number {first}")
    began = time.perf_counter()
    result = call(function, items, first)
    first_s = time.perf_counter() - began
    changes_argument = _dumps(items[first], f"input number {first}") != before
    again = call(function, items, first) if first_s < budget_s / 4 and not changes_argument else result
    took: dict[int, float] = {}
    kept: dict[int, Any] = {}
    keep_every = max(1, len(order) // MOST_PICKLED)
    clock = time.perf_counter
    cpu_began, wall_began, waits_before = time.process_time(), clock(), _waits()
    forget(function)
    for done, place in enumerate(order):
        item = fresh(items[place]) if changes_argument else items[place]
        try:
            began = clock()
            result = function(item)
            ended = clock()
        except (Exception, SystemExit) as error:
            raise _failed(place, items[place], error) from error
        took[place] = ended - began
        if done % keep_every == 0 and len(kept) < MOST_PICKLED:
            kept[place] = result
        if done + 1 >= LEAST_CALLS and ended - wall_began > budget_s:
            break
    cpu_s, wall_s, waits = time.process_time() - cpu_began, clock() - wall_began, _waits() - waits_before
    cpu_share, lost_share = share(cpu_s, wall_s, waits, len(took))
    if not changes_argument:
        _look_again(function, items, took, budget_s / 4)
    places = sorted(took)
    arguments = [items[place] for place in kept]
    argument_bytes, argument_s = _weigh(arguments, "an input")
    result_bytes, result_s = _weigh(list(kept.values()), "a result")
    profile = Profile(
        times_s=tuple(took[place] for place in places),
        places=tuple(places),
        inputs=len(items),
        cpu_share=cpu_share,
        lost_share=lost_share,
        first_s=first_s,
        argument_bytes=argument_bytes,
        argument_s=argument_s,
        result_bytes=result_bytes,
        result_s=result_s,
        function_bytes=function_bytes,
        function_s=function_s,
        is_repeatable=same(again, kept.get(first, again)),
        changes_argument=changes_argument,
    )
    return Sample(profile, list(kept), arguments, list(kept.values()))


def _waits() -> int:
    """How often this process has given up its core by itself so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def share(cpu_s: float, wall_s: float, waits: int, calls: int) -> tuple[float, float]:
    """CPU time over wall time of some calls, and which part of the time other programs have taken.

    Who waits gives up its core by itself, at least once; where that is missing, others had it.
    """
    found = cpu_s / wall_s if wall_s > 0 else 1.0
    if found < 1 and waits < max(1, calls / 50):
        return 1.0, 1.0 - found
    return found, 0.0


def _look_again(function: Callable[[Any], Any], items: Sequence[Any], took: dict[int, float], budget_s: float) -> None:
    """Time short calls again that took far longer than the others: most often another program had the core."""
    usual = statistics.median(took.values())
    if usual >= SHORT_S:
        return
    began = time.perf_counter()
    for place, took_s in took.items():
        if took_s > FAR * usual:
            forget(function)
            started = time.perf_counter()
            function(items[place])
            ended = time.perf_counter()
            took[place] = min(took_s, ended - started)
            if ended - began > budget_s:
                return


def forget(function: Any) -> None:
    """Empty a `functools.lru_cache`, so that no call is measured that only looks its result up."""
    clear = getattr(getattr(function, "function", function), "cache_clear", None)
    if callable(clear):
        clear()


def fresh(value: Any) -> Any:
    """A copy as a pool makes it, for a function that changes its argument."""
    return pickle.loads(ForkingPickler.dumps(value))


def call(function: Callable[[Any], Any], items: Sequence[Any], place: int) -> Any:
    """Call it on one input; what it raises becomes an AdviceError that names the input."""
    try:
        return function(items[place])
    except (Exception, SystemExit) as error:  # sys.exit() in an agent is no way out of the program, either
        raise _failed(place, items[place], error) from error


def _failed(place: int, item: Any, error: BaseException) -> AdviceError:
    return AdviceError(f"the function failed on input number {place}, {_short(item)}:\n{traceback_of(error)}", 1)


def _short(item: Any) -> str:
    try:
        text = repr(item)
    except Exception:  # a user's `__repr__`
        text = f"of type {type(item).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _dumps(value: Any, what: str) -> bytes:
    """As the stock pool pickles."""
    try:
        return bytes(ForkingPickler.dumps(value))
    except Exception as error:
        hint = "keep it out of what travels: send a path, a key or plain data, and open it inside the function"
        if what.startswith("the function"):
            hint = "define it with `def` at the top level of its module"
            if by_value.would_help(error) or by_value._is_installed():
                hint += f"; mpsteal.Pool alone takes it as a copy, with {by_value.HINT}"
        raise AdviceError(
            f"{what} cannot be pickled, so it cannot go to another process: {type(error).__name__}: {error}\n-> {hint}",
            1,
        ) from error


def _weigh(values: list[Any], what: str) -> tuple[float, float]:
    """Mean size of a pickle, and mean time to write and read it (s)."""
    pickles = [_dumps(value, what) for value in values]
    times = max(1, 200 // len(values)) if sum(map(len, pickles)) < 1 << 16 else 1
    began = time.perf_counter()
    for _ in range(times):
        for value in values:
            ForkingPickler.dumps(value)
        for pickled in pickles:
            try:
                pickle.loads(pickled)
            except Exception as error:
                raise AdviceError(
                    f"{what} cannot be read back from its pickle: {type(error).__name__}: {error}", 1
                ) from error
    seconds = time.perf_counter() - began
    return sum(map(len, pickles)) / len(values), seconds / (times * len(values))


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, or pickle to the same bytes (NaN, arrays)."""
    try:
        if one is other or bool(one == other):
            return True
    except Exception:  # an array has no truth, and a user's `__eq__` may raise
        pass
    try:
        return bytes(ForkingPickler.dumps(one)) == bytes(ForkingPickler.dumps(other))
    except Exception:
        return False
