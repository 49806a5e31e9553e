"""The scenes of `bench.faults`: one fault each, staged with whatever pool the `World` holds, and judged.

A scene is a function that receives a `World`, stages its fault and returns a verdict. Words that all share:

    ok           what the scene's sentence says
    breaks       the pool fails work from then on. Executors document this (BrokenProcessPool), so it is no surprise,
                 but the work that was queued is gone
    hangs        somebody waits for what never comes: no answer within ``wait_s`` since the last one
    lost n       n tasks got an error although their worker was not the one that died
    twice n      n tasks ran twice
    wrong: ...   anything else, in a few words
    refuses: ... an error at once which says that this is not allowed
    no such feature   the pool has no call for what is asked

The last line of a scene's docstring is the sentence that says what counts as ok; it must be fair to every pool.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from bench import _fault_tasks as tasks
from bench._fault_pools import Adapter

OK = "ok"
NO_FEATURE = "no such feature"
MIB = 1 << 20
PENDING = "pending"


class Hang(Exception):
    """Something did not come within the time."""


@dataclass
class World:
    """What a scene works with: the pool, a directory for notes, and how long silence may last (s)."""

    pool: Adapter
    folder: Path
    wait_s: float
    quick: bool
    detail: list[str] = field(default_factory=list)
    open: bool = False

    def start(self, workers: int = 2, initializer: Callable[[], object] | None = None) -> None:
        self.pool.open(workers, initializer=initializer)
        self.open = True

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def noted(self, name: str) -> list[str]:
        """Whole lines noted in a file so far."""
        try:
            text = (self.folder / name).read_text()
        except FileNotFoundError:
            return []
        return text[: text.rfind("\n") + 1].splitlines()

    def wait_noted(self, name: str, count: int) -> list[str]:
        until = time.monotonic() + self.wait_s
        while len(lines := self.noted(name)) < count:
            if time.monotonic() > until:
                raise Hang(f"{len(lines)} of {count} tasks started")
            time.sleep(0.0005)
        return lines

    def within(self, function: Callable[[], Any], what: str) -> Any:
        """The result of a call that may block; it runs in a thread so that the scene can give up on it."""
        box: list[Any] = []

        def call() -> None:
            try:
                box.append((True, function()))
            except BaseException as error:
                box.append((False, error))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.wait_s)
        if not box:
            raise Hang(what)
        succeeded, value = box[0]
        if not succeeded:
            raise value
        return value

    def try_submit(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """A handle, or the error that submitting raised."""
        try:
            return self.within(lambda: self.pool.submit(function, *args, **more), "submit does not return")
        except Hang:
            raise
        except Exception as error:
            return error

    def outcome(self, handle: Any, wait_s: float | None = None) -> tuple[str, Any]:
        """("value", it), ("error", it) or (PENDING, None)."""
        if isinstance(handle, BaseException):
            return "error", handle
        if not self.pool.wait(handle, self.wait_s if wait_s is None else wait_s):
            return PENDING, None
        try:
            return "value", self.pool.get(handle)
        except BaseException as error:
            return "error", error

    def outcomes(self, handles: Iterable[Any], *, patient: bool = True) -> list[tuple[str, Any]]:
        """All outcomes; the first that is silent for ``wait_s`` ends the waiting for all."""
        found: list[tuple[str, Any]] = []
        wait_s = None if patient else 0.0
        for handle in handles:
            found.append(self.outcome(handle, wait_s))
            if found[-1][0] == PENDING:
                wait_s = 0.0
        return found

    def say(self, text: str) -> None:
        self.detail.append(text)

    def say_error(self, error: BaseException) -> None:
        self.say(f"{type(error).__name__}: {error}"[:160])

    def worker_pids(self, count: int = 2) -> list[int]:
        """Pids of all workers, idle again: each has run a task that waited for the others."""
        name = f"meet-{time.monotonic_ns()}"
        handles = [self.pool.submit(tasks.meet, self.path(name), count) for _ in range(count)]
        for kind, _ in self.outcomes(handles):
            if kind != "value":
                raise Hang("workers do not come up")
        time.sleep(0.2)  # a pool may do something after a result, too: let it be idle
        return sorted({int(line) for line in self.noted(name)})

    # -- judging ------------------------------------------------------------------------

    def check_squares(self, handles: list[Any], allowed: int = 0, *, patient: bool = True) -> str:
        """Verdict on healthy tasks, handle i being of `square(i)`; up to ``allowed`` may have an error."""
        found = self.outcomes(handles, patient=patient)
        pending = sum(kind == PENDING for kind, _ in found)
        errors = [value for kind, value in found if kind == "error"]
        wrong = sum(kind == "value" and value != i * i for i, (kind, value) in enumerate(found))
        if errors:
            self.say_error(errors[0])
        if pending:
            self.say(f"{pending} of {len(handles)} without an answer")
            return "hangs"
        if wrong:
            return f"wrong: {wrong} values"
        return f"lost {len(errors) - allowed}" if len(errors) > allowed else OK

    def check_goes_on(self, count: int = 20) -> str:
        """Whether the pool takes work still."""
        verdict = self.check_squares([self.try_submit(tasks.square, i) for i in range(count)])
        if not verdict.startswith("lost"):
            return verdict
        again = self.check_squares([self.try_submit(tasks.square, i) for i in range(20)])
        if again.startswith("lost"):
            return "breaks"
        return verdict if again == OK else again

    def judge(self, *verdicts: str) -> str:
        """The worst comes first, and a broken pool tells all."""
        for worst in ("hangs", "breaks"):
            if worst in verdicts:
                return worst
        return ", ".join(dict.fromkeys(v for v in verdicts if v != OK)) or OK

    def one_bad(
        self, function: Callable[..., Any], *args: Any, may_return: tuple[Any, ...] | None = (), allowed: int = 0
    ) -> str:
        """One bad task among 20 good ones, then 20 more.

        ``may_return``: values of the bad task that are fine; None: any. ``allowed``: errors of the 20.
        """
        before = [self.try_submit(tasks.square, i) for i in range(10)]
        bad = self.try_submit(function, *args)
        behind = [self.try_submit(tasks.square, i) for i in range(10, 20)]
        kind, value = self.outcome(bad)
        if kind == PENDING:
            self.say("the task itself has no answer")
            mine = "hangs"
        elif kind == "error":
            self.say_error(value)
            mine = OK
        else:
            mine = OK if may_return is None or value in may_return else "wrong: no error"
        innocent = self.check_squares(before + behind, allowed, patient=mine != "hangs")
        return self.judge(mine, innocent, "hangs" if "hangs" in (mine, innocent) else self.check_goes_on())


Ends = Literal["exit", "killed", "exec", "interrupt"]


@dataclass(frozen=True)
class Scene:
    """One row: ``ends`` is what becomes of the parent, which a process outside of it looks at."""

    name: str
    title: str
    ok: str
    stage: Callable[[World], str]
    ends: Ends = "exit"
    shm_mib: int = 0  # the size of /dev/shm, where it matters
    limit_s: float = 60.0  # a deadlock alarm for the scene as a whole


SCENES: list[Scene] = []


def scene(name: str, title: str, **more: Any) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    """Register a scene; its sentence is the docstring."""

    def register(stage: Callable[[World], str]) -> Callable[[World], str]:
        sentence = " ".join((stage.__doc__ or "").split())
        SCENES.append(Scene(name, title, sentence, stage, **more))
        return stage

    return register


# -- a task ends its worker -----------------------------------------------------------------


def _death(how: str, title: str) -> None:
    def stage(world: World) -> str:
        """Its call raises an error; the 20 around it and 20 later ones give their values."""
        world.start()
        return world.one_bad(tasks.die, how)

    scene(how, title)(stage)


_death("sigkill", "a task is killed by SIGKILL")
_death("exit-0", "a task calls os._exit(0)")
_death("exit-3", "a task calls os._exit(3)")
_death("segfault", "a task crashes in C code")
_death("sys-exit", "a task calls sys.exit(3)")


@scene("deaths-300", "300 deaths among 300 healthy tasks", limit_s=200)
def deaths(world: World) -> str:
    """The 300 that die (SIGKILL, os._exit in turns) raise an error each, the others give their values."""
    world.start()
    count = world.size(300, 30)
    good, bad = [], []
    for i in range(count):
        bad.append(world.try_submit(tasks.die, "sigkill" if i % 2 else "exit-1"))
        good.append(world.try_submit(tasks.square, i))
        if isinstance(good[-1], BaseException):
            break  # it is broken, and will be for the rest
    found = world.outcomes(bad)
    if any(kind == PENDING for kind, _ in found):
        world.say(f"{sum(kind == PENDING for kind, _ in found)} dead ones have no answer")
        return "hangs"
    mine = OK if all(kind == "error" for kind, _ in found) else "wrong: no error"
    innocent = world.check_squares(good)
    return world.judge(mine, innocent, world.check_goes_on() if innocent != "hangs" else OK)


# -- workers are killed from outside -----------------------------------------------------------


def _kill_the_latest(world: World, stop: threading.Event, count: int, every_s: float) -> list[int]:
    """Kill the worker that noted last, again and again; returns the pids."""
    killed: list[int] = []
    path = world.folder / "ran"
    while len(killed) < count and not stop.wait(every_s):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
                pid = int(file.read().splitlines()[-1].split()[1])
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


@scene("stream-kills", "20 kills from outside in 5,000 tasks of 1 ms", limit_s=200)
def stream_kills(world: World) -> str:
    """All tasks have an answer, at most as many errors as kills, and none ran twice (noted in a file)."""
    world.start()
    count, kills = world.size(5_000, 500), world.size(20, 5)
    stop, killed = threading.Event(), []
    killer = threading.Thread(
        target=lambda: killed.extend(_kill_the_latest(world, stop, kills, 0.1 if not world.quick else 0.04))
    )
    handles = []
    killer.start()
    try:
        for i in range(count):
            handles.append(world.try_submit(tasks.note_and_spin, world.path("ran"), i, 0.001))
            if isinstance(handles[-1], BaseException):
                break
        found = world.outcomes(handles)
    finally:
        stop.set()
        killer.join()
    ran = Counter(line.split()[0] for line in world.noted("ran"))
    twice = sum(times > 1 for times in ran.values())
    errors = [value for kind, value in found if kind == "error"]
    pending = sum(kind == PENDING for kind, _ in found)
    values = sum(kind == "value" for kind, _ in found)
    world.say(f"{len(killed)} kills, {values} values, {len(errors)} errors, {pending} without an answer, {twice} twice")
    if errors:
        world.say_error(errors[0])
    if pending:
        return "hangs"
    if any(value != i for i, (kind, value) in enumerate(found) if kind == "value"):
        return "wrong: values"
    lost = len(errors) - len(killed)
    verdicts = [f"lost {lost}" if lost > 0 else OK, f"twice {twice}" if twice else OK]
    return world.judge(*verdicts, world.check_goes_on())


@scene("idle-killed", "an idle worker is killed, then there is work")
def idle_killed(world: World) -> str:
    """20 tasks submitted afterwards give their values."""
    world.start()
    os.kill(world.worker_pids()[0], signal.SIGKILL)
    return world.check_goes_on()


@scene("all-killed", "all workers are killed, then 100 tasks at once")
def all_killed(world: World) -> str:
    """All 100 give their values; no task was running."""
    world.start()
    for pid in world.worker_pids():
        os.kill(pid, signal.SIGKILL)
    return world.check_goes_on(100)


def _several_kills(world: World, submit_and_kill: Callable[[float], Any], right: Any) -> str:
    """One task, one kill, with several delays; what comes back must be right or an error."""
    cut = 0
    for delay_ms in (0, 5, 20, 50, 80, 120, 180, 250)[: world.size(8, 3)]:
        kind, value = world.outcome(submit_and_kill(delay_ms / 1000))
        if kind == PENDING:
            world.say(f"killed {delay_ms} ms after, no answer")
            return "hangs"
        if kind == "error":
            cut += 1
            world.say_error(value) if cut == 1 else None
        elif value != right:
            return "wrong: a damaged value"
        verdict = world.check_goes_on(4)
        if verdict != OK:
            world.say(f"killed {delay_ms} ms after")
            return verdict
    world.say(f"{cut} tries ended in an error")
    return OK


@scene("large-result", "a worker is killed while it writes a result of 64 MiB", limit_s=150)
def large_result(world: World) -> str:
    """In 8 tries, 0 to 250 ms after the task has its result: the whole value or an error, then 4 values."""
    world.start()
    size = world.size(64, 8) * MIB
    tries = iter(range(100))

    def submit_and_kill(delay_s: float) -> Any:
        name = f"try-{next(tries)}"
        handle = world.try_submit(tasks.announce_and_return, world.path(name), size)
        if not isinstance(handle, BaseException):
            pid = int(world.wait_noted(name, 1)[0])
            time.sleep(delay_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return handle

    return _several_kills(world, submit_and_kill, b"\x01" * size)


@scene("large-argument", "all workers are killed while the parent writes an argument of 64 MiB", limit_s=150)
def large_argument(world: World) -> str:
    """In 8 tries, 0 to 250 ms after submitting: the right value or an error, then 4 values."""
    world.start()
    size = world.size(64, 8) * MIB
    data = b"\x01" * size

    def submit_and_kill(delay_s: float) -> Any:
        pids = world.worker_pids()
        box: list[Any] = []
        thread = threading.Thread(target=lambda: box.append(world.try_submit(tasks.length, data)), daemon=True)
        thread.start()
        time.sleep(delay_s)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        thread.join(world.wait_s)
        if not box:
            raise Hang("submit does not return")
        return box[0]

    return _several_kills(world, submit_and_kill, size)


# -- workers that do not come back -------------------------------------------------------------


@scene("frozen-neighbours", "a worker is frozen (SIGSTOP), no time limit")
def frozen_neighbours(world: World) -> str:
    """100 other tasks give their values meanwhile."""
    world.start()
    frozen = world.try_submit(tasks.note_and_freeze, world.path("frozen"), 0.0)
    pid = int(world.wait_noted("frozen", 1)[0])
    try:
        return world.check_goes_on(100)
    finally:
        os.kill(pid, signal.SIGCONT)
        world.outcome(frozen)


def _time_limit(name: str, title: str, function: Callable[..., Any], *args: Any) -> None:
    def stage(world: World) -> str:
        """With a limit of 1 s for that task: it raises an error, 20 others and 20 later ones give their values."""
        if not world.pool.has_time_limit():
            return NO_FEATURE
        world.start()
        filled = [world.path("frozen") if arg == "<path>" else arg for arg in args]
        bad = world.try_submit(function, *filled, timeout=1.0)
        others = [world.try_submit(tasks.square, i) for i in range(20)]
        kind, value = world.outcome(bad)
        if kind == PENDING:
            return "hangs"
        if kind == "value":
            return "wrong: no error"
        world.say_error(value)
        return world.judge(world.check_squares(others), world.check_goes_on())

    scene(name, title)(stage)


_time_limit("frozen-limit", "a worker is frozen (SIGSTOP), with a time limit", tasks.note_and_freeze, "<path>", 600.0)
_time_limit("endless-limit", "a task never returns, with a time limit", tasks.spin_for_ever)


# -- start ------------------------------------------------------------------------------------


def _bad_initializer(name: str, title: str, initializer: Callable[[], object]) -> None:
    def stage(world: World) -> str:
        """Opening the pool, submitting or getting raises an error; nobody waits for ever."""
        try:
            world.start(initializer=initializer)
            handle = world.try_submit(tasks.square, 3)
        except Hang:
            raise
        except Exception as error:
            handle = error
        kind, value = world.outcome(handle)
        if kind == "error":
            world.say_error(value)
        return {"error": OK, PENDING: "hangs"}.get(kind, "wrong: no error")

    scene(name, title)(stage)


_bad_initializer("init-raises", "the initializer raises", tasks.init_raises)
_bad_initializer("init-exits", "the initializer calls os._exit", tasks.init_exits)


# -- what does not travel ------------------------------------------------------------------------


def _bad_value(name: str, title: str, make: Callable[[], tuple[Any, ...]], returns: tuple[Any, ...] = ()) -> None:
    def stage(world: World) -> str:
        """Its call raises an error (or works after all); the 20 around it and 20 later ones give their values."""
        world.start()
        return world.one_bad(*make(), may_return=returns)

    scene(name, title)(stage)


_bad_value("bad-function", "a function that stock pickle refuses (a lambda)", lambda: (lambda: "called",), ("called",))
_bad_value("bad-argument", "an argument that cannot be pickled", lambda: (tasks.take, threading.Lock()))
_bad_value("lost-argument", "an argument that fails to load in the worker", lambda: (tasks.take, tasks.FailsToLoad()))
_bad_value("bad-result", "a result that cannot be pickled", lambda: (tasks.return_lock,))
_bad_value("lost-result", "a result that fails to load in the parent", lambda: (tasks.return_fails_to_load,))
_bad_value("bad-exception", "an exception that cannot be pickled", lambda: (tasks.raise_carries_lock,))
_bad_value("lost-exception", "an exception that fails to load in the parent", lambda: (tasks.raise_odd_init,))


# -- callbacks -------------------------------------------------------------------------------------


@scene("callback-raises", "a callback raises")
def callback_raises(world: World) -> str:
    """Tasks and callbacks behind it go on."""
    world.start()
    called = threading.Event()

    def bad(_: Any) -> NoReturn:
        raise ValueError("in a callback")

    world.outcome(world.try_submit(tasks.square, 1, callback=bad))
    handle = world.try_submit(tasks.square, 2, callback=lambda _: called.set())
    goes_on = world.check_goes_on()
    if goes_on != OK:
        return goes_on
    world.outcome(handle)
    return OK if called.wait(world.wait_s) else "wrong: the next callback is not called"


@scene("callback-submits", "a callback submits a task")
def callback_submits(world: World) -> str:
    """That task gives its value."""
    world.start()
    box: list[Any] = []
    submitted = threading.Event()

    def again(_: Any) -> None:
        box.append(world.pool.submit(tasks.square, 3))
        submitted.set()

    world.outcome(world.try_submit(tasks.square, 2, callback=again))
    if not submitted.wait(world.wait_s):
        return "hangs"
    kind, value = world.outcome(box[0])
    if kind == PENDING:
        return "hangs"
    return world.judge(OK if value == 9 else "wrong: its value", world.check_goes_on())


# -- a task spoils its worker ------------------------------------------------------------------------


@scene("closes-fds", "a task closes every descriptor of its worker")
def closes_descriptors(world: World) -> str:
    """Whatever its call gives, it gives it; the 20 around it and 20 later ones give their values."""
    world.start()
    return world.one_bad(tasks.close_descriptors, may_return=None)


@scene("late-alarm", "a task sets an alarm that ends its worker 0.2 s later")
def late_alarm(world: World) -> str:
    """Of 100 tasks behind it (20 ms each) at most one, which was running then, raises an error."""
    world.start()
    world.outcome(world.try_submit(tasks.set_late_alarm, 0.2))
    found = world.outcomes([world.try_submit(tasks.nap, 0.02) for _ in range(100)])
    errors = [value for kind, value in found if kind == "error"]
    if errors:
        world.say_error(errors[0])
    if any(kind == PENDING for kind, _ in found):
        return "hangs"
    return world.judge(f"lost {len(errors) - 1}" if len(errors) > 1 else OK, world.check_goes_on())


@scene("nested", "a task opens a pool of the same kind")
def nested(world: World) -> str:
    """The task gives the right sum. A pool that forbids this at once, by an error, refuses."""
    world.pool.open(2, nested=True)
    world.open = True
    kind, value = world.outcome(world.try_submit(tasks.nested_sum, world.pool.name, 10))
    if kind == PENDING:
        return "hangs"
    if kind == "error":
        world.say_error(value)
        return world.judge(f"refuses: {type(value).__name__}", world.check_goes_on())
    return world.judge(OK if value == 285 else "wrong: its value", world.check_goes_on())


# -- long inputs -----------------------------------------------------------------------------------


@scene("generator-death", "a lazy map over a generator of 100,000 items, one of which kills its worker", limit_s=120)
def generator_death(world: World) -> str:
    """The iterator raises an error, or gives the rest as well; then 20 tasks give their values."""
    world.start()
    count = world.size(100_000, 10_000)
    function = tasks.die_at_50000 if count == 100_000 else tasks.die_at_5000
    got, errors = [0], [0]
    moved = [time.monotonic()]

    def read() -> None:
        stream = iter(world.pool.lazy_map(function, (i for i in range(count)), count, 100))
        while errors[0] <= 100:  # the items of one chunk
            try:
                next(stream)
                got[0] += 1
            except StopIteration:
                return
            except Exception as error:
                if not errors[0]:
                    world.say_error(error)
                errors[0] += 1
            moved[0] = time.monotonic()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() and time.monotonic() < moved[0] + world.wait_s:
        reader.join(0.05)
    world.say(f"{got[0]} values, {errors[0]} errors")
    if reader.is_alive():
        return "hangs"
    if not errors[0]:
        return "wrong: no error"
    return world.check_goes_on()


# -- resources --------------------------------------------------------------------------------------


@scene("few-descriptors", "no more than 64 descriptors, and a death")
def few_descriptors(world: World) -> str:
    """As for a task that is killed, with 500 healthy tasks and 10 deaths; or an error says why not."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        world.start()
    except OSError as error:
        world.say_error(error)
        return OK
    good, bad = [], []
    for i in range(500):
        good.append(world.try_submit(tasks.square, i))
        if i % 50 == 25:
            bad.append(world.try_submit(tasks.die, "sigkill"))
    found = world.outcomes(bad)
    if any(kind == PENDING for kind, _ in found):
        return "hangs"
    return world.judge(world.check_squares(good), world.check_goes_on())


@scene("tiny-shm", "/dev/shm of 1 MiB", shm_mib=1)
def tiny_shm(world: World) -> str:
    """16 arguments and results of 4 MiB and 200 small tasks are right, or an error says why not."""
    try:
        world.start()
    except OSError as error:
        world.say_error(error)
        return OK
    small = [world.try_submit(tasks.square, i) for i in range(200)]
    large = [world.try_submit(tasks.make_bytes, 4 * MIB) for _ in range(8)]
    lengths = [world.try_submit(tasks.length, bytes(4 * MIB)) for _ in range(8)]
    for handles, right in ((large, b"\x01" * 4 * MIB), (lengths, 4 * MIB)):
        for kind, value in world.outcomes(handles):
            if kind == PENDING:
                return "hangs"
            if kind == "error":
                world.say_error(value)
                if not isinstance(value, (OSError, MemoryError)):
                    return f"wrong: {type(value).__name__}"
            elif value != right:
                return "wrong: values"
    return world.judge(world.check_squares(small), world.check_goes_on())


# -- forks of the parent -------------------------------------------------------------------------------


@scene("fork-exits", "a child that the parent forks for something else exits normally")
def fork_exits(world: World) -> str:
    """The parent's pool does not notice: 20 tasks before and 20 after give their values."""
    world.start()
    before = world.check_goes_on()
    pid = os.fork()
    if pid == 0:
        sys.exit(0)  # with all that the interpreter does at its end
    world.within(lambda: os.waitpid(pid, 0), "the forked child does not exit")
    return world.judge(before, world.check_goes_on())


@scene("use-in-fork", "a child that the parent forks uses its copy of the pool")
def use_in_fork(world: World) -> str:
    """The child gets the value, or an error, and the parent's pool goes on."""
    world.start()
    if (before := world.check_goes_on()) != OK:
        return before
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            kind, value = world.outcome(world.pool.submit(tasks.square, 3))
            code = {"value": 0 if value == 9 else 1, "error": 0}.get(kind, 2)
        except Exception:
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + world.wait_s + 2
    status = 2 << 8
    while time.monotonic() < until:
        ended, found = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = found
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child = {0: OK, 2: "hangs"}.get(code, f"wrong: the child ends with {code}")
    world.say("the child waits for ever") if child == "hangs" else None
    return child if child == "hangs" else world.judge(child, world.check_goes_on())


# -- the end, by the parent -----------------------------------------------------------------------------


def _terminate(name: str, title: str, function: Callable[..., Any]) -> None:
    def stage(world: World) -> str:
        """Terminating returns, and so do all 12 callers that wait, with whatever answer; no process is left."""
        if not world.pool.has_terminate():
            return NO_FEATURE
        world.start()
        handles = [world.pool.submit(function, world.path("running"), 600.0) for _ in range(12)]
        world.wait_noted("running", 2)
        waiters = [threading.Thread(target=lambda h=handle: world.outcome(h, 600.0), daemon=True) for handle in handles]
        for waiter in waiters:
            waiter.start()
        began = time.monotonic()
        world.open = False
        world.within(world.pool.terminate, "terminate does not return")
        world.say(f"terminate took {time.monotonic() - began:.1f} s")
        until = time.monotonic() + world.wait_s
        for waiter in waiters:
            waiter.join(max(0.0, until - time.monotonic()))
        left = sum(waiter.is_alive() for waiter in waiters)
        if left:
            world.say(f"{left} of 12 callers wait on")
        return "hangs" if left else OK

    scene(name, title)(stage)


_terminate("terminate", "terminate while tasks of 600 s run", tasks.note_and_sleep)
_terminate("terminate-deaf", "the same, and the tasks ignore SIGTERM", tasks.note_and_ignore_sigterm)
_terminate("terminate-frozen", "the same, and the workers are frozen (SIGSTOP)", tasks.note_and_freeze)


# -- the end of the parent ---------------------------------------------------------------------------------


def announce(world: World, **facts: Any) -> None:
    """Tell the process outside that the scene is set."""
    with open(world.path("ready.tmp"), "w") as file:
        json.dump(facts, file)
    os.rename(world.path("ready.tmp"), world.path("ready"))


def _parent_ends(
    name: str,
    title: str,
    function: Callable[..., Any] | None,
    *,
    ends: Ends = "killed",
    bystander: bool = False,
) -> None:
    def stage(world: World) -> str:
        """Within 2 s no process of the pool is left."""
        world.start()
        world.worker_pids()
        others = []
        if bystander:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            others.append(pid)
        handles = []
        if function is not None:
            handles = [world.pool.submit(function, world.path("running"), 60.0) for _ in range(2)]
            world.wait_noted("running", 2)
        announce(world, others=others)
        if ends == "exec":
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(20)"])
        time.sleep(60)
        return f"wrong: still here with {len(handles)} tasks"

    scene(name, title, ends=ends)(stage)


_parent_ends("killed-idle", "the parent is killed (SIGKILL), workers idle", None)
_parent_ends("killed-asleep", "the same, workers in tasks of 60 s", tasks.note_and_sleep)
_parent_ends("killed-computing", "the same, workers in C code that never returns to Python", tasks.note_and_compute)
_parent_ends("killed-bystander", "the same, workers in tasks of 60 s, and a forked child of the parent lives on",
             tasks.note_and_sleep, bystander=True)  # fmt: skip
_parent_ends("parent-execs", "the parent becomes another program (os.execv)", tasks.note_and_sleep, ends="exec")


@scene("interrupt", "Ctrl-C in the terminal during map", ends="interrupt")
def interrupt(world: World) -> str:
    """Inside `with pool:` the program ends within 2 s, with one traceback, and nothing is left."""
    world.pool.open(2)
    with world.pool.pool:
        world.worker_pids()
        announce(world)
        world.pool.map(tasks.nap_half_a_second, range(200))
    return "wrong: not interrupted"


def select(names: Iterable[str]) -> list[Scene]:
    wanted = list(names)
    known = {one.name: one for one in SCENES}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"no scenario called {', '.join(unknown)}; choose from {' '.join(known)}")
    return [known[name] for name in wanted] if wanted else list(SCENES)


def names() -> Iterator[str]:
    return (one.name for one in SCENES)
