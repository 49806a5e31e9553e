"""The self-test: pools under fire, in a process of its own, which `watch.py` starts and may end.

    every start method:  a pool, 20 tasks, the end
    speed:               round trips one by one, then 20,000 tasks at once         (information, no verdict)
    storm:               an agent is killed every 20 to 50 ms while tasks flow
    after each:          no process, descriptor, folder or file of it is left

Each task of the storm appends its number to a file, each outcome is asked for, and callbacks are counted, so what is
lost, run twice or told twice is counted by somebody else than the pool. Findings go to standard output, one JSON line
each; before each part a line `{"part": ...}`, so that whoever has to end this process can say what it was at.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import AgentDiedError, Pool
from .._engine.cpus import usable_cpus
from . import ADVICE, OK, PROBLEM, Finding
from .tasks import give_back, note_and_spin

MOST_AGENTS = 4
"""Agents of the storm at most: more find nothing more, and take the machine from others."""

KILL_EVERY_S = (0.02, 0.05)
"""Pause between two deaths: shorter, and agents die before they work; longer, and a short storm sees few."""

ANSWER_S = 30.0
"""Longest wait for one outcome; a task takes 4 ms. Alarm for a hang, never a measure of speed."""

SETTLE_S = 5.0
"""How long what a pool used may take to go before it counts as left behind; it takes milliseconds."""

IN_FLIGHT = 400
"""Tasks handed in and not asked for at most, so that a storm of any length takes flat memory."""


class BadOutcomeError(Exception):
    """A promise was not kept; the text says which."""


def main(seconds: float, limit_s: float, folder: str) -> int:
    """Run all parts.

    Args:
        seconds: length of the storm.
        limit_s: when the watch ends this process; a little before the stacks of all threads are dumped.
        folder: empty; the watch removes it.
    """
    faulthandler.dump_traceback_later(max(1.0, limit_s - 2.0))
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    logging.getLogger("mpsteal").setLevel(logging.ERROR)  # each death is logged as a warning
    try:
        for method in multiprocessing.get_all_start_methods():
            _part(f"start by {method}", _start_once, method)
        _part("speed", _measure)
        _part("storm", _storm, folder, seconds)
    except KeyboardInterrupt:
        return 130  # the pools are gone, and the watch tells it
    return 0


def _end_with_parent(folder: str) -> None:
    """Standard input is a pipe that ends when whoever started us is dead; then this ends as a killed program does."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    # Out of the way first: a task that runs on would put its file there again.
    with contextlib.suppress(OSError):
        os.rename(folder, f"{folder}-over")
    shutil.rmtree(f"{folder}-over", ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _part(name: str, run: Any, *args: Any) -> None:
    """Run one part, look for what it left, and report."""
    _say(part=name)
    try:
        finding = Finding(name, OK, run(*args))
    except BadOutcomeError as error:
        finding = Finding(name, PROBLEM, str(error), ADVICE)
    except Exception as error:
        finding = Finding(name, PROBLEM, f"{type(error).__name__}: {error}", ADVICE)
    _say(finding=finding)


@contextlib.contextmanager
def _leaving_nothing(pool: Pool) -> Iterator[None]:
    """End `pool`, and check that nothing of it stays. To be entered before the pool has started anything else."""
    pids: set[int] = set()
    folders: set[str] = set()
    try:
        yield
    finally:
        pids |= {agent.pid for agent in pool.stats().agents if agent.pid}
        pids |= {pool._engine.guard.pid} - {0}
        folders |= {pool._engine.guard.folder} - {""}
        pool.terminate()
        pool.join()
    left: list[str] = []
    deadline = time.monotonic() + SETTLE_S
    while True:
        left = [f"process {pid}" for pid in pids if _is_there(pid)]
        left += [f"folder {folder}" for folder in folders if os.path.exists(folder)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if left:
        raise BadOutcomeError("left behind: " + ", ".join(left))


def _is_there(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class _Stock(NamedTuple):
    """What this process has: descriptors, children and theirs, and our names in /dev/shm."""

    descriptors: int
    children: set[int]
    files: set[str]

    def left_by_now(self) -> str:
        """What there is more now, in words; "" if nothing."""
        now = _take_stock()
        left = []
        if now.descriptors > self.descriptors:
            left.append(f"{now.descriptors - self.descriptors} descriptors")
        left += [f"process {pid}" for pid in now.children - self.children]
        left += [f"/dev/shm/{name}" for name in now.files - self.files]
        return ", ".join(left)


def _take_stock() -> _Stock:
    import psutil

    me = psutil.Process()
    files: set[str] = set()
    with contextlib.suppress(OSError):
        files = {entry.name for entry in os.scandir("/dev/shm") if entry.name.startswith("mpsteal")}
    return _Stock(me.num_fds(), {child.pid for child in me.children(recursive=True) if _is_there(child.pid)}, files)


# -- parts ------------------------------------------------------------------------------------------------------------


def _start_once(method: str) -> str:
    count = min(2, usable_cpus())
    began = time.monotonic()
    pool = Pool(count, context=multiprocessing.get_context(method))
    with _leaving_nothing(pool):
        first = pool.apply_async(give_back, (1,)).get(ANSWER_S)
        ready_s = time.monotonic() - began
        if first != 1 or pool.map_async(give_back, range(20)).get(ANSWER_S) != list(range(20)):
            raise BadOutcomeError("wrong results")
    return f"first result after {ready_s * 1000:.0f} ms"


def _measure() -> str:
    pool = Pool(min(MOST_AGENTS, usable_cpus()))
    with _leaving_nothing(pool):
        trips = []
        for i in range(500):
            began = time.perf_counter()
            pool.apply_async(give_back, (i,)).get(ANSWER_S)
            trips.append(time.perf_counter() - began)
        trips.sort()
        count = 20_000
        began = time.perf_counter()
        results = [pool.apply_async(give_back, (i,)) for i in range(count)]
        if [result.get(ANSWER_S) for result in results] != list(range(count)):
            raise BadOutcomeError("wrong results")
        rate = count / (time.perf_counter() - began)
    half, most = (1e6 * trips[int(len(trips) * share)] for share in (0.5, 0.99))
    return f"round trip {half:.0f} us (p99 {most:.0f} us), {rate:,.0f} tasks a second"


class _Count:
    """What became of each task of a storm, by its number."""

    def __init__(self) -> None:
        self.ended: set[int] = set()
        self.told: Counter[int] = Counter()
        self.died: set[int] = set()
        self.wrong: list[str] = []

    def has_value(self, number: int, value: int) -> None:
        """A task has given a value. In the pool's thread for callbacks."""
        self.told[number] += 1
        if value != number:
            self.wrong.append(f"task {number} gave {value}")

    def has_error(self, number: int, _: BaseException) -> None:
        """A task has failed. In the same thread."""
        self.told[number] += 1

    def wait_ended(self, results: list[tuple[int, Any]]) -> None:
        """Wait for the outcome of these tasks."""
        for number, result in results:
            try:
                result.get(ANSWER_S)
            except multiprocessing.TimeoutError:
                raise BadOutcomeError(f"task {number} had no outcome after {ANSWER_S:.0f} s") from None
            except AgentDiedError:
                self.died.add(number)
            except Exception as error:
                self.wrong.append(f"task {number} raised {type(error).__name__}: {error}")
            self.ended.add(number)

    def check(self, count: int, ran: Counter[int], killed: int) -> None:
        """Raise `BadOutcomeError` for what should not be.

        Args:
            count: tasks handed in.
            ran: how often each number stands in the tasks' file.
            killed: agents that were killed.
        """
        bad = list(self.wrong)
        for text, numbers in (
            ("ran twice", [i for i, times in ran.items() if times > 1]),
            ("were told twice", [i for i, times in self.told.items() if times > 1]),
            ("were lost", [i for i in range(count) if i not in self.ended]),
            ("had no callback", [i for i in self.ended if not self.told[i]]),
            ("gave a value without having run", [i for i in self.ended if i not in self.died and not ran[i]]),
        ):
            if numbers:
                bad.append(f"{len(numbers)} tasks {text}: {numbers[:5]}")
        if not killed:
            bad.append("no agent could be killed")
        if len(self.died) > killed:
            bad.append(f"{len(self.died)} tasks died with {killed} agents")
        if bad:
            raise BadOutcomeError("; ".join(bad[:5]))


def _storm(folder: str, seconds: float) -> str:
    before = _take_stock()
    seed = random.SystemRandom().randrange(1 << 32)
    try:
        text = _kill_and_count(os.path.join(folder, "ran"), seconds, random.Random(seed))
    except BadOutcomeError as error:
        raise BadOutcomeError(f"{error} (seed {seed})") from None
    deadline = time.monotonic() + SETTLE_S
    while left := before.left_by_now():
        if time.monotonic() > deadline:
            raise BadOutcomeError(f"left behind: {left} (seed {seed})")
        time.sleep(0.01)
    return text


def _kill_and_count(path: str, seconds: float, chance: random.Random) -> str:
    count = _Count()
    number = 0
    pool = Pool(min(MOST_AGENTS, usable_cpus()))
    with _leaving_nothing(pool):
        pool.apply_async(give_back, (0,)).get(ANSWER_S)
        killer = _Killer(pool, chance.randrange(1 << 32))
        waiting: list[tuple[int, Any]] = []
        until = time.monotonic() + seconds
        killer.start()
        try:
            while time.monotonic() < until:
                for _ in range(chance.randrange(1, 20)):
                    result = _submit(pool, count, path, number, chance.choice([0, 0, 0.001, 0.002]))
                    waiting.append((number, result))
                    number += 1
                if len(waiting) > IN_FLIGHT:
                    count.wait_ended(waiting[: IN_FLIGHT // 2])
                    del waiting[: IN_FLIGHT // 2]
        finally:
            killer.stop()
        count.wait_ended(waiting)
        pool.close()
        pool.join()
    try:
        with open(path) as lines:
            ran = Counter(int(line) for line in lines)
    except FileNotFoundError:
        ran = Counter()
    count.check(number, ran, killer.killed)
    values, died = number - len(count.died), len(count.died)
    return (
        f"{killer.killed} agents killed, {number:,} tasks: {values:,} values, {died} died with their agents, none lost"
    )


def _kill_own(pid: int) -> bool:
    """SIGKILL to a descendant; False: it is gone, and its number may be a stranger's by now."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or os.getpid() not in [p.pid for p in process.parents()]:
            return False
        process.kill()  # not if the number has been given away since we looked
    except psutil.NoSuchProcess:
        return False
    return True


class _Killer(threading.Thread):
    """Kills one agent after the other; `killed` says how many."""

    def __init__(self, pool: Pool, seed: int) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self._pool, self._chance, self._over = pool, random.Random(seed), threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while True:
            pids = [agent.pid for agent in self._pool.stats().agents if agent.pid]
            if pids and _kill_own(self._chance.choice(pids)):
                self.killed += 1
            if self._over.wait(self._chance.uniform(*KILL_EVERY_S)):
                return

    def stop(self) -> None:
        """Return when there will be no more kills."""
        self._over.set()
        self.join()


def _submit(pool: Pool, count: _Count, path: str, number: int, spin_s: float) -> Any:
    return pool.apply_async(
        note_and_spin,
        (path, number, spin_s),
        callback=lambda value: count.has_value(number, value),
        error_callback=lambda error: count.has_error(number, error),
    )
