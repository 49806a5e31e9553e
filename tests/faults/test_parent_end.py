"""However the parent ends, nothing of its pools stays (I4), and it ends promptly.

Each test runs a program of its own and looks at what is left of it: exit code, tracebacks, processes,
files in /dev/shm and in its temporary directory.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from gates import Gates
from waiting import Program, is_gone, program, wait_gone, wait_until

HEAD = """
import gc, multiprocessing, os, signal, sys, threading, time
import waiting
import fault_tasks as tasks
from gates import Gate, pass_gate
import mpsteal

method = sys.argv[1]
context = multiprocessing.get_context(method)


class Far(Gate):  # a gate of the test's process, by its path
    def __init__(self, path):
        self._path, self._fds = path, {}


gates = [Far(path) for path in sys.argv[2:]]


def guarded(pool):  # the Manager comes a little after the agents
    while not pool._engine.guard.pid:
        time.sleep(0.005)
    return pool
"""


def body(text: str) -> str:
    """A program whose main part is `text`, as spawn needs it."""
    indented = "\n".join("    " + line for line in text.strip().splitlines())
    return f"{HEAD}\nif __name__ == '__main__':\n{indented}\n"


Run = Callable[..., AbstractContextManager[Program]]


@pytest.fixture
def run(tmp_path: Path, start_method: str) -> Iterator[Run]:
    """Starts a program by its main part, with the paths of gates."""

    def start(text: str, *gates: Any) -> AbstractContextManager[Program]:
        return program(tmp_path, body(text), start_method, *(gate._path for gate in gates))

    return start


INTERRUPTED_S = 1.0
"""Within this time a program that is interrupted has ended; a promise, not an alarm."""


def tracebacks(text: str) -> int:
    return text.count("Traceback (most recent call last)")


# -- a program that ends by itself --------------------------------------------------------


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param("", id="end-of-main"),
        pytest.param("del pool, results; gc.collect()", id="forgotten"),
        pytest.param("pool.close()", id="closed"),
    ],
)
def test_exit_with_work_pending(run: Run, gates: Gates, last_words: str) -> None:
    """Two tasks run for minutes, 500 wait: the program ends at once and without a word."""
    text = f"""
        pool = mpsteal.Pool(2, context=context)
        results = [pool.apply_async(tasks.arrive_and_sleep, (gates[0],)) for _ in range(2)]
        results += [pool.apply_async(tasks.double, (i,)) for i in range(500)]
        gates[1].wait()
        {last_words}
    """
    started, ready = gates("started"), gates("ready")
    with run("\n".join(line.strip() for line in text.splitlines()), started, ready) as parent:
        started.wait_arrived(2)
        ready.wait_arrived()
        parent.meet_family()
        ready.open()
        assert parent.wait(20) == 0, parent.errors
        parent.check_nothing_left()
        assert parent.errors == ""


def test_exit_with_imap_half_read_and_input_that_blocks(run: Run, gates: Gates) -> None:
    text = """
def endless():
    yield from range(10)
    threading.Event().wait()
pool = mpsteal.Pool(2, context=context)
results = pool.imap(tasks.double, endless(), buffersize=2)
print(next(results), next(results))
"""
    with run(text) as parent:
        assert parent.wait(20) == 0, parent.errors
        assert parent.output == "0 2\n"
        assert parent.errors == ""
        parent.check_nothing_left()


def test_exit_with_a_callback_that_blocks(run: Run, gates: Gates) -> None:
    text = """
def block(_):
    gates[0].arrive()
    threading.Event().wait()
pool = mpsteal.Pool(1, context=context)
pool.apply_async(tasks.double, (1,), callback=block)
gates[1].wait()
"""
    blocked, ready = gates("blocked"), gates("ready")
    with run(text, blocked, ready) as parent:
        blocked.wait_arrived()
        ready.open()
        assert parent.wait(20) == 0, parent.errors
        assert parent.errors == ""
        parent.check_nothing_left()


def test_exit_by_an_error_tells_it_once(run: Run, gates: Gates) -> None:
    text = """
pool = mpsteal.Pool(2, context=context)
results = pool.map_async(tasks.arrive_and_sleep, gates[:1] * 50, 1)
gates[1].wait()
raise RuntimeError("the main program is broken")
"""
    started, ready = gates("started"), gates("ready")
    with run(text, started, ready) as parent:
        started.wait_arrived(2)
        parent.meet_family()
        ready.open()
        assert parent.wait(20) == 1
        assert tracebacks(parent.errors) == 1
        assert "the main program is broken" in parent.errors.splitlines()[-1]
        parent.check_nothing_left()


# -- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["map", "apply", "imap"])
def test_interrupt_while_waiting_for_results(run: Run, gates: Gates, form: str) -> None:
    """Ctrl-C at a terminal: SIGINT to the whole foreground group; one traceback, the parent's own."""
    call = {
        "map": "pool.map(tasks.arrive_and_sleep, gates[:1] * 50, 1)",
        "apply": "pool.apply(tasks.arrive_and_sleep, gates[:1])",
        "imap": "list(pool.imap(tasks.arrive_and_sleep, gates[:1] * 50))",
    }[form]
    text = f"""
with guarded(mpsteal.Pool(2, context=context)) as pool:
    {call}
"""
    started = gates("started")
    with run(text, started) as parent:
        started.wait_arrived(1 if form == "apply" else 2)
        parent.meet_family()
        parent.interrupt()
        assert parent.wait(INTERRUPTED_S) == -signal.SIGINT
        check_one_traceback(parent)
        parent.check_nothing_left()


def check_one_traceback(parent: Program) -> None:
    assert tracebacks(parent.errors) == 1, parent.errors
    assert parent.errors.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("where", ["with", "at exit", "with scheduler"])
def test_second_interrupt_while_the_first_ends_the_pool(run: Run, gates: Gates, where: str) -> None:
    """An impatient user: still one traceback, and nobody is left because of it."""
    open_it = {
        "with": "with guarded(mpsteal.Pool(2, context=context)) as pool:",
        "at exit": "pool = guarded(mpsteal.Pool(2, context=context))\nif pool:",
        "with scheduler": "with mpsteal.WorkStealingScheduler(context=context) as pool:",
    }[where]
    call = "pool.starmap(tasks.arrive_and_tell_of_sigterm, [gates] * 50, 1)"
    if where == "with scheduler":
        call = """
    for name in "ab":
        pool.register_agent(mpsteal.Agent(name))
    work = [mpsteal.Task("t", fn=tasks.arrive_and_tell_of_sigterm, args=gates) for _ in range(10)]
    pool.submit_tasks(work)
    guarded(pool)
    work[0].result()
"""
    started, told = gates("started"), gates("told")
    with run(f"{open_it}\n    {call}", started, told) as parent:
        started.wait_arrived(2)
        parent.meet_family()
        parent.interrupt()
        told.wait_arrived(2)
        parent.interrupt()
        assert parent.wait(INTERRUPTED_S) == -signal.SIGINT
        check_one_traceback(parent)
        parent.check_nothing_left()


def test_interrupt_that_is_caught_leaves_the_pool_working(run: Run, gates: Gates) -> None:
    text = """
with guarded(mpsteal.Pool(2, context=context)) as pool:
    waiting.wait_idle(pool)
    pids = sorted(a.pid for a in pool.stats().agents)
    try:
        pool.map(pass_gate, gates[:1] * 4, 1)
    except KeyboardInterrupt:
        print("caught")
    gates[1].wait()
    print(pool.map(tasks.double, range(3)))
    assert sorted(a.pid for a in pool.stats().agents) == pids
"""
    held, caught = gates("held"), gates("caught")
    with run(text, held, caught) as parent:
        held.wait_arrived(2)
        parent.meet_family()
        parent.interrupt()
        caught.wait_arrived()
        held.open()
        caught.open()
        assert parent.wait(20) == 0, parent.errors
        assert parent.output == "caught\n[0, 2, 4]\n"
        assert parent.errors == ""
        parent.check_nothing_left()


ENDS = {
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "segfault": ("ctypes.string_at(0)", -signal.SIGSEGV),
    "_exit": ("os._exit(5)", 5),
    "exec": ("os.execvp('sleep', ['sleep', '600'])", None),
}


def wait_ended(parent: Program, code: int | None) -> None:
    """Wait for the end of a parent; `code` None: until it runs another program, under the same pid."""
    if code is None:
        process = psutil.Process(parent.process.pid)
        wait_until(lambda: process.name() == "sleep", "the parent became another program")
    else:
        assert parent.wait(20) == code


@pytest.mark.parametrize(
    ("end", "has_child"),
    [(end, True) for end in ENDS] + [("exec", False)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_parent_that_ends_without_a_word(run: Run, gates: Gates, end: str, has_child: bool) -> None:
    """Whatever the agents do, and though a forked child lives on: it has copies of every pipe and of every lock file,
    so end-of-file tells nothing. After `exec` the pid, and so every pidfd, lives on, too.
    """
    started, ready, child = gates("started"), gates("ready"), gates("child")
    words, code = ENDS[end]
    text = f"""
import ctypes, warnings
idle, busy = [mpsteal.Pool(n, context=context) for n in (2, 3)]
idle.map(tasks.double, range(10))
works = tasks.arrive_and_sleep, tasks.arrive_and_compute, tasks.arrive_and_ignore_sigterm
results = [busy.apply_async(work, gates[:1]) for work in works]
for pool in idle, busy:
    guarded(pool)
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
if {has_child} and not os.fork():
    gates[2].wait()
    os._exit(0)
gates[1].wait()
{words}
"""
    with run(text, started, ready, child) as parent:
        ready.wait_arrived()
        started.wait_arrived(3)
        if has_child:
            child.wait_arrived()
        wait_until(lambda: sum(map(is_of_pools, parent.meet_family())) == 7, "agents and Managers lead their groups")
        ours = set(filter(is_of_pools, parent.family))
        ready.open()
        wait_ended(parent, code)
        others, parent.family = parent.family - ours, ours
        try:
            parent.check_nothing_left()
            assert parent.errors == ""
        finally:
            parent.family |= others
            child.open()
            parent.kill()


def is_of_pools(process: psutil.Process) -> bool:
    """Whether it leads a group of its own: agents and Managers do, forks and the helpers of multiprocessing do not."""
    return os.getpgid(process.pid) == process.pid


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_pools_in_tasks_go_with_the_parent(run: Run, gates: Gates) -> None:
    """Level after level, all within the promise: each watches the one that made it."""
    text = """
pool = guarded(mpsteal.Pool(1, context=context))
result = pool.apply_async(tasks.nested_and_wait, gates[:1])
gates[1].wait()
"""
    inside, ready = gates("inside"), gates("ready")
    with run(text, inside, ready) as parent:
        inside.wait_arrived()
        ready.wait_arrived()
        assert len(parent.meet_family()) >= 5
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.wait(20)
        parent.check_nothing_left()


@pytest.mark.parametrize("end", ["SIGKILL", "exec"])
def test_parent_that_ends_after_its_manager_was_replaced(run: Run, gates: Gates, end: str) -> None:
    words, code = ENDS[end]
    text = f"""
pool = guarded(mpsteal.Pool(2, context=context))
results = [pool.apply_async(tasks.arrive_and_compute, gates[:1]) for _ in range(2)]
first = pool._engine.guard.pid
os.kill(first, signal.SIGKILL)
waiting.wait_until(lambda: pool._engine.guard.pid not in (0, first), "a new Manager")
gates[1].wait()
{words}
"""
    started, ready = gates("started"), gates("ready")
    with run(text, started, ready) as parent:
        started.wait_arrived(2)
        ready.wait_arrived()
        parent.meet_family()
        ready.open()
        wait_ended(parent, code)
        parent.check_nothing_left()
        parent.kill()


def test_parent_becomes_another_program_before_the_manager_came(run: Run, gates: Gates) -> None:
    """Idle agents look for themselves for a while."""
    words, code = ENDS["exec"]
    text = f"""
import mpsteal._engine.guard
mpsteal._engine.guard.FORK_AFTER_S = mpsteal._engine.guard.SPAWN_AFTER_S = 1000
pool = mpsteal.Pool(2, context=context)
waiting.wait_idle(pool)
gates[0].wait()
{words}
"""
    ready = gates("ready")
    with run(text, ready) as parent:
        ready.wait_arrived()
        parent.meet_family()
        ready.open()
        wait_ended(parent, code)
        parent.check_nothing_left()
        parent.kill()


def test_parent_killed_while_agents_start(run: Run, gates: Gates) -> None:
    """Before the Manager is there, agents watch for themselves."""
    text = """
pool = mpsteal.Pool(4, context=context)
gates[0].wait()
"""
    ready = gates("ready")
    with run(text, ready) as parent:
        ready.wait_arrived()
        parent.meet_family()
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.wait(20)
        wait_until(lambda: not [p for p in parent.family if _runs(p)], "all gone", 4.0)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("where", ["main", "engine"])
def test_parent_killed_before_the_manager_came(run: Run, gates: Gates, where: str) -> None:
    """An agent inside a task is ended by the kernel, whichever thread has started it."""
    text = """
import mpsteal._engine.crew
import mpsteal._engine.guard
mpsteal._engine.guard.FORK_AFTER_S = mpsteal._engine.guard.SPAWN_AFTER_S = 1000
mpsteal._engine.crew.Crew.has_long_task = lambda *_: False
pool = mpsteal.Pool(2, context=context)
if sys.argv[2].endswith("engine"):
    for process in pool._pool:
        os.kill(process.pid, signal.SIGKILL)
results = [pool.apply_async(tasks.arrive_and_compute, gates[:1]) for _ in range(2)]
if pool._engine.guard.pid:
    sys.exit("there is a Manager")
gates[1].wait()
"""
    started, ready = gates(f"started in {where}"), gates("ready")
    with run(text, started, ready) as parent:
        started.wait_arrived(2)
        ready.wait_arrived()
        parent.meet_family()
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.wait(20)
        wait_until(lambda: not [p for p in parent.family if _runs(p)], "all gone", 4.0)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
@pytest.mark.parametrize("who", ["agent", "spare"])
def test_nothing_is_initialized_once_the_parent_is_dead(
    tmp_path: Path, gates: Gates, start_method: str, who: str
) -> None:
    """The parent dies while a process imports the main module, and the Manager leaves, which has not seen that one."""
    text = f"""
if multiprocessing.current_process().name != "MainProcess":
    gates[0].wait()
if __name__ == "__main__":
    pool = guarded(mpsteal.Pool(1, context=context, maxtasksperchild=2, initializer=pass_gate, initargs=gates[1:2]))
    if {who == "spare"}:
        pool.apply(tasks.double, (1,))
    print(pool._engine.guard.pid, flush=True)
    gates[2].wait()
"""
    imports, begun, ready = gates("imports"), gates("begun"), gates("ready")
    paths = [gate._path for gate in (imports, begun, ready)]
    with program(tmp_path, HEAD + text, start_method, *paths) as parent:
        if who == "spare":
            imports.release()
            begun.release()
            begun.wait_arrived()
            imports.wait_arrived()
        imports.wait_arrived()
        ready.wait_arrived()
        parent.meet_family()
        parent.process.kill()
        parent.wait(20)
        wait_gone([int(parent.output)])
        imports.release()
        parent.check_nothing_left()
        assert begun.arrived_nowait() == 0


def test_pool_outlives_the_thread_that_made_it(run: Run, gates: Gates) -> None:
    """Then the kernel must not end the agents with that thread."""
    text = """
pools = []
maker = threading.Thread(target=lambda: pools.append(mpsteal.Pool(2, context=context)))
maker.start()
maker.join()
pid = pools[0].apply(os.getpid)
time.sleep(0.1)  # the kernel's signal would have come by now
assert pid in [p.pid for p in pools[0]._pool]
assert pools[0].map(tasks.double, range(100)) == list(range(0, 200, 2))
assert not [p for p in pools[0]._pool if p.exitcode is not None]
pools[0].terminate()
"""
    with run(text) as parent:
        assert parent.wait() == 0, parent.errors
        assert parent.errors == ""


def test_parent_and_manager_killed_together(run: Run, gates: Gates) -> None:
    """Agents between tasks watch the parent themselves; nothing but the folder may stay."""
    text = """
pool = guarded(mpsteal.Pool(2, context=context))
pool.map(tasks.double, range(10))
print(pool._engine.guard.pid, flush=True)
gates[0].wait()
"""
    ready = gates("ready")
    with run(text, ready) as parent:
        ready.wait_arrived()
        parent.meet_family()
        manager = int(parent.output)
        os.kill(parent.process.pid, signal.SIGSTOP)
        os.kill(manager, signal.SIGKILL)
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.wait(20)
        wait_until(lambda: not [p for p in parent.family if _runs(p)], "all gone", 4.0)


def _runs(process: Any) -> bool:
    return process.is_running() and not is_gone(process.pid)
