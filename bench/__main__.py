"""The command: ``python -m bench`` in a checkout, ``mpsteal bench`` where it is installed.

[suite] [options]               all workloads with all targets; what is meant when no command is named
growth                          what a task costs as agents and tasks become many
compare OLD.json NEW.json       two stored runs of the suite: what has become slower?
report RUN.json --html PATH     the report of a stored run
smoke                           is a gain gone? a few seconds, for continuous integration
pool, executor, large           tables of goals, mpsteal beside its stock twin
scheduler, simulate, scale, faults, profile
                                commands of their own, in the files of those names
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

from bench import _machine, compare, faults, goals, profile, report, scale, scheduler, simulate, smoke, suite
from mpsteal._terminal import to_the_end

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "suite": (suite, "all workloads with all targets (the default)"),
    "growth": (suite, "the cost of a task as agents and tasks become many"),
    "compare": (compare, "two stored runs of the suite: what has become slower?"),
    "report": (report, "a stored run of the suite as one HTML file"),
    "smoke": (smoke, "is a gain gone? a few seconds"),
    **{name: (goals, words) for name, words in goals.TABLES.items()},
    "scheduler": (scheduler, "the scheduler's figures, against their targets"),
    "simulate": (simulate, "its rules among 1,000 agents, over virtual time"),
    "scale": (scale, "the policy beside other ways to share work, 10 to 10,000 agents, the same way"),
    "profile": (profile, "where the time of a task goes, beside the floor"),
    "faults": (faults, "what faults cost in six pools"),
}
"""By name: the file, with `add_arguments(parser)` and `run(args) -> exit status`, and a word of help."""
_ANYWHERE = ("suite", "growth", "compare", "report")
"""What an installed package offers; the others look into the checkout that they keep their results in."""
_OWN_ROUNDS = ("simulate", "faults", "profile")


def parse(arguments: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure mpsteal, beside what else there is.",
        epilog=f"Without a command it is the suite, with its options (`{prog} suite --help`): {prog} --quick",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, words) in COMMANDS.items():
        if name not in _ANYWHERE and not _machine.IN_CHECKOUT:
            continue
        module.add_arguments(commands.add_parser(name, help=words))
    given = sys.argv[1:] if arguments is None else arguments
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["suite", *given]
    args = parser.parse_args(given)
    args.words = given
    if args.command in _OWN_ROUNDS or not hasattr(args, "rounds"):
        return args
    if args.rounds is None:
        args.rounds = 1 if args.quick else 5
    if args.rounds < 1 or args.cores < 1:
        parser.error("--rounds and --cores must be at least 1")
    return args


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM, and SIGHUP when a terminal is closed, leave by `finally`: a measurement is in a session of its own, and
    would go on. What somebody else handles, or ignores as nohup does, stays so."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    mine = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in mine:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def main(arguments: list[str] | None = None, prog: str = "python -m bench") -> int:
    """Run one command; its exit status, 2 for usage errors."""
    args = parse(arguments, prog)
    try:
        with _ended_in_order():
            return to_the_end(lambda: int(COMMANDS[args.command][0].run(args)))
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        # Names, settings and files that do not go together: python alone would end with 1, which means a loss here.
        print(f"{prog}: {error.code}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
