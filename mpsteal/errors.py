"""Every error mpsteal raises of its own accord.

All share `MpstealError`. Where the stock pool raises something users catch today, ours inherits it too, so that
an `except` clause written for `multiprocessing` or `concurrent.futures` keeps working. Errors carry their facts as
attributes and survive pickling.
"""

from __future__ import annotations

from multiprocessing import pool as _stock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:  # the program ends, and that module can register no exit handler any more; a Pool needs none
        from concurrent.futures import BrokenExecutor as BrokenProcessPool


class MpstealError(Exception):
    """The root of all errors that mpsteal raises of its own accord."""


class AgentDiedError(MpstealError, BrokenProcessPool):
    """The agent that was running this task died before the result was committed. Nothing else is lost with it.

    Inherits `BrokenProcessPool`, which `ProcessPoolExecutor` raises here, and then for every other call.

    Attributes:
        agent: slot number of the agent, counted from 0; of a scheduler, its id.
        pid: its process id.
        exitcode: as in `multiprocessing.Process.exitcode`; negative is a signal number.
        task: what it ran, in words.
        agents_lost: how many agents have died while they ran this task; more than 1 only where it had `retries`.
        items: of a chunk of a `map` or `imap`: which items of the input, counted from 0 (the last may have fewer).
        why: where the pool ended the agent itself, why; else None.
    """

    def __init__(self, agent: int | str, pid: int, exitcode: int | None, task: str, agents_lost: int = 1) -> None:
        super().__init__(agent, pid, exitcode, task)
        self.agent, self.pid, self.exitcode, self.task = agent, pid, exitcode, task
        self.agents_lost = agents_lost
        self.why: str | None = None
        self.items: range | None = None

    def __str__(self) -> str:
        if self.why is not None:
            how = "was ended"
        elif self.exitcode is None:
            how = "vanished"
        elif self.exitcode < 0:
            import signal

            try:
                how = f"was killed by {signal.Signals(-self.exitcode).name}"
            except ValueError:
                how = f"was killed by signal {-self.exitcode}"
        else:
            how = f"exited with code {self.exitcode}"
        cost = f"; this task has cost {self.agents_lost} agents and is not run again" if self.agents_lost > 1 else ""
        why = "" if self.why is None else f", since {self.why}"
        return f"agent {self.agent!r} (pid {self.pid}) {how} while it ran {self.task}{_which(self.items)}{why}{cost}"


def _which(items: range | None) -> str:
    if items is None:
        return ""
    return f", item {items[0]}" if len(items) == 1 else f", items {items[0]} to {items[-1]}"


class AgentStartError(MpstealError, BrokenProcessPool):
    """Agents died again and again before they could take a task, so the pool gave up; or the initializer of an
    `Executor` raised (`__cause__`)."""


class PoolTerminatedError(MpstealError, BrokenProcessPool):
    """The pool or the scheduler ended while this task was pending (the stock pool leaves its caller waiting)."""


class SharedObjectError(MpstealError, RuntimeError):
    """The object behind a `Shared` handle is not there any more: it was freed, or its pool has ended."""


class TaskCancelledError(MpstealError):
    """The task was cancelled: before it started, so that it never ran, or, where that was asked for, while it ran."""


class TransferError(MpstealError, BrokenProcessPool):
    """Arguments of an executor's call, or its result, were pickled and could not be unpickled on the other side.

    Inherits `BrokenProcessPool`, which `ProcessPoolExecutor` raises here. `__cause__` has the traceback.

    Attributes:
        what: "arguments" or "result".
        type_name, message: of the exception that unpickling raised.
    """

    def __init__(self, what: str, type_name: str, message: str) -> None:
        super().__init__(what, type_name, message)
        self.what, self.type_name, self.message = what, type_name, message

    def __str__(self) -> str:
        where = "in the agent" if self.what == "arguments" else "in this process"
        return f"unpickling the {self.what} {where} raised {self.type_name}: {self.message}"


if TYPE_CHECKING:

    class _MaybeEncodingError(Exception):
        """typeshed leaves this class out."""

else:
    _MaybeEncodingError = _stock.MaybeEncodingError


class RemoteError(MpstealError, _MaybeEncodingError):
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


class ConfigError(MpstealError, ValueError):
    """A configuration has a key or a value that it must not have, or is no configuration at all.

    Attributes:
        file: the file's path, or "a mapping", "a Config", "environment", "keyword".
        line: its line, counted from 1, that of the key where there is one; None: not a file.
        key: dotted name; None: the fault is not at a key.
        found: what is there, in words.
        allowed: what may be there, in words.
        nearest: the known key that looks most like an unknown one; None: the key is known, or none looks like it.
    """

    def __init__(
        self, file: str, line: int | None, key: str | None, found: str, allowed: str, nearest: str | None = None
    ) -> None:
        super().__init__(file, line, key, found, allowed, nearest)
        self.file, self.line, self.key = file, line, key
        self.found, self.allowed, self.nearest = found, allowed, nearest

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        key = "" if self.key is None else f"{self.key}: "
        nearest = self.nearest
        if nearest is not None and self.file == "environment":
            nearest = "MPSTEAL_" + nearest.upper().replace(".", "__")
        hint = "" if nearest is None else f"; did you mean {nearest}?"
        return f"{where}: {key}found {self.found}; allowed: {self.allowed}{hint}"


class DependencyError(MpstealError):
    """A task that this one depends on did not succeed, so this one never ran.

    `__cause__` is what the root raised.

    Attributes:
        task, task_id: the task that never ran.
        root, root_id: the task whose failure it all goes back to.
        reason: what became of the root, in words.
    """

    def __init__(self, task: str, task_id: int, root: str, root_id: int, reason: str) -> None:
        super().__init__(task, task_id, root, root_id, reason)
        self.task, self.task_id, self.root, self.root_id, self.reason = task, task_id, root, root_id, reason

    def __str__(self) -> str:
        return (
            f"task {self.task_id} ({self.task!r}) never ran: it depends on task {self.root_id} ({self.root!r}), which "
            f"did not succeed ({self.reason})"
        )


class TaskTimeoutError(MpstealError, TimeoutError):
    """The task ran for longer than its `timeout`, and was ended together with its agent's process.

    Attributes:
        task: its name.
        timeout_s: the limit, counted from its start (seconds).
        items: as in `AgentDiedError`; one of them took too long.
    """

    def __init__(self, task: str, timeout_s: float) -> None:
        super().__init__(task, timeout_s)
        self.task, self.timeout_s = task, timeout_s
        self.items: range | None = None

    def __str__(self) -> str:
        return (
            f"task {self.task!r}{_which(self.items)} ran for longer than its {self.timeout_s:g} s; its agent was ended "
            "with it"
        )


def why_unmatched(missing: frozenset[str], needs_names: bool, meant: tuple[str, ...] = ()) -> str:
    """Why no agent can run a task, in words; the arguments are as in `UnmatchedTaskError`."""
    if not missing:
        return "no agent is registered"
    hint = "; its priority is protected, and wants every skill by name (matching.protected)" if needs_names else ""
    if meant:
        hint = f" (did you mean {', '.join(meant)}?){hint}"
    return f"the nearest agent lacks: {', '.join(sorted(missing))}{hint}"


class UnmatchedTaskError(MpstealError):
    """No agent can run this task, and none will come.

    Attributes:
        task: its name.
        missing: skills that the nearest agent lacks; none where there is no agent.
        needs_names: whether an agent with the wildcard would do if the task's priority were not protected.
        meant: skills that agents have and that look like one of the missing.
    """

    def __init__(
        self,
        task: str,
        missing: frozenset[str] | set[str],
        needs_names: bool = False,
        meant: tuple[str, ...] = (),
    ) -> None:
        super().__init__(task, missing, needs_names, meant)
        self.task, self.missing, self.needs_names, self.meant = task, frozenset(missing), needs_names, meant

    def __str__(self) -> str:
        return f"no agent can run task {self.task!r}: {why_unmatched(self.missing, self.needs_names, self.meant)}"


class DeadlineWarning(UserWarning):
    """A task was submitted whose deadline cannot be met, as far as can be told."""


class SegmentFullError(MpstealError, OSError):
    """Shared memory could not be had in any of the ways mpsteal knows."""
