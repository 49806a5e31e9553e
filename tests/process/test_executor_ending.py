"""What becomes of an `Executor`'s calls when the program ends, in programs of their own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest
from waiting import program, wait_until

COMMON = """
import os, sys, time
import multiprocessing
from mpsteal import Executor
from gates import Gate

def say(word, pause_s=0.0):
    time.sleep(pause_s)
    print(word, flush=True)
"""


def test_program_that_ends_finishes_what_was_submitted(tmp_path: Path) -> None:
    """With `shutdown(wait=False)`, which hangs in some versions of the stock executor, and without any."""
    source = COMMON + (
        """
import atexit

@atexit.register
def late():
    try:
        left.submit(say, "too late")
    except RuntimeError as error:
        print(error, flush=True)

if __name__ == "__main__":
    left, shut = Executor(1, "fork"), Executor(1, "fork")
    for executor in (left, shut):
        futures = [executor.submit(say, "ran", 0.05) for _ in range(3)]
        futures[-1].add_done_callback(lambda future: print("called", flush=True))
    shut.shutdown(wait=False)
"""
    )
    with program(tmp_path, source) as run:
        run.meet_family()
        assert run.wait() == 0
        assert sorted(run.output.splitlines()) == sorted(
            ["ran"] * 6 + ["called"] * 2 + ["cannot schedule new futures after interpreter shutdown"]
        )
        assert run.errors == ""
        run.check_nothing_left()


def test_child_of_multiprocessing_finishes_its_own(tmp_path: Path) -> None:
    """Such children run no exit handlers of `atexit`."""
    source = COMMON + (
        """
def child():
    global executor
    executor = Executor(1, "fork")
    executor.submit(say, "ran in the child", 0.05)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
"""
    )
    with program(tmp_path, source) as run:
        assert run.wait() == 0
        assert run.output == "ran in the child\n"
        assert run.errors == ""
        run.check_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_program_that_is_ended_while_it_waits_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends the wait of `with` for what runs and, a second time, that of the program's end."""
    source = COMMON + (
        """
def hold():
    print("held", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with Executor(2, "fork") as executor:
        executor.submit(hold)
        executor.submit(hold)
        while not executor._engine.guard.pid:  # the Manager, who ends what is left when this process is killed
            time.sleep(0.01)
        print("watched", flush=True)
"""
    )
    with program(tmp_path, source) as run:
        wait_until(lambda: run.output.split().count("held") == 2 and "watched" in run.output, "both calls held")
        run.meet_family()
        if number == signal.SIGKILL:
            run.process.kill()
        else:
            # How many it takes depends on where each comes: the first may only end the body of `with`.
            for _ in range(20):
                run.interrupt()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(1.0)
                    break
        run.wait()
        run.check_nothing_left()
