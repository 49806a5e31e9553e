"""The Manager owns memory, not traffic (D7): without it work goes on, and a new one comes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import agent_pids, is_gone, lines, manager_pid, program, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal._engine import guard
from mpsteal._queue.manager import QueueManager

Open = Callable[..., mpsteal.Pool]


def test_work_goes_on_and_a_new_one_comes(
    open_pool: Open, start_method: str, gates: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    pool = open_pool(2, start_method)
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    wait_until(lambda: len(agent_pids(pool)) == 2, "both agents there")
    before, agents = manager_pid(pool), agent_pids(pool)
    os.kill(before, signal.SIGKILL)
    assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
    manager_pid(pool, before)
    wait_gone([before])
    gate.open()
    assert held.get() == 1
    assert agent_pids(pool) == agents
    assert sum("Manager" in r.getMessage() for r in caplog.records) == 1


def _ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_killed_again_and_again(open_pool: Open) -> None:
    pool = open_pool(1)
    for _ in range(4):
        before = manager_pid(pool)
        os.kill(before, signal.SIGKILL)
        manager_pid(pool, before)
        assert pool.apply(tasks.double, (2,)) == 4


def test_a_new_one_does_all_that_the_first_did(open_pool: Open, start_method: str) -> None:
    """What it watches for is told to the new one, too; at the end nothing of either stays (the leak check sees it)."""
    pool = open_pool(1, start_method)
    wait_idle(pool)
    before = manager_pid(pool)
    os.kill(before, signal.SIGKILL)
    manager_pid(pool, before)
    wait_until(lambda: os.listdir(pool._engine.guard.folder), "its socket")
    manager = QueueManager(os.path.join(pool._engine.guard.folder, "manager"), pool._engine.guard.authkey)
    wait_until(lambda: _connects(manager), "it serves")
    assert [row["pid"] for row in manager.queue().status()] == agent_pids(pool)  # type: ignore[attr-defined]
    folder = pool._engine.guard.folder
    pool.terminate()
    assert not os.path.exists(folder)


def _connects(manager: QueueManager) -> bool:
    try:
        manager.connect()
    except OSError:
        return False
    return True


def test_it_lives_where_no_thread_is_to_be_had(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then it is no address, and says so to who asks, but still ends agents that outlive their parent."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if os.getpid() != here:
            tasks.note(noted, os.getpid())
            raise RuntimeError("can't start new thread")
        start(thread)

    here, noted = os.getpid(), str(tmp_path / "noted")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("mpsteal._queue.manager.SERVE_AFTER_S", 0.0)
    pool = open_pool(1, "fork")
    before = manager_pid(pool)
    wait_until(lambda: lines(noted) == [str(before)] * 2, "both refusals")
    wait_until(lambda: not os.listdir(pool._engine.guard.folder), "its socket gone", 10)
    assert not is_gone(before)
    assert pool.apply(tasks.double, (2,)) == 4
    assert pool._engine.guard.pid == before


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_killed_just_before_the_end(open_pool: Open, end: str) -> None:
    pool = open_pool(1)
    os.kill(manager_pid(pool), signal.SIGKILL)
    getattr(pool, end)()
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_stopped_manager_does_not_hold_up_the_end(open_pool: Open, end: str) -> None:
    """No wait without a watcher (I3): whoever does not answer is killed."""
    pool = open_pool(1)
    os.kill(manager_pid(pool), signal.SIGSTOP)
    getattr(pool, end)()
    pool.join()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_signals_that_end_programs_do_not_end_it(open_pool: Open) -> None:
    pool = open_pool(1)
    pid = manager_pid(pool)
    wait_until(lambda: _ignores(pid, signal.SIGTERM), "the Manager settled")
    wait_idle(pool)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert pool.map(tasks.double, range(20)) == list(range(0, 40, 2))
    assert pool._engine.guard.pid == pid


def test_comes_without_a_place_for_its_sockets(
    open_pool: Open, start_method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: nobody can ask it anything, but agents are watched."""

    def refuse(path: str, mode: int = 0o777) -> None:
        if "mpsteal-" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, mode)

    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", refuse)
    pool = open_pool(1, start_method)
    pid = manager_pid(pool)
    assert pool.map(tasks.double, range(20)) == list(range(0, 40, 2))
    assert pool._engine.guard.pid == pid
    told = [r.getMessage() for r in caplog.records if r.name == "mpsteal"]
    assert len(told) == 1 and "No space left" in told[0]
    pool.close()
    pool.join()


def test_serves_though_its_first_start_failed(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is made with the one that starts."""
    real, refused = guard.start_guard, []

    def refuse_once(*args: Any, **options: Any) -> tuple[int, int]:
        if not refused:
            refused.append(True)
            raise OSError(errno.EAGAIN, "no process to be had")
        return real(*args, **options)

    monkeypatch.setattr(guard, "start_guard", refuse_once)
    pool = open_pool(1)
    manager_pid(pool)
    wait_until(lambda: os.path.isdir(pool._engine.guard.folder), "its folder is made")
    assert refused and stat.S_IMODE(os.stat(pool._engine.guard.folder).st_mode) == 0o700


def test_comes_where_nothing_can_be_written(
    open_pool: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As without a place; here nothing is tried."""
    gone = str(tmp_path / "gone")
    monkeypatch.setattr(tempfile, "tempdir", gone)
    pool = open_pool(1, "fork")
    manager_pid(pool)
    assert pool._engine.guard.folder == ""
    assert pool.map(tasks.double, range(20)) == list(range(0, 40, 2))
    assert [r.getMessage().rpartition(":")[2] for r in caplog.records if r.name == "mpsteal"] == [f" [{gone!r}]"]


KILLED_BEFORE_IT_COMES = """
import os, sys
import multiprocessing, mpsteal
from mpsteal._engine import guard

def stop_here(*_, **__):
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    guard.start_guard = stop_here
    with mpsteal.Pool(1, context=multiprocessing.get_context(sys.argv[1])) as pool:
        pool.apply(os.getpid)
        pool._engine.ended.wait()
"""


def test_parent_killed_as_it_starts_its_manager_leaves_no_folder(tmp_path: Path, start_method: str) -> None:
    """The folder is made once there is somebody to remove it."""
    with program(tmp_path, KILLED_BEFORE_IT_COMES, start_method) as run:
        assert run.wait() == -signal.SIGKILL
        run.check_nothing_left()
