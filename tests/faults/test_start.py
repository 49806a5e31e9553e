"""Agents that cannot start: one clear error, a bounded number of tries, nothing left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from gates import Gates
from storms import value_or_death
from waiting import agent_pids, lines, manager_pid, program, signal_own, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal._engine import crew as crew_module
from mpsteal._engine.health import START_FAILURES_ALLOWED

Open = Callable[..., mpsteal.Pool]


def test_initializer_that_raises_gives_its_exception(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    """To every call, pending or later; and no agent is started again."""
    started = str(tmp_path / "started")
    pool = open_pool(3, start_method, initializer=tasks.note_and_raise, initargs=(started,))
    for call in (
        lambda: pool.apply_async(tasks.double, (1,)).get(),
        lambda: pool.apply(tasks.double, (1,)),
        lambda: pool.map(tasks.double, range(5)),
        lambda: list(pool.imap(tasks.double, range(5))),
    ):
        with pytest.raises(ValueError, match="the initializer is broken"):
            call()
    pool.close()
    pool.join()
    assert len(lines(started)) <= 3


def test_initializer_that_raises_fails_what_was_pending(open_pool: Open, gates: Gates) -> None:
    gate = gates("initializing")
    pool = open_pool(2, initializer=tasks.wait_and_raise, initargs=(gate,))
    seen: list[type] = []
    results = [pool.apply_async(tasks.double, (i,), error_callback=lambda e: seen.append(type(e))) for i in range(10)]
    mapped = pool.map_async(tasks.double, range(10))
    iterated = pool.imap(tasks.double, range(10))
    gate.wait_arrived(2)
    gate.open()
    for result in [*results, mapped]:
        with pytest.raises(ValueError, match="the initializer is broken"):
            result.get()
    with pytest.raises(ValueError, match="the initializer is broken"):
        next(iterated)
    assert seen == [ValueError] * 10


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_initializer_that_exits(open_pool: Open, kind: type[BaseException]) -> None:
    pool = open_pool(2, initializer=tasks.raise_this, initargs=(kind,))
    with pytest.raises(kind):
        pool.apply(tasks.double, (1,))


def test_initializer_whose_error_does_not_travel(open_pool: Open) -> None:
    pool = open_pool(1, initializer=tasks.raise_locked)
    with pytest.raises(mpsteal.RemoteError, match="behind bars"):
        pool.apply(tasks.double, (1,))


def test_initializer_that_ends_the_process(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    """A few tries, then AgentStartError for every call."""
    started = str(tmp_path / "started")
    pool = open_pool(2, start_method, initializer=tasks.note_and_exit, initargs=(started,))
    result = pool.apply_async(tasks.double, (1,))
    with pytest.raises(mpsteal.AgentStartError, match="exit code 3"):
        result.get()
    with pytest.raises(mpsteal.AgentStartError):
        pool.apply(tasks.double, (1,))
    pool.close()
    pool.join()
    limit = START_FAILURES_ALLOWED * 2
    assert limit <= len(lines(started)) <= limit + 2


def test_initializer_that_fails_once_is_forgiven(open_pool: Open, tmp_path: Path) -> None:
    """A single death at the start is bad luck; the next process serves."""
    flag = str(tmp_path / "flag")
    pool = open_pool(1, initializer=tasks.exit_the_first_time, initargs=(flag,))
    assert pool.apply(tasks.double, (4,)) == 8
    assert len(lines(flag)) == 2


def test_initializer_runs_in_every_replacement(open_pool: Open, tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    pool = open_pool(1, initializer=tasks.note_start, initargs=(started,))
    wait_idle(pool)
    for _ in range(3):
        (pid,) = agent_pids(pool)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda old=pid: agent_pids(pool) not in ([], [old]), "a new agent")
        wait_idle(pool)
    assert len(lines(started)) == 4
    assert len(set(lines(started))) == 4


def test_initializer_is_killed_at_terminate(open_pool: Open, gates: Gates) -> None:
    gate = gates("initializing")
    pool = open_pool(2, initializer=tasks.arrive_and_sleep, initargs=(gate,))
    result = pool.apply_async(tasks.double, (1,))
    gate.wait_arrived(2)
    pool.terminate()
    pool.join()
    with pytest.raises(mpsteal.PoolTerminatedError):
        result.get(0)


def test_unpicklable_initializer_under_spawn_leaves_nothing() -> None:
    lock = threading.Lock()  # else it is sent as a copy where cloudpickle is installed
    with pytest.raises((TypeError, AttributeError, Exception), match=r"(?i)pickle|local|lambda"):
        mpsteal.Pool(2, initializer=lambda: lock, context=multiprocessing.get_context("spawn"))


def test_no_thread_to_be_had_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agents have been started by then, and are watched."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "mpsteal-engine":
            raise RuntimeError("can't start new thread")
        start(thread)

    mpsteal.Pool(2).terminate()  # what the first of a process opens for good
    before = psutil.Process().num_fds()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="can't start"):
            mpsteal.Pool(2)
    assert psutil.Process().num_fds() == before


BROKEN_MAIN = """
import multiprocessing, sys
import fault_tasks as tasks
import mpsteal

if multiprocessing.current_process().name != "MainProcess":
    raise ImportError("this main module cannot be imported twice")

if __name__ == "__main__":
    with mpsteal.Pool(2, context=multiprocessing.get_context(sys.argv[1])) as pool:
        try:
            pool.apply(tasks.double, (1,))
        except mpsteal.AgentStartError as error:
            print("told:", error)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_main_module_that_agents_cannot_import(tmp_path: Path, method: str) -> None:
    with program(tmp_path, BROKEN_MAIN, method) as parent:
        assert parent.wait() == 0, parent.errors
        assert parent.output.startswith("told:")
        assert "main module" in parent.output
        tries = parent.errors.count("ImportError: this main module cannot be imported twice")
        assert 1 <= tries <= 2 * START_FAILURES_ALLOWED + 2, parent.output + parent.errors
        parent.check_nothing_left()


NO_GUARD = """
import multiprocessing, sys
import fault_tasks as tasks
import mpsteal

pool = mpsteal.Pool(2, context=multiprocessing.get_context("spawn"))
print(pool.apply(tasks.double, (1,)))
"""


def test_main_module_without_the_guard_ends(tmp_path: Path) -> None:
    """The beginner's mistake: no `if __name__ == "__main__"`. No fork bomb, no hang."""
    with program(tmp_path, NO_GUARD) as parent:
        assert parent.wait() != 0
        assert "freeze_support" in parent.errors or "bootstrapping" in parent.errors
        parent.check_nothing_left()


class Refusing:
    """Makes processes, and fails for a while as a full process table does."""

    def __init__(self, context: Any, first: int, refusals: int) -> None:
        self.context, self.good, self.left = context, first, refusals

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        if self.good:
            self.good -= 1
        elif self.left:
            self.left -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return self.context.Process(*args, **kwds)


def test_refused_replacement_is_tried_again(start_method: str) -> None:
    context = multiprocessing.get_context(start_method)
    make = Refusing(context, first=1, refusals=3)

    class Pool(mpsteal.Pool):
        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            return make(*args, **kwds)

    with Pool(1, context=context) as pool:
        with pytest.raises(mpsteal.AgentDiedError):
            pool.apply(tasks.die_at_once, (1,))
        assert pool.apply(tasks.double, (4,)) == 8
        assert make.left == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_fork_that_fails_is_tried_again_and_keeps_no_descriptor(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """EAGAIN, from the system call itself. `multiprocessing` forgets four descriptors then, every time."""
    pool = open_pool(1, method)
    wait_idle(pool)
    manager_pid(pool)
    (victim,) = agent_pids(pool)
    before, tries = psutil.Process().num_fds(), []

    def refuse(*_: Any) -> Any:
        tries.append(threading.current_thread())
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        patch.setattr("_posixsubprocess.fork_exec", refuse)
        os.kill(victim, signal.SIGKILL)
        results = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
        wait_until(lambda: len(tries) >= 3, "tried three times")
    assert [r.get() for r in results] == list(range(0, 200, 2))
    assert set(tries) == {pool._engine.thread}
    assert psutil.Process().num_fds() == before


def test_pipe_that_fails_is_tried_again_and_keeps_no_descriptor(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, start_method: str
) -> None:
    """The second of the two that a process is started with; `multiprocessing` forgets the first then."""
    pool = open_pool(1, start_method)
    wait_idle(pool)
    manager_pid(pool)
    (victim,) = agent_pids(pool)
    before, calls = psutil.Process().num_fds(), []
    pipe = os.pipe

    def refuse_every_second() -> tuple[int, int]:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return pipe()

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", refuse_every_second)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(calls) >= 6, "tried three times")
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    wait_idle(pool)
    assert psutil.Process().num_fds() == before


def test_fork_server_that_is_killed(open_pool: Open) -> None:
    """Its agents go on; who dies then is seen and replaced, by a new server."""
    pool = open_pool(2, "forkserver")
    wait_idle(pool)
    before = agent_pids(pool)
    server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    assert agent_pids(pool) == before
    with pytest.raises(mpsteal.AgentDiedError) as caught:
        pool.apply(tasks.die_by, (signal.SIGKILL,))
    assert caught.value.pid in before
    wait_idle(pool)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    pool._engine.validate()


def test_refused_first_process_is_the_callers_error() -> None:
    make = Refusing(multiprocessing, first=1, refusals=9)

    class Pool(mpsteal.Pool):
        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            return make(*args, **kwds)

    with pytest.raises(BlockingIOError):
        Pool(3)


def test_agent_that_never_says_hello_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child can hang on a lock that another thread held; so may any start."""
    monkeypatch.setattr("mpsteal._engine.crew.HELLO_TIMEOUT_S", 0.3)
    flag = str(tmp_path / "flag")

    class Pool(mpsteal.Pool):
        @staticmethod
        def Process(ctx: Any, *args: Any, target: Any = None, **kwds: Any) -> Any:
            return ctx.Process(*args, target=SlowStart(flag, target), **kwds)

    with Pool(1, context=multiprocessing.get_context("fork")) as pool:
        assert pool.apply(tasks.double, (4,)) == 8
    pids = list(map(int, lines(flag)))
    assert len(pids) == 2
    wait_gone(pids)


class SlowStart:
    """Hangs in the first process before anything of ours runs."""

    def __init__(self, flag: str, target: Callable[..., Any]) -> None:
        self.flag, self.target = flag, target

    def __call__(self, *args: Any) -> Any:
        first = not lines(self.flag)
        tasks.note(self.flag, os.getpid())
        if first:
            time.sleep(600)
        return self.target(*args)


def test_handler_that_raises_as_the_engine_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm's handler may raise at any point of the main thread, also when the engine's thread runs already."""
    start = threading.Thread.start

    def start_and_raise(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "mpsteal-engine":
            raise InterruptedError("an alarm")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_raise)
        for _ in range(5):
            with pytest.raises(InterruptedError, match="an alarm"):
                mpsteal.Pool(2)
    with mpsteal.Pool(2) as pool:
        assert pool.apply(tasks.double, (21,)) == 42


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_interrupt_while_a_pool_is_made_comes_when_it_is_known_how_to_end_it(
    method: str,
) -> None:
    """Even if another thread takes the signal: a mask of the main thread alone would not hold it back."""
    make = multiprocessing.get_context(method).Process
    seen: list[str] = []
    arrived, write = os.pipe()
    os.set_blocking(write, False)

    class Context(type(multiprocessing.get_context(method))):  # type: ignore[misc]
        def Process(self, *args: Any, **kwds: Any) -> Any:
            process = make(*args, **kwds)
            os.kill(os.getpid(), signal.SIGINT)
            os.read(arrived, 1)  # some thread has taken it
            seen.append("made")
            return process

    idle = threading.Event()
    other = threading.Thread(target=idle.wait)
    other.start()
    before = signal.set_wakeup_fd(write)
    try:
        with pytest.raises(KeyboardInterrupt):
            mpsteal.Pool(2, context=Context())
    finally:
        signal.set_wakeup_fd(before)
        idle.set()
        other.join()
        os.close(arrived)
        os.close(write)
    assert seen == ["made", "made"], "the interrupt came half-way"


# -- crash loops ------------------------------------------------------------------------


def test_agent_killed_as_fast_as_it_comes_back(open_pool: Open, start_method: str) -> None:
    """The others work on; the pauses between its starts grow; and it is there again when that is over."""
    pool = open_pool(2, start_method)
    wait_idle(pool)
    results = []
    for i in range(4):
        pid = pool.stats().agents[0].pid
        os.kill(pid, signal.SIGKILL)
        results += [pool.apply_async(tasks.double, (i,)) for i in range(20)]
        wait_until(lambda pid=pid: pool.stats().agents[0].pid not in (None, pid), f"back after death {i + 1}")  # type: ignore[misc]
    assert [value_or_death(result) for result in results].count("died") <= 4
    wait_idle(pool)
    wait_until(lambda: pool.stats().agents_replaced == 4, "all are counted")
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    pool._engine.validate()


def test_one_agent_that_cannot_start_does_not_end_the_pool(open_pool: Open, tmp_path: Path) -> None:
    """One has the only licence, say: the other dies in its initializer, with growing pauses."""
    noted = str(tmp_path / "noted")
    pool = open_pool(2, initializer=tasks.exit_unless_first, initargs=(noted, str(tmp_path / "licence")))
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    wait_until(lambda: pool.stats().agents_replaced >= 5, "it was tried again")
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))
    assert pool._engine.crew._barren and max(pool._engine.crew._barren.values()) >= 4, "pauses grow"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda s: s.name)
def test_initializer_that_is_killed_ends_the_pool_with_one_error(
    open_pool: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The kernel's out-of-memory killer, say; it is given longer than a crash."""
    monkeypatch.setattr(crew_module, "START_KILLS_ALLOWED", 5)
    noted = str(tmp_path / "noted")
    pool = open_pool(1, initializer=tasks.note_and_die_by, initargs=(noted, number))
    results = [pool.apply_async(tasks.double, (i,)) for i in range(3)]
    for result in results:
        with pytest.raises(mpsteal.AgentStartError, match="in a row died before they could take a task"):
            result.get()
    assert len(lines(noted)) == (5 if number == signal.SIGKILL else 3)
    with pytest.raises(mpsteal.AgentStartError):
        pool.apply(tasks.double, (1,))


def test_dead_agent_is_in_no_list_while_it_waits_to_be_replaced(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be a stranger's by then."""
    monkeypatch.setattr(crew_module, "RESPAWN_PAUSE_S", 3600.0)
    monkeypatch.setattr(crew_module, "BARREN_S", 3600.0)
    pool = open_pool(2)
    wait_idle(pool)
    first = pool.stats().agents[0].pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pool.stats().agents[0].pid not in (None, first), "replaced at once")
    wait_idle(pool)
    assert signal_own(pool.stats().agents[0].pid, signal.SIGKILL)  # the second in a row has to wait
    wait_until(lambda: 0 in pool._engine.crew._respawn_at, "it waits")
    assert [process.pid for process in pool._pool] == agent_pids(pool)
    assert len(pool._pool) == 1
    assert [a.health for a in pool.stats().agents] == ["dead", "idle"]
    assert pool.map(tasks.double, range(50)) == list(range(0, 100, 2))


def test_fork_whose_surroundings_cannot_be_set_up_is_no_agent(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It sets them up before its first task; that its task failed would be a lie."""

    def refuse(environment: dict[str, str]) -> None:
        raise OSError("no room for a variable")

    monkeypatch.setattr("mpsteal._agent.inner_threads.set_environment", refuse)
    pool = open_pool(1, "fork")
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(tasks.double, (1,))
    assert "no room for a variable" in capfd.readouterr().err


INTERRUPTED_AS_IT_IMPORTS = """
import multiprocessing, os, signal
import mpsteal

if __name__ == "__mp_main__":
    os.kill(os.getpid(), signal.SIGINT)  # held back, as it is in agents until they have a group of their own

def double(x):
    return 2 * x

if __name__ == "__main__":
    with mpsteal.Pool(1, context=multiprocessing.get_context("spawn")) as pool:
        print(pool.apply(double, (2,)), pool.stats().agents_replaced)
"""


def test_ctrl_c_that_came_before_its_group_is_not_an_agents(tmp_path: Path) -> None:
    """A terminal sends it to the whole foreground group, those included that still import the main module."""
    with program(tmp_path, INTERRUPTED_AS_IT_IMPORTS) as parent:
        assert parent.wait() == 0
        assert (parent.output, parent.errors) == ("4 0\n", "")
