"""`ExecutorFuture`: what `Executor.submit` returns."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any

from ._engine.calls import PLAIN
from ._engine.dispatch import explain_pickling
from ._engine.future import CANCELLED, FINISHED, LazyFuture
from ._engine.terms import NO_TERMS, Terms
from .errors import AgentStartError, PoolTerminatedError


class ExecutorFuture(LazyFuture[Any]):
    """The `concurrent.futures.Future` of one call.

    `set_result` and kin are not for users. `_function`, `_args` and `_kwds` are the call until it is pickled. What only
    calls with options have is in `__dict__`, and has its defaults here.
    """

    __slots__ = ("_args", "_function", "_home", "_kwds")

    _function: Any
    _args: Any
    _kwds: Any
    _home: Any
    """The dispatcher; None once nobody needs it."""
    _group = PLAIN
    _terms: Terms = NO_TERMS
    _links = None
    _seq = _ready_ns = _assigned_ns = id = 0
    _agent = None
    name = "a call"

    @property
    def deadline_missed(self) -> bool:
        """Whether its deadline has passed before it was over."""
        return self._terms.missed

    def cancel(self) -> bool:
        """Withdraw the call if no agent has started it: True means that it never runs."""
        home = self._home
        if home is None or self._is_finished or home._engine.owner_pid != os.getpid():
            return self._state == CANCELLED
        return home._engine.cancel(self) or self._state == CANCELLED

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state == CANCELLED

    def running(self) -> bool:
        """Whether an agent runs it right now."""
        home = self._home
        return home is not None and not self._is_finished and home.runs(self)

    def set_running_or_notify_cancel(self) -> bool:
        """Not for users: RuntimeError, unless it was cancelled."""
        if self._state == CANCELLED:
            return False
        raise RuntimeError(f"{self!r} is run by an agent, which tells")

    def __repr__(self) -> str:
        state, outcome = "pending", ""
        if self._state == CANCELLED:
            state = "cancelled"
        elif self._state == FINISHED:
            error = self._exception
            state = "finished"
            outcome = f" raised {type(error).__name__}" if error else f" returned {type(self._result).__name__}"
        elif self.running():
            state = "running"
        return f"<{type(self).__name__} at {id(self):#x} state={state}{outcome}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled: it belongs to the process that submitted it")

    # -- `LazyFuture` -----------------------------------------------------------------------------------------------

    def _check_waitable(self) -> None:
        home = self._home
        if home is None or self._is_finished:
            return
        engine = home._engine
        if threading.current_thread() is engine.thread:
            raise RuntimeError(
                f"{self!r} cannot be waited for in the executor's own thread, which would have to end it"
            )
        if engine.owner_pid != os.getpid():
            raise RuntimeError(f"{self!r} belongs to the process that submitted it, and ends there")

    def _ended(self, ok: bool, value: Any) -> None:
        self._home.finished(self, ok, value)

    def _settled(self) -> None:
        if self._watch is None:  # else its callbacks may still have to find their thread
            self._home = None

    def _call_back(self) -> None:
        self._home._engine.callbacks.put(_call_back, self, _nothing)

    def _resolve(self, ok: bool, value: Any, *, ran: bool = False) -> None:
        if not ok and not ran and isinstance(value, AgentStartError | PoolTerminatedError):
            # One error for all, which the engine keeps: where it is raised it would pick up the frames of each caller.
            cause, value = value.__cause__, copy.copy(value)
            value.__cause__ = cause
        super()._resolve(ok, value, ran=ran)

    # -- for the engine ---------------------------------------------------------------------------------------------

    def _refuse(self, error: BaseException, function: Any) -> None:
        """The call could not be pickled."""
        self._resolve(False, explain_pickling(error, function, None))

    def _forget_call(self) -> None:
        """It is on its way, or never will be."""
        self._function = self._args = self._kwds = None


def _call_back(future: Any) -> None:
    future._invoke_callbacks()


def _nothing() -> None:
    pass
