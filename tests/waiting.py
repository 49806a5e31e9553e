"""Waiting for what has no handle (a process to vanish, a counter to move), and programs to run apart.

Gates hold tasks; these are for the rest. Limits are alarms: a test that passes never spends one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ALARM_S = 60.0
"""Longest wait of a test for anything."""

GONE_S = 2.0
"""Within this time everything of a dead parent has to be gone; a promise, not an alarm."""

TESTS = Path(__file__).resolve().parent


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = ALARM_S) -> None:
    """Look every 5 ms until `condition()` holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether no process has this number, or only a corpse."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def signal_own(pid: int, number: int) -> bool:
    """Send a signal to a descendant of ours; False: it is gone, and its number may be a stranger's by now."""
    try:
        process = psutil.Process(pid)
        if os.getpid() not in [parent.pid for parent in process.parents()]:
            return False
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def wait_gone(pids: Iterable[int], limit_s: float = ALARM_S) -> None:
    """Wait until none of the processes lives."""
    pids = list(pids)
    wait_until(lambda: all(map(is_gone, pids)), f"{pids} gone", limit_s)


def agent_pids(pool: Any) -> list[int]:
    """Process of every agent that has said hello, by slot."""
    return [agent.pid for agent in pool.stats().agents if agent.pid]


def wait_idle(pool: Any) -> None:
    """Wait until every agent is there and parked."""
    wait_until(lambda: all(a.pid and a.parked for a in pool.stats().agents), "all agents parked")


def manager_pid(pool: Any, old: int = 0) -> int:
    """Wait for the Manager that comes, after the one of process `old`; its process.

    Asked in the engine's thread, so its start is over: all descriptors are there.
    """
    engine, pids = pool._engine, [0]

    def has_come() -> bool:
        pids.append(engine.call(lambda: engine.guard.pid))
        return pids[-1] not in (0, old)

    wait_until(has_come, "the Manager started")
    return pids[-1]


def lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines tasks have noted in a file."""
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


class Program:
    """A Python program in a process, session and temporary directory of its own.

    Attributes:
        process: its Popen; `out` and `err` are files that it writes to.
        temporary: its TMPDIR, which has to be empty at the end.
    """

    def __init__(self, directory: Path, source: str, arguments: Iterable[object] = ()) -> None:
        # Not in `directory`: sockets are made in it, and their names may have 104 characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="p-"))
        self.script = directory / "program.py"
        self.script.write_text(source)
        self.out, self.err = directory / "out", directory / "err"
        environment = dict(os.environ, TMPDIR=str(self.temporary), PYTHONPATH=str(TESTS))
        environment.pop("PYTHONWARNINGS", None)
        # Else two processes that print a traceback at once write their lines in pieces, one into the other's.
        environment.pop("PYTHONUNBUFFERED", None)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(self.script), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        self.family: set[psutil.Process] = set()

    def meet_family(self) -> set[psutil.Process]:
        """Remember all processes it has started so far."""
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self.family

    def wait(self, limit_s: float = ALARM_S) -> int:
        """Its exit code."""
        return self.process.wait(limit_s)

    def interrupt(self) -> None:
        """SIGINT to its process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self.err.read_text()

    @property
    def output(self) -> str:
        """What it has written to stdout."""
        return self.out.read_text()

    def left_behind(self) -> list[str]:
        """Its processes and files that are still there, in words.

        `pymp-*` is the directory of multiprocessing's fork server, which a killed process leaves
        with the stock pool as well.
        """
        found = [repr(p) for p in self.family if p.is_running() and not is_gone(p.pid)]
        found += [str(p) for p in self.temporary.iterdir() if not p.name.startswith("pymp-")]
        found += [str(p) for p in Path("/dev/shm").glob("mpsteal*")]
        return found

    def check_nothing_left(self, limit_s: float = GONE_S) -> None:
        """I4, for a parent that has ended."""
        deadline = time.monotonic() + limit_s
        while self.left_behind() and time.monotonic() < deadline:
            time.sleep(0.01)
        left = self.left_behind()
        assert not left, f"left behind after {limit_s:g} s: {left}"

    def kill(self) -> None:
        """Tidy up after a failure."""
        for process in [*self.family, psutil.Process(self.process.pid)] if self.process.poll() is None else self.family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def program(directory: Path, source: str, *arguments: object) -> Iterator[Program]:
    """Run `source` as a program; ends it if the test fails."""
    made = Program(directory, source, arguments)
    try:
        yield made
    finally:
        made.kill()
