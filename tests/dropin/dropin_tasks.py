"""What the drop-in tests run inside agents.

A module of its own, because children started by spawn and forkserver import the module of every
function they are sent: this one imports fast and imports no test. Tasks are held by `gates`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from gates import Gate

#: Deadlock alarm, in seconds, of every wait in these tests. No test gets slower by raising it.
ALARM_S = 60.0

STATE: dict[str, Any] = {}


# -- plain tasks -----------------------------------------------------------------------


def hold_or_square(item: tuple[Gate | None, Any]) -> Any:
    """Square the number, after a wait at the gate if there is one."""
    gate, number = item
    if gate is not None:
        gate.wait()
    return number * number


def noop(*args: Any) -> None:
    pass


def square(x: int) -> int:
    return x * x


def negate(x: Any) -> Any:
    return -x


def add(x: int, y: int = 10, *, z: int = 0) -> int:
    return x + y + z


def echo(*args: Any, **kwds: Any) -> Any:
    return args, kwds


def identity(x: Any) -> Any:
    return x


def first_of(x: Any) -> Any:
    return x[0]


def are_same(x: Any, y: Any) -> bool:
    return x is y


def append_and_return(items: list[int], item: int) -> list[int]:
    items.append(item)
    return items


def pid(_: Any = None) -> int:
    return os.getpid()


def meet(_: Any) -> int:
    """Wait for the other agents at the barrier the initializer has left; returns the pid."""
    STATE["barrier"].wait(ALARM_S)
    return os.getpid()


def about_me(_: Any = None) -> dict[str, Any]:
    me = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    if "barrier" in STATE:
        STATE["barrier"].wait(ALARM_S)
    return {
        "pid": os.getpid(),
        "name": me.name,
        "identity": tuple(me._identity),
        "parent": parent.pid if parent is not None else None,
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


def environment(name: str) -> str | None:
    return os.environ.get(name)


def read_state(name: str) -> Any:
    return STATE.get(name)


def call_state(name: str) -> Any:
    return STATE[name]()


def call_with(pair: tuple[Any, Any]) -> Any:
    func, args = pair
    return func(*args)


def listen(n: int) -> list[int]:
    """Take n numbers from the queue the initializer has left."""
    return [STATE["queue"].get(timeout=ALARM_S) for _ in range(n)]


def send(number: int) -> int:
    STATE["queue"].put(number)
    return number


def open_gate(gate: Gate) -> None:
    """Let one task go on that waits at the gate, from inside another task."""
    with open(f"{gate._path}.permits", "wb", buffering=0) as permits:
        permits.write(b".")


def sigint_handler(_: Any = None) -> Any:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def run_program(text: str) -> str:
    done = subprocess.run([sys.executable, "-c", f"print({text!r})"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_threads(n: int) -> list[int]:
    found: list[int] = []
    threads = [threading.Thread(target=found.append, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


class TookTooLong(Exception):
    pass


def limit_itself() -> str:
    """Interrupt itself by an alarm, as programs do that want a time limit on a task."""

    def on_alarm(signum: int, frame: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            threading.Event().wait(ALARM_S)
        except TookTooLong:
            return "interrupted"
        return "not interrupted"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limit_itself_for(_: Any) -> str:
    return limit_itself()


class Adder:
    """A callable with state, and with a method to be sent bound."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x + self.n

    @classmethod
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    def of_nobody(x: int) -> int:
        return x + 1

    @staticmethod
    def lambda_of(x: int) -> Any:
        lock = threading.Lock()  # else it comes as a copy where cloudpickle is installed
        return lambda: (x, lock)


# -- tasks that fail -------------------------------------------------------------------


class RichError(Exception):
    """An exception with facts of its own, that pickles."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class FussyError(Exception):
    """Pickles, but cannot be rebuilt: its `args` do not fit its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Untravelled(Exception):
    """Cannot be pickled at all."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class OddBase(BaseException):
    """A BaseException nobody expects."""


class BreaksOnArrival:
    """Pickles, but raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _raise_on_arrival, ()


def _raise_on_arrival() -> None:
    raise ArithmeticError("broken on arrival")


class RefusesToTravel:
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("refuses to travel")


def fail(message: str = "boom") -> None:
    raise ValueError(message)


def fail_richly(code: int) -> None:
    raise RichError("rich", code)  # a comment to be found in the traceback


def fail_in_chain() -> None:
    try:
        fail("the first")
    except ValueError as error:
        raise KeyError("the second") from error


def fail_with(exception: BaseException) -> None:
    raise exception


def fail_fussily() -> None:
    raise FussyError("half", "whole")


def fail_untravelled() -> None:
    raise Untravelled("stays here")


def fail_if_odd(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


def count_then_fail_at(item: tuple[int, int]) -> int:
    """Add one to the shared counter; then fail if the item is the one that shall."""
    number, bad = item
    with STATE["counter"].get_lock():
        STATE["counter"].value += 1
    if number == bad:
        raise ValueError(number)
    return number


def exit_with(code: Any) -> None:
    sys.exit(code)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def give_lambda() -> Any:
    lock = threading.Lock()  # as above
    return lambda: lock


def give_breaking() -> BreaksOnArrival:
    return BreaksOnArrival()


def recurse(n: int) -> int:
    return recurse(n + 1)


# -- initializers ----------------------------------------------------------------------


def remember_all(facts: dict[str, Any]) -> None:
    STATE.update(facts)


def remember_pair(name: str, value: Any) -> None:
    STATE[name] = value


def ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sign_in(path: str) -> None:
    """Append one line for this process; short appends do not mix."""
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")


def fail_to_start() -> None:
    raise LookupError("no such model file")


def use_lock_and_queue(number: int) -> int:
    with STATE["lock"]:
        STATE["queue"].put(number)
    return number


# -- classes people write around the stock pool ----------------------------------------


class _Undaemonic:
    @property
    def daemon(self) -> bool:
        return False

    @daemon.setter
    def daemon(self, value: bool) -> None:
        pass


def _undaemonic(method: str) -> tuple[Any, Any]:
    """A process class that is no daemon whatever it is told, and a context that uses it."""
    context = multiprocessing.get_context(method)
    # Spawned children look both up by name, so they are put into this module under that name.
    names = f"NoDaemon{method.title()}Process", f"NoDaemon{method.title()}Context"
    process: Any = type(names[0], (_Undaemonic, context.Process), {"__module__": __name__})
    own_context: Any = type(names[1], (type(context),), {"Process": process})
    own_context.__module__ = __name__
    globals().update(zip(names, (process, own_context), strict=True))
    return process, own_context


#: Start method to (process class, context class).
NO_DAEMON = {method: _undaemonic(method) for method in ("fork", "spawn")}


def map_in_nested_pool(pool_class: Any, numbers: list[int]) -> list[int]:
    """Open a pool inside a task, as evaluations of evaluations do."""
    with pool_class(2) as pool:
        result: list[int] = pool.map(square, numbers)
        pool.close()
        pool.join()
    return result


class ArrayLike:
    """Behaves like an array: has a length, indexes, iterates, and has no truth value."""

    def __init__(self, *items: int) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other: object) -> Any:
        return ArrayLike(*self._items)

    __hash__ = None  # type: ignore[assignment]


def folder_of(path: str) -> Path:
    return Path(path).parent
