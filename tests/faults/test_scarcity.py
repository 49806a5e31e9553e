"""When the system has nothing left: descriptors, processes, disk. The slower road or a clear error; no task is lost.

Programs of their own, whose limits are theirs alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from waiting import program

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are kept in other ways elsewhere")

NO_DESCRIPTORS = """
import multiprocessing, os, resource, signal, sys, time
import fault_tasks as tasks
from storms import value_or_death
from waiting import agent_pids, manager_pid, wait_gone, wait_idle, wait_until
import mpsteal


def main():
    contexts = [multiprocessing.get_context(m) for m in multiprocessing.get_all_start_methods()]
    pools = [mpsteal.Pool(2, context=context) for context in contexts]
    for pool in pools:
        wait_idle(pool)
        manager_pid(pool)
    open_before = len(os.listdir("/proc/self/fd"))
    before = [agent_pids(pool) for pool in pools]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for pid in [pid for pids in before for pid in pids]:
        os.kill(pid, signal.SIGKILL)
    results = [[pool.apply_async(tasks.double, (i,)) for i in range(100)] for pool in pools]
    time.sleep(2)
    for fd in taken:
        os.close(fd)
    for pool, old, handles in zip(pools, before, results):
        # A task may have started in an agent the moment it was killed; no more than one each.
        done = [value_or_death(handle) for handle in handles]
        assert [i for i, value in enumerate(done) if value not in (2 * i, "died")] == []
        assert done.count("died") <= len(old)
        wait_idle(pool)
        assert not set(old) & set(agent_pids(pool))
        os.kill(agent_pids(pool)[0], signal.SIGKILL)  # and deaths are seen as before
        assert pool.map(tasks.double, range(100)) == list(range(0, 200, 2))
        wait_idle(pool)
        pool._engine.validate()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= open_before, "no descriptor more than before", 5)
    for pool in pools:
        pool.terminate()


if __name__ == "__main__":
    main()
"""


@needs_linux
def test_all_killed_while_no_descriptor_is_free(tmp_path: Path) -> None:
    """For two seconds no pipe, pidfd or socket can be made. Then new agents come, and run everything."""
    with program(tmp_path, NO_DESCRIPTORS) as run:
        assert run.wait(40) == 0, run.errors
        assert "the engine failed" not in run.errors  # the fork server of CPython fails, and another one comes
        run.check_nothing_left()


NO_PROCESSES = """
import multiprocessing, os, resource, shutil, signal, sys, tempfile, time
import fault_tasks as tasks
from waiting import agent_pids, manager_pid, wait_gone, wait_idle, wait_until
import mpsteal

USER = 54321


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    pool = mpsteal.Pool(2, context=multiprocessing.get_context("fork"))
    wait_idle(pool)
    manager_pid(pool)
    before, open_before = agent_pids(pool), len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    results = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
    mapped = pool.map_async(tasks.double, range(100))
    wait_until(lambda: len(pool._engine.crew._respawn_at) == 2, "both replacements refused")
    assert not agent_pids(pool)
    try:
        mpsteal.Pool(2)
    except BlockingIOError as error:
        print("told:", error)
    waiting = pool._engine.crew._respawn_at
    wait_until(lambda: min(tries for _, tries in list(waiting.values()) or [(0, 0)]) > 2, "tried again")
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    assert [r.get() for r in results] == list(range(0, 200, 2))
    assert mapped.get() == list(range(0, 200, 2))
    wait_idle(pool)
    pool._engine.validate()
    assert len(os.listdir("/proc/self/fd")) <= open_before
    pool.terminate()


if __name__ == "__main__":
    if os.getuid():
        main()
    else:  # whom the limit does not bind
        directory = tempfile.mkdtemp(dir="/tmp")
        os.chown(directory, USER, USER)
        os.environ["TMPDIR"] = tempfile.tempdir = directory
        mpsteal.Pool(1).terminate()  # what is imported late is there before we lose the right to read it
        os.setgid(USER)
        os.setuid(USER)
        try:
            main()
        finally:
            os.rmdir(directory)
"""


@needs_linux
def test_no_process_to_be_had(tmp_path: Path) -> None:
    """The pool goes on with every task when there are processes again; a new pool gets the system's error."""
    with program(tmp_path, NO_PROCESSES) as run:
        assert run.wait(40) == 0, run.errors
        assert run.output.startswith("told:"), run.errors
        run.check_nothing_left()
