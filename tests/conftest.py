"""Fixtures for every test, and the rule that no test leaves anything behind (I4).

Time limits are pytest-timeout's (pyproject.toml) and are alarms for deadlocks only. Tests hold
tasks at named points with `gates`, never with sleeps.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import psutil
import pytest
from gates import Gates
from selection import leave_out

import mpsteal
from mpsteal._engine import loop as engine_loop

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]

hypothesis.settings.register_profile("no alarm of its own", deadline=None)  # 0.2 s an example, on whatever machine
hypothesis.settings.load_profile("no alarm of its own")

SETTLE_S = 5.0
"""How long what a test started may take to go. Only a test that fails spends it."""

PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""

M_MMAP_THRESHOLD = -3
"""From malloc.h. Once it is set, to its first value here, it no longer grows."""

FORK_LITTLE = {"model", "unit", "test_dask.py", "test_joblib.py", "test_joblib_own.py"}
"""Folders and files of tests that come last: they make the process larger (states of the model, scikit-learn), and each
fork takes 0.1 ms per MiB of it."""

failed = pytest.StashKey[bool]()


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request: pytest.FixtureRequest) -> str:
    """Every way that this platform has to start a process."""
    return str(request.param)


@pytest.fixture
def open_pool() -> Iterator[Open]:
    """Makes pools, and terminates them at the end if the test has not."""
    made: list[mpsteal.Pool] = []

    def open_one(processes: int, method: str | None = None, **options: Any) -> mpsteal.Pool:
        context = multiprocessing.get_context(method)
        pool = mpsteal.Pool(processes, context=context, **options)
        made.append(pool)
        return pool

    yield open_one
    for pool in made:
        pool.terminate()


@pytest.fixture
def open_scheduler() -> Iterator[OpenScheduler]:
    """Makes and starts schedulers with the agents given, and stops them at the end if the test has not.

    A test that holds tasks at gates must not depend on how fast the parent answers an agent, so an agent waits for it
    as long as it takes (`order.ask_s`); and nobody samples metrics meanwhile.
    """
    made: list[mpsteal.WorkStealingScheduler] = []

    def open_one(*agents: mpsteal.Agent, method: str | None = None, **options: Any) -> mpsteal.WorkStealingScheduler:
        options = {"order__ask_s": 100.0, "metrics__sample_s": 3600.0, **options}
        scheduler = mpsteal.WorkStealingScheduler(context=multiprocessing.get_context(method), **options)
        made.append(scheduler)
        scheduler.start()
        for agent in agents:
            scheduler.register_agent(agent)
        return scheduler

    yield open_one
    for scheduler in made:
        scheduler.stop(drain=False)


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    """Makes named gates, see gates.py; the same name gives the same gate."""
    made = Gates(tmp_path)
    yield made
    made.close()


def pytest_configure() -> None:
    """Adopt orphans: an agent that outlives its parent becomes our child, and the check sees it. And obey SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts its background jobs so, and the programs that tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("MPSTEAL_TEST_LOCKS"):
        # The whole suite as where there is no `membarrier`: owners take their locks for every chunk.
        engine_loop.load_barrier = lambda: None
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if hasattr(libc, "mallopt"):  # glibc: else it keeps what large buffers took, and every fork after is slower
            libc.mallopt(M_MMAP_THRESHOLD, 128 * 1024)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run each test by all start methods, not by fork and one of the other two"
    parser.addoption("--every-start-method", action="store_true", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave each test one of spawn and forkserver, by its name: both are slow, and differ little for a pool.

    And put those last that fork little.
    """
    if not config.getoption("every_start_method"):
        leave_out(config, items, _has_other_method)
    items.sort(key=lambda item: not FORK_LITTLE.isdisjoint(item.path.parts))


def _has_other_method(item: pytest.Item) -> bool:
    if "stress" in item.keywords:
        return False
    name = getattr(item, "originalname", item.name)
    other = ("spawn", "forkserver")[zlib.crc32(name.encode()) % 2]
    params: Any = getattr(item, "callspec", None)
    return params is not None and any(
        value == other or (isinstance(value, tuple) and other in value) for value in params.params.values()
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Collect no garbage while modules are loaded, and let no later collection walk over them (60 ms each, in a
    thousand tests)."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.failed:
        item.stash[failed] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def own_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary directory of this run and its children: other programs' files are no leaks.

    Its path is short, since sockets are made in it and their names may have 104 characters.
    pytest's own directory is fixed first, so that `tmp_path` stays where people look for it after a
    failure.
    """
    tmp_path_factory.getbasetemp()
    before = (os.environ.get("TMPDIR"), tempfile.tempdir)
    directory = Path(tempfile.mkdtemp(prefix="mt-"))
    # At exit, after multiprocessing (priority -100) has removed its own directory inside.
    util.Finalize(None, shutil.rmtree, (directory, True), exitpriority=-101)
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    yield directory
    if before[0] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[0]
    tempfile.tempdir = before[1]


class Belongings(NamedTuple):
    """What this process holds at one moment, each from an identity to words for a failure."""

    processes: dict[psutil.Process, str]
    threads: dict[threading.Thread, str]
    descriptors: dict[str, str]
    files: dict[str, str]

    def surplus(self, before: Belongings) -> list[str]:
        """What is here that was not there before, in words."""
        found = [
            f"{kind}: {text}"
            for kind in ("processes", "threads", "files")
            for key, text in getattr(self, kind).items()
            if key not in getattr(before, kind)
        ]
        # Numbers are used again, so it is the count that tells, and the list only helps to find out
        # which.
        if len(self.descriptors) > len(before.descriptors):
            new = sorted(set(self.descriptors.values()) - set(before.descriptors.values()))
            found.append(f"{len(self.descriptors)} descriptors, were {len(before.descriptors)}: {new}")
        return found


def take_stock() -> Belongings:
    return Belongings(
        processes={child: _describe(child) for child in _children()},
        threads={thread: repr(thread) for thread in threading.enumerate()},
        descriptors=_descriptors(),
        files={path: path for path in _files()},
    )


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test no process, thread, descriptor, segment or file more than before (I4).

    A test that failed is only tidied up after: the frames in its traceback keep its pool alive.
    """
    before = take_stock()
    yield
    surplus = take_stock().surplus(before)
    if not surplus:
        return
    has_failed = request.node.stash.get(failed, False)
    deadline = time.monotonic() + (0.0 if has_failed else SETTLE_S)
    pause = 0.001
    while surplus and time.monotonic() < deadline:
        if pause > 0.01:  # not at once: mostly a process is on its way out, and nothing is garbage
            gc.collect()
        time.sleep(pause)  # the one sleep of the suite: what is waited for belongs to nobody any more
        pause = min(2 * pause, 0.05)
        surplus = take_stock().surplus(before)
    if surplus:
        _kill_all(set(_children()) - set(before.processes))
        if not has_failed:
            pytest.fail("left behind:\n  " + "\n  ".join(surplus), pytrace=False)


def _children() -> list[psutil.Process]:
    """Living descendants, less those that multiprocessing starts once per interpreter.

    These are the resource tracker (fork: with the first shared memory; else with the first process)
    and the fork server. Whichever test is the first to need one is not to blame. What the fork
    server started does count.
    """
    kept = {
        resource_tracker._resource_tracker._pid,
        forkserver._forkserver._forkserver_pid,
    }
    multiprocessing.active_children()  # waits for what has ended and belongs to a Process object
    found = []
    for child in psutil.Process().children(recursive=True):
        if child.pid in kept:
            continue
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
            elif child.ppid() == os.getpid() and child.pid not in _known_to_a_library():
                os.waitpid(child.pid, os.WNOHANG)  # an orphan that we adopted and that has ended
        except (psutil.NoSuchProcess, ChildProcessError):
            pass
    return found


def _known_to_a_library() -> set[int]:
    """Children whose exit status a Popen or a Process object still has to fetch."""
    import subprocess

    held = {item.pid for item in getattr(subprocess, "_active", None) or ()}
    processes: set[Any] = getattr(multiprocessing.process, "_children", set())
    held |= {process.pid for process in list(processes)}  # those that have ended since `active_children` looked
    return held | {o.pid for o in gc.get_objects() if isinstance(o, subprocess.Popen)}


def _descriptors() -> dict[str, str]:
    """Open descriptors, less those to the two helpers of the interpreter; empty off Linux."""
    kept = {
        str(resource_tracker._resource_tracker._fd),
        str(forkserver._forkserver._forkserver_alive_fd),
    }
    found = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        if name in kept:
            continue
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the listing's own
    return found


def _files() -> Iterator[str]:
    """Ours in shared memory and in the temporary directory.

    Less the directory that multiprocessing makes once per process and removes when it exits.
    """
    own = multiprocessing.process.current_process()._config.get("tempdir")
    for directory in ("/dev/shm", tempfile.gettempdir()):
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            if entry.path != own and entry.name.startswith(("mpsteal", "pymp", "psm_")):
                yield entry.path


def _describe(child: psutil.Process) -> str:
    try:
        return f"{child.pid} {child.status()} {' '.join(child.cmdline())[:200]}"
    except psutil.Error:
        return f"{child.pid} (gone)"


def _kill_all(processes: set[psutil.Process]) -> None:
    """So that one leak is reported once, not by every later test."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            pass
    # Not `psutil.wait_procs`: it would fetch exit statuses that belong to Process objects, which then stay in
    # multiprocessing's list of children for ever.
    deadline = time.monotonic() + SETTLE_S
    while not all(map(_has_ended, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
