"""The command line of `mpsteal doctor`."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from .._terminal import to_the_end
from . import OK, PROBLEM, WARNING, Finding, facts, judge
from .watch import run_self_test

Check = Callable[[], Finding | list[Finding]]

CHECKS: dict[str, Check] = {
    "python": lambda: judge.judge_python(facts.look_at_python()),
    "packages": lambda: judge.judge_packages(facts.look_at_packages()),
    "start methods": lambda: judge.judge_start_methods(facts.look_at_start_methods()),
    "cpus": lambda: judge.judge_cpus(facts.look_at_cpus()),
    "memory": lambda: judge.judge_memory(facts.look_at_memory()),
    "shared memory": lambda: judge.judge_shared_memory(facts.look_at_shared_memory()),
    "kernel": lambda: judge.judge_kernel(facts.look_at_kernel()),
    "open files": lambda: judge.judge_open_files(facts.look_at_open_files()),
    "processes": lambda: judge.judge_processes(facts.look_at_processes()),
    "address space": lambda: judge.judge_address_space(facts.look_at_address_space()),
    "core dumps": lambda: judge.judge_cores(facts.look_at_cores()),
    "temporary directory": lambda: judge.judge_temporary(facts.look_at_temporary()),
    "leftovers": lambda: judge.judge_leftovers(facts.look_at_leftovers()),
    "blas threads": lambda: judge.judge_blas(facts.look_at_blas()),
}
"""Every check by its name, in the order in which they are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Look at the machine, run the self-test, say what is wrong.

    Returns:
        0 if there is no problem (warnings do not count), else 1.

    Raises:
        SystemExit: from argparse.
        KeyboardInterrupt: Ctrl-C, when everything is gone.
    """
    parser = argparse.ArgumentParser(
        prog="mpsteal doctor",
        description="Look at this machine, kill some agents, and say what is wrong and what to do. Changes nothing.",
    )
    parser.add_argument("--seconds", type=_seconds, default=8.0, help="length of the storm of kills (default: 8)")
    parser.add_argument("--no-self-test", action="store_true", help="look only, start no pool")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    options = parser.parse_args(argv)
    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            sys.stdout.write(in_words(finding))
            sys.stdout.flush()

    def examine() -> int:
        for finding in look():
            report(finding)
        if not options.no_self_test:
            run_self_test(options.seconds, report)
        problems = [finding.name for finding in found if finding.verdict == PROBLEM]
        if options.json:
            json.dump({"ok": not problems, "findings": [f._asdict() for f in found]}, sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            sys.stdout.write(conclusion(found))
        sys.stdout.flush()
        return 1 if problems else 0

    return to_the_end(examine)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("more than 0 and at most 3600")
    return value


def look() -> Iterator[Finding]:
    """All findings about the machine. A check that fails is a finding, too."""
    for name, check in CHECKS.items():
        try:
            found = check()
        except Exception as error:
            found = Finding(name, PROBLEM, f"could not be looked at: {type(error).__name__}: {error}")
        yield from [found] if isinstance(found, Finding) else found


def in_words(finding: Finding) -> str:
    """One line, and another for what to do."""
    first, *more = finding.seen.splitlines() or [""]
    lines = [f"{finding.verdict:<8} {finding.name}: {first}", *(f"         | {line}" for line in more)]
    if finding.advice:
        lines += textwrap.wrap(
            finding.advice, 110, initial_indent="         -> ", subsequent_indent=" " * 12, break_long_words=False
        )
    return "\n".join(lines) + "\n"


def conclusion(found: list[Finding]) -> str:
    """The last line."""
    problems, warnings = ([f.name for f in found if f.verdict == kind] for kind in (PROBLEM, WARNING))
    if problems:
        return f"\n{len(problems)} problem{'s' * (len(problems) != 1)}: {', '.join(problems)}\n"
    good = sum(f.verdict == OK for f in found)
    return f"\nno problems; {good} checks well" + (f", look at: {', '.join(warnings)}\n" if warnings else "\n")
