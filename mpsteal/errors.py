"""Every error mpsteal raises of its own accord.

All share `MpstealError`. Where the stock pool raises something users catch today, ours inherits it too, so that
an `except` clause written for `multiprocessing` keeps working. Errors carry their facts as attributes and survive
pickling.
"""

from __future__ import annotations

from multiprocessing import pool as _stock
from typing import Any


class MpstealError(Exception):
    """The root of all errors that mpsteal raises of its own accord."""


class AgentDiedError(MpstealError):
    """The agent that was running this task died before the result was committed.

    Attributes:
        agent: slot number of the agent, counted from 0.
        pid: its process id.
        exitcode: as in `multiprocessing.Process.exitcode`; negative is a signal number.
        task: what it ran, in words.
    """

    def __init__(self, agent: int, pid: int, exitcode: int | None, task: str) -> None:
        super().__init__(agent, pid, exitcode, task)
        self.agent, self.pid, self.exitcode, self.task = agent, pid, exitcode, task

    def __str__(self) -> str:
        if self.exitcode is None:
            how = "vanished"
        elif self.exitcode < 0:
            import signal

            try:
                how = f"was killed by {signal.Signals(-self.exitcode).name}"
            except ValueError:
                how = f"was killed by signal {-self.exitcode}"
        else:
            how = f"exited with code {self.exitcode}"
        return f"agent {self.agent} (pid {self.pid}) {how} while it ran {self.task}"


class AgentStartError(MpstealError):
    """Agents died again and again before they could take a task; the pool gave up."""


class PoolTerminatedError(MpstealError):
    """The pool was terminated while this task was pending (the stock pool leaves its caller waiting)."""


class TaskCancelledError(MpstealError):
    """The task was cancelled before it started; it never ran."""


# typeshed leaves this class out
_MaybeEncodingError: Any = _stock.MaybeEncodingError  # type: ignore[attr-defined]


class RemoteError(MpstealError, _MaybeEncodingError):  # type: ignore[misc]  # Any, see above
    """A task failed with an exception that cannot be rebuilt in this process.

    Inherits `multiprocessing.pool.MaybeEncodingError`, which the stock pool raises here.

    Attributes:
        type_name: qualified name of the original exception's class.
        message: `str()` of the original.
        traceback_text: the traceback as it was formatted in the agent.
        reason: why the original could not travel.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str, reason: str) -> None:
        _MaybeEncodingError.__init__(self, reason, f"{type_name}: {message}")
        self.args = (type_name, message, traceback_text, reason)
        self.type_name, self.message = type_name, message
        self.traceback_text, self.reason = traceback_text, reason

    def __str__(self) -> str:
        return (
            f"{self.type_name}: {self.message} (the exception itself could not be rebuilt here: "
            f"{self.reason})\n\n{self.traceback_text}"
        )


class SegmentFullError(MpstealError, OSError):
    """Shared memory could not be had in any of the ways mpsteal knows."""
