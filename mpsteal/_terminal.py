"""How the commands that start agents end at a terminal: by Ctrl-C, and where nobody reads on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType


def to_the_end(command: Callable[[], int]) -> int:
    """Run a command; its exit code.

    Raises KeyboardInterrupt: the interpreter ends as it does then, with a line in place of the traceback.
    """
    try:
        return command()
    except KeyboardInterrupt:
        sys.excepthook = _say_interrupted
        raise
    except BrokenPipeError:  # `| head`: who reads has gone, and the interpreter would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of the traceback, which tells nothing here."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted; all agents are gone\n")
    else:
        sys.__excepthook__(kind, error, trace)
