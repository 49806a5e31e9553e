"""What the tests of bad days send to agents: tasks that fail, crash, exit or wait.

In a module of its own, so that children of every start method can import it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gates import Gate

# -- ordinary work ---------------------------------------------------------------------


def identity(value: Any) -> Any:
    return value


async def double_later(value: int) -> int:
    return 2 * value


async def _pause() -> None:
    await _Once()


class _Once:
    def __await__(self) -> Any:
        yield


def begin_a_coroutine() -> Any:
    coroutine = _pause()
    coroutine.send(None)
    return coroutine


def double(value: int) -> int:
    return 2 * value


def add(a: int, b: int) -> int:
    return a + b


def my_pid(_: Any = None) -> int:
    return os.getpid()


def note(path: str, text: Any) -> Any:
    """Append one line to a file: one write of a few bytes, so lines of several agents never mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    return text


def note_and_spin(path: str, number: int, spin_s: float) -> int:
    note(path, number)
    until = time.monotonic() + spin_s
    while time.monotonic() < until:
        pass
    return number


def note_pid_and_sleep(path: str, seconds: float) -> None:
    note(path, os.getpid())
    time.sleep(seconds)


# -- objects that do not travel ---------------------------------------------------------


class NotForTravel:
    """Refuses to be pickled, in its own words."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("NotForTravel stays at home")


class NoReprNorPickle(NotForTravel):
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class ExitsWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise SystemExit("in __reduce__")


def _fail_to_load(kind: type[BaseException]) -> NoReturn:
    raise kind("cannot be rebuilt")


class FailsToLoad:
    """Pickles well and raises `kind` where it is unpickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail_to_load, (self.kind,)


class Liar:
    """Its `__reduce__` gives what pickles well, and is not how to make one like it."""

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def make_liar(lie: str) -> Liar:
    if lie == "what only the agent has":
        globals()["_made_in_agent"] = made = type("_made_in_agent", (), {"__module__": __name__})
        return Liar((made, ()))
    lies: dict[str, tuple[Any, ...]] = {
        "arguments that do not fit": (dict, (1, 2, 3)),
        "state that nobody takes": (object, (), {"a": 1}),
        "a function that fails": (divmod, (1, 0)),
        "items for what is no list": (object, (), None, iter([1, 2])),
        "another type": (int, ("7",)),
    }
    return Liar(lies[lie])


def make_not_for_travel(_: Any = None) -> NotForTravel:
    return NotForTravel()


def make_no_repr(_: Any = None) -> NoReprNorPickle:
    return NoReprNorPickle()


def make_exits_when_pickled(_: Any = None) -> ExitsWhenPickled:
    return ExitsWhenPickled()


def make_fails_to_load(kind: type[BaseException]) -> FailsToLoad:
    return FailsToLoad(kind)


def odd_is_not_for_travel(value: int) -> Any:
    return NotForTravel() if value % 2 else value


# -- exceptions -------------------------------------------------------------------------


class OddInitError(Exception):
    """Pickles, but `__init__` does not take what `args` holds."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class LockedError(Exception):
    """Cannot be pickled: holds what does not travel."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.luggage = NotForTravel()


class BrokenStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitingStrError(Exception):
    def __str__(self) -> str:
        raise SystemExit("in __str__")


class ExitingPickleError(Exception):
    def __reduce__(self) -> NoReturn:
        raise KeyboardInterrupt("in __reduce__")


class FailsToLoadError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return _fail_to_load, (SystemExit,)


class LoadsAsTextError(Exception):
    """Unpickles to something that is no exception."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("just text",)


class HugeError(Exception):
    pass


def raise_odd_init() -> NoReturn:
    raise OddInitError(3, 4)


def raise_locked() -> NoReturn:
    raise LockedError("behind bars")


def raise_broken_str() -> NoReturn:
    raise BrokenStrError


def raise_exiting_str() -> NoReturn:
    raise ExitingStrError


def raise_exiting_pickle() -> NoReturn:
    raise ExitingPickleError("will not go")


def raise_fails_to_load() -> NoReturn:
    raise FailsToLoadError("will not come back")


def raise_loads_as_text() -> NoReturn:
    raise LoadsAsTextError("turns into text")


def raise_huge(megabytes: int) -> NoReturn:
    raise HugeError("x" * (megabytes << 20))


def raise_local() -> NoReturn:
    class LocalError(Exception):
        pass

    error: Any = LocalError("known to this function only")
    error.lock = threading.Lock()  # else it comes as a copy where cloudpickle is installed
    raise error


def raise_cycle() -> NoReturn:
    a, b = ValueError("a"), ValueError("b")
    a.__context__, b.__context__ = b, a
    raise a


def raise_this(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


def raise_if_odd_stop(value: int) -> int:
    if value % 2:
        raise StopIteration(value)
    return value


def exit_with(code: Any) -> NoReturn:
    sys.exit(code)


# -- crashes ----------------------------------------------------------------------------


def die_by(signal_number: int) -> NoReturn:
    faulthandler.disable()
    os.kill(os.getpid(), signal_number)
    raise AssertionError("still alive")


def die_at_once(code: int) -> NoReturn:
    os._exit(code)


def die_with(luggage: bytes) -> NoReturn:
    assert luggage is not None
    die_by(signal.SIGKILL)


def segfault() -> NoReturn:
    faulthandler.disable()  # inherited from pytest by fork; the crash is wanted
    ctypes.string_at(0)
    raise AssertionError("still alive")


def note_pid_and_die(path: str, number: int, code: int) -> NoReturn:
    """Ends by `os._exit` with this code; 0: by SIGKILL."""
    note(path, f"{number} {os.getpid()}")
    if code:
        os._exit(code)
    die_by(signal.SIGKILL)


def note_pid_and_double(path: str, number: int) -> int:
    note(path, f"{number} {os.getpid()}")
    return 2 * number


def overflow_the_stack() -> None:
    """Recursion through C code, which Python does not count: in a thread, whose stack can be small."""
    faulthandler.disable()
    sys.setrecursionlimit(1 << 30)
    threading.stack_size(1 << 16)
    again: Any = ctypes.CFUNCTYPE(None)(lambda: again())
    thread = threading.Thread(target=again)
    thread.start()
    thread.join()
    raise AssertionError("still alive")


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes of address space than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


hoard: list[bytes] = []


def take_all_memory(kept: bool) -> int:
    """Until there is none; then raise MemoryError, or keep it and return."""
    limit_memory(64 << 20)
    mine = hoard if kept else []
    size = 1 << 20
    while True:
        try:
            mine.append(bytes(size))
        except MemoryError:
            if not kept:
                raise
            size //= 2
            if size < 64:
                return os.getpid()


def die_if(path: str, number: int, fatal: int) -> int:
    note(path, number)
    if number == fatal:
        die_by(signal.SIGKILL)
    return number


def die_if_equal_3(number: int) -> int:
    if number == 3:
        die_by(signal.SIGKILL)
    return number


def start_sleeper(directory: str) -> int:
    """A child process of this task, which outlives it."""
    return subprocess.Popen(["sleep", "600"], cwd=directory).pid


_LIST_DESCRIPTORS = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass  # the listing's own
"""


def list_what_a_program_inherits(_: Any = None) -> list[str]:
    """What lies behind the descriptors of a program that this task starts in the careless way."""
    command = [sys.executable, "-I", "-S", "-c", _LIST_DESCRIPTORS]
    return subprocess.run(command, close_fds=False, check=True, capture_output=True, text=True).stdout.splitlines()


# -- waiting ----------------------------------------------------------------------------


def arrive_and_sleep(gate: Gate) -> None:
    gate.arrive()
    time.sleep(600)


def arrive_and_ignore_sigterm(gate: Gate) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate.arrive()
    time.sleep(600)


def arrive_and_tell_of_sigterm(gate: Gate, told: Gate) -> None:
    """Does not end by SIGTERM, and says when it came."""
    signal.signal(signal.SIGTERM, lambda *_: told.arrive())
    gate.arrive()
    while True:
        time.sleep(600)


def arrive_and_compute(gate: Gate) -> None:
    """One call of C code that no signal handler written in Python can interrupt for minutes."""
    gate.arrive()
    pow(7, 1 << 28)


# -- tasks that spoil their own process ---------------------------------------------------


def close_every_descriptor() -> str:
    os.closerange(0, 4096)
    return "closed"


def change_directory(path: str) -> str:
    os.chdir(path)
    return os.getcwd()


def set_alarm(seconds: float) -> int:
    """The alarm goes off after this task has returned."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return os.getpid()


def _raise_late(*_: object) -> NoReturn:
    raise RuntimeError("a late alarm")


def set_raising_alarm(seconds: float) -> int:
    signal.signal(signal.SIGALRM, _raise_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return os.getpid()


def clear_alarm(_: Any = None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def start_threads(count: int) -> int:
    """They go on after this task has returned, and for ever."""
    for _ in range(count):
        threading.Thread(target=_spin, daemon=True).start()
    threading.Thread(target=time.sleep, args=(600,)).start()
    return os.getpid()


def _spin() -> None:
    while True:
        time.sleep(0.001)


def set_raising_handlers() -> int:
    """For signals that come after this task has returned."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _raise_late)
    return os.getpid()


def keep(data: bytes) -> int:
    hoard.append(data)
    return os.getpid()


def kept_ends() -> list[tuple[int, int, int]]:
    return [size_and_ends(data) for data in hoard]


# -- initializers -------------------------------------------------------------------------


def note_start(path: str) -> None:
    note(path, os.getpid())


def note_and_raise(path: str) -> NoReturn:
    note(path, os.getpid())
    raise ValueError("the initializer is broken")


def wait_and_raise(gate: Gate) -> NoReturn:
    gate.wait()
    raise ValueError("the initializer is broken")


def exit_the_first_time(path: str) -> None:
    first = not os.path.exists(path)
    note(path, os.getpid())
    if first:
        os._exit(3)


def note_and_exit(path: str) -> NoReturn:
    note(path, os.getpid())
    os._exit(3)


# -- pools in tasks, and large things -------------------------------------------------------


def nested_sum(method: str, count: int) -> int:
    import mpsteal

    with mpsteal.get_context(method).Pool(2) as pool:
        return sum(pool.map(double, range(count)))


def nested_at_depth(depth: int) -> int:
    """How many tasks ran, this one included: each has a pool of two, down to `depth`."""
    import mpsteal

    if not depth:
        return 1
    with mpsteal.Pool(2) as pool:
        return 1 + sum(pool.map(nested_at_depth, [depth - 1] * 2, 1))


def run_processes(count: int) -> list[int]:
    """Children of every kind that a task may have; their exit codes."""
    children = [multiprocessing.Process(target=double, args=(i,)) for i in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    codes = [child.exitcode or 0 for child in children]
    with multiprocessing.Pool(1) as stock:
        codes += [value - 2 for value in stock.map(double, [1])]
    return [*codes, subprocess.run([sys.executable, "-S", "-E", "-c", ""], check=False).returncode]


def has_manager(pool: Any) -> bool:
    """Whether the pool's Manager has come so far that it outlives us: it leads its own group."""
    pid = pool._engine.guard.pid
    return pid > 0 and os.getpgid(pid) == pid


def nested_and_wait(gate: Gate) -> None:
    import mpsteal

    with mpsteal.Pool(2) as pool:
        results = [pool.apply_async(time.sleep, (600,)) for _ in range(2)]
        while not has_manager(pool):
            time.sleep(0.01)
        gate.arrive()
        results[0].get()


def size_and_ends(data: bytes) -> tuple[int, int, int]:
    return len(data), data[0], data[-1]


def make_bytes(size: int) -> bytes:
    return b"\x01" * (size - 1) + b"\x02"


def read_ahead(counter: list[int], count: int, size: int) -> Iterator[bytes]:
    """`count` items of `size` bytes; `counter[0]` says how many have been read."""
    for i in range(count):
        counter[0] += 1
        yield bytes([i % 256]) * size


def collect_garbage() -> int:
    return gc.collect()


# -- a pool of the parent that a forked task holds a copy of -------------------------------

shared_pool: Any = None


def use_shared_pool() -> str:
    try:
        shared_pool.apply_async(double, (1,))
    except ValueError as error:
        return str(error)
    return "no error"


# -- limits and tries -----------------------------------------------------------------------


def arrive_and_sleep_if(gate: Gate, value: int, endless: int) -> int:
    """Never returns if it is the endless one."""
    if value == endless:
        gate.arrive()
        time.sleep(600)
    return value


def arrive_and_sleep_if_packed(item: tuple[Gate, int, int]) -> int:
    return arrive_and_sleep_if(*item)


def spin_for(seconds: float) -> float:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return seconds


def note_and_sleep(path: str, value: int, seconds: float) -> int:
    note(path, value)
    time.sleep(seconds)
    return value


def note_and_divide(path: str, value: int) -> float:
    note(path, value)
    return value / 0


def die_times(path: str, value: int, bad: int, times: int) -> int:
    """The bad value kills its agent the first few times; counted by the lines of the file."""
    note(path, value)
    if value == bad:
        with open(path) as file:
            if file.read().split().count(str(value)) <= times:
                os._exit(9)
    return value


def die_times_packed(item: tuple[str, int, int, int]) -> int:
    return die_times(*item)


def lock_and_stop(slot: int) -> None:
    """Stand still with the lock of another agent's deque, as one does that is stopped in the middle of a steal."""
    from mpsteal._queue.locks import Locks

    (locks,) = {o for o in gc.get_objects() if type(o) is Locks and o.owner_is_fenced}
    locks.lock(slot)
    os.kill(os.getpid(), signal.SIGSTOP)


def spin_in_a_child(seconds: float) -> int:
    """Wait for a process that computes; its exit code."""
    code = f"import time; t = time.monotonic() + {seconds}\nwhile time.monotonic() < t: pass"
    return subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode


def grow_and_wait(size: int, gate: Gate) -> int:
    """Take memory, and keep it as a leak does."""
    _leak.append(b"x" * size)
    gate.wait()
    return len(_leak[0])


_leak: list[bytes] = []


def raise_the_second_time(path: str) -> None:
    note(path, os.getpid())
    with open(path) as file:
        if len(file.readlines()) > 1:
            raise ValueError("the initializer is broken")


def exit_unless_first(path: str, licence: str) -> None:
    note(path, os.getpid())
    try:
        os.close(os.open(licence, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        os._exit(3)


def note_and_die_by(path: str, number: int) -> None:
    note(path, os.getpid())
    faulthandler.disable()
    os.kill(os.getpid(), number)
    time.sleep(600)


def leave_a_thread() -> int:
    """One that never ends, and is no daemon."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return os.getpid()


def leave_a_process() -> int:
    """The same as a process that `multiprocessing` waits for."""
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()
    return os.getpid()


def die_if_33(value: int) -> int:
    if value == 33:
        os._exit(3)
    return value


def wait_the_second_time(path: str, gate: Gate) -> None:
    note(path, os.getpid())
    with open(path) as file:
        if len(file.readlines()) == 2:
            gate.wait()


class _NoHash(type):
    """A metaclass whose classes are equal to nothing, and cannot be looked up in a set."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        return False


class OfNoHash(metaclass=_NoHash):
    """Its type cannot be hashed, which pickle refuses."""


def give_one_of_no_hash(inside: bool) -> Any:
    """Such an object, or a tuple with one inside."""
    return (1, OfNoHash()) if inside else OfNoHash()
