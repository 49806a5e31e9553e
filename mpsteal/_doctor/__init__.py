"""`mpsteal doctor`: what is wrong with this machine for a pool, and what to do about it.

facts.py     looks at the machine            facts: plain data
judge.py     facts -> findings               pure, so tests feed facts
selftest.py  pools under fire, in a process of its own that reports findings line by line
watch.py     runs that process with a time limit
command.py   the command line: prints findings, for people or as JSON

facts --> judge --.
                  +--> findings --> text or JSON, exit status
selftest --> watch'
"""

from __future__ import annotations

from typing import NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"
"""Verdicts. A warning works, but not as well as it could; a problem does not work."""


class Finding(NamedTuple):
    """What came of one check.

    Attributes:
        name: what was looked at, in a word or three.
        verdict: `OK`, `WARNING` or `PROBLEM`.
        seen: the facts.
        advice: what to do; "" if there is nothing.
    """

    name: str
    verdict: str
    seen: str
    advice: str = ""


ADVICE = (
    "look at the warnings and problems above; without any it is a fault of mpsteal: please report it with this output"
)
"""When the self-test finds something: most often it is the machine."""
