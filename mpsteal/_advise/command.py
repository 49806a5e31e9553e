"""The command line of `mpsteal advise`."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from .._engine.cpus import usable_cpus
from .._terminal import to_the_end
from . import POOL_WAYS, SERIAL, AdviceError, Forecast, Profile, words
from .calibrate import Setup, calibrate
from .load import MOST_INPUTS, Inputs, Target, find_function, find_inputs, kept_surroundings, read_file
from .measure import measure
from .predict import forecast
from .tasks import Star
from .trial import Trial, run_trial

MEASURE, CALIBRATE, CHECK = 0.15, 0.3, 0.45
"""Shares of the time limit. The rest is for what nobody foresees."""

PATIENCE_S = 60.0
"""Beyond twice the time limit, before it is said why nothing comes. Less: it is said on busy machines, too; more: who
waits has gone."""

LEAST_CHECK_S = 3.0
"""A check that takes no longer is made whatever the time limit. Less: short limits show no error; more: they are
exceeded by more."""

EXAMPLES = """
examples:
  mpsteal advise script.py:work --inputs 'range(100)'           an expression over the script's names
  mpsteal advise script.py:work --inputs make_inputs            a name in it; what is callable is called
  mpsteal advise script.py:work --inputs inputs.py:make         the same in another file
  mpsteal advise package.module:work --inputs-file lines.txt    one input a line; of a .json file, an array
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, predict, advise, check.

    Returns:
        0: it could advise. 1: the function fails, or cannot be sent, or gives other results in a pool. 2: the command
        line is wrong.

    Raises:
        SystemExit: from argparse.
        KeyboardInterrupt: Ctrl-C, when everything is gone.
    """
    parser = _make_parser()
    options = parser.parse_args(argv)
    if (options.inputs is None) == (options.inputs_file is None):
        parser.error("say what the function is called on: --inputs EXPRESSION, or --inputs-file FILE")

    def examine() -> int:
        tell = _Progress(not options.json)
        with kept_surroundings(), tell.watched(2 * options.time_limit + PATIENCE_S):
            try:
                return _advise(options, tell)
            except AdviceError as error:
                sys.stderr.write(f"mpsteal advise: {error}\n")
                return error.exit_status

    return to_the_end(examine)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpsteal advise",
        description="Measure a function of yours, and say whether a pool pays for it, which one, and how sure that is.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("function", help="script.py:function or package.module:function, called with one argument")
    parser.add_argument("--inputs", metavar="EXPR", help="sample inputs: a Python expression, or file.py:name")
    parser.add_argument("--inputs-file", metavar="FILE", help="sample inputs: the lines of a text, or a .json array")
    parser.add_argument("--star", action="store_true", help="call function(*input), as starmap does")
    parser.add_argument(
        "--items", type=_positive, metavar="N", help="calls of the real job (default: as many as inputs)"
    )
    parser.add_argument("--agents", type=_positive, metavar="N", help="processes of a pool (default: the usable CPUs)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), help="of the processes")
    parser.add_argument("--time-limit", type=_seconds, default=20.0, metavar="S", help="about how long (default: 20)")
    parser.add_argument("--no-check", action="store_true", help="predict only, do not run the job to compare")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError("more than 0 and at most 86400")
    return value


def _advise(options: argparse.Namespace, tell: _Progress) -> int:
    cpus = usable_cpus()
    setup = Setup(options.agents or cpus, multiprocessing.get_context(options.start_method))
    with _silence():
        tell("loading the function")
        target = find_function(options.function)
        inputs = find_inputs(options.inputs, target) if options.inputs is not None else read_file(options.inputs_file)
        function = Star(target.function) if options.star else target.function
        tell("calling the function")
        sample = measure(function, inputs.items, options.time_limit * MEASURE)
        tell("calibrating the pools")
        costs, profile = calibrate(function, sample, setup, cpus, options.time_limit * CALIBRATE)
    items = options.items or len(inputs.items)
    case = words.Case(profile, costs, forecast(profile, costs, items, setup.agents), items, setup.agents, cpus)
    tell("")
    if not options.json:
        sys.stdout.write(_advice_in_words(case, inputs, options.items is None))
        sys.stdout.flush()
    trial: Trial | None = None
    predicted: dict[str, Forecast] = {}
    if not options.no_check:
        tell("doing the job in all ways")
        count, times, predicted = size_of_trial(case, len(inputs.items), max(LEAST_CHECK_S, options.time_limit * CHECK))
        if count:
            ways = [SERIAL, *POOL_WAYS]
            changes = profile.changes_argument
            with _silence():
                trial = run_trial(function, inputs.items[:count], ways, setup, times, changes_argument=changes)
        tell("")
        if not options.json:
            sys.stdout.write(trial_in_words(trial, predicted, profile, options.time_limit))
    if options.json:
        json.dump(_as_json(target, case, setup, trial, predicted), sys.stdout, indent=2)
        sys.stdout.write("\n")
    sys.stdout.flush()
    return 1 if trial is not None and trial.differ and profile.is_repeatable else 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What the user's function prints, here and in agents, thousands of times, is thrown away; its errors are not."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


class _Progress:
    """Says what it is at, on a terminal only; anywhere, if that does not end."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_on = is_wanted and sys.stderr.isatty()
        self._what = ""

    @contextlib.contextmanager
    def watched(self, patience_s: float) -> Iterator[None]:
        """What takes longer is said, once. The function runs in this process, and the stock pool waits for a process
        that has ended: there is nothing else that could be done."""

        def complain() -> None:
            sys.stderr.write(
                f"mpsteal advise: still {self._what}, after {patience_s:.0f} s. A function that does not end, or that "
                "ends its process, keeps this waiting; Ctrl-C ends it.\n"
            )
            sys.stderr.flush()

        timer = threading.Timer(patience_s, complain)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def __call__(self, what: str) -> None:
        self._what = what or self._what
        if self._is_on:
            sys.stderr.write(f"\r{what + ' ...' if what else '':<40}" + ("" if what else "\r"))
            sys.stderr.flush()


def part(profile: Profile, count: int) -> Profile:
    """The profile of the first inputs alone; of all if too few of the first were measured."""
    kept = [(place, took) for place, took in zip(profile.places, profile.times_s, strict=True) if place < count]
    if len(kept) < min(count, 20):
        return profile
    places, times_s = zip(*kept, strict=True)
    return profile._replace(places=places, times_s=times_s, inputs=count)


def size_of_trial(case: words.Case, inputs: int, budget_s: float) -> tuple[int, int, dict[str, Forecast]]:
    """How many inputs are run, how often, and what is predicted for them; 0 if not even a few fit into the budget."""
    count = min(inputs, case.items)
    while True:
        predicted = forecast(part(case.profile, count), case.costs, count, case.agents, rounds=10)
        once_s = sum(found.seconds for found in predicted.values())
        if 3 * once_s <= budget_s:
            predicted = forecast(part(case.profile, count), case.costs, count, case.agents)
            return count, 5 if 5 * once_s <= budget_s else 3, predicted
        if count <= 4 * case.agents:
            return 0, 0, predicted
        count = max(4 * case.agents, min(count - 1, int(0.9 * count * budget_s / (3 * once_s))))


def _wrap(lines: list[str], mark: str) -> str:
    return "".join(
        textwrap.fill(line, 118, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=False) + "\n"
        for line in lines
    )


def _advice_in_words(case: words.Case, inputs: Inputs, is_all: bool) -> str:
    advice = words.tips(case)
    if inputs.is_cut:
        advice.append(f"only the first {MOST_INPUTS:,} inputs were read" + ("; say --items" if is_all else ""))
    text = (
        _wrap([words.answer(case).text], "")
        + "\n"
        + "\n".join(words.table(case))
        + "\n\n"
        + _wrap(words.facts(case), "  ")
    )
    return text + ("\n" + _wrap(advice, "-> ") if advice else "")


def trial_in_words(trial: Trial | None, predicted: dict[str, Forecast], profile: Profile, time_limit: float) -> str:
    if trial is None:
        once_s = sum(found.seconds for found in predicted.values())
        took = words.seconds(once_s)
        return f"\nnot checked: one run of each way takes about {took}; --time-limit is {time_limit:g} s\n"
    times = len(trial.seconds[SERIAL])
    if not trial.differ:
        same = "all results are equal"
    elif profile.is_repeatable:
        same = f"RESULTS DIFFER from the loop's: {', '.join(trial.differ)}"
    else:
        same = "results not compared"
    head = f"\nchecked with {trial.items:,} inputs, {times} runs each in turns, pools started and ended each time; "
    return head + same + "\n" + "\n".join(words.checked(predicted, trial.seconds)) + "\n"


def _as_json(
    target: Target, case: words.Case, setup: Setup, trial: Trial | None, predicted: dict[str, Forecast]
) -> dict[str, Any]:
    profile, serial = case.profile, case.forecasts[SERIAL].seconds
    found = words.answer(case)
    check = None
    if trial is not None:
        check = {
            "items": trial.items,
            "results_equal": not trial.differ if profile.is_repeatable else None,
            "ways": {
                way: {
                    "predicted_s": predicted[way].seconds,
                    "measured_s": statistics.median(runs),
                    "runs_s": runs,
                    "error_percent": words.error_percent(predicted[way].seconds, runs),
                }
                for way, runs in trial.seconds.items()
            },
        }
    figures = profile._asdict()
    del figures["times_s"], figures["places"]
    return {
        "function": f"{target.module.__name__}:{target.name}",
        "answer": {"verdict": found.verdict, "text": found.text},
        "items": case.items,
        "agents": case.agents,
        "cpus": case.cpus,
        "start_method": setup.context.get_start_method(),
        "call": {"measured": len(profile.times_s), **words.spread(profile), **figures},
        "machine": {
            "slowdown": case.costs.slowdown,
            "ways": {way: cost._asdict() for way, cost in case.costs.ways.items()},
        },
        "predictions": {
            way: {"seconds": made.seconds, "low_s": made.low_s, "high_s": made.high_s, "speedup": serial / made.seconds}
            for way, made in case.forecasts.items()
        },
        "tips": words.tips(case),
        "check": check,
    }
