"""The interpreter's own `test.test_concurrent_futures`, run against `mpsteal.Executor`.

How its tests are found and run, and what the control run is, stands in `cpython_executor.py`. One test here is one
batch, so that each is run once, whoever of xdist's workers gets it. Whoever runs the normal suite gets those under fork
that do not sleep for long; `-m stress` has all, under every start method (one to four minutes each).
"""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path

import cpython_pool
import pytest

PROGRAM = str(Path(__file__).with_name("cpython_executor.py"))

#: Tests left out on purpose, less the start method in their names: to reason.
EXEMPT = {
    "ProcessPoolExecutorTest.test_killed_child": (
        "kills one worker and wants all calls to fail from then on; here it costs the call that it ran, and this is "
        "what the executor is for (test_executor.py has the rule)"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "has the second start of a thread fail, by a private function, since the stock executor needs two; one is "
        "enough here, so nothing breaks"
    ),
}

UNSENT = (
    "counts `_processes` for calls that wait at a semaphore, which cannot be pickled but for a child that is about to "
    "start: the stock executor starts processes for calls that are never sent"
)

#: The same where the start method is not fork.
EXEMPT_UNLESS_FORK = {
    "ProcessPoolExecutorTest.test_saturation": UNSENT,
    "ProcessPoolShutdownTest.test_processes_terminate": UNSENT,
}

#: Tests that sleep for a second and more by themselves, or in what the suite of 3.10 does after them.
SLEEPY = {
    "test_20369",
    "test_duplicate_futures",
    "test_first_completed",
    "test_first_completed_some_already_completed",
    "test_first_exception",
    "test_first_exception_one_already_failed",
    "test_first_exception_some_already_complete",
    "test_future_times_out",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full",
    "test_hang_issue12364",
    "test_interpreter_shutdown",
    "test_map_timeout",
    "test_shutdown_deadlock_pickle",
    "test_zero_timeout",
}

#: What the suite up to 3.10 says of `Thread` objects that are over, if the garbage collector has not come yet.
ENDED_THREAD = re.compile(
    r"Warning -- (threading_cleanup\(\) failed to cleanup 0 threads \(count: 0,|Dangling thread: <(_MainThread\(|"
    r"Thread\(mpsteal-engine, stopped)).*"
)


def own_tests(method: str) -> list[str]:
    """All tests for a start method; skips where the interpreter or the system has none."""
    known = cpython_pool.list_tests(PROGRAM)
    assert "broken" not in known, known["broken"]
    if "missing" in known:
        pytest.skip(f"the interpreter's own tests cannot be used here: {known['missing']}")
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {method}")
    found: list[str] = known["tests"][method]
    exempt = EXEMPT if method == "fork" else EXEMPT | EXEMPT_UNLESS_FORK
    return [test for test in found if test.removeprefix(f"ProcessPool{method.capitalize()}") not in exempt]


def run(method: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "MPSTEAL_DROPIN_EXECUTOR" not in os.environ:
        monkeypatch.setenv("MPSTEAL_DROPIN_EXECUTOR", "mpsteal:Executor")
    batch = cpython_pool.run_batch(method, wanted, PROGRAM)
    failed = [f"{test}\n{detail}" for test, (outcome, detail) in batch.verdicts.items() if outcome == "failed"]
    assert not failed, f"{len(failed)} of {len(wanted)} failed:\n\n" + "\n".join(failed)
    assert set(batch.verdicts) == set(wanted)
    assert batch.left_behind == []
    # The suite compares processes and threads before and after each test.
    altered = [text for text in batch.altered if "Warning -- " in ENDED_THREAD.sub("", text)]
    assert altered == []


@pytest.mark.timeout(600)
def test_interpreters_own_tests_that_do_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [test for test in own_tests("fork") if test.rpartition(".")[2] not in SLEEPY]
    assert len(wanted) > 30
    run("fork", wanted, monkeypatch)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", cpython_pool.START_METHODS)
def test_interpreters_own_tests(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(method, own_tests(method), monkeypatch)


def test_those_left_out_are_there() -> None:
    """A row whose test is gone, or was given another name, would hide nothing and say something wrong."""
    own_tests("spawn")  # skips where there are none
    known = {test.partition(".")[2] for tests in cpython_pool.list_tests(PROGRAM)["tests"].values() for test in tests}
    newer = {"test_python_finalization_error", "test_gh105829_should_not_deadlock_if_wakeup_pipe_full"}
    older = {"test_zero_timeout", "test_future_times_out"}
    named = {name.partition(".")[2] for name in EXEMPT | EXEMPT_UNLESS_FORK} | SLEEPY
    assert named - newer - older <= known
