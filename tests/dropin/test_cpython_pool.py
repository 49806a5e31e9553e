"""The interpreter's own Pool tests, run against `mpsteal.Pool`, for every start method.

One test here is the batch of one start method, so that each is run once, whoever of xdist's workers gets it. How its
tests are found and run, and what the control run is, stands in `cpython_pool.py`.
"""

from __future__ import annotations

import multiprocessing
import re

import cpython_pool
import pytest

#: Tests that use underscored attributes of the stock class, and what each of them wants. They are
#: run and must pass like all others, since people write the same in their programs; they are
#: listed because a failure here breaks no promise of the documented interface.
PRIVATE = {
    "_TestPool.test_make_pool": "counts the processes in `_pool`",
    "_TestPool.test_resource_warning": "sets `_state` back to RUN, so that deleting the pool warns",
    "_TestPoolWorkerLifetime.test_pool_worker_lifetime": (
        "reads pids in `_pool` and calls `_repopulate_pool` to replace workers at once"
    ),
}

#: Tests left out on purpose: id to reason. Whoever adds a row says why no user can notice.
EXEMPT: dict[str, str] = {
    "WithThreadsTestPool.test_terminate": (
        "the stock ThreadPool, not ours: its threads cannot be ended, so the test waits for five minutes whenever a "
        "task was faster than `terminate` (later versions of the suite say so and sleep for a second)"
    ),
}

#: Pool tests elsewhere in the interpreter's suite that are not selected, and why.
NOT_SELECTED = {
    "test.test_venv": (
        "maps over a Pool inside a virtual environment made on the spot, in which mpsteal is not "
        "installed; that environment is the subject there, the pool is not"
    ),
}


# The alarm that matters is armed for each test inside the batch; this one is for the adapter itself.
pytestmark = pytest.mark.timeout(10 * cpython_pool.ALARM_S)


@pytest.mark.parametrize("method", cpython_pool.START_METHODS)
def test_cpythons_tests_pass(method: str) -> None:
    known = cpython_pool.list_tests()
    assert "broken" not in known, known["broken"]
    if "missing" in known:
        pytest.skip(f"the interpreter's own tests cannot be used here: {known['missing']}")
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {method}")
    wanted = [test for test in known["tests"][method] if test not in EXEMPT]
    batch = cpython_pool.run_batch(method, wanted)
    failed = [f"{test}\n{detail}" for test, (outcome, detail) in batch.verdicts.items() if outcome == "failed"]
    assert not failed, f"{len(failed)} of {len(wanted)} failed:\n\n" + "\n".join(failed)
    assert set(batch.verdicts) == set(wanted)
    # The suite compares processes and threads around each class; after it, nobody is left.
    assert batch.left_behind == []
    assert batch.altered == []


def test_table_of_private_users_is_complete() -> None:
    known = cpython_pool.list_tests()
    if "missing" in known:
        pytest.skip(known["missing"])
    assert set(known["pokes"]) <= set(PRIVATE), known["pokes"]


def test_known_pool_tests_are_selected() -> None:
    """The selection is read from the sources, so a few that must be in it are named here."""
    known = cpython_pool.list_tests()
    if "missing" in known:
        pytest.skip(known["missing"])
    for method, tests in known["tests"].items():
        classes = {test.partition(".")[0] for test in tests}
        assert {
            "WithProcessesTestPool",
            "WithProcessesTestPoolWorkerErrors",
            "WithProcessesTestPoolWorkerLifetime",
            "WithManagerTestPool",
            "TestPoolNotLeakOnFailure",
        } <= classes, method
        assert "TestInitializers.test_pool_initializer" in tests
        assert "TestStdinBadfiledescriptor.test_pool_in_process" in tests
        assert "TestSyncManagerTypes.test_pool" in tests
        assert not [test for test in tests if re.search(r"[Ll]ock|Queue|Heap", test)], method
