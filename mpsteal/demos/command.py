"""The command line of `mpsteal demo` and of the programs in `examples/`."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .._terminal import to_the_end
from . import DEMOS
from .live import Screen
from .stage import Options, StuckError


def main(name: str | None = None, argv: Sequence[str] | None = None) -> int:
    """See `mpsteal.demos.main`.

    Raises:
        SystemExit: from argparse.
        KeyboardInterrupt: Ctrl-C, when everything is gone; the interpreter ends as it does then, without a traceback.
    """
    parser = argparse.ArgumentParser(
        prog="mpsteal demo" if name is None else None,
        description="Demos that end by checking their own outcome." if name is None else f"{name}: {DEMOS[name]}.",
    )
    if name is None:
        parser.add_argument("name", nargs="?", choices=list(DEMOS), help="which one; none: list them and run all")
    parser.add_argument("--quick", action="store_true", help="smaller, about a second each")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), help="of the agents")
    given = parser.parse_args(argv)
    names = [wanted] if (wanted := name or given.name) else list(DEMOS)
    options = Options(given.quick, given.start_method)
    return to_the_end(lambda: _run_all(names, options))


def _run_all(names: list[str], options: Options) -> int:
    screen = Screen()
    if len(names) > 1:
        width = max(map(len, names))
        for name in names:
            screen.line(f"{name:<{width}}  {DEMOS[name]}")
    failed = [name for name in names if not run_demo(name, screen, options)]
    if len(names) > 1:
        good = len(names) - len(failed)
        screen.line(
            f"\n{good} of {len(names)} demos ended as they should" + (f"; not: {', '.join(failed)}" * bool(failed))
        )
    return 1 if failed else 0


def run_demo(name: str, screen: Screen, options: Options) -> bool:
    """Run one, tell what came of it, and say whether that is as it should be."""
    demo = import_module(f".{name}", __package__)
    screen.line(f"\n{name}: {DEMOS[name]}\n")
    try:
        report = demo.run(screen, options)
    except StuckError as error:
        screen.line(f"\nFAILED {name}: {error}")
        return False
    screen.line()
    for line in demo.tell(report):
        screen.line(line)
    return conclude(name, screen, demo, report)


def conclude(name: str, screen: Screen, demo: Any, report: Any) -> bool:
    """Check a report and say what was checked, or what is wrong."""
    problems: list[str] = demo.check(report)
    for problem in problems:
        screen.line(f"FAILED {name}: {problem}")
    if not problems:
        screen.line(f"checked {name}: {demo.checked(report)}")
    return not problems
