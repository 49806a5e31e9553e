"""Tasks that submit tasks, for the tests of nested submission. Importable by agents of every start method."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

from fault_tasks import note
from gates import Gate

import mpsteal
from mpsteal import current_pool


def count_leaves(depth: int) -> int:
    """A binary tree of tasks."""
    if not depth:
        return 1
    pool = current_pool()
    left, right = (pool.apply_async(count_leaves, (depth - 1,)) for _ in range(2))
    return left.get() + right.get()


def count_leaves_by_map(depth: int) -> int:
    return sum(current_pool().map(count_leaves_by_map, [depth - 1] * 2, 1)) if depth else 1


def quicksort(values: list[int]) -> list[int]:
    if len(values) < 2:
        return values
    pivot = values[len(values) // 2]
    parts = [v for v in values if v < pivot], [v for v in values if v > pivot]
    pool = current_pool()
    low, high = (pool.apply_async(quicksort, (part,)) for part in parts)
    return low.get() + [v for v in values if v == pivot] + high.get()


def chain(depth: int) -> int:
    return 1 + current_pool().apply(chain, (depth - 1,)) if depth else 0


def chain_to_the_end(depth: int) -> str:
    try:
        return str(chain(depth))
    except RecursionError as error:
        return f"{error} in agent {os.getpid()}"


def pid_here(_: Any = None) -> int:
    return os.getpid()


def pids() -> tuple[int, int]:
    """Of this task, and of one that it submits."""
    return os.getpid(), current_pool().apply(os.getpid)


def fail(value: Any) -> Any:
    raise ValueError(value)


class Stubborn:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


def stubborn() -> Stubborn:
    return Stubborn()


def catch(function: Any, *args: Any) -> tuple[str, str, str]:
    """Type, text and cause of what a child raises."""
    try:
        current_pool().apply(function, args)
    except Exception as error:
        return type(error).__name__, str(error), str(error.__cause__)
    return "", "", ""


def send_stubborn() -> str:
    result = current_pool().apply_async(len, (Stubborn(),))
    try:
        result.get()
    except TypeError as error:
        return str(error)
    return ""


def power(base: int, exponent: int = 1, *, modulo: int | None = None) -> int:
    return pow(base, exponent, modulo)


def several() -> tuple[Any, ...]:
    pool = current_pool()
    return (
        pool.apply(power, (7,), {"exponent": 3, "modulo": 5}),
        pool.map(abs, range(-5, 5)),
        pool.map(abs, range(-5, 5), 3),
        pool.map(abs, []),
        pool.starmap(power, [(2, n) for n in range(9)]),
        pool.map_async(abs, [-1]).get(),
        pool.starmap_async(power, [(3, 2)]).get(),
    )


def map_with_a_failure() -> str:
    result = current_pool().map_async(fail, range(3), 1)
    try:
        result.get()
    except ValueError as error:
        return f"{error} {result.ready()} {result.successful()}"
    return ""


def large(size: int) -> int:
    """A large argument there, a large result back."""
    return len(current_pool().apply(bytes.__add__, (bytes(size), b"!")))


def pass_gate(gate: Gate, value: Any) -> Any:
    gate.wait()
    return value


def note_and_pass(path: str, text: str, gate: Gate | None = None, value: Any = None) -> Any:
    note(path, f"{text} begins")
    if gate is not None:
        gate.wait()
    note(path, f"{text} ends")
    return value


def leave_behind(path: str, count: int) -> int:
    for number in range(count):
        current_pool().apply_async(note, (path, number))
    return count


def leave_behind_a_family(path: str, depth: int) -> None:
    """Each generation ends before the next begins."""
    note(path, depth)
    if depth:
        current_pool().apply_async(leave_behind_a_family, (path, depth - 1))


def hold_two(path: str, here: Gate, there: Gate, go_on: Gate) -> list[Any]:
    """Two children: one is held elsewhere, and the other one, which is newer, here."""
    pool = current_pool()
    elsewhere = pool.apply_async(note_and_pass, (path, "there", there, 1))
    go_on.wait()
    handles = [elsewhere, pool.apply_async(note_and_pass, (path, "here", here, 2))]
    return [handle.get() for handle in handles]


def wait_for_gate(path: str, name: str, gate: Gate) -> Any:
    note(path, f"{name} begins")
    value = current_pool().apply(note_and_pass, (path, f"child of {name}", gate, name))
    note(path, f"{name} ends")
    return value


def bury(path: str, gate: Gate) -> list[str]:
    """Two children, each of which waits for one of its own that is held."""
    pool = current_pool()
    handles = [pool.apply_async(wait_for_gate, (path, name, gate)) for name in ("first", "second")]
    return [handle.get() for handle in handles]


def try_with_time_limit(gate: Gate, go_on: Gate) -> str:
    """The child has begun elsewhere before it is waited for, and is held until that wait has ended."""
    result = current_pool().apply_async(pass_gate, (gate, "late"))
    go_on.wait()
    try:
        result.get(0.01)
    except multiprocessing.TimeoutError:
        early = result.ready()
        go_on.arrive()
        return f"{early} {result.get()} {result.ready()}"
    return "in time"


def ask_until_ready(count: int) -> list[int]:
    """Never waits: only asks. More calls than are sent ahead to others."""
    results = [current_pool().apply_async(abs, (-i,)) for i in range(count)]
    while not all(result.ready() for result in results):
        time.sleep(0.001)
    return [result.get() for result in results]


def cancel_one(path: str) -> tuple[bool, str, bool]:
    """Cancel a child that nobody has begun."""
    result = current_pool().apply_async(note, (path, "it ran"))
    cancelled = result.cancel()
    try:
        return cancelled, str(result.get()), result.cancel()
    except mpsteal.TaskCancelledError as error:
        return cancelled, str(error), result.cancel()


def cancel_one_too_late(gate: Gate, go_on: Gate) -> tuple[bool, str]:
    """The child has begun elsewhere."""
    result = current_pool().apply_async(pass_gate, (gate, "it ran"))
    go_on.wait()
    cancelled = result.cancel()
    go_on.arrive()
    return cancelled, result.get()


def wait_for_one_elsewhere(gate: Gate, go_on: Gate) -> Any:
    result = current_pool().apply_async(pass_gate, (gate, 1))
    go_on.wait()
    return result.get()


_handles: list[Any] = []


def use_another_tasks_result() -> str:
    """A task keeps a handle, and one of its children, which runs on top of it, waits for that."""
    pool = current_pool()
    _handles.append(pool.apply_async(abs, (-1,)))
    told = pool.apply_async(use_the_handle).get()
    return f"{told}; {_handles.pop().get()}"


def use_the_handle() -> str:
    try:
        _handles[-1].get()
    except RuntimeError as error:
        return str(error)
    return "got it"


def use_in_a_thread() -> str:
    caught: list[str] = []

    def use() -> None:
        try:
            current_pool()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return caught[0]


def use_in_a_fork() -> str:
    pool, (read, write) = current_pool(), os.pipe()
    pid = os.fork()
    if not pid:
        answers = []
        for use in (current_pool, lambda: pool.apply_async(abs, (1,))):
            try:
                use()
                answers.append("it went")
            except RuntimeError as error:
                answers.append(str(error))
        os.write(write, "; ".join(answers).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as answer:
        return answer.read().decode()


def use_in_an_initializer(path: str) -> None:
    try:
        current_pool()
    except RuntimeError as error:
        note(path, error)


the_pool: Any = None
"""A Pool that forked agents inherit."""


def use_the_pool_itself() -> str:
    try:
        the_pool.apply(abs, (1,))
    except ValueError as error:
        return str(error)
    return "it went"


def fork_and_return_twice() -> int:
    """A child process comes back from the call, as `sys.exit` in a fork does."""
    pid = os.fork()
    if not pid:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_in_a_child() -> int:
    return current_pool().apply(fork_and_return_twice)


def interrupted_cancel() -> str:
    """A signal handler raises while the task waits to hear whether a call has been withdrawn."""
    pool: Any = current_pool()
    agent = pool._nest.agent

    def stop() -> None:
        del agent.sleep
        raise KeyError("stopped")

    for _ in range(1000):
        call = pool.apply_async(abs, (-1,), retries=1)  # those are sent to the parent
        agent.sleep = stop
        try:
            call.cancel()
        except KeyError:
            try:
                return f"got {call.get(10)}"
            except mpsteal.TaskCancelledError:
                return "raised, and is cancelled"
        if vars(agent).pop("sleep", None) is None:
            return "swallowed"
    return "not interrupted"


def alarmed(gate: Gate, go_on: Gate) -> str:
    """A signal handler raises while the task waits for a child that has begun elsewhere."""

    def stop(*_: Any) -> None:
        raise InterruptedError("enough")

    before = signal.signal(signal.SIGALRM, stop)
    result = current_pool().apply_async(pass_gate, (gate, 7))
    go_on.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        result.get()
        return "not interrupted"
    except InterruptedError as error:
        go_on.arrive()
        return f"{error}, then {result.get()}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- bad days -------------------------------------------------------------------------------------------------------


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self_once(path: str, value: Any = None) -> Any:
    if not os.path.exists(path):
        note(path, os.getpid())
        kill_self()
    return value


def child_dies(gate: Gate, go_on: Gate) -> str:
    """A child that dies with its agent, which is another one."""
    result = current_pool().apply_async(gate_and_die, (gate,))
    go_on.wait()
    try:
        result.get()
    except mpsteal.AgentDiedError as error:
        return f"{type(error).__name__}: {error}"
    return "it lived"


def gate_and_die(gate: Gate) -> None:
    gate.wait()
    kill_self()


def die_with_children(path: str, children: int, gate: Gate) -> None:
    """The newest child kills the agent that it shares with this task, which waits; the others are not begun."""
    pool = current_pool()
    handles = [pool.apply_async(note, (path, number)) for number in range(children)]
    gate.wait()
    handles.append(pool.apply_async(kill_self))
    handles[-1].get()


def die_once_with_child(path: str, values: list[int]) -> list[int]:
    """The first try dies below a child."""
    pool = current_pool()
    pool.apply(kill_self_once, (path,))
    return [pool.apply(abs, (value,)) for value in values]


def child_over_its_time(limit_s: float) -> str:
    try:
        current_pool().apply(time.sleep, (1000,), timeout=limit_s)
    except mpsteal.TaskTimeoutError as error:
        return f"{type(error).__name__} in {os.getpid()}"
    return "in time"


def child_tries_again(path: str) -> int:
    return current_pool().apply(kill_self_once, (path, 5), retries=1)


def sleep_in_a_child() -> None:
    current_pool().apply(time.sleep, (1000,))


def stormy(path: str, depth: int) -> int:
    """A tree in which, at times, a node dies with its agent."""
    if not depth:
        return 1
    pool = current_pool()
    handles = [pool.apply_async(stormy, (path, depth - 1), retries=3) for _ in range(2)]
    if os.getpid() % 7 == depth:
        kill_self_once(f"{path}-{os.getpid()}")
    return sum(handle.get() for handle in handles)


def submit_and_return() -> Any:
    return current_pool().apply_async(abs, (1,))


def child_tries_again_with(terms: dict[str, Any]) -> Any:
    return current_pool().apply(abs, (1,), **terms)


def family(path: str, count: int) -> list[Any]:
    """Children that note that they have begun; of each what it gave, or "died"."""
    note(path, f"task {os.getpid()}")
    pool = current_pool()
    handles = [pool.apply_async(note, (path, number)) for number in range(count)]
    became: list[Any] = []
    for handle in handles:
        try:
            became.append(handle.get())
        except mpsteal.AgentDiedError:
            became.append("died")
    return became
